"""Mixtures of experts whose layers mostly look at a window: Mellum 2, Kolibri 1, Flint, Beam."""

from __future__ import annotations

from typing import Any

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import MLP, Attention, Dense, Layer, ModelSpec, MoE, Weight, replace, vector


def _attention(c: Config, hidden: int, heads: int, kv_heads: int, **facts: Any) -> Attention:
    """Normed queries and keys, heads of 128 whatever hidden / heads is."""
    return grouped_attention(c, hidden, heads=heads, kv_heads=kv_heads, head_dim=128, qk_norm="head", **facts)


def _bias(c: Config) -> str:
    return "qkvo" if c.bool("attention_bias") else ""


def _stack(
    hidden: int, attention: Attention, windows: list[int | None], mlps: list[MLP], norms: int
) -> tuple[Layer, ...]:
    """Layers that differ in window and MLP alone, equal ones built once."""
    kinds = {
        (window, mlp): Layer((windowed(attention, window),), (mlp,), norms=norms * hidden)
        for window, mlp in zip(windows, mlps, strict=True)
    }
    return tuple(kinds[window, mlp] for window, mlp in zip(windows, mlps, strict=True))


def _kinds(layers: int, full: set[int]) -> list[str]:
    return ["full_attention" if i in full else "sliding_attention" for i in range(layers)]


@importer("mellum")
def mellum(c: Config) -> ModelSpec:
    """Mellum 2: experts in every layer, windows where ``layer_types`` says so (transformers models/mellum)."""
    layers, hidden = c.layers(default=28), c.int("hidden_size", 2304)
    # the class builds no layers for multi-token prediction
    c.ignore("mtp_layer_types", "mtp_mlp_layer_types")
    windows = layer_windows(c, ["full_attention"] * layers, 1024)
    experts = aliased(c, "num_experts num_local_experts", 64)
    moe = MoE(experts, routed(c, experts, default=8), c.int("moe_intermediate_size", 896))
    dense = Dense(c.int("intermediate_size", 7168))
    mlps: list[MLP] = [moe if sparse else dense for sparse in sparse_layers(c, layers, [True] * layers)]
    stack = _stack(hidden, _attention(c, hidden, 32, 4, bias=_bias(c)), windows, mlps, 2)
    return decoder(c, hidden, stack, vocab=98304, positions=131072)


@importer("kolibri1")
def kolibri1(c: Config) -> ModelSpec:
    """Kolibri 1: every fifth layer sees everything, 384 small experts and a shared one (models/kolibri1)."""
    layers, hidden = c.layers(default=50), c.int("hidden_size", 2560)
    windows = layer_windows(c, _kinds(layers, set(range(4, layers, 5))), 513)
    experts = aliased(c, "num_experts num_local_experts", 384)
    active, width = routed(c, experts, default=6), c.int("moe_intermediate_size", 512)
    moe = MoE(experts, active, width, shared_width=c.int("shared_expert_intermediate_size", 512))
    # norms before and after both attention and MLP
    stack = _stack(hidden, _attention(c, hidden, 48, 4), windows, [moe] * layers, 4)
    return decoder(c, hidden, stack, vocab=128000, positions=262144)


@importer("flint")
def flint(c: Config) -> ModelSpec:
    """Flint: full attention in layers 0, 1, 5, 9 … and the last, a sink per head, an ungated shared expert.

    Source: transformers models/flint. ``mlp_only_layers`` are dense: the first two unless the file says otherwise.
    """
    layers, hidden = c.layers(default=49), c.int("hidden_size", 2048)
    windows = layer_windows(c, _kinds(layers, {0, layers - 1, *range(1, layers, 4)}), 513)
    attention = _attention(c, hidden, 32, 4, bias=_bias(c))
    attention = replace(attention, extra=(vector("self_attn.sinks", attention.heads),))
    listed, step = c.ints("mlp_only_layers"), c.int("decoder_sparse_step", 1)
    dense_only = {0, 1} if listed is None else set(listed)
    dense = Dense(c.int("intermediate_size", 6144))
    experts = c.int("num_experts", 256, least=0)
    mlps: list[MLP] = [dense] * layers
    if experts:
        active, width = routed(c, experts, default=6), c.int("moe_intermediate_size", 512)
        shared = c.int("shared_expert_intermediate_size", 1024)
        moe = MoE(experts, active, width, shared_width=shared, shared_module="shared_expert")
        mlps = [dense if i in dense_only or (i + 1) % step else moe for i in range(layers)]
    return decoder(c, hidden, _stack(hidden, attention, windows, mlps, 2), vocab=150144, positions=262144)


@importer("beam")
def beam(c: Config) -> ModelSpec:
    """Beam: every sixth layer and the last see everything, gated heads, three dense layers first (models/beam)."""
    layers, hidden = c.layers(default=52), c.int("hidden_size", 5120)
    windows = layer_windows(c, _kinds(layers, {layers - 1, *range(5, layers, 6)}), 512)
    attention = _attention(c, hidden, 48, 8, bias=_bias(c))
    gate = Weight("self_attn.gate_proj", hidden, attention.heads * attention.value_dim)
    attention = replace(attention, extra=(gate, vector("self_attn.gate_bias", attention.heads)))
    experts = c.int("num_experts", 256)
    moe = MoE(experts, routed(c, experts, default=8), c.int("moe_intermediate_size", 2560))
    dense = Dense(c.int("intermediate_size", 20480))
    sparse = sparse_layers(c, layers, [i >= 3 for i in range(layers)])
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse]
    # norms before and after both attention and MLP
    return decoder(c, hidden, _stack(hidden, attention, windows, mlps, 4), vocab=151936, positions=8192)
