"""BERT and what was built in its shape, read as the decoder that AutoModelForCausalLM makes of it.

These are encoders: without ``is_decoder`` their attention looks both ways. The class then makes no cache of its own, but
its attention fills any that it is handed, as ``generate`` does; that is what is counted, and a note says so. With
``add_cross_attention`` every layer reads an encoder beside it.
"""

from __future__ import annotations

from typing import Any

from kvplan.importers import importer
from kvplan.importers.aliases import equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.importers.towers import towers
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Tower, Weight, replace, vector

NAMES = "self.query self.key self.value output.dense"
MLP = "intermediate.dense intermediate.dense output.dense"


def _table(module: str, rows: int, width: int) -> Weight:
    return Weight(module, rows, width, kind="lookup", shard="none")


def _attention(c: Config, hidden: int, heads: int, bias: str = "qkvo") -> Attention:
    # transformers 4 had relative positions too, one more table in each layer; the class of 5 adds absolute ones to all
    kind = c.str("position_embedding_type", "absolute")
    if kind != "absolute":
        c.notes.append(f"the transformers class ignores position_embedding_type ({kind}): absolute, counted so here")
    return equal_heads(c, hidden, "num_attention_heads", heads, bias=bias, module="attention", names=NAMES)


def _crossed(c: Config) -> bool:
    """Whether layers read an encoder, which the class refuses to an encoder; notes what an encoder caches."""
    decodes, crossed = c.bool("is_decoder"), c.bool("add_cross_attention")
    if crossed and not decodes:
        raise c.error("add_cross_attention", True, "false, or is_decoder true: the class adds it to decoders alone")
    if not decodes:
        c.notes.append(
            "is_decoder is false: attention looks both ways, and the class fills a cache only where it is handed one, "
            "as generate() does; counted so here"
        )
    return crossed


def bert_frame(
    c: Config,
    hidden: int,
    layers: int,
    attention: Attention,
    *,
    width: int = 3072,
    vocab: int = 30522,
    context: int = 512,
    types: int | None = 2,
    embed: int | None = None,
    embed_norm: bool = True,
    end_norm: bool = False,
    head: int | None = None,
    free_bias: bool = True,
    shifted: bool = False,
    table: int | None = None,
    extra: tuple[Weight, ...] = (),
    mlp_extra: tuple[Weight, ...] = (),
    layer_norms: int = 0,
    prefix: str = "bert.encoder.layer",
    tied: bool = True,
    always_decodes: bool = False,
    **facts: Any,
) -> ModelSpec:
    """Layers of post-norm or pre-norm BERT (as many norms), tables and norms around them, and the head.

    ``head`` is the width of the layer before the logits (0: none); ``free_bias``: the class makes the logits' bias twice,
    one tensor only where logits are tied; ``shifted``: positions start behind the padding token's; ``table`` is the width
    of the table of positions where it is not the token table's.
    """
    crossed = not always_decodes and _crossed(c)
    mixers = (attention,) + ((replace(attention, cross=True, module="crossattention"),) if crossed else ())
    mlp = Dense(c.int("intermediate_size", width), gated=False, bias="ud", module="", names=MLP, extra=mlp_extra)
    norms = 2 * hidden * (len(mixers) + 1) + layer_norms
    embed, head = embed or hidden, embed or hidden if head is None else head
    if types is not None:
        extra += (_table("token_type_embeddings", c.int("type_vocab_size", types), embed),)
    if head:
        extra += (Weight("lm_head.dense", hidden, head, True),)
    spec = decoder(
        c,
        hidden,
        (Layer(mixers, (mlp,), norms=norms),) * layers,
        vocab=vocab,
        positions=context,
        tied=tied,
        final_norm=2 * (embed * embed_norm + hidden * end_norm + head),
        extra=extra,
        embed_dim=embed,
        head_bias=True,
        prefix=prefix,
        encoder="encoder states" if crossed else "",
        **facts,
    )
    rows = spec.max_context or context
    if free_bias and not spec.tied:
        spec = replace(spec, final=(*spec.final, vector("lm_head.free_bias", spec.vocab)))
    usable = max(rows - c.int("pad_token_id", 1, least=0) - 1, 1) if shifted else rows
    return replace(spec, positions=rows * (table or embed), max_context=usable)


def _base(c: Config, **facts: Any) -> ModelSpec:
    """BERT base's layers; the keywords are what a class does otherwise."""
    hidden, layers = c.int("hidden_size", 768), c.layers(default=12)
    return bert_frame(c, hidden, layers, _attention(c, hidden, 12), **facts)


