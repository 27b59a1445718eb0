"""Salesforce's first language models: CTRL and CodeGen."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import Dense, Layer, ModelSpec


@importer("codegen")
def codegen(c: Config) -> ModelSpec:
    """CodeGen: GPT-J with one fused matrix, cut for four TPU cores, so that heads come in fours (models/codegen)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 4096)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 28)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 2048)
    key = either(c, "n_head", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 16, module="attn", names="qkv_proj qkv_proj qkv_proj out_proj")
    if attention.heads % 4:
        raise c.error(key, attention.heads, "a multiple of 4: the class cuts the fused matrix four ways")
    mlp = Dense(c.int("n_inner", 4 * hidden), gated=False, bias="ud", names="fc_in fc_in fc_out")
    return decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=2 * hidden),) * layers,  # side by side behind one LayerNorm
        vocab=50400,
        positions=context,
        final_norm=2 * hidden,
        head_bias=True,
        prefix="transformer.h",
    )


@importer("ctrl")
def ctrl(c: Config) -> ModelSpec:
    """CTRL: biases everywhere, the logits too; sinusoidal positions are no parameters (transformers models/ctrl)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 1280)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 48)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 256)
    key = either(c, "n_head", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 16, bias="qkvo", module="multi_head_attention", names="Wq Wk Wv dense")
    mlp = Dense(c.int("dff", 8192), gated=False, bias="ud", module="ffn", names="0 0 2")
    return decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=4 * hidden),) * layers,
        vocab=246534,
        positions=context,
        tied=True,
        final_norm=2 * hidden,
        head_bias=True,
        prefix="transformer.h",
    )
