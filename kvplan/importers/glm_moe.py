"""GLM-4.5 and its successors with grouped queries."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec, MoE


@importer("glm4_moe")
def glm4_moe(c: Config) -> ModelSpec:
    """GLM-4.5 to 4.7: the first layers dense, then routed and shared experts (transformers models/glm4_moe)."""
    layers, hidden = c.layers(default=46), c.int("hidden_size", 4096)
    attention = grouped_attention(
        c,
        hidden,
        heads=96,
        kv_heads=8,
        rounds=True,  # the class's own default, 96 heads of 4096, leaves a rest
        bias="qkv" if c.bool("attention_bias") else "",
        qk_norm="head" if c.bool("use_qk_norm") else "",
    )
    width = c.int("moe_intermediate_size", 1408)
    experts = aliased(c, "n_routed_experts num_local_experts", 128)
    moe = MoE(
        experts,
        routed(c, experts, default=8),
        width,
        shared_width=width * c.int("n_shared_experts", 1, least=0),
    )
    dense = Dense(c.int("intermediate_size", 10944))
    first = c.int("first_k_dense_replace", 1, least=0)
    stack = tuple(Layer((attention,), (moe if i >= first else dense,), norms=2 * hidden) for i in range(layers))
    return decoder(c, hidden, stack, vocab=151552, positions=131072)
