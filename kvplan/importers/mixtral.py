"""Mixtral, and what is published in its shape."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Layer, ModelSpec, MoE


@importer("mixtral")
def mixtral(c: Config) -> ModelSpec:
    """Mixtral 8x7B and 8x22B: every layer holds experts, ``sliding_window`` null is full (transformers models/mixtral).

    Files of Grok-1 in this shape declare the same type and are read alike. Experts carry the checkpoint's name
    (``block_sparse_moe``), which is what quantisers' ignore-lists say.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    full = grouped_attention(c, hidden, heads=32, kv_heads=8)
    window = c.maybe_int("sliding_window")
    kinds = c.strings("layer_types", layers, ("full_attention", "sliding_attention"))
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * layers
    elif "sliding_attention" in kinds and window is None:
        raise c.error("sliding_window", "missing", "a window, as layer_types names sliding_attention")
    attention = {"full_attention": full, "sliding_attention": windowed(full, window)}
    experts = aliased(c, "num_local_experts num_experts", 8)
    mlp = MoE(experts, routed(c, experts, default=2), c.int("intermediate_size", 14336), module="block_sparse_moe")
    stack = tuple(Layer((attention[kind],), (mlp,), norms=2 * hidden) for kind in kinds)
    return decoder(c, hidden, stack, vocab=32000, positions=131072)
