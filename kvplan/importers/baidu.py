"""Baidu's ERNIE 4.5, dense and mixture of experts (text)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec, MoE


@importer("ernie4_5")
def ernie4_5(c: Config) -> ModelSpec:
    """ERNIE 4.5 0.3B: the Llama shape, tied, head_dim 128 where a file omits it (transformers models/ernie4_5)."""
    layers, hidden = c.layers(default=18), c.int("hidden_size", 1024)
    bias = c.bool("use_bias")
    attention = grouped_attention(
        c,
        hidden,
        heads=16,
        kv_heads=2,
        head_dim=None if "head_dim" in c.raw else 128,  # null means hidden / heads
        bias="qkvo" if bias else "",
    )
    mlp = Dense(c.int("intermediate_size", 3072), bias="ud" if bias else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=103424, positions=131072, tied=True)


@importer("ernie4_5_moe")
def ernie4_5_moe(c: Config) -> ModelSpec:
    """ERNIE 4.5 21B-A3B and 300B-A47B: experts between two layer indices (transformers models/ernie4_5_moe).

    The router's correction bias is a parameter here, not a buffer.
    """
    layers, hidden = c.layers(default=28), c.int("hidden_size", 2560)
    bias = c.bool("use_bias")
    attention = grouped_attention(c, hidden, heads=20, kv_heads=4, bias="qkvo" if bias else "")
    dense = Dense(c.int("intermediate_size", 12288), bias="ud" if bias else "")
    width = c.int("moe_intermediate_size", 1536)
    experts = aliased(c, "moe_num_experts num_experts", 64)
    moe = MoE(
        experts,
        routed(c, experts, "moe_k num_experts_per_tok", 6),
        width,
        shared_width=width * c.int("moe_num_shared_experts", 2, least=0),
        shared_bias="ud" if bias else "",
        router_extra=experts,
    )
    first = c.int("moe_layer_start_index", 1, least=0)
    last = c.int("moe_layer_end_index", -1, least=-1)
    every = c.int("moe_layer_interval", 1)
    last = layers - 1 if last == -1 else last
    stack = tuple(
        Layer((attention,), (moe if (i + 1) % every == 0 and first <= i <= last else dense,), norms=2 * hidden)
        for i in range(layers)
    )
    return decoder(c, hidden, stack, vocab=103424, positions=131072, tied=True, head_bias=bias)
