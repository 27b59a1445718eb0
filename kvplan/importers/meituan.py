"""Meituan's LongCat-Flash."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.mla import latent
from kvplan.importers.parts import decoder
from kvplan.specs import Dense, Layer, ModelSpec, MoE, Weight, replace


def _layers(c: Config) -> int:
    """``num_layers``, where ``num_hidden_layers`` is not there: that one counts attention twice per layer, and wins."""
    layers = c.layers("num_layers", 28)
    if not c.has("num_hidden_layers"):
        return layers
    return c.int("num_hidden_layers", least=2, most=2 * LAYER_LIMIT) // 2


def _experts(c: Config, hidden: int) -> tuple[MoE, tuple[str, ...]]:
    """Routed experts, and zero experts that pass a token on as it is; the router knows both.

    A token visits ``moe_topk`` of either kind, so that at most that many compute. The class builds gate and up
    projections for zero experts too, which no token ever multiplies and no checkpoint holds.
    """
    experts, zero = aliased(c, "n_routed_experts num_local_experts", 512), c.int("zero_expert_num", 256, least=0)
    width = aliased(c, "expert_ffn_hidden_size moe_intermediate_size", 2048)
    key = "moe_topk" if c.has("moe_topk") else "num_experts_per_tok"
    active = min(routed(c, experts + zero, key, 12), experts)
    router = Weight("mlp.router.classifier", hidden, experts + zero, c.bool("router_bias"), shard="none")
    idle = Weight("mlp.experts.zero_gate_up_proj", hidden, 2 * width, copies=zero, visited=0, fused=True)
    moe = MoE(experts, active, width, router_weights=(router,), extra=(idle,) if zero else ())
    if not zero:
        return moe, ()
    return moe, (
        f"of {experts + zero:,} experts {zero:,} compute nothing: FLOPs and active parameters are of a token that"
        f" visits none of them; the transformers class builds gate and up projections for them, {idle.elements:,}"
        " elements a layer, which are counted as parameters and not as weights: no checkpoint holds them",
    )


@importer("longcat_flash")
def longcat_flash(c: Config) -> ModelSpec:
    """LongCat-Flash: two MLA and two dense MLPs per layer, experts on a shortcut (transformers models/longcat_flash).

    Each of a layer's two attentions has a cache of its own.
    """
    layers, hidden = _layers(c), c.int("hidden_size", 6144)
    first = latent(c, hidden, heads=64, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128, direct_queries=False)
    total = first.nope_dim + first.rope_dim
    if c.int("qk_head_dim", total) != total:
        raise c.error("qk_head_dim", c.get("qk_head_dim"), f"qk_nope_head_dim + qk_rope_head_dim ({total})")
    mixers = tuple(replace(first, module=f"self_attn.{i}") for i in range(2))
    width = aliased(c, "ffn_hidden_size intermediate_size", 12288)
    moe, notes = _experts(c, hidden)
    mlps = (moe, Dense(width, module="mlps.0"), Dense(width, module="mlps.1"))
    stack = (Layer(mixers, mlps, norms=4 * hidden),) * layers
    return decoder(c, hidden, stack, vocab=131072, positions=131072, notes=notes)
