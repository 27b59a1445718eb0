"""Mixtures of experts whose attention gates its output: Arcee's Trinity, Poolside's Laguna."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import routed, sparse_layers, stacked
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import MLP, Attention, Dense, ModelSpec, MoE, Weight, replace


@importer("afmoe")
def afmoe(c: Config) -> ModelSpec:
    """Trinity: three sliding layers to a full one, gated attention, experts after dense layers (models/afmoe).

    Norms stand before and after both halves of a layer; the router's correction bias is a parameter.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 2048)
    every = c.int("global_attn_every_n_layers", 4)
    derived = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    windows = layer_windows(c, derived, 1024)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=16, head_dim=128, bias=bias, qk_norm="head")
    gate = Weight("self_attn.gate_proj", hidden, attention.heads * attention.key_dim)
    attention = replace(attention, extra=(gate,))
    experts, width = c.int("num_experts", 64), c.int("moe_intermediate_size", 1408)
    moe = MoE(
        experts,
        routed(c, experts, default=6),
        width,
        shared_width=width * c.int("num_shared_experts", 2, least=0),
        router="router.gate",
        router_extra=experts,
    )
    dense, first = Dense(c.int("intermediate_size", 6144)), c.int("num_dense_layers", 1, least=0)
    mlps: list[MLP] = [moe if i >= first else dense for i in range(layers)]
    stack = stacked(hidden, [windowed(attention, window) for window in windows], mlps, norms=4)
    return decoder(c, hidden, stack, vocab=200192, positions=16384)


@importer("laguna")
def laguna(c: Config) -> ModelSpec:
    """Laguna: query heads counted per layer, a gate per head or per element, one dense layer first (models/laguna)."""
    layers, hidden = c.layers(default=40), c.int("hidden_size", 2048)
    windows = layer_windows(c, ["full_attention"] * layers, 512)
    heads = [c.int("num_attention_heads", 48)] * layers
    heads = c.ints("num_attention_heads_per_layer", layers, least=1) or heads
    attentions = {count: _laguna_attention(c, hidden, count) for count in dict.fromkeys(heads)}
    experts = c.int("num_experts", 256)
    moe = MoE(
        experts,
        routed(c, experts, default=8),
        c.int("moe_intermediate_size", 512),
        shared_width=c.int("shared_expert_intermediate_size", 512, least=0),
        router_extra=experts,  # the correction bias is a parameter here
    )
    dense = Dense(c.int("intermediate_size", 8192))
    sparse = sparse_layers(c, layers, [i > 0 for i in range(layers)])
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse]
    mixers = [windowed(attentions[count], window) for count, window in zip(heads, windows, strict=True)]
    return decoder(c, hidden, stacked(hidden, mixers, mlps), vocab=100352, positions=131072)


def _laguna_attention(c: Config, hidden: int, heads: int) -> Attention:
    kv_heads, dim = c.int("num_key_value_heads", 8), c.int("head_dim", 128)
    c.divides("num_key_value_heads", heads, kv_heads, "the query heads of every layer")
    gating = c.get("gating", True)
    if gating not in (True, False, "per-head", "per-element"):
        raise c.error("gating", gating, "per-head, per-element, true or false")
    # true is another name of per-head; false gates all the same, per element
    width = heads if gating in (True, "per-head") else heads * dim
    gate = Weight("self_attn.g_proj", hidden, width)
    bias = "qkvo" if c.bool("attention_bias") else ""
    return Attention(heads, kv_heads, dim, dim, bias=bias, qk_norm="head", extra=(gate,))
