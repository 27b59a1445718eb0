"""Multi-head latent attention (MLA): MiniCPM3, GLM-4.7-Flash, GLM-5, Mistral Small 4; DeepSeek uses the same pieces."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import MLP, Dense, Indexer, Latent, Layer, ModelSpec, MoE, Weight, replace, vector

__all__ = ["DSA_EXPERTS", "latent", "lightning_indexer", "mlp_kinds", "routed", "stack"]

# V3.2 and GLM-5 take a plain num_experts over their own name.
DSA_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def latent(
    c: Config,
    hidden: int,
    *,
    heads: int,
    q_rank: int,
    kv_rank: int,
    nope: int,
    rope: int,
    value: int | None,
    direct_queries: bool = True,
) -> Latent:
    """MLA from the usual keys; the keywords are the class's own defaults, ``value`` None meaning hidden / heads.

    transformers 5.23 caches latent and rotary key in every one of these classes, never expanded heads. A missing
    ``q_lora_rank`` is the class's default, an explicit null means a plain query projection (``direct_queries``: the
    class knows one).
    """
    n = c.int("num_attention_heads", heads)
    # One latent serves all heads, so neither a number of KV heads nor a general head_dim changes anything.
    for key in ("num_key_value_heads", "head_dim", "qk_head_dim"):
        c.maybe_int(key)
    null = "q_lora_rank" in c.raw and c.raw["q_lora_rank"] is None
    rank = None if null and direct_queries else q_rank
    values = c.maybe_int("v_head_dim") or value or c.divides("num_attention_heads", hidden, n, "hidden_size")
    return Latent(
        heads=n,
        q_rank=c.maybe_int("q_lora_rank") or rank,
        kv_rank=c.int("kv_lora_rank", kv_rank),
        nope_dim=c.int("qk_nope_head_dim", nope),
        rope_dim=c.int("qk_rope_head_dim", rope),
        value_dim=values,
        bias="ao" if c.bool("attention_bias") else "",
    )


def lightning_indexer(c: Config, hidden: int, q_rank: int, *, heads: int) -> Indexer:
    """The DSA indexer of DeepSeek-V3.2 and GLM-5: one key per token and layer, in the dtype of the activations."""
    n, dim = c.int("index_n_heads", heads), c.int("index_head_dim", 128)
    weights = (
        Weight("self_attn.indexer.wq_b", q_rank, n * dim),
        Weight("self_attn.indexer.wk", hidden, dim, shard="none", cached=True),
        vector("self_attn.indexer.k_norm", 2 * dim)._replace(cached=True),  # a LayerNorm: weight and bias
        Weight("self_attn.indexer.weights_proj", hidden, n, shard="none"),
    )
    return Indexer(n, dim, c.int("index_topk", 2048), weights)


def routed(
    c: Config,
    *,
    experts: int,
    active: int | None,
    width: int,
    shared: int,
    bias: str = "",
    names: tuple[str, ...] = ("num_local_experts", "n_routed_experts"),
) -> MoE:
    """Routed and shared experts as DeepSeek writes them: ``n_routed_experts``, and ``n_shared_experts`` that all visit.

    ``names`` are the keys under which the class takes the number of experts, the first that is there wins (aliases
    overwrite what a class calls it itself). The router's correction bias is a buffer in these classes and no parameter.
    """
    count = next((n for n in (c.maybe_int(name) for name in names) if n), experts)
    one = c.int("moe_intermediate_size", width)
    return MoE(
        experts=count,
        active=c.int("num_experts_per_tok", active, most=count),
        width=one,
        shared_width=one * c.int("n_shared_experts", shared, least=0, most=4096),
        shared_bias=bias,
    )


def mlp_kinds(c: Config, layers: int, dense: int | None) -> list[bool]:
    """Which layers are sparse: ``mlp_layer_types``, else all but the first ``first_k_dense_replace``.

    ``dense`` is that key's default; None: the class has no such key, makes one layer dense, and cuts
    longer lists.
    """
    kinds = c.strings("mlp_layer_types", layers, ("dense", "sparse"), longer=dense is None)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    first = 1 if dense is None else c.int("first_k_dense_replace", dense, least=0)
    return [i >= first for i in range(layers)]


def stack(hidden: int, mixers: list[Latent], sparse: list[bool], dense: MLP, moe: MLP) -> tuple[Layer, ...]:
    """Pre-norm layers, equal ones built once: MLA, then a dense MLP or a mixture of experts."""
    kinds = {
        (mixer, kind): Layer((mixer,), (moe if kind else dense,), norms=2 * hidden)
        for mixer, kind in zip(mixers, sparse, strict=True)
    }
    return tuple(kinds[mixer, kind] for mixer, kind in zip(mixers, sparse, strict=True))


@importer("minicpm3")
def minicpm3(c: Config) -> ModelSpec:
    """MiniCPM3: a dense decoder with MLA, its embedding tied (transformers models/minicpm3)."""
    layers, hidden = c.layers(default=62), c.int("hidden_size", 2560)
    mixer = latent(c, hidden, heads=40, q_rank=768, kv_rank=256, nope=64, rope=32, value=None)
    mlp = Dense(c.int("intermediate_size", 6400), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((mixer,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=73448, positions=32768, tied=True)


@importer("youtu")
def youtu(c: Config) -> ModelSpec:
    """Youtu-LLM: a dense decoder with DeepSeek-V3's MLA, its embedding tied (transformers models/youtu)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 2048)
    mixer = latent(c, hidden, heads=16, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128)
    layer = Layer((mixer,), (Dense(c.int("intermediate_size", 6144)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=128256, positions=131072, tied=True)


@importer("glm4_moe_lite")
def glm4_moe_lite(c: Config) -> ModelSpec:
    """GLM-4.7-Flash: MLA and experts after one dense layer (transformers models/glm4_moe_lite).

    The class knows no ``first_k_dense_replace``: only ``mlp_layer_types`` changes that pattern.
    """
    layers, hidden = c.layers(default=47), c.int("hidden_size", 2048)
    mixer = latent(c, hidden, heads=20, q_rank=768, kv_rank=512, nope=192, rope=64, value=256)
    rope = c.maybe_int("head_dim")  # in this class another name of qk_rope_head_dim, and it wins
    if rope is not None:
        mixer = replace(mixer, rope_dim=rope)
    moe = routed(c, experts=64, active=4, width=1536, shared=1)
    dense = Dense(c.int("intermediate_size", 10240))
    sparse = mlp_kinds(c, layers, None)
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=154880, positions=202752)


@importer("mistral4")
def mistral4(c: Config) -> ModelSpec:
    """Mistral Small 4: MLA with a latent of 256 and experts in every layer (transformers models/mistral4)."""
    layers, hidden = c.layers(default=36), c.int("hidden_size", 4096)
    mixer = latent(c, hidden, heads=32, q_rank=1024, kv_rank=256, nope=64, rope=64, value=128)
    moe = routed(c, experts=128, active=4, width=2048, shared=1)
    first = c.int("first_k_dense_replace", 0, least=0)
    sparse = [i >= first for i in range(layers)]
    dense = Dense(c.int("intermediate_size", 12288))
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=131072, positions=1048576)


