"""BART's kin: translators, summarisers and talkers of one shape, and decoders that kept its layer without the encoder."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.encoder_decoder import NAMES, bart_frame, bart_layer
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Tower, Weight, replace

__all__ = ["decoder_layer"]


@importer("mbart")
def mbart(c: Config) -> ModelSpec:
    """mBART: norms before instead of after, so that each stack ends with one more (transformers models/mbart)."""
    return bart_frame(c, norms=2)


@importer("plbart")
def plbart(c: Config) -> ModelSpec:
    """PLBART: BART base over code (transformers models/plbart)."""
    return bart_frame(c, hidden=768, depth=6, encoder_depth=6, heads=12, width=3072, vocab=50005)


@importer("mvp")
def mvp(c: Config) -> ModelSpec:
    """MVP: BART with optional prompts, which the decoder alone does not build (transformers models/mvp)."""
    c.overruled("use_prompt", False)
    return bart_frame(c, vocab=50267)


@importer("pegasus")
def pegasus(c: Config) -> ModelSpec:
    """PEGASUS: sinusoidal positions, kept as a frozen table, a norm at the end (transformers models/pegasus)."""
    return bart_frame(c, spare=0)


@importer("bigbird_pegasus")
def bigbird_pegasus(c: Config) -> ModelSpec:
    """BigBird-PEGASUS: PEGASUS with learned positions, attention mostly without a bias (models/bigbird_pegasus).

    Attention is sparse in the encoder alone. The decoder's own class never ties the logits; the whole model does.
    """
    c.ignore("attention_type")  # block_sparse or original_full: of the encoder, which caches nothing
    bias = "qkvo" if c.bool("use_bias") else ""
    spec = bart_frame(c, depth=16, encoder_depth=16, vocab=96103, context=4096, spare=0, bias=bias)
    return replace(spec, tied=False)


@importer("blenderbot")
def blenderbot(c: Config) -> ModelSpec:
    """Blenderbot: 2 layers listen, 24 talk (transformers models/blenderbot)."""
    return bart_frame(
        c, hidden=2560, depth=24, encoder_depth=2, heads=32, width=10240, vocab=8008, context=128, spare=0
    )


@importer("blenderbot-small")
def blenderbot_small(c: Config) -> ModelSpec:
    """Blenderbot 90M (transformers models/blenderbot_small)."""
    return bart_frame(c, hidden=512, depth=8, encoder_depth=8, width=2048, context=512, spare=0)


@importer("marian")
def marian(c: Config) -> ModelSpec:
    """Marian, the OPUS translators: sinusoidal positions in a frozen table, no norm around the stacks (models/marian).

    The decoder may have a vocabulary of its own; untied, the class makes logits over the encoder's all the same.
    """
    hidden, source = c.int(either(c, "d_model", "hidden_size"), 1024), c.int("vocab_size", 58101)
    target = c.int("decoder_vocab_size", source)
    shared = c.bool("share_encoder_decoder_embeddings", True)
    spec = bart_frame(c, vocab=58101, spare=0, norms=0, beside=0 if shared else source * hidden)
    final = spec.final
    if not spec.tied and source != target:
        final += (Weight("lm_head", hidden, source),)
        return replace(spec, vocab=target, final=final, has_head=False)
    return replace(spec, vocab=target)


@importer("trocr")
def trocr(c: Config) -> ModelSpec:
    """TrOCR's decoder: BART's, reading an image encoder that has a file of its own (transformers models/trocr)."""
    # the classes' other names, which win where both are given
    hidden = c.int("hidden_size", c.int("d_model", 1024))
    layers = c.layers("num_hidden_layers", c.layers("decoder_layers", 12))
    heads = c.int("num_attention_heads", c.int("decoder_attention_heads", 16))
    c.raw = {**c.raw, "decoder_attention_heads": heads}
    layer = bart_layer(c, hidden, heads, 4096, "qkvo")
    seen = c.maybe_int("cross_attention_hidden_size")
    attention, cross = layer.mixers
    assert isinstance(cross, Attention)
    layer = replace(layer, mixers=(attention, replace(cross, cross_hidden=seen)))
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50265,
        positions=512,
        tied=True,
        final_norm=2 * hidden if c.bool("layernorm_embedding", True) else 0,
        prefix="model.decoder.layers",
        encoder="image patches",
    )
    learned = c.bool("use_learned_position_embeddings", True)  # else sinusoidal, and no parameters
    return replace(spec, positions=((spec.max_context or 512) + 2) * hidden if learned else 0)


# --- decoders of the same layer --------------------------------------------------------------------------------------


def decoder_layer(attention: Attention, hidden: int, width: int, crossed: bool, bias: str = "ud") -> Layer:
    """BART's decoder layer without a BART around it."""
    mlp = Dense(width, gated=False, bias=bias, module="", names="fc1 fc1 fc2")
    cross = (replace(attention, cross=True, module="encoder_attn"),) if crossed else ()
    return Layer((attention, *cross), (mlp,), norms=2 * hidden * (2 + crossed))


