"""EleutherAI: GPT-J and GPT-NeoX (Pythia, Polyglot, StableLM alpha)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import Dense, Layer, ModelSpec


@importer("gptj")
def gptj(c: Config) -> ModelSpec:
    """GPT-J: attention and MLP side by side behind one LayerNorm, a bias in the logits (transformers models/gptj)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 4096)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 28)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 2048)
    attention = equal_heads(
        c, hidden, either(c, "n_head", "num_attention_heads"), 16, module="attn", names="q_proj k_proj v_proj out_proj"
    )
    mlp = Dense(c.int("n_inner", 4 * hidden), gated=False, bias="ud", names="fc_in fc_in fc_out")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50400,
        positions=context,
        final_norm=2 * hidden,
        head_bias=True,
        prefix="transformer.h",
    )


@importer("gpt_neox")
def gpt_neox(c: Config) -> ModelSpec:
    """GPT-NeoX: a fused QKV matrix, two LayerNorms, in parallel or not (transformers models/gpt_neox)."""
    hidden, layers = c.int("hidden_size", 6144), c.layers(default=44)
    attention = equal_heads(
        c,
        hidden,
        "num_attention_heads",
        64,
        bias="qkvo" if c.bool("attention_bias", True) else "",
        module="attention",
        names="query_key_value query_key_value query_key_value dense",
    )
    mlp = Dense(
        c.int("intermediate_size", 24576), gated=False, bias="ud", names="dense_h_to_4h dense_h_to_4h dense_4h_to_h"
    )
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(
        c, hidden, (layer,) * layers, vocab=50432, positions=2048, final_norm=2 * hidden, prefix="gpt_neox.layers"
    )
