"""Thinking Machines' Inkling 2 (text)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder
from kvplan.importers.thinkingmachines import KINDS, convolutions
from kvplan.num import ceildiv
from kvplan.specs import Attention, Layer, ModelSpec, MoE, Recurrent, Weight, replace, vector


def _mixers(c: Config, hidden: int) -> dict[str, tuple[Attention, Recurrent]]:
    """Attention and convolutions of both kinds of layers; sliding ones have heads of their own (``swa_*``).

    Every token makes its own sinks and a gate per channel; queries and relative states are scaled before they are
    clipped. Full layers add taps of each token's own to the convolutions on keys and values.
    """
    kernel, relative = aliased(c, "conv_kernel_size sconv_kernel_size", 4), c.int("d_rel", 16)
    window = aliased(c, "sliding_window_size sliding_window", 1024)
    c.ignore("number_of_conv_states")  # always the four that every layer has
    module, made = "self_attn", {}
    for kind, name, limit in zip(KINDS, ("", "swa_"), (None, window), strict=True):
        heads, kv_heads = c.int(f"{name}num_attention_heads", 48), c.int(f"{name}num_key_value_heads", 8)
        dim = c.int(f"{name}head_dim", 128)
        c.divides(f"{name}num_key_value_heads", heads, kv_heads, f"{name}num_attention_heads")
        extent = window if limit else c.int("rel_extent", 1024)
        extra = (
            Weight(f"{module}.r_proj", hidden, heads * relative),
            Weight(f"{module}.gate_proj", hidden, heads * dim),
            Weight(f"{module}.sink_proj", hidden, heads),
            vector(f"{module}.l2_clips", heads * dim + heads * relative),
            # every head multiplies this one table: its FLOPs are counted beside the convolutions'
            vector(f"{module}.rel_logits_proj", relative * extent),
        )
        attention = Attention(heads, kv_heads, dim, dim, window=limit, extra=extra)
        made[kind] = (
            attention,
            convolutions(
                hidden,
                attention,
                kernel,
                2 * heads * relative * extent,
                dynamic=limit is None,
                behind=("post_attention_convolution", "post_mlp_convolution"),
            ),
        )
    return made


@importer("inkling2_text")
def inkling2_text(c: Config) -> ModelSpec:
    """Inkling 2: Inkling with residuals that attend to the sums of earlier blocks of layers (models/inkling2).

    A learned query weighs those sums before the MLP, and before attention in all layers but the first: in full layers
    one each for queries, keys and values, which are then normed apart. Embedding and logits are never tied.
    """
    layers, hidden = c.layers(default=48), c.int("hidden_size", 4608)
    mixers = _mixers(c, hidden)
    kinds = c.strings("layer_types", layers, KINDS) or [KINDS[(i + 1) % 6 > 0] for i in range(layers)]
    experts = aliased(c, "n_routed_experts num_local_experts", 384)
    width = aliased(c, "moe_intermediate_size intermediate_size", 2304)
    moe = MoE(experts, routed(c, experts, default=8), width)
    block = c.int("n_layers_per_attn_res_block", 6)
    stack = []
    for i, kind in enumerate(kinds):
        looks = 3 if kind == "hybrid" else 1  # at the sums, before attention
        before = looks if i else 0
        # sums of earlier blocks, and the residual: scores and a weighted sum of these for every query
        sources = before * (ceildiv(i, block) + 1) + ceildiv(i + 1, block) + 1
        queries = (vector("attention_input", before * hidden),) if before else ()
        stack.append(
            Layer(
                mixers[kind],
                (moe,),
                norms=(looks + 1) * hidden,
                extra=(*queries, vector("mlp_input", hidden)),
                mix_flops=4 * hidden * sources,
            )
        )
    # the token table has a norm of its own; a last query looks at all sums
    extra = (vector("embed_norm", hidden), vector("final_input", hidden))
    spec = decoder(c, hidden, tuple(stack), vocab=201024, extra=extra)
    return replace(spec, tied=False, max_context=aliased(c, "max_position_embeddings model_max_length", 2**20))
