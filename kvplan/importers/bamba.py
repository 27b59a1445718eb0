"""Bamba: IBM's first hybrid, Mamba 2 with a few layers of attention."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.hybrid import mamba_heads
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.recurrent import kv_heads_default, mamba2
from kvplan.specs import Dense, Layer, ModelSpec


@importer("bamba")
def bamba(c: Config) -> ModelSpec:
    """Bamba: attention in ``attn_layer_indices``, Mamba 2 in the others (transformers models/bamba)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    inner = c.int("mamba_expand", 2) * hidden
    heads, dim = mamba_heads(c, inner)
    groups = c.int("mamba_n_groups", 1)
    c.divides("mamba_n_groups", heads, groups, "mamba_n_heads")
    mixer = mamba2(
        hidden,
        heads,
        dim,
        groups,
        c.int("mamba_d_state", 256),
        c.int("mamba_d_conv", 4),
        bias=c.bool("mamba_proj_bias"),
        conv_bias=c.bool("mamba_conv_bias", "mamba_conv_bias" not in c.raw),  # null is false
    )
    bias = "qkvo" if c.bool("attention_bias") else ""
    floor = hidden // c.int("num_attention_heads", 32) or None  # the class rounds down
    attention = grouped_attention(c, hidden, heads=32, kv_heads=kv_heads_default(c, 8), head_dim=floor, bias=bias)
    mlp = Dense(c.int("intermediate_size", 14336), bias="ud" if c.bool("mlp_bias") else "", module="feed_forward")
    full = set(c.ints("attn_layer_indices", most=LAYER_LIMIT) or ())
    recurrent = Layer((mixer,), (mlp,), norms=2 * hidden)
    attending = Layer((attention,), (mlp,), norms=2 * hidden)
    stack = tuple(attending if i in full else recurrent for i in range(layers))
    return decoder(c, hidden, stack, vocab=128000, positions=262144)
