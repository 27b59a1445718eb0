"""Thinking Machines' Inkling (text)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Growth, Layer, ModelSpec, MoE, Part, Recurrent, Weight, replace, vector

__all__ = ["KINDS", "convolutions"]

KINDS = ("hybrid", "hybrid_sliding")


def convolutions(
    hidden: int,
    attention: Attention,
    kernel: int,
    relative_flops: int,
    *,
    dynamic: bool = False,
    behind: tuple[str, ...] = ("attn_sconv", "mlp_sconv"),
) -> Recurrent:
    """The four short convolutions of a layer: on keys, on values, after attention and after the MLP.

    The class computes them in fp32 and keeps their inputs so; those inputs are bf16 numbers, which is all that the
    method needs to keep. ``dynamic``: to the taps of keys and values every token adds some of its own per KV head.
    """
    heads = attention.kv_heads
    channels = {
        "self_attn.k_sconv": heads * attention.key_dim,
        "self_attn.v_sconv": heads * attention.value_dim,
    }
    weights: tuple[Weight, ...] = ()
    for name, width in channels.items():
        static = f"{name}.static_weight" if dynamic else f"{name}.conv1d"
        weights += (Weight(static, width, kernel, kind="conv"),)
        if dynamic:
            weights += (Weight(f"{name}.weight_proj", hidden, heads * kernel),)
    channels |= dict.fromkeys(behind, hidden)
    weights += tuple(Weight(f"{name}.conv1d", hidden, kernel, kind="conv") for name in behind)
    one = Growth("constant", 1)
    kept = tuple(Part(f"conv{i or ''}", width, kernel, "fp32", one) for i, width in enumerate(channels.values()))
    return Recurrent(
        "conv",
        weights,
        conv=tuple((width, kernel) for width in channels.values()),
        mix_flops=relative_flops,
        conv_heads=heads,
        transformers_parts=kept,
    )


def _mixers(c: Config, hidden: int) -> dict[str, tuple[Attention, Recurrent]]:
    """Attention and convolutions of both kinds of layers; sliding ones have heads of their own (``swa_*``)."""
    kernel = aliased(c, "conv_kernel_size sconv_kernel_size", 4)
    relative = c.int("d_rel", 16)
    window = aliased(c, "sliding_window_size sliding_window", 512)
    c.ignore("number_of_conv_states")  # always the four that every layer has
    made = {}
    for kind, name, kv_default, limit in (("hybrid", "", 8, None), ("hybrid_sliding", "swa_", 16, window)):
        heads = c.int(f"{name}num_attention_heads", 64)
        kv_heads = c.int(f"{name}num_key_value_heads", kv_default)
        dim = c.int(f"{name}head_dim", 128)
        c.divides(f"{name}num_key_value_heads", heads, kv_heads, f"{name}num_attention_heads")
        extent = window if limit else c.int("rel_extent", 1024)
        extra = (
            Weight("self_attn.r_proj", hidden, heads * relative),
            # every head multiplies this one table: its FLOPs are counted beside the convolutions'
            vector("self_attn.rel_logits_proj", relative * extent),
        )
        attention = Attention(heads, kv_heads, dim, dim, window=limit, qk_norm="head", extra=extra)
        made[kind] = attention, convolutions(hidden, attention, kernel, 2 * heads * relative * extent)
    return made


@importer("inkling_text")
def inkling_text(c: Config) -> ModelSpec:
    """Inkling: sliding and full layers, learned relative positions, short convolutions (transformers models/inkling).

    The router scores the shared experts beside the routed ones. Embedding and logits are never tied.
    """
    layers, hidden = c.layers(default=66), c.int("hidden_size", 6144)
    mixers = _mixers(c, hidden)
    kinds = c.strings("layer_types", layers, KINDS)
    local = c.ints("local_layer_ids")
    if kinds is None:
        chosen = {i for i in range(layers) if (i + 1) % 6} if local is None else set(local)
        kinds = [KINDS[i in chosen] for i in range(layers)]
    c.ignore("mtp_local_layer_ids")  # of the MTP layers
    dense_width = c.int("intermediate_size", 24576)
    width = c.int("moe_intermediate_size", 3072)
    if c.has("dense_intermediate_size"):
        # checkpoints write the experts' width as intermediate_size and the dense MLP's apart
        width, dense_width = dense_width, c.int("dense_intermediate_size")
    experts = aliased(c, "n_routed_experts num_local_experts", 256)
    shared = c.int("n_shared_experts", 2)
    moe = MoE(
        experts,
        routed(c, experts, default=6),
        width,
        shared_width=shared * width,
        extra=(
            Weight("mlp.gate", hidden, shared, shard="none"),  # the router scores shared experts too
            vector("mlp.gate.global_scale", 1),
        ),
    )
    dense = Dense(dense_width, extra=(vector("mlp.global_scale", 1),))
    first = c.int("dense_mlp_idx", 0, least=0)
    sparse = sparse_layers(c, layers, [i >= first for i in range(layers)])
    stack = tuple(
        Layer(mixers[kind], (moe if is_sparse else dense,), norms=2 * hidden)
        for kind, is_sparse in zip(kinds, sparse, strict=True)
    )
    length = aliased(c, "max_position_embeddings model_max_length", 131072)
    # the token table has a norm of its own, and the class never ties it to the logits
    spec = decoder(c, hidden, stack, vocab=201024, extra=(vector("embed_norm", hidden),))
    return replace(spec, tied=False, max_context=length)
