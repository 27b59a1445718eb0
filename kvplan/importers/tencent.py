"""Tencent's mixtures of experts: Hunyuan-Large, Hunyuan-A13B, Hy3, Hy4."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers
from kvplan.importers.mla import latent, lightning_indexer
from kvplan.importers.mla import routed as latent_experts
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, Weight, replace, vector


def _per_layer(c: Config, key: str, layers: int, default: int, *, least: int = 1) -> list[int]:
    """A count that a file writes once for all layers or as a list of one per layer."""
    if isinstance(c.get(key), list):
        return c.ints(key, layers, least=least) or []
    return [c.int(key, default, least=least)] * layers


def _cla_attention(c: Config, hidden: int, layers: int) -> list[Attention]:
    """Attention of each layer.

    With ``use_cla`` a layer whose index is no multiple of ``cla_share_factor`` reads the KV of the last layer that is
    one; it has queries and both norms of its own but no keys and values.
    """
    if c.bool("use_mla"):
        raise c.error("use_mla", True, "false: no published hunyuan model uses it")
    c.ignore("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")  # of use_mla only
    dim = c.maybe_int("attention_head_dim")
    norm = c.bool("use_qk_norm")
    own = grouped_attention(
        c,
        hidden,
        heads=32,
        head_dim=dim,
        bias="qkvo" if c.bool("attention_bias") else "",
        qk_norm="head" if norm else "",
    )
    if dim is not None and own.key_dim != dim:
        raise c.error("attention_head_dim", dim, f"the same as head_dim ({own.key_dim})")
    # files of the dense models hold a factor without use_cla: nothing is shared there
    factor = c.int("cla_share_factor", 1)
    if not c.bool("use_cla"):
        return [own] * layers
    own = replace(own, key_norm_stays=True)  # the follower's is built and never used
    return [own if i % factor == 0 else replace(own, reads=i - i % factor) for i in range(layers)]


@importer("hunyuan")
def hunyuan(c: Config) -> ModelSpec:
    """Hunyuan-Large (cross-layer attention) and Hunyuan-A13B, from Tencent's own modeling_hunyuan.py.

    transformers has no class of this name; its hunyuan_v1_moe builds the same tensors for A13B. head_dim is hidden /
    heads unless the file says otherwise. The shared expert is built where ``use_mixed_mlp_moe`` is true, or where the
    file leaves that out and counts shared experts.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = _cla_attention(c, hidden, layers)
    bias = "ud" if c.bool("mlp_bias") else ""
    dense = Dense(c.int("intermediate_size", 11008), bias=bias)
    widths = _per_layer(c, "moe_intermediate_size", layers, dense.width)
    experts = _per_layer(c, "num_experts", layers, 1)
    active = _per_layer(c, "moe_topk", layers, 1)
    with_shared = c.bool("use_mixed_mlp_moe", c.has("num_shared_expert"))
    shared = _per_layer(c, "num_shared_expert", layers, 1, least=0)
    skipped = c.int("moe_layer_num_skipped", 0, least=0)
    kinds: dict[tuple[int, ...], MoE] = {}
    stack = []
    for i in range(layers):
        if max(experts) > 1 and i >= skipped:
            facts = (experts[i], active[i], widths[i], shared[i])
            if facts not in kinds:
                kinds[facts] = MoE(
                    experts[i],
                    routed(c, experts[i], "moe_topk", active=active[i]),
                    widths[i],
                    shared_width=widths[i] * shared[i] if with_shared else 0,
                    bias=bias,
                    shared_bias=bias,
                    router="gate.wg",
                    shared_module="shared_mlp",
                    fused=False,
                )
            stack.append(Layer((attention[i],), (kinds[facts],), norms=2 * hidden))
        else:
            stack.append(Layer((attention[i],), (dense,), norms=2 * hidden))
    return decoder(c, hidden, tuple(stack), vocab=290943)


