"""Llama 4, text and multimodal."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.towers import towers
from kvplan.specs import Dense, Layer, ModelSpec, MoE, replace

KINDS = ("full_attention", "chunked_attention")


@importer("llama4_text")
def llama4_text(c: Config) -> ModelSpec:
    """Llama 4's decoder: three layers attend within chunks, every fourth to all (transformers models/llama4).

    Every ``interleave_moe_layer_step``-th layer holds experts and a shared one of the same width; the q and k norms
    have no weights. ``no_rope_layers`` says 1 for a layer *with* rotary positions, which is the chunked kind.
    """
    layers, hidden = c.layers(default=48), c.int("hidden_size", 5120)
    bias = "qkvo" if c.bool("attention_bias") else ""
    full = grouped_attention(c, hidden, heads=40, kv_heads=8, head_dim=128, bias=bias)
    chunked = replace(full, chunk=c.int("attention_chunk_size", 8192))
    c.ignore("for_llm_compressor")  # how a quantiser walked the experts
    interval = c.int("no_rope_layer_interval", 4)
    rotary = c.ints("no_rope_layers", layers if c.get("no_rope_layers") else None, most=1)
    rotary = rotary or [int((i + 1) % interval != 0) for i in range(layers)]
    kinds = c.strings("layer_types", layers, KINDS) or [KINDS[flag] for flag in rotary]
    width = c.int("intermediate_size", 8192)
    experts = aliased(c, "num_local_experts", 16)
    moe = MoE(
        experts,
        routed(c, experts, default=1),
        width,
        shared_width=width,
        module="feed_forward",
        router="router",
        shared_module="shared_expert",
    )
    dense = Dense(c.int("intermediate_size_mlp", 16384), module="feed_forward")
    step = c.int("interleave_moe_layer_step", 1)
    named = c.ints("moe_layers")
    chosen = set(range(step - 1, layers, step)) if named is None else set(named)
    stack = tuple(
        Layer((chunked if kind == "chunked_attention" else full,), (moe if i in chosen else dense,), norms=2 * hidden)
        for i, kind in enumerate(kinds)
    )
    return decoder(c, hidden, stack, vocab=202048, positions=131072)


@importer("llama4")
def llama4(c: Config) -> ModelSpec:
    """Llama 4 Scout and Maverick: AutoModelForCausalLM builds the text class; the vision tower stands beside it."""
    spec = llama4_text(c.sub("text_config", {}))
    return replace(spec, model_type="llama4", prefix="language_model.model.layers", towers=towers(c, counted=False))
