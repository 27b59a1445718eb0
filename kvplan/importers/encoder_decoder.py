"""Encoder-decoders: the spec is the decoder, whose cross-attention caches one entry per encoder token.

The encoder runs once per sequence and caches nothing. It is a tower: counted where the class that counts builds it
(T5, mT5), beside the count where AutoModelForCausalLM maps the type to the decoder alone (BART, Whisper).
"""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import agree, either
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Tower, Weight, replace

__all__ = ["NAMES", "bart_frame", "bart_layer"]

NAMES = "q_proj k_proj v_proj out_proj"


def bart_layer(c: Config, hidden: int, heads: int, width: int, bias: str) -> Layer:
    """A decoder layer of BART's shape: self-attention, cross-attention and MLP, a LayerNorm for each."""
    count = c.int("decoder_attention_heads", heads)
    dim = c.divides("decoder_attention_heads", hidden, count, "d_model")
    attention = Attention(count, count, dim, dim, bias=bias, names=NAMES)
    cross = replace(attention, cross=True, module="encoder_attn")
    mlp = Dense(c.int("decoder_ffn_dim", width), gated=False, bias="ud", module="", names="fc1 fc1 fc2")
    return Layer((attention, cross), (mlp,), norms=6 * hidden)


def _encoder(c: Config, hidden: int, layers: int, width: int, bias: str, outside: int, kernels: int = 0) -> Tower:
    """The encoder of BART's shape: its layers and what stands around them; ``outside`` counts vectors and positions."""
    # num_hidden_layers is the classes' other name for encoder_layers, and wins where both are given
    count = c.int("encoder_layers", layers, least=0, most=LAYER_LIMIT)
    count = c.int("num_hidden_layers", count, least=0, most=LAYER_LIMIT)
    width = c.int("encoder_ffn_dim", width)
    # its heads cache nothing; other libraries' names for them speak of the encoder too
    c.ignore("encoder_attention_heads", "num_attention_heads", "num_key_value_heads")
    vectors = count * (len(bias) * hidden + width + hidden + 4 * hidden) + outside
    return Tower("encoder", count * (4 * hidden * hidden + 2 * hidden * width) + kernels + vectors, False, vectors)


def bart_frame(
    c: Config,
    *,
    hidden: int = 1024,
    depth: int = 12,
    encoder_depth: int = 12,
    heads: int = 16,
    width: int = 4096,
    vocab: int = 50265,
    context: int = 1024,
    spare: int = 2,
    norms: int = 1,
    bias: str = "qkvo",
    beside: int = 0,
) -> ModelSpec:
    """The frame of BART and its kin; the keywords are the defaults and details in which their classes differ.

    ``spare`` rows of the positions stand before the first; ``norms`` LayerNorms stand around each stack's layers;
    ``beside`` counts what else only the encoder has.
    """
    hidden = c.int(either(c, "d_model", "hidden_size"), hidden)
    layers, positions = c.layers("decoder_layers", depth), c.int("max_position_embeddings", context)
    table, around = (positions + spare) * hidden, norms * 2 * hidden
    spec = decoder(
        c,
        hidden,
        (bart_layer(c, hidden, heads, width, bias),) * layers,
        vocab=vocab,
        positions=context,
        tied=True,
        final_norm=around,
        prefix="model.decoder.layers",
        encoder="source text",
        towers=(_encoder(c, hidden, encoder_depth, width, bias, table + around + beside),),
    )
    return replace(spec, positions=table)


@importer("bart")
def bart(c: Config) -> ModelSpec:
    """BART: post-norm, learned positions with two spare rows, a LayerNorm behind them (transformers models/bart)."""
    return bart_frame(c)