@importer("hunyuan_v1_moe")
def hunyuan_v1_moe(c: Config) -> ModelSpec:
    """Hunyuan-A13B as transformers builds it: experts and one shared one in every layer (models/hunyuan_v1_moe).

    All experts are ``intermediate_size`` wide. Published files carry keys of Tencent's own code, which reads more.
    """
    if c.bool("use_cla"):
        raise c.error("use_cla", True, "false: the class of this type shares no KV between layers")
    c.overruled("use_mla", False)
    # without those two they have no effect
    c.ignore("cla_share_factor", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, bias=bias, qk_norm="head")
    c.overruled("attention_head_dim", attention.key_dim)
    experts, width = aliased(c, "num_experts num_local_experts", 1), c.int("intermediate_size", 11008)
    for key, built in (("moe_intermediate_size", width), ("num_shared_expert", 1)):
        if isinstance(c.get(key), list):
            c.ignore(key)  # one entry per layer in the published file, all equal to what the class builds
        else:
            c.overruled(key, built)
    key = "moe_topk" if c.has("moe_topk") else "num_experts_per_tok"
    kinds = {
        active: MoE(
            experts,
            routed(c, experts, key, active=active),
            width,
            shared_width=width,
            router="gate.wg",
            shared_module="shared_mlp",
        )
        for active in _per_layer(c, key, layers, 1)
    }
    stack = tuple(Layer((attention,), (kinds[active],), norms=2 * hidden) for active in _per_layer(c, key, layers, 1))
    return decoder(c, hidden, stack, vocab=290943, positions=2048)


@importer("hy_v3")
def hy_v3(c: Config) -> ModelSpec:
    """Hy3: one dense layer, then routed and shared experts; per-head q and k norms (transformers models/hy_v3)."""
    layers, hidden = c.layers(default=80), c.int("hidden_size", 4096)
    attention = grouped_attention(
        c,
        hidden,
        heads=64,
        kv_heads=8,
        head_dim=128,
        bias="qkvo" if c.bool("attention_bias") else "",
        qk_norm="head",
    )
    bias = "ud" if c.bool("mlp_bias") else ""
    dense = Dense(c.int("intermediate_size", 13312), bias=bias)
    width = c.int("moe_intermediate_size", 1536)
    experts = aliased(c, "num_experts num_local_experts", 192)
    moe = MoE(
        experts,
        routed(c, experts, default=8),
        width,
        # the class falls back to the dense width where a file counts no shared experts
        shared_width=width * c.int("num_shared_experts", 1, least=0) or dense.width,
        shared_bias=bias,
    )
    sparse = sparse_layers(c, layers, [i > 0 for i in range(layers)], longer=True)
    stack = tuple(Layer((attention,), (moe if is_sparse else dense,), norms=2 * hidden) for is_sparse in sparse)
    return decoder(c, hidden, stack, vocab=120832, positions=131072)


def _independent_streams(module: str, hidden: int, streams: int) -> tuple[Weight, ...]:
    """Hyper-connections without mixing between streams: from all of them to weights that collapse and spread."""
    return (
        Weight(f"{module}.fn", streams * hidden, 2 * streams, shard="none", fused=True),
        vector(module, 2 * streams + 2),
    )


@importer("hy_v4")
def hy_v4(c: Config) -> ModelSpec:
    """Hy4: gated MLA with sinks under a DSA indexer, residual streams, experts after one layer (models/hy_v4).

    ``shared`` layers reuse the selection of the last full one: no key in the cache, no weights, no scores.
    """
    layers, hidden = c.layers(default=34), c.int("hidden_size", 2816)
    bare = latent(c, hidden, heads=32, q_rank=1536, kv_rank=512, nope=192, rope=64, value=256, direct_queries=False)
    c.strings("layer_types", layers, ("indexed_attention",))
    gate = Weight("self_attn.gate_proj", hidden, bare.heads * bare.value_dim)
    bare = replace(bare, extra=(gate, vector("self_attn.sinks", bare.heads)))
    full = lightning_indexer(c, hidden, bare.q_rank or 0, heads=16)
    indexers = {"full": full, "shared": replace(full, weights=(), shares=True)}
    kinds = c.strings("indexer_types", layers, tuple(indexers), longer=True)
    if kinds is None:
        kinds = ["shared" if i and (i - 1) % 4 else "full" for i in range(layers)]
    if kinds[0] == "shared":
        raise c.error("indexer_types", "shared first", "a full layer before every shared one")
    moe = latent_experts(c, experts=256, active=8, width=768, shared=1)
    dense = Dense(c.int("intermediate_size", 6912))
    sparse = sparse_layers(c, layers, [i > 0 for i in range(layers)])
    streams = c.int("hc_mult", 4, most=1024)
    around = _independent_streams("attn_hc", hidden, streams) + _independent_streams("ffn_hc", hidden, streams)
    made = {
        (kind, is_sparse): Layer(
            (replace(bare, indexer=indexers[kind]),), (moe if is_sparse else dense,), norms=2 * hidden, extra=around
        )
        for kind in indexers
        for is_sparse in (True, False)
    }
    head = (
        Weight("hc_head.hc_fn", streams * hidden, streams, shard="none", fused=True),
        vector("hc_head", streams + 1),
    )
    stack = tuple(made[key] for key in zip(kinds, sparse, strict=True))
    return decoder(c, hidden, stack, vocab=120832, positions=262144, extra=head)
