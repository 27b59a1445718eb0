"""MiniMax-M3: grouped queries with block-sparse attention under an indexer, experts, and a vision tower."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.towers import towers
from kvplan.specs import Dense, Indexer, Layer, ModelSpec, MoE, Weight, replace, vector


@importer("minimax_m3_vl_text", "minimax_m3")
def minimax_m3(c: Config) -> ModelSpec:
    """MiniMax-M3's text model (transformers models/minimax_m3_vl); ``minimax_m3`` is the same in a flattened file.

    In a sparse layer every group of queries reads ``index_topk_blocks`` blocks of keys, its own block always among
    them, and the indexer's one key per token is cached beside keys and values.
    """
    layers, hidden = c.layers(default=60), c.int("hidden_size", 6144)
    bare = grouped_attention(c, hidden, heads=64, kv_heads=4, head_dim=128, qk_norm="head")
    kinds, index = _sparse_attention(c, layers, hidden)
    experts = c.maybe_int("num_local_experts") or c.int("num_experts", 128)
    moe = MoE(
        experts,
        c.int("num_experts_per_tok", 4, most=experts),
        c.int("intermediate_size", 3072),
        shared_width=c.int("shared_intermediate_size", 3072, least=0),
        module="block_sparse_moe",
    )
    dense = Dense(c.int("dense_intermediate_size", 12288, least=0))
    sparse = _mlp_kinds(c, layers)
    attention = {True: replace(bare, indexer=index), False: bare}
    built = {
        (i, m): Layer((attention[i],), (moe if m else dense,), norms=2 * hidden)
        for i in (True, False)
        for m in (True, False)
    }
    return decoder(c, hidden, tuple(built[k] for k in zip(kinds, sparse, strict=True)), vocab=200064, positions=524288)


@importer("minimax_m3_vl")
def minimax_m3_vl(c: Config) -> ModelSpec:
    """MiniMax-M3 as published: text model and vision tower, counted as one (transformers models/minimax_m3_vl).

    Tied where the outer or the inner object says so.
    """
    text = minimax_m3(c.sub("text_config", {}))
    tied = c.bool("tie_word_embeddings") or text.tied
    return replace(
        text,
        model_type="minimax_m3_vl",
        tied=tied,
        towers=towers(c, counted=True),
        prefix="language_model.model.layers",
    )


def _sparse_attention(c: Config, layers: int, hidden: int) -> tuple[list[bool], Indexer]:
    """Which layers have an indexer, and the indexer; the nested object of the published files beats the flat keys."""
    nested = c.sub("sparse_attention_config", {})
    pairs = {
        "heads": ("index_n_heads", "sparse_num_index_heads", 4),
        "dim": ("index_head_dim", "sparse_index_dim", 128),
        "block": ("index_block_size", "sparse_block_size", 128),
        "blocks": ("index_topk_blocks", "sparse_topk_blocks", 16),
    }
    read = {name: nested.int(inner, c.int(flat, default)) for name, (flat, inner, default) in pairs.items()}
    c.int("index_local_blocks", 1, least=0)
    # the local and initial blocks are kept within the top blocks, not beside them; no class has an indexer with values
    nested.ignore("sparse_local_block", "sparse_init_block", "sparse_score_type", "sparse_disable_index_value")
    marks = nested.ints("sparse_attention_freq", layers, most=1)
    kinds = c.strings("layer_types", layers, ("minimax_m3_sparse", "full_attention"))
    sparse = [bool(mark) for mark in marks or [0] * layers]
    if kinds is not None:
        sparse = [kind == "minimax_m3_sparse" for kind in kinds]
    if any(sparse) and not nested.bool("use_sparse_attention", True):
        raise nested.error("use_sparse_attention", False, "true, where layers are marked as sparse")
    heads, dim = read["heads"], read["dim"]
    weights = (
        Weight("self_attn.index_q_proj", hidden, heads * dim),
        Weight("self_attn.index_k_proj", hidden, dim, shard="none", cached=True),
        vector("self_attn.index_q_norm", dim),
        vector("self_attn.index_k_norm", dim)._replace(cached=True),
    )
    return sparse, Indexer(heads, dim, read["blocks"] * read["block"], weights, block=read["block"])


def _mlp_kinds(c: Config, layers: int) -> list[bool]:
    """Which layers have experts: ``mlp_layer_types``, else ``moe_layer_freq`` (a list of 0 and 1), else all."""
    kinds = c.strings("mlp_layer_types", layers, ("dense", "sparse"))
    marks = c.ints("moe_layer_freq", layers, most=1)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    return [bool(mark) for mark in marks] if marks is not None else [True] * layers