@importer("glm_moe_dsa")
def glm_moe_dsa(c: Config) -> ModelSpec:
    """GLM-5: MLA under a DSA indexer (transformers models/glm_moe_dsa).

    From 5.2 on most layers are ``shared``: they reuse the selection of the last full one and have no indexer, which is
    no key in the cache, no weights, no scores.
    """
    layers, hidden = c.layers(default=78), c.int("hidden_size", 6144)
    # every layer is of one kind; the older name is what the class maps to the newer
    c.strings("layer_types", layers, ("indexed_attention", "deepseek_sparse_attention"))
    bare = latent(c, hidden, heads=64, q_rank=2048, kv_rank=512, nope=192, rope=64, value=256, direct_queries=False)
    full = lightning_indexer(c, hidden, bare.q_rank or 0, heads=32)
    c.ignore("indexer_rope_interleave", "index_share_for_mtp_iteration")  # rotation; MTP layers are not cached
    mixers = {
        "full": replace(bare, indexer=full),
        "shared": replace(bare, indexer=replace(full, weights=(), shares=True)),
    }
    moe = routed(c, experts=256, active=8, width=2048, shared=1, names=DSA_EXPERTS)
    dense = Dense(c.int("intermediate_size", 12288))
    kinds = _indexer_types(c, layers)
    sparse = mlp_kinds(c, layers, 3)
    return decoder(
        c, hidden, stack(hidden, [mixers[kind] for kind in kinds], sparse, dense, moe), vocab=154880, positions=202752
    )


def _indexer_types(c: Config, layers: int) -> list[str]:
    """``full`` or ``shared`` per layer: the list, else the pattern, else one full layer every ``index_topk_freq``."""
    letters = {"F": "full", "S": "shared"}
    kinds = c.strings("indexer_types", layers, letters.values(), longer=True)
    pattern = c.get("index_topk_pattern")
    every = max(c.int("index_topk_freq", 1, least=0), 1)
    offset = c.int("index_skip_topk_offset", 2, least=0)
    if kinds is None and isinstance(pattern, str):
        if len(pattern) < layers or set(pattern) - set(letters):
            raise c.error("index_topk_pattern", pattern[:80], f"{layers} letters F (full) or S (shared)")
        kinds = [letters[letter] for letter in pattern[:layers]]
    elif kinds is None and pattern is not None:
        kinds = c.strings("index_topk_pattern", layers, letters.values(), longer=True)
    if kinds is None:
        kinds = ["shared" if max(i - offset + 1, 0) % every else "full" for i in range(layers)]
    if kinds[0] == "shared":
        raise c.error("indexer_types", "shared first", "a full layer before every shared one")
    return kinds
