"""Ai2: OLMo 1 to 3, OLMoE and FlexOLMo."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Dense, Layer, ModelSpec, MoE


@importer("olmo")
def olmo(c: Config) -> ModelSpec:
    """OLMo: Llama whose LayerNorms have no parameters (transformers models/olmo)."""
    hidden, layers = c.int("hidden_size", 4096), c.layers(default=32)
    attention = grouped_attention(c, hidden, heads=32, rounds=True, bias="qkvo" if c.bool("attention_bias") else "")
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 11008)),))
    return decoder(c, hidden, (layer,) * layers, vocab=50304, positions=2048, final_norm=0)


@importer("olmo2")
def olmo2(c: Config) -> ModelSpec:
    """OLMo 2: norms behind attention and MLP, and over all queries and all keys (transformers models/olmo2)."""
    layers = c.layers(default=32)
    return _post_norm(c, [None] * layers)


@importer("olmo3")
def olmo3(c: Config) -> ModelSpec:
    """OLMo 3: OLMo 2 with a window in all layers but each fourth, counted from one (transformers models/olmo3)."""
    layers = c.layers(default=32)
    derived = ["sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(layers)]
    return _post_norm(c, layer_windows(c, derived, 4096))


def _post_norm(c: Config, windows: list[int | None]) -> ModelSpec:
    hidden = c.int("hidden_size", 4096)
    attention = grouped_attention(
        c, hidden, heads=32, rounds=True, bias="qkvo" if c.bool("attention_bias") else "", qk_norm="all"
    )
    mlp = Dense(c.int("intermediate_size", 11008))
    stack = tuple(Layer((windowed(attention, window),), (mlp,), norms=2 * hidden) for window in windows)
    return decoder(c, hidden, stack, vocab=50304, positions=2048)


@importer("olmoe")
def olmoe(c: Config) -> ModelSpec:
    """OLMoE: norms over all queries and all keys, experts in every layer (transformers models/olmoe).

    Those norms are of hidden / heads per head whatever ``head_dim`` says, so that no other can run.
    """
    layers, hidden = c.layers(default=16), c.int("hidden_size", 2048)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=16, bias=bias, qk_norm="all")
    if attention.heads * attention.key_dim != hidden:
        raise c.error("head_dim", attention.key_dim, f"hidden_size / num_attention_heads ({hidden // attention.heads})")
    experts = aliased(c, "num_experts num_local_experts", 64)
    moe = MoE(experts, routed(c, experts, default=8), c.int("intermediate_size", 2048))
    return decoder(c, hidden, (Layer((attention,), (moe,), norms=2 * hidden),) * layers, vocab=50304, positions=4096)


@importer("flex_olmo")
def flex_olmo(c: Config) -> ModelSpec:
    """FlexOLMo: OLMo 2's attention and norms, whole MLPs as experts in every layer (transformers models/flex_olmo)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, rounds=True, bias=bias, qk_norm="all")
    experts = aliased(c, "num_experts num_local_experts", 7)
    moe = MoE(experts, routed(c, experts, default=5), c.int("intermediate_size", 11008))
    return decoder(c, hidden, (Layer((attention,), (moe,), norms=2 * hidden),) * layers, vocab=100352, positions=4096)
