"""Upstage's Solar Open."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Layer, ModelSpec, MoE


@importer("solar_open")
def solar_open(c: Config) -> ModelSpec:
    """Solar Open 100B: routed and shared experts in every layer, no dense one (transformers models/solar_open)."""
    layers, hidden = c.layers(default=48), c.int("hidden_size", 4096)
    bias = "qkv" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=64, kv_heads=8, head_dim=128, bias=bias)
    width = c.int("moe_intermediate_size", 1280)
    experts = aliased(c, "n_routed_experts num_local_experts", 128)
    mlp = MoE(experts, routed(c, experts, default=8), width, shared_width=width * c.int("n_shared_experts", 1, least=0))
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=196608, positions=131072)