@importer("bert", "ernie")
def bert(c: Config) -> ModelSpec:
    """BERT, and ERNIE 1 to 3 with a table of tasks on demand (transformers models/bert, models/ernie)."""
    extra: tuple[Weight, ...] = ()
    prefix = "bert.encoder.layer"
    if c.raw.get("model_type") == "ernie":
        prefix = "ernie.encoder.layer"
        if c.bool("use_task_id"):
            extra = (_table("task_type_embeddings", c.int("task_type_vocab_size", 3), c.int("hidden_size", 768)),)
    return _base(c, extra=extra, prefix=prefix)


@importer("bert-generation")
def bert_generation(c: Config) -> ModelSpec:
    """BertGeneration: BERT large without token types and without a layer before the logits (models/bert_generation)."""
    hidden, layers = c.int("hidden_size", 1024), c.layers(default=24)
    return bert_frame(c, hidden, layers, _attention(c, hidden, 16), width=4096, vocab=50358, types=None, head=0)


@importer("megatron-bert")
def megatron_bert(c: Config) -> ModelSpec:
    """Megatron BERT: norms before instead of after, none on the embeddings, one at the end (models/megatron_bert)."""
    hidden, layers = c.int("hidden_size", 1024), c.layers(default=24)
    attention = _attention(c, hidden, 16)
    return bert_frame(c, hidden, layers, attention, width=4096, vocab=29056, embed_norm=False, end_norm=True)


@importer("big_bird")
def big_bird(c: Config) -> ModelSpec:
    """BigBird: BERT whose attention is sparse in long prompts, with a pooler that logits do not need (models/big_bird).

    The class turns to full attention at the first input of at most (5 + 2 * num_random_blocks) * block_size tokens, and
    stays with it. Its block-sparse attention neither reads nor fills a cache.
    """
    hidden, layers = c.int("hidden_size", 768), c.layers(default=12)
    attention = _attention(c, hidden, 12, "qkvo" if c.bool("use_bias", True) else "o")
    kind = c.str("attention_type", "block_sparse")
    if kind not in ("block_sparse", "original_full"):
        raise c.error("attention_type", kind, "block_sparse or original_full")
    blocks, size = c.int("num_random_blocks", 3, least=0), c.int("block_size", 64)
    if kind == "block_sparse" and not c.bool("add_cross_attention"):
        c.notes.append(
            f"block-sparse attention, for a first prompt of more than {(5 + 2 * blocks) * size:,} tokens, caches nothing in "
            "the transformers class; counted as full attention, which shorter prompts get"
        )
    pooler = Tower("bert.pooler", hidden * (hidden + 1), True, hidden)
    return bert_frame(c, hidden, layers, attention, vocab=50358, context=4096, towers=(pooler,))


# --- factored embeddings ---------------------------------------------------------------------------------------------


def _narrow(c: Config, width: int, hidden: int) -> tuple[Weight, ...]:
    """The projection from a token table of another width to the layers."""
    return () if width == hidden else (Weight("embeddings_project", width, hidden, True),)


@importer("electra")
def electra(c: Config) -> ModelSpec:
    """ELECTRA's generator: a token table of embedding_size, projected up and, for logits, down (models/electra)."""
    hidden, layers, embed = c.int("hidden_size", 256), c.layers(default=12), c.int("embedding_size", 128)
    return bert_frame(
        c, hidden, layers, _attention(c, hidden, 4), width=1024, embed=embed, extra=_narrow(c, embed, hidden),
        free_bias=False, prefix="electra.encoder.layer",
    )  # fmt: skip


@importer("roformer")
def roformer(c: Config) -> ModelSpec:
    """RoFormer: rotary positions, kept as a parameter of one head's width (transformers models/roformer)."""
    hidden, layers = c.int("hidden_size", 768), c.layers(default=12)
    embed, attention = c.int("embedding_size", hidden), _attention(c, hidden, 12)
    return bert_frame(
        c, hidden, layers, attention, vocab=50000, context=1536, embed=embed, extra=_narrow(c, embed, hidden),
        table=attention.key_dim, prefix="roformer.encoder.layer",
    )  # fmt: skip


