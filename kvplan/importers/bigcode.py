"""BigCode: SantaCoder and StarCoder (GPT-2 with one shared KV head), StarCoder 2."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either
from kvplan.importers.config import Config
from kvplan.importers.openai import FUSED, gpt2_frame
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Attention, Dense, Layer, ModelSpec


@importer("gpt_bigcode")
def gpt_bigcode(c: Config) -> ModelSpec:
    """GPT-BigCode: GPT-2 whose heads by default share one key and value (transformers models/gpt_bigcode)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 768)
    key = either(c, "n_head", "num_attention_heads")
    heads = c.int(key, 12)
    dim = c.divides(key, hidden, heads, "n_embd")
    shared = c.bool("multi_query", True)
    if shared and c.bool("add_cross_attention"):
        raise c.error("add_cross_attention", True, "false: the class has no cross-attention with multi_query")
    # the class has one KV head or as many as heads, whatever a file says beside multi_query
    c.overruled("num_key_value_heads", 1 if shared else heads)
    c.overruled("head_dim", dim)
    attention = Attention(heads, 1 if shared else heads, dim, dim, bias="qkvo", module="attn", names=FUSED)
    return gpt2_frame(c, hidden, attention)


@importer("starcoder2")
def starcoder2(c: Config) -> ModelSpec:
    """StarCoder 2: grouped queries, LayerNorm, at most one window, for all layers (transformers models/starcoder2)."""
    hidden, layers = c.int("hidden_size", 3072), c.layers(default=30)
    biased = c.bool("use_bias", True)
    attention = grouped_attention(
        c, hidden, heads=24, kv_heads=2, bias="qkvo" if biased else "", window=c.maybe_int("sliding_window")
    )
    mlp = Dense(c.int("intermediate_size", 12288), gated=False, bias="ud" if biased else "", names="c_fc c_fc c_proj")
    # LayerNorms keep their bias whatever use_bias says
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=49152, positions=4096, tied=True, final_norm=2 * hidden)
