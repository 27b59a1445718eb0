"""Liquid's short convolutions beside experts (LFM2-MoE), and between local and global attention (LFM3)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.importers.recurrent import layer_kinds, short_conv
from kvplan.specs import Dense, Layer, Mixer, ModelSpec, MoE, Weight, replace

KINDS = ("conv", "sliding_attention", "full_attention")


@importer("lfm3")
def lfm3(c: Config) -> ModelSpec:
    """LFM3: LFM2 with wider convolutions, some layers under a window, a gate per head, norms behind (models/lfm3)."""
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    kinds = c.strings("layer_types", layers, KINDS)
    if kinds is None:
        kinds = [("sliding_attention" if i else "conv", "conv", "full_attention", "conv")[i % 4] for i in range(layers)]
    if "sliding_attention" in kinds and "sliding_window" in c.raw and c.raw["sliding_window"] is None:
        raise c.error("sliding_window", None, "a whole number: some layers slide")
    bias = "qkvo" if c.bool("attention_bias") else ""
    full = grouped_attention(c, hidden, heads=16, kv_heads=4, head_dim=128, bias=bias, qk_norm="head")
    if c.bool("use_attention_gate", True):
        full = replace(full, extra=(Weight("self_attn.g_proj", hidden, full.heads),))
    conv = short_conv(hidden, c.int("conv_L_cache", 7), c.bool("conv_bias"))
    local = windowed(full, c.int("sliding_window", 256))
    mixers: dict[str, Mixer] = {"conv": conv, "sliding_attention": local, "full_attention": full}
    mlp = Dense(c.int("intermediate_size", 7680), module="feed_forward", names="w1 w3 w2")
    norms = 4 if c.bool("use_sandwich_norm", True) else 2
    layer = {kind: Layer((mixer,), (mlp,), norms=norms * hidden) for kind, mixer in mixers.items()}
    return decoder(c, hidden, tuple(layer[kind] for kind in kinds), vocab=128000, positions=128000, tied=True)


@importer("lfm2_moe")
def lfm2_moe(c: Config) -> ModelSpec:
    """LFM2-8B-A1B: LFM2 with experts after the first ``num_dense_layers`` (transformers models/lfm2_moe).

    The class builds nothing without ``layer_types``, and takes the dense MLP's width as it stands.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 2048)
    floor = hidden // c.int("num_attention_heads", 32) or None  # the class rounds down
    attention = grouped_attention(
        c, hidden, heads=32, kv_heads=8, head_dim=floor, qk_norm="head", names="q_proj k_proj v_proj out_proj"
    )
    conv = short_conv(hidden, c.int("conv_L_cache", 3), c.bool("conv_bias"))
    kinds = layer_kinds(c, "layer_types", layers, ("conv", "full_attention"))
    if kinds is None:
        raise c.error("layer_types", "missing", f"conv or full_attention for each layer, {layers} in all")
    c.ignore("full_attn_idxs")  # older files' way to say what layer_types says; the class reads the list alone
    dense = Dense(c.int("intermediate_size", 7168), module="feed_forward", names="w1 w3 w2")
    experts = c.int("num_experts", 32)
    moe = MoE(experts, routed(c, experts, default=4), c.int("moe_intermediate_size", 1792), module="feed_forward")
    first = c.int("num_dense_layers", 2, least=0)
    stack = tuple(
        Layer((conv if kind == "conv" else attention,), (dense if i < first else moe,), norms=2 * hidden)
        for i, kind in enumerate(kinds)
    )
    spec = decoder(c, hidden, stack, vocab=65536, positions=128000, tied=True)
    return replace(spec, tied=c.bool("tie_embedding", spec.tied))
