"""XLM, XLNet and Reformer: what they keep from one call to the next is not keys and values.

Their mathematics caches keys and values like any other; their classes keep nothing (XLM) or the hidden states that
enter each layer (XLNet, Reformer), from which they make keys and values anew. The engine ``transformers`` counts that.
"""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import FULL, Attention, Dense, Growth, Layer, ModelSpec, Part, Weight, replace, vector


@importer("xlm")
def xlm(c: Config) -> ModelSpec:
    """XLM: BERT's layers, an MLP of four times the width, a table of languages (transformers models/xlm)."""
    if not c.bool("is_encoder", True):
        raise c.error("is_encoder", False, "true: the class builds no other")
    if c.bool("asm"):
        raise c.error("asm", True, "false: the class does not run with an adaptive softmax")
    hidden, layers = (
        c.int(either(c, "emb_dim", "hidden_size"), 2048),
        c.layers(either(c, "n_layers", "num_hidden_layers"), 12),
    )
    attention = equal_heads(
        c, hidden, either(c, "n_heads", "num_attention_heads"), 16, bias="qkvo", module="attentions",
        names="q_lin k_lin v_lin out_lin", transformers_parts=(),
    )  # fmt: skip
    languages = c.int("n_langs", 1)
    extra: tuple[Weight, ...] = ()
    if languages > 1 and c.bool("use_lang_emb", True):
        extra = (Weight("lang_embeddings", languages, hidden, kind="lookup", shard="none"),)
    c.notes.append(
        "the transformers class keeps no cache from one call to the next: generate() runs the whole text again"
    )
    mlp = Dense(4 * hidden, gated=False, bias="ud", module="ffns", names="lin1 lin1 lin2")
    if either(c, "vocab_size", "n_words") == "n_words":  # the older name
        c.raw = c.raw | {"vocab_size": c.raw["n_words"]}
    spec = decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=4 * hidden),) * layers,
        vocab=30145,
        positions=512,
        tied=True,
        final_norm=2 * hidden,
        extra=extra,
        head_bias=True,
        prefix="transformer",
    )
    return replace(spec, positions=(spec.max_context or 512) * hidden)


@importer("xlnet")
def xlnet(c: Config) -> ModelSpec:
    """XLNet: relative positions through a matrix of their own, and a memory of hidden states (transformers models/xlnet).

    The memory holds the states that enter each layer, of the last mem_len tokens; null and 0 keep all.
    """
    hidden, layers = (
        c.int(either(c, "d_model", "hidden_size"), 1024),
        c.layers(either(c, "n_layer", "num_hidden_layers"), 24),
    )
    key = either(c, "n_head", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 16, module="rel_attn", names="q k v o")
    width, dim = attention.heads * attention.key_dim, c.int("d_head", attention.key_dim)
    if dim != attention.key_dim:
        raise c.error("d_head", dim, f"{attention.key_dim}: the class wants d_model / n_head")
    kind = c.str("attn_type", "bi")
    if kind not in ("bi", "uni"):
        raise c.error("attn_type", kind, "bi or uni")
    if c.maybe_int("reuse_len", least=0):
        raise c.error(
            "reuse_len", c.raw["reuse_len"], "null: it keeps the first tokens of each call, a matter of training"
        )
    # null and a missing key differ: the class's default is 512
    length = c.maybe_int("mem_len", least=0) if "mem_len" in c.raw else 512
    growth = Growth("window", length) if length else FULL
    kept = (Part("states", 1, hidden, "compute", growth, "none"),) if c.bool("use_mems_eval", True) else ()
    relative = Weight("rel_attn.r", hidden, width, shard="tp")
    attention = replace(
        attention,
        window=length or None,
        transformers_parts=kept,
        extra=(relative, vector("rel_attn.r_biases", 3 * width), vector("rel_attn.seg_embed", 2 * width)),
    )
    mlp = Dense(c.int("d_inner", 4096), gated=False, bias="ud", module="ff", names="layer_1 layer_1 layer_2")
    # the class makes them for twice as many distances as there are tokens, and keys and values of the memory anew
    c.notes.append("scores of relative positions, and keys and values made anew from states, are not in the FLOPs")
    return decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=4 * hidden),) * layers,
        vocab=32000,
        tied=True,
        final_norm=hidden,  # no norm: the embedding of a masked token
        head_bias=True,
        prefix="transformer.layer",
    )


@importer("reformer")
def reformer(c: Config) -> ModelSpec:
    """Reformer: local and hashed attention by turns, reversible layers (transformers models/reformer).

    A layer keeps the states that enter it, of all tokens, and a hashed one (LSH) a 64-bit bucket per head and hash
    besides. Queries and keys of LSH are one matrix.
    """
    if not c.bool("is_decoder"):
        raise c.error("is_decoder", False, "true: ReformerModelWithLMHead takes decoders alone")
    kinds = c.strings("attn_layers", allowed=("local", "lsh")) or ["local", "lsh"] * 3
    hidden, heads = c.int("hidden_size", 256), c.int("num_attention_heads", 12)
    dim, hashes = c.int("attention_head_size", 64), c.int("num_hashes", 1)
    states = Part("states", 1, hidden, "compute", FULL, "none")
    # a chunk sees itself and those before it; what the class caches does not depend on that
    near = c.int("local_attn_chunk_length", 64) * (1 + c.int("local_num_chunks_before", 1, least=0))
    local = Attention(heads, heads, dim, dim, module="attention", names="query key value dense", window=near)
    local = replace(local, transformers_parts=(states,))
    # one matrix is query and key, so that two remain beside the output: as where values are made from keys
    hashed = replace(local, window=None, value_is_key=True, names="query_key value value dense")
    hashed = replace(hashed, transformers_parts=(states, Part("buckets", heads, hashes, "i64", FULL)))
    mlp = Dense(
        c.int("feed_forward_size", 512), gated=False, bias="ud", module="feed_forward", names="dense dense output"
    )
    layers = tuple(Layer((hashed if kind == "lsh" else local,), (mlp,), norms=4 * hidden) for kind in kinds)
    c.overruled("num_hidden_layers", len(kinds))
    c.overruled("tie_word_embeddings", False)
    if "lsh" in kinds:
        chunk = c.int("lsh_attn_chunk_length", 64)
        c.notes.append(
            f"buckets are counted for every token; after a prompt of at most {chunk} tokens the class keeps none"
        )
    c.ignore("chunk_size_lm_head")  # tokens whose logits are made at once
    # both streams of the reversible layers meet in the last norm and in the logits
    spec = decoder(
        c, hidden, layers, vocab=320, positions=4096, final_norm=4 * hidden, head_bias=True, head_width=2 * hidden,
        prefix="reformer.encoder.layers",
    )  # fmt: skip
    return replace(spec, tied=False, positions=_positions(c, hidden, spec.max_context or 4096))


def _positions(c: Config, hidden: int, context: int) -> int:
    """Elements of Reformer's positions: axial ones are two short tables, whose widths add up to the hidden size."""
    if not c.bool("axial_pos_embds", True):
        return context * hidden
    shape, widths = c.ints("axial_pos_shape", 2, least=1) or [64, 64], c.ints("axial_pos_embds_dim", 2) or [64, 192]
    if sum(widths) != hidden:
        raise c.error("axial_pos_embds_dim", widths, f"widths that add up to hidden_size ({hidden})")
    return sum(rows * width for rows, width in zip(shape, widths, strict=True))