@importer("whisper")
def whisper(c: Config) -> ModelSpec:
    """Whisper: keys without a bias, positions on both sides, two convolutions first (transformers models/whisper)."""
    hidden = c.int(either(c, "d_model", "hidden_size"), 384)
    layers, context = c.layers("decoder_layers", 4), c.int("max_target_positions", 448)
    source = c.int("max_source_positions", 1500)
    kernels = 3 * hidden * (c.int("num_mel_bins", 80) + hidden)
    spec = decoder(
        c,
        hidden,
        (bart_layer(c, hidden, 6, 1536, "qvo"),) * layers,
        vocab=51865,
        positions=context,
        tied=True,
        final_norm=2 * hidden,
        prefix="model.decoder.layers",
        encoder="audio frames",
        towers=(_encoder(c, hidden, 4, 1536, "qvo", source * hidden + 4 * hidden, kernels),),
        notes=(f"30 s of audio are {source:,} encoder tokens",),
    )
    return replace(spec, positions=context * hidden)


def _t5(c: Config, heads: int, layers: int, width: int, vocab: int, feed_forward: str) -> ModelSpec:
    """The frame of T5 and mT5; the keywords are the defaults in which their classes differ."""
    hidden, dim = c.int(either(c, "d_model", "hidden_size"), 512), c.int(either(c, "d_kv", "head_dim"), 64)
    heads, width = c.int(either(c, "num_heads", "num_attention_heads"), heads), c.int("d_ff", width)
    agree(c, "num_key_value_heads", heads)
    for name in c.strings("architectures") or ():
        if "Encoder" in name:
            raise c.error("architectures", name, "a class with a decoder: an encoder alone caches nothing")
    layers = c.layers(either(c, "num_layers", "num_hidden_layers"), layers)
    key, kind = "feed_forward_proj", c.str("feed_forward_proj", feed_forward)
    parts = kind.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise c.error(key, kind, "an activation or gated-<activation>")
    gated = parts[0] == "gated"
    inner = heads * dim  # d_kv is free: the 11B has 128 heads of 128 over a hidden size of 1,024
    attention = Attention(heads, heads, dim, dim, module="layer.0.SelfAttention", names="q k v o")
    cross = replace(attention, cross=True, module="layer.1.EncDecAttention")
    mlp = Dense(width, gated, module="layer.2.DenseReluDense", names="wi_0 wi_1 wo" if gated else "wi wi wo")
    layer = Layer((attention, cross), (mlp,), norms=3 * hidden)
    # relative positions: one table of buckets in each stack, kept by its first layer and used by all
    buckets = c.int("relative_attention_num_buckets", 32)
    table = Weight("layer.0.SelfAttention.relative_attention_bias", buckets, heads, shard="none", kind="lookup")
    first = replace(layer, mixers=(replace(attention, extra=(table,)), cross))
    depth = c.layers("num_decoder_layers", layers)
    vectors = layers * 2 * hidden + buckets * heads + hidden
    matrices = layers * (4 * hidden * inner + (3 if gated else 2) * hidden * width)
    spec = decoder(
        c,
        hidden,
        (first, *(layer,) * (depth - 1)),
        vocab=vocab,
        prefix="decoder.block",
        encoder="source text",
        towers=(Tower("encoder", matrices + vectors, True, vectors),),
    )
    # the class ties the logits to the token table whatever the file says
    note = "the file unties the logits; the class of transformers 5.23 ties them all the same, and so does this count"
    return replace(spec, tied=True, notes=() if c.bool("tie_word_embeddings", True) else (note,))


@importer("t5")
def t5(c: Config) -> ModelSpec:
    """T5, T5 1.1 and Flan-T5 (transformers models/t5); the 5.23 class ties the logits even where a file says false."""
    return _t5(c, heads=8, layers=6, width=2048, vocab=32128, feed_forward="relu")


@importer("mt5")
def mt5(c: Config) -> ModelSpec:
    """mT5: T5 1.1 over 250,112 tokens (transformers models/mt5)."""
    return _t5(c, heads=6, layers=8, width=1024, vocab=250112, feed_forward="gated-gelu")
