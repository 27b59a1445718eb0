"""OpenAI's open-weight mixture of experts."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Layer, ModelSpec, MoE, vector


@importer("gpt_oss")
def gpt_oss(c: Config) -> ModelSpec:
    """gpt-oss: every other layer sees 128 tokens, a sink per head, biases everywhere (transformers models/gpt_oss)."""
    layers, hidden = c.layers(default=36), c.int("hidden_size", 2880)
    kinds = c.strings("layer_types", layers, ("sliding_attention", "full_attention"))
    if kinds is None:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    window = c.int("sliding_window", 128)
    heads = c.int("num_attention_heads", 64)
    full = grouped_attention(
        c,
        hidden,
        heads=64,
        kv_heads=8,
        head_dim=64,
        bias="qkvo" if c.bool("attention_bias", True) else "",
        extra=(vector("self_attn.sinks", heads),),
    )
    if full.key_dim % 2:
        raise c.error("head_dim", full.key_dim, "an even number: rotary positions turn pairs")
    experts = aliased(c, "num_local_experts num_experts", 128)
    mlp = MoE(
        experts,
        routed(c, experts, default=4),
        c.int("intermediate_size", 2880),
        bias="udr",
        router="router",
    )
    attention = {"full_attention": full, "sliding_attention": windowed(full, window)}
    return decoder(
        c,
        hidden,
        tuple(Layer((attention[kind],), (mlp,), norms=2 * hidden) for kind in kinds),
        vocab=201088,
        positions=131072,
    )
