"""Qwen4-Exp: linear and sparse attention in residual streams, experts, tables of token n-grams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import isqrt

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.linear import gated_attention, qwen_delta, qwen_moe
from kvplan.importers.parts import decoder
from kvplan.importers.recurrent import ONE, layer_kinds
from kvplan.importers.towers import towers
from kvplan.specs import Attention, Indexer, Layer, ModelSpec, Part, Recurrent, Weight, replace, vector

LINEAR, INDEXED = "linear_attention", "indexed_attention"
INDEXER = ("indexer_n_heads", "indexer_kv_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio")


def _sparse_attention(c: Config, hidden: int) -> Attention:
    """QSA: an indexer scores the mean key of every complete block; attention reads the best blocks and the open one.

    The best are ``indexer_budget`` tokens. The block of the query itself is counted beside them until it is followed,
    though once complete it competes.
    """
    for key in INDEXER:
        c.int(key)  # all or none; the class builds no layer of this kind without them
    if c.int("indexer_kv_heads") != 1:
        raise c.error("indexer_kv_heads", c.get("indexer_kv_heads"), "1")
    heads, dim, block = c.int("indexer_n_heads"), c.int("indexer_head_dim"), c.int("indexer_compress_ratio")
    budget = c.int("indexer_budget")
    c.divides("indexer_compress_ratio", budget, block, "indexer_budget")
    module = "self_attn.indexer"
    weights = (
        Weight(f"{module}.index_q_proj", hidden, heads * dim),
        Weight(f"{module}.index_k_proj", hidden, dim, shard="none", cached=True),
        vector(f"{module}.q_layernorm", dim),
        vector(f"{module}.k_layernorm", dim)._replace(cached=True),
    )
    index = Indexer(heads, dim, budget, weights)
    if block > 1:
        index = replace(index, top_k=budget + block, block=block, pooled=True)
    return replace(gated_attention(c, hidden, 16, 2), indexer=index)


def _streams(module: str, hidden: int, streams: int, rank: int, *, inject: bool = True) -> tuple[Weight, ...]:
    """A gate of low rank that mixes the residual streams into one input, and the weights that share out the output."""
    width = streams * hidden
    around = (
        vector(f"{module}.hc_norm", width),
        Weight(f"{module}.input_mix_weight_down", width, rank, shard="none"),
        Weight(f"{module}.input_mix_weight_up", rank, width, shard="none"),
    )
    return (*around, Weight(f"{module}.block_inject_weight", width, streams, shard="none")) if inject else around


def _primes(start: int) -> Iterator[int]:
    """Primes from ``start`` on: sizes of hash tables that share no divisor."""
    number = max(start, 2)
    while True:
        if number == 2 or (number % 2 and all(number % d for d in range(3, isqrt(number) + 1, 2))):
            yield number
        number += 1


def _ngrams(c: Config, hidden: int, streams: int) -> list[Recurrent]:
    """Per-layer embeddings, one module per layer of ``ple_layer_ids``: hashed n-grams of tokens into every stream.

    Each head of each n-gram order has a table of its own, the next prime of rows. Columns of a dilated convolution are
    kept, and the last tokens themselves, whose few bytes are not counted.
    """
    modules = len(set(c.ints("ple_layer_ids", least=1) or ()))
    order, kernel = c.int("ngram_size", 3, least=2, most=64), c.int("ple_conv_kernel_size", 4)
    heads = (order - 1) * c.int("heads_per_ngram", 8, most=64)
    width, base = c.int("ple_embed_dim", hidden), c.int("ngram_vocab_size_base", 20_000_000, most=2**31)
    multiple = c.int("make_ngram_vocab_size_divisible_by", 128)
    columns, channels, module = (kernel - 1) * order, streams * hidden, "ple"
    primes, made = _primes(base), []
    for _ in range(modules):
        rows = -(-sum(islice(primes, heads)) // multiple) * multiple
        dim = c.divides("ple_embed_dim", width, heads, "the width of all n-gram heads")
        made.append(
            Recurrent(
                "ngrams",
                (
                    Weight(f"{module}.ple_embedding.ngram_embedding", rows, dim, kind="lookup"),
                    Weight(f"{module}.key_proj", width, channels),
                    Weight(f"{module}.value_proj", width, hidden),
                    vector(f"{module}.norms", 3 * channels),
                    Weight(f"{module}.conv1d", kernel, channels, kind="conv"),
                ),
                conv=((channels, columns + 1),),
                conv_heads=channels,
                transformers_parts=(Part("conv", channels, columns, "compute", ONE),),
            )
        )
    return made


def _kinds(c: Config, layers: int) -> list[str]:
    """``layer_types``, whose full layers are indexed ones, else an indexed layer every ``full_attention_interval``."""
    kinds = layer_kinds(c, "layer_types", layers, (LINEAR, INDEXED, "full_attention"))
    interval = c.int("full_attention_interval", 4)
    if kinds is None:
        return [LINEAR if (i + 1) % interval else INDEXED for i in range(layers)]
    return [LINEAR if kind == LINEAR else INDEXED for kind in kinds]


@importer("qwen4_exp_text")
def qwen4_exp_text(c: Config) -> ModelSpec:
    """Qwen4-Exp: the gated delta rule, QSA every fourth layer, experts in every one (transformers models/qwen4_exp).

    Hyper-connections around mixers and MLPs take the place of all other norms, the last one included.
    """
    layers, hidden = c.layers(default=40), c.int("hidden_size", 2048)
    kinds = _kinds(c, layers)
    if INDEXED not in kinds:
        c.ignore(*INDEXER)
    mixers = {LINEAR: qwen_delta(c, hidden, fused=False)} | (
        {INDEXED: _sparse_attention(c, hidden)} if INDEXED in kinds else {}
    )
    moe = qwen_moe(c, 512, 10, 512)
    streams, rank = c.int("hc_count", 4, least=2, most=1024), c.int("hc_lowrank", 320)
    around = _streams("attn_hyper_connection", hidden, streams, rank)
    around += _streams("mlp_hyper_connection", hidden, streams, rank)
    ids = sorted(set(c.ints("ple_layer_ids", least=1, most=layers) or ()))
    ngrams = dict(zip(ids, _ngrams(c, hidden, streams), strict=True))
    for i in ids:
        if kinds[i - 1] != LINEAR:
            raise c.error("ple_layer_ids", i, "layers of linear attention, counted from one")
    plain = {kind: Layer((mixer,), (moe,), extra=around) for kind, mixer in mixers.items()}
    stack = tuple(
        replace(plain[kind], mixers=(*plain[kind].mixers, ngrams[i])) if i in ngrams else plain[kind]
        for i, kind in enumerate(kinds, 1)
    )
    mixer = _streams("hyper_connection_mixer", hidden, streams, rank, inject=False)
    return decoder(c, hidden, stack, vocab=248320, positions=32768, final_norm=0, extra=mixer)


@importer("qwen4_exp")
def qwen4_exp(c: Config) -> ModelSpec:
    """Qwen4-Exp beside its vision tower: AutoModelForCausalLM builds the text part, the tower is weights beside it."""
    spec = qwen4_exp_text(c.sub("text_config", {}))
    return replace(spec, model_type="qwen4_exp", towers=towers(c, counted=False), prefix="model.language_model.layers")
