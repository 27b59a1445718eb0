"""Zyphra's ZAYA1: attention over convolved queries and keys, one expert per token."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.importers.recurrent import ONE
from kvplan.specs import Attention, Layer, ModelSpec, MoE, Part, Recurrent, Weight, replace, vector

KINDS = ("hybrid", "hybrid_sliding")


def _convolutions(c: Config, attention: Attention) -> Recurrent:
    """Compressed convolutional attention (arXiv 2510.04476): queries and keys pass two convolutions, one per channel
    and one per head; half of every value is the token before. Both pasts are state beside the KV cache.
    """
    depth, grouped = c.int("cca_time0", 2), c.int("cca_time1", 2)
    heads, dim = attention.heads + attention.kv_heads, attention.key_dim
    channels, delayed, columns = heads * dim, attention.kv_heads * dim // 2, depth + grouped - 2
    module = "self_attn.qkv_proj"
    conv, value = Part("conv", channels, columns, "compute", ONE), Part("delayed_value", delayed, 1, "compute", ONE)
    return Recurrent(
        "cca",
        (
            Weight(f"{module}.conv_qk_depthwise", depth, channels, True, kind="conv"),
            Weight(f"{module}.conv_qk_grouped", dim * grouped, channels, True, kind="conv"),
        ),
        conv=((channels, columns + 1),),
        state=(value,),
        conv_heads=attention.kv_heads,
        transformers_parts=(conv, value),
    )


def _experts(c: Config, hidden: int, *, first: bool) -> MoE:
    """Experts behind a router that is an MLP; it knows one class more, which skips the layer.

    From the second layer on it adds the layer before's router states, scaled by a vector.
    """
    experts, width = aliased(c, "num_experts", 16), c.int("router_hidden_size", 256)
    gate = "mlp.gate"
    router = (
        Weight(f"{gate}.down_proj", hidden, width, True, shard="none"),
        Weight(f"{gate}.router_mlp.fc1", width, width, True, shard="none"),
        Weight(f"{gate}.router_mlp.fc2", width, width, True, shard="none"),
        Weight(f"{gate}.router_mlp.out_proj", width, experts + 1, shard="none"),
        vector(f"{gate}.norm_and_scale", width if first else 2 * width),
    )
    return MoE(experts, routed(c, experts, default=1), c.int("moe_intermediate_size", 2048), router_weights=router)


@importer("zaya")
def zaya(c: Config) -> ModelSpec:
    """ZAYA1: convolved attention and experts in every layer, residuals scaled and shifted (transformers models/zaya)."""
    layers, hidden = c.layers(default=40), c.int("hidden_size", 2048)
    if c.int("num_experts_per_tok", 1) != 1:
        raise c.error("num_experts_per_tok", c.get("num_experts_per_tok"), "1: the class knows no other")
    bias = "qkvo" if c.bool("attention_bias") else ""
    full = grouped_attention(c, hidden, heads=8, kv_heads=2, head_dim=128, bias=bias)
    full = replace(full, kv_extra=(vector("self_attn.qk_norm.temp", full.kv_heads),))
    convolutions = _convolutions(c, full)
    kinds = c.strings("layer_types", layers, KINDS) or ["hybrid"] * layers
    window = c.maybe_int("sliding_window")
    if window is None and "hybrid_sliding" in kinds:
        raise c.error("sliding_window", "none", "a window: layer_types has sliding layers")
    mixers = {"hybrid": full, "hybrid_sliding": windowed(full, window)}
    experts = [_experts(c, hidden, first=True), _experts(c, hidden, first=False)]
    stack = tuple(
        # two norms, and two residuals with two scales and two shifts each
        Layer((mixers[kind], convolutions), (experts[i > 0],), norms=(2 + 8) * hidden)
        for i, kind in enumerate(kinds)
    )
    return decoder(
        c,
        hidden,
        stack,
        vocab=262272,
        positions=131072,
        tied=True,
        extra=(vector("input_hidden_states", 2 * hidden),),
        head_bias=c.bool("lm_head_bias"),
    )
