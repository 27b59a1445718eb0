"""Alibaba's mixtures of experts with softmax attention in every layer."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE

KINDS = ("full_attention", "sliding_attention")


def _layers(c: Config, hidden: int, attention: list[Attention], dense: Dense, moe: MoE | None) -> tuple[Layer, ...]:
    """Layers whose index + 1 is a multiple of ``decoder_sparse_step`` hold experts, ``mlp_only_layers`` never do."""
    step = c.int("decoder_sparse_step", 1)
    dense_only = set(c.ints("mlp_only_layers") or ())
    return tuple(
        Layer((mixer,), (moe if moe and i not in dense_only and (i + 1) % step == 0 else dense,), norms=2 * hidden)
        for i, mixer in enumerate(attention)
    )


@importer("qwen2_moe")
def qwen2_moe(c: Config) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: biases on q, k, v and a gated shared expert (transformers models/qwen2_moe).

    Windows apply only where ``use_sliding_window`` is true; then, without ``layer_types``, to every other layer below
    ``max_window_layers``.
    """
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    full = grouped_attention(c, hidden, heads=16, kv_heads=16, bias="qkv" if c.bool("qkv_bias", True) else "")
    use_window = c.bool("use_sliding_window")
    window = c.maybe_int("sliding_window", least=0) or 4096
    limit = c.int("max_window_layers", 28, least=0)
    kinds = c.strings("layer_types", layers, KINDS)
    if kinds is None:
        kinds = [KINDS[use_window and i % 2 == 0 and i < limit] for i in range(layers)]
    elif "sliding_attention" in kinds and not use_window:
        raise c.error("layer_types", "sliding_attention", "full_attention alone, as use_sliding_window is false")
    attention = [windowed(full, window) if kind == "sliding_attention" else full for kind in kinds]
    dense = Dense(c.int("intermediate_size", 5632))
    experts = aliased(c, "num_experts", 60, least=0)
    moe = None
    if experts:
        moe = MoE(
            experts,
            routed(c, experts, default=4),
            c.int("moe_intermediate_size", 1408),
            shared_width=c.int("shared_expert_intermediate_size", 5632, least=0),
            shared_gate=True,
            shared_module="shared_expert",
        )
    return decoder(c, hidden, _layers(c, hidden, attention, dense, moe), vocab=151936, positions=32768)


@importer("qwen3_moe")
def qwen3_moe(c: Config) -> ModelSpec:
    """Qwen3-MoE: per-head q and k norms, no shared expert (transformers models/qwen3_moe).

    ``use_sliding_window`` puts every layer under the window; the cache follows ``layer_types`` where a file has it.
    """
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    bias = "qkvo" if c.bool("attention_bias") else ""
    full = grouped_attention(c, hidden, heads=32, kv_heads=4, bias=bias, qk_norm="head")
    use_window = c.bool("use_sliding_window")
    window = c.maybe_int("sliding_window", least=0) or 4096
    c.ignore("max_window_layers")  # in every published file, read by no version of the class
    kinds = c.strings("layer_types", layers, KINDS) or [KINDS[use_window]] * layers
    if "sliding_attention" in kinds and not use_window:
        raise c.error("layer_types", "sliding_attention", "full_attention alone, as use_sliding_window is false")
    attention = [windowed(full, window) if kind == "sliding_attention" else full for kind in kinds]
    dense = Dense(c.int("intermediate_size", 6144))
    experts = aliased(c, "num_experts num_local_experts", 128, least=0)
    moe = MoE(experts, routed(c, experts, default=8), c.int("moe_intermediate_size", 768)) if experts else None
    return decoder(c, hidden, _layers(c, hidden, attention, dense, moe), vocab=151936, positions=32768)
