"""IBM's Granite 3 mixtures of experts; Granite 4, with Mamba, is among the hybrids."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import MLP, Attention, Dense, Layer, ModelSpec, MoE, replace, vector

__all__ = ["granite_experts"]


def granite_experts(c: Config, experts: int, shared: int) -> tuple[MLP, ...]:
    """Routed experts of ``intermediate_size``, and a dense MLP beside them where ``shared`` is not zero."""
    mlps: tuple[MLP, ...] = ()
    width = c.int("intermediate_size", 11008)
    if experts:
        mlps = (MoE(experts, routed(c, experts, default=2), width, module="block_sparse_moe", router="router"),)
    if shared:
        mlps += (Dense(shared, module="shared_mlp", names="input_linear input_linear output_linear"),)
    return mlps


def _attention(c: Config, hidden: int) -> Attention:
    floor = hidden // c.int("num_attention_heads", 32) or None  # the class rounds down
    bias = "qkvo" if c.bool("attention_bias") else ""
    return grouped_attention(c, hidden, heads=32, head_dim=floor, bias=bias)


def _granite(c: Config, layers: tuple[Layer, ...]) -> ModelSpec:
    return decoder(c, c.int("hidden_size", 4096), layers, vocab=32000, positions=2048)


@importer("granitemoe", "granitemoeshared")
def granitemoe(c: Config) -> ModelSpec:
    """Granite 3.0 and 3.1 MoE, and with a shared MLP (transformers models/granitemoe, models/granitemoeshared).

    Multipliers scale embeddings, residuals, scores and logits and store nothing.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    shared = c.int("shared_intermediate_size", 0, least=0) if c.raw.get("model_type") == "granitemoeshared" else 0
    mlps = granite_experts(c, c.int("num_local_experts", 8), shared)
    return _granite(c, (Layer((_attention(c, hidden),), mlps, norms=2 * hidden),) * layers)


@importer("granitemoe_swa")
def granitemoe_swa(c: Config) -> ModelSpec:
    """Granite MoE with windows in all layers but 0, 4, 8 …, and a sink per head (transformers models/granitemoe_swa)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    full = _attention(c, hidden)
    full = replace(full, extra=(vector("self_attn.sinks", full.heads),))
    mlps = granite_experts(c, c.int("num_local_experts", 8), c.int("shared_intermediate_size", 0, least=0))
    derived = ["sliding_attention" if i % 4 else "full_attention" for i in range(layers)]
    windows = layer_windows(c, derived, 128)
    return _granite(c, tuple(Layer((windowed(full, window),), mlps, norms=2 * hidden) for window in windows))