@importer("rembert")
def rembert(c: Config) -> ModelSpec:
    """RemBERT: a narrow token table, wide logits, never one matrix (transformers models/rembert)."""
    hidden, layers = c.int("hidden_size", 1152), c.layers(default=32)
    embed, out = c.int("input_embedding_size", 256), c.int("output_embedding_size", 1664)
    spec = bert_frame(
        c, hidden, layers, _attention(c, hidden, 18), width=4608, vocab=250300, embed=embed, head=out, head_width=out,
        extra=(Weight("embedding_hidden_mapping_in", embed, hidden, True),), free_bias=False,
        prefix="rembert.encoder.layer", tied=False,
    )  # fmt: skip
    c.overruled("tie_word_embeddings", False)
    return replace(spec, tied=False)


# --- more tables -----------------------------------------------------------------------------------------------------


@importer("roc_bert")
def roc_bert(c: Config) -> ModelSpec:
    """RoCBert: tokens beside their pronunciation and glyph, mixed by one layer (transformers models/roc_bert)."""
    hidden = c.int("hidden_size", 768)
    sound, shape = c.int("pronunciation_embed_dim", 768), c.int("shape_embed_dim", 512)
    # the class builds both tables whatever the flags say; they decide what the mixing layer reads
    extra = (
        _table("pronunciation_embed", c.int("pronunciation_vocab_size", 910), sound),
        _table("shape_embed", c.int("shape_vocab_size", 24858), shape),
    )
    if c.bool("concat_input", True):
        inputs = hidden + sound * c.bool("enable_pronunciation", True) + shape * c.bool("enable_shape", True)
        extra = (*extra, Weight("map_inputs_layer", inputs, hidden, True))  # type: ignore[assignment]
    return _base(c, extra=extra, prefix="roc_bert.encoder.layer")


@importer("git")
def git(c: Config) -> ModelSpec:
    """GIT: BERT's layers read CLIP's image tokens, then text; always causal, untied (transformers models/git)."""
    hidden = c.int("hidden_size", 768)
    return bert_frame(
        c, hidden, c.layers(default=6), _attention(c, hidden, 12), context=1024, types=None, head=0, free_bias=False,
        prefix="git.encoder.layer", tied=False, always_decodes=True, towers=towers(c, counted=True, hidden=hidden),
    )  # fmt: skip


# --- RoBERTa ---------------------------------------------------------------------------------------------------------


def roberta_frame(c: Config, **facts: Any) -> ModelSpec:
    """RoBERTa's layers, whose positions start behind the padding token's."""
    return _base(c, shifted=True, prefix="roberta.encoder.layer", **facts)


@importer("roberta", "camembert", "xlm-roberta", "data2vec-text")
def roberta(c: Config) -> ModelSpec:
    """RoBERTa, CamemBERT, XLM-RoBERTa and data2vec: one class, and two defaults of the vocabulary (models/roberta)."""
    return roberta_frame(c, vocab=50265 if c.raw.get("model_type") == "roberta" else 30522)


@importer("roberta-prelayernorm")
def roberta_prelayernorm(c: Config) -> ModelSpec:
    """RoBERTa with norms before, and one more at the end (transformers models/roberta_prelayernorm)."""
    return roberta_frame(c, vocab=50265, end_norm=True)


@importer("xlm-roberta-xl")
def xlm_roberta_xl(c: Config) -> ModelSpec:
    """XLM-RoBERTa XL and XXL: norms before, none on the embeddings (transformers models/xlm_roberta_xl)."""
    hidden, layers = c.int("hidden_size", 2560), c.layers(default=36)
    return bert_frame(
        c, hidden, layers, _attention(c, hidden, 32), width=10240, vocab=250880, context=514, types=1,
        embed_norm=False, end_norm=True, shifted=True, prefix="roberta.encoder.layer",
    )  # fmt: skip


@importer("xmod")
def xmod(c: Config) -> ModelSpec:
    """X-MOD: an adapter for each language behind every MLP, of which a sequence visits one (transformers models/xmod)."""
    hidden = c.int("hidden_size", 768)
    languages = c.strings("languages")
    count = 1 if languages is None else len(set(languages))
    if not count:
        raise c.error("languages", [], "one language or more: the class picks an adapter by its language")
    factor = c.int("adapter_reduction_factor", 2, most=hidden)
    down = Weight("output.adapter_modules.dense1", hidden, hidden // factor, True, count, 1, shard="none")
    up = down._replace(module="output.adapter_modules.dense2", inputs=down.outputs, outputs=hidden)
    return roberta_frame(
        c,
        mlp_extra=(down, up),
        layer_norms=2 * hidden if c.bool("adapter_layer_norm") else 0,
        end_norm=c.bool("pre_norm"),
    )