@importer("biogpt")
def biogpt(c: Config) -> ModelSpec:
    """BioGPT: norms before, learned positions with two spare rows, a norm at the end (transformers models/biogpt)."""
    hidden, layers = c.int("hidden_size", 1024), c.layers(default=24)
    attention = equal_heads(c, hidden, "num_attention_heads", 16, bias="qkvo", names=NAMES)
    layer = decoder_layer(attention, hidden, c.int("intermediate_size", 4096), crossed=False)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=42384,
        positions=1024,
        tied=True,
        final_norm=2 * hidden,
        prefix="biogpt.layers",
    )
    return replace(spec, positions=((spec.max_context or 1024) + 2) * hidden)


@importer("xglm")
def xglm(c: Config) -> ModelSpec:
    """XGLM: BART's decoder under sinusoidal positions, which are no parameters (transformers models/xglm)."""
    hidden = c.int(either(c, "d_model", "hidden_size"), 1024)
    layers = c.layers(either(c, "num_layers", "num_hidden_layers"), 24)
    key = either(c, "attention_heads", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 16, bias="qkvo", names=NAMES)
    crossed = c.bool("add_cross_attention")
    layer = decoder_layer(attention, hidden, c.int("ffn_dim", 4096), crossed)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=256008,
        positions=2048,
        tied=True,
        final_norm=2 * hidden,
        encoder="encoder states" if crossed else "",
    )


# --- several streams -------------------------------------------------------------------------------------------------


@importer("prophetnet")
def prophetnet(c: Config) -> ModelSpec:
    """ProphetNet: ``ngram`` more streams run beside the tokens to predict those ahead (transformers models/prophetnet).

    Only the tokens' own stream is cached. Every layer has a matrix of relative positions.
    """
    hidden, ngram = c.int("hidden_size", 1024), c.int("ngram", 2)
    layers, heads = c.layers("num_decoder_layers", 12), c.int("num_decoder_attention_heads", 16)
    dim = c.divides("num_decoder_attention_heads", hidden, heads, "hidden_size")
    names = "query_proj key_proj value_proj out_proj"
    attention = Attention(heads, heads, dim, dim, bias="qkvo", names=names)
    cross = replace(attention, cross=True, module="cross_attn")
    buckets = c.int("num_buckets", 32)
    relative = Weight("self_attn.relative_pos_embeddings", hidden, buckets * heads, True)
    crossed = c.bool("add_cross_attention", True)
    mlp = Dense(
        c.int("decoder_ffn_dim", 4096),
        gated=False,
        bias="ud",
        module="feed_forward",
        names="intermediate intermediate output",
    )
    mixers = (replace(attention, extra=(relative,)), *((cross,) if crossed else ()))
    layer = Layer(mixers, (mlp,), norms=2 * hidden * (2 + crossed))
    context = c.int("max_position_embeddings", 512)
    count, width = c.layers("num_encoder_layers", 12), c.int("encoder_ffn_dim", 4096)
    # the heads of the encoder cache nothing
    c.ignore("num_encoder_attention_heads", "num_attention_heads", "num_hidden_layers")
    vectors = count * (9 * hidden + width) + context * hidden + 2 * hidden
    matrices = count * (4 * hidden * hidden + 2 * hidden * width)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=30522,
        positions=512,
        tied=True,
        final_norm=2 * hidden,
        extra=(Weight("ngram_embeddings", ngram, hidden, kind="lookup", shard="none"),),
        prefix="prophetnet.decoder.layers",
        encoder="source text" if crossed else "",
        towers=(Tower("encoder", matrices + vectors, False, vectors),),
        notes=(
            f"FLOPs are those of the tokens' own stream: the class runs {ngram} more beside it, of which logits are made",
        ),
    )
    if not spec.tied:  # the wrapper's table, which forward never reads, is then one of its own
        spec = replace(spec, final=(*spec.final, Weight("word_embeddings", spec.vocab, hidden, kind="lookup")))
    return replace(spec, positions=context * hidden)
