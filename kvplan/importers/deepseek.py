"""DeepSeek and Kimi: V1 with plain attention, MLA in V2 and V3, sparse MLA in V3.2, compressed entries in V4."""

from __future__ import annotations

from kvplan.importers import import_model, importer
from kvplan.importers.config import Config
from kvplan.importers.mla import DSA_EXPERTS, latent, lightning_indexer, mlp_kinds, routed, stack
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.towers import towers
from kvplan.specs import MLP, Compressed, Dense, Indexer, Layer, ModelSpec, MoE, Weight, replace, vector


@importer("deepseek")
def deepseek(c: Config) -> ModelSpec:
    """DeepSeek-MoE-16B: ordinary multi-head attention and fine-grained experts.

    Source: configuration_deepseek.py and modeling_deepseek.py beside the checkpoint (transformers has no class):
    without ``n_routed_experts`` the model is dense, without ``n_shared_experts`` no expert is shared.
    """
    layers, hidden = c.layers(default=30), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("attention_bias") else "")
    dense = Dense(c.int("intermediate_size", 11008))
    experts = c.maybe_int("n_routed_experts")
    mlps: list[MLP] = [dense] * layers
    if experts is not None:
        width = c.int("moe_intermediate_size", 1407)
        shared = width * c.int("n_shared_experts", 0, least=0, most=4096)
        moe = MoE(experts, c.int("num_experts_per_tok", most=experts), width, shared_width=shared, fused=False)
        first, every = c.int("first_k_dense_replace", 0, least=0), c.int("moe_layer_freq", 1)
        mlps = [moe if i >= first and i % every == 0 else dense for i in range(layers)]
    return decoder(
        c, hidden, tuple(Layer((attention,), (mlp,), norms=2 * hidden) for mlp in mlps), vocab=102400, positions=2048
    )


@importer("deepseek_v2")
def deepseek_v2(c: Config) -> ModelSpec:
    """DeepSeek-V2 and V2-Lite: MLA and experts (transformers models/deepseek_v2).

    V2-Lite's own file says ``"q_lora_rank": null``; a copy that lost the line is another model, with rank 1536.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "ud" if c.bool("mlp_bias") else ""
    mixer = latent(c, hidden, heads=32, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128)
    moe = routed(c, experts=64, active=None, width=1407, shared=2, bias=bias, names=("num_experts", "n_routed_experts"))
    dense = Dense(c.int("intermediate_size", 11008), bias=bias)
    first = c.int("first_k_dense_replace", 0, least=0)
    sparse = [i >= first for i in range(layers)]
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=102400, positions=2048)


@importer("deepseek_v3", "kimi_k2")
def deepseek_v3(c: Config) -> ModelSpec:
    """DeepSeek-V3, R1 and Kimi K2, which is V3's class under another name (transformers models/deepseek_v3)."""
    layers, hidden = c.layers(default=61), c.int("hidden_size", 7168)
    mixer = latent(c, hidden, heads=128, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128)
    moe = routed(c, experts=256, active=8, width=2048, shared=1)
    first = c.int("first_k_dense_replace", 3, least=0)
    sparse = [i >= first for i in range(layers)]
    dense = Dense(c.int("intermediate_size", 18432))
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=129280, positions=4096)


@importer("deepseek_v32")
def deepseek_v32(c: Config) -> ModelSpec:
    """DeepSeek-V3.2: V3 under a DSA indexer in every layer (transformers models/deepseek_v32)."""
    layers, hidden = c.layers(default=61), c.int("hidden_size", 7168)
    c.strings("layer_types", layers, ("indexed_attention", "deepseek_sparse_attention"))
    bare = latent(c, hidden, heads=128, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128, direct_queries=False)
    mixer = replace(bare, indexer=lightning_indexer(c, hidden, bare.q_rank or 0, heads=64))
    moe = routed(c, experts=256, active=8, width=2048, shared=1, names=DSA_EXPERTS)
    dense = Dense(c.int("intermediate_size", 18432))
    sparse = mlp_kinds(c, layers, 3)
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=129280, positions=163840)


@importer("kimi_k25")
def kimi_k25(c: Config) -> ModelSpec:
    """Kimi K2.5 and later: Kimi K2 beside a vision tower, counted as one model (transformers models/kimi_k25).

    The outer ``tie_word_embeddings`` decides, and the class's default for it is true.
    """
    text = import_model(c.sub("text_config", {}), "deepseek_v3")
    return replace(
        text,
        model_type="kimi_k25",
        tied=c.bool("tie_word_embeddings", True),
        towers=towers(c, counted=True),
        prefix="language_model.model.layers",
    )


# --- V4 --------------------------------------------------------------------------------------------------------------

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"


