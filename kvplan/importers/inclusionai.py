"""inclusionAI's Ling 3: a delta rule with decay per channel, latent attention every few layers."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers, stacked
from kvplan.importers.mla import latent
from kvplan.importers.parts import decoder
from kvplan.importers.recurrent import gated_delta, layer_kinds
from kvplan.specs import MLP, Dense, Mixer, ModelSpec, MoE, Recurrent, Weight, replace


@importer("bailing_hybrid")
def bailing_hybrid(c: Config) -> ModelSpec:
    """Ling 3: Kimi's delta rule, then gated MLA as the last of every group of layers (models/bailing_hybrid).

    Nothing is ever tied. The layers for multi-token prediction are built only where they are asked for.
    """
    layers, hidden = c.layers(default=42), c.int("hidden_size", 2560)
    bare = latent(c, hidden, heads=32, q_rank=0, kv_rank=512, nope=128, rope=64, value=128)
    full = replace(bare, q_rank=None, extra=(Weight("self_attn.g_proj", hidden, bare.heads),))
    mixers: dict[str, Mixer] = {"linear_attention": _delta(c, hidden, bare.heads), "full_attention": full}
    kinds = layer_kinds(c, "layer_types", layers, tuple(mixers))
    every = c.int("layer_group_size", 6)
    if kinds is None:
        kinds = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    experts, width = aliased(c, "num_experts num_local_experts", 512), c.int("moe_intermediate_size", 768)
    moe = MoE(
        experts,
        routed(c, experts, "num_experts_per_token num_experts_per_tok", 8),
        width,
        shared_width=width * aliased(c, "num_shared_experts n_shared_experts", 1, least=0),
    )
    dense, first = Dense(c.int("intermediate_size", 6144)), c.int("first_k_dense_replace", 2, least=0)
    sparse = sparse_layers(c, layers, [i >= first for i in range(layers)])
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse]
    stack = stacked(hidden, [mixers[kind] for kind in kinds], mlps)
    spec = decoder(c, hidden, stack, vocab=157184, positions=c.int("model_max_length", 262144))
    return replace(spec, tied=False)


def _delta(c: Config, hidden: int, heads: int) -> Recurrent:
    """The delta rule. Files that transformers wrote say ``linear_head_dim``: their head_dim is the rotary one."""
    heads = c.int("linear_num_heads", heads)
    dim = c.int("linear_head_dim", c.int("head_dim", 128))
    kernel = c.int("linear_conv_kernel_dim", c.int("short_conv_kernel_size", 4))
    inner, module = heads * dim, "self_attn"
    inputs = ("q_proj", "k_proj", "v_proj", "forget_gate.f_proj", "g_proj")
    projections = (
        *(Weight(f"{module}.{name}", hidden, inner) for name in inputs),
        Weight(f"{module}.b_proj", hidden, heads),
        Weight(f"{module}.o_proj", inner, hidden),
    )
    return gated_delta(projections, heads, heads, dim, dim, kernel, module=module, kind="kimi_delta", decays=inner)
