"""Rhymes AI: the decoder of Aria."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Layer, ModelSpec, MoE


@importer("aria_text")
def aria_text(c: Config) -> ModelSpec:
    """Aria's decoder: Llama's attention, routed and shared experts in every layer (transformers models/aria)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("attention_bias") else "")
    experts, width = c.int("moe_num_experts", 8), c.int("intermediate_size", 4096)
    moe = MoE(
        experts,
        routed(c, experts, "moe_topk", 2),
        width,
        shared_width=width * c.int("moe_num_shared_experts", 2, least=0),
        shared_bias="ud" if c.bool("mlp_bias") else "",  # of the shared experts alone
        router="router",
    )
    layer = Layer((attention,), (moe,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)