@importer("deepseek_v4", "deepseek_ref")
def deepseek_v4(c: Config) -> ModelSpec:
    """DeepSeek-V4: a window of single tokens, and pooled entries behind it (transformers models/deepseek_v4).

    CSA layers pool 4 tokens and let an indexer choose among the entries, HCA layers pool 128 and read them all; some
    layers have the window alone. ``deepseek_ref`` is the same model in the flat file of the reference code.
    """
    layers, hidden = c.layers(default=43), c.int("hidden_size", 4096)
    kinds = _layer_types(c, layers)
    rates = _rates(c, set(kinds))
    # The single KV head is built in; rotation, hash routing and expert formats change no size.
    for key in ("num_key_value_heads", "qk_rope_head_dim"):
        c.maybe_int(key)
    c.ignore("compress_rope_theta")
    c.strings("mlp_layer_types", layers, ("hash_moe", "moe"), longer=True)
    streams = c.int("hc_mult", 4, most=1024)
    mixers = {kind: _compressed(c, hidden, kind, rates.get(kind, 0), streams) for kind in dict.fromkeys(kinds)}
    width = c.int("moe_intermediate_size", 2048)
    experts = c.maybe_int("n_routed_experts") or c.int("num_local_experts", 256)
    moe = MoE(
        experts,
        c.int("num_experts_per_tok", 6, most=experts),
        width,
        shared_width=width,  # one shared expert, whatever n_shared_experts says
        shared_bias="ud" if c.bool("mlp_bias") else "",
        module="ffn",
    )
    mixing = _hyper_connection("hc_attn", hidden, streams) + _hyper_connection("hc_ffn", hidden, streams)
    built = {kind: Layer((mixer,), (moe,), norms=2 * hidden, extra=mixing) for kind, mixer in mixers.items()}
    head = (Weight("hc_head.fn", streams * hidden, streams, shard="none", fused=True), vector("hc_head", streams + 1))
    return decoder(
        c,
        hidden,
        tuple(built[kind] for kind in kinds),
        vocab=129280,
        positions=1048576,
        extra=head,
        prefix="layers",
    )


def _layer_types(c: Config, layers: int) -> list[str]:
    """The kind of every layer: ``layer_types``, else ``compress_ratios`` (longer by the MTP layers), else a pattern."""
    kinds = c.strings("layer_types", layers, (SLIDING, SPARSE, HEAVY), longer=True)
    ratios = c.ints("compress_ratios")
    if kinds is not None:
        return kinds
    if ratios is None:
        return [SPARSE if i > 1 and i % 2 else HEAVY for i in range(layers)]
    if len(ratios) < layers:
        raise c.error("compress_ratios", f"{len(ratios)} entries", f"one entry per layer, {layers} or more")
    names = {0: SLIDING, 4: SPARSE, 128: HEAVY}
    for ratio in ratios[:layers]:
        if ratio not in names:
            raise c.error("compress_ratios", ratio, "0 (window only), 4 (CSA) or 128 (HCA)")
    return [names[ratio] for ratio in ratios[:layers]]


def _rates(c: Config, kinds: set[str]) -> dict[str, int]:
    """Tokens per entry of each compressing kind that occurs; older names override ``compress_rates``."""
    given = c.sub("compress_rates", {})
    found = {}
    for kind, default, older in ((SPARSE, 4, "compress_rate_csa"), (HEAVY, 128, "compress_rate_hca")):
        override = c.maybe_int(older, most=2**20)
        rate = given.maybe_int(kind, most=2**20)
        if kind not in kinds:
            continue
        if override is None and rate is None and given.raw:
            raise given.error(kind, "missing", "the tokens that one entry pools")
        found[kind] = override or rate or default
    return found


def _compressed(c: Config, hidden: int, kind: str, ratio: int, streams: int) -> Compressed:
    heads, dim = c.int("num_attention_heads", 64), c.int("head_dim", 512)
    q_rank, groups, o_rank = c.int("q_lora_rank", 1024), c.int("o_groups", 8), c.int("o_lora_rank", 1024)
    index_heads, index_dim = c.int("index_n_heads", 64), c.int("index_head_dim", 128)
    top_k = c.int("index_topk", 512)
    overlap = kind == SPARSE
    kv = [Weight("attn.wkv", hidden, dim, shard="none"), vector("attn.kv_norm", dim)]
    index = None
    if ratio:
        kv += _compressor("attn.compressor", hidden, dim, ratio, overlap)
    if overlap:
        queries = (
            Weight("attn.indexer.wq_b", q_rank, index_heads * index_dim, shard="none"),
            Weight("attn.indexer.weights_proj", hidden, index_heads, shard="none"),
        )
        kv += _compressor("attn.indexer.compressor", hidden, index_dim, ratio, overlap)
        index = Indexer(index_heads, index_dim, top_k)
        kv += queries
    return Compressed(
        heads=heads,
        dim=dim,
        window=c.int("sliding_window", 128),
        ratio=ratio,
        overlap=overlap,
        indexer=index,
        weights=(
            Weight("attn.wq_a", hidden, q_rank, shard="none"),
            vector("attn.q_norm", q_rank),
            Weight("attn.wq_b", q_rank, heads * dim),
            # each group of heads has its own projection to o_rank, one after another in this matrix
            Weight("attn.wo_a", c.divides("o_groups", heads * dim, groups, "heads * head_dim"), groups * o_rank),
            Weight("attn.wo_b", groups * o_rank, hidden),
            vector("attn.attn_sink", heads),
        ),
        kv_weights=tuple(kv),
        # twice per layer a token's streams are mixed by a streams x streams matrix that it computes itself
        mix_flops=2 * 2 * streams * streams * hidden,
    )


def _compressor(module: str, hidden: int, dim: int, ratio: int, overlap: bool) -> list[Weight]:
    """Pools ``ratio`` tokens by a learned gate; with overlap it projects twice, for the next entry and for its own."""
    width = 2 * dim if overlap else dim
    return [
        Weight(f"{module}.wkv", hidden, width, shard="none"),
        Weight(f"{module}.wgate", hidden, width, shard="none"),
        vector(f"{module}.ape", ratio * width),
        vector(f"{module}.norm", dim),
    ]


def _hyper_connection(module: str, hidden: int, streams: int) -> tuple[Weight, ...]:
    """Manifold-constrained hyper-connection: from all streams to the weights that collapse, spread and mix them."""
    mixes = (2 + streams) * streams
    return (
        Weight(f"{module}.fn", streams * hidden, mixes, shard="none", fused=True),
        vector(module, mixes + 3),
    )
