"""Meta's MusicGen: T5 reads, a decoder of BART's shape writes four streams of codes, EnCodec sounds them."""

from __future__ import annotations

from kvplan.importers import import_as, importer
from kvplan.importers.aliases import equal_heads
from kvplan.importers.bart_kin import decoder_layer
from kvplan.importers.config import Config
from kvplan.importers.encoder_decoder import NAMES
from kvplan.importers.parts import decoder
from kvplan.specs import ModelSpec, Tower, Weight, replace

# EncodecModel at 24 kHz, as its configuration class has it, and as MusicGen is published with; the meta device's counts.
ENCODEC: dict[tuple[int, tuple[int, ...]], int] = {(32, (8, 5, 4, 2)): 14_851_810, (64, (8, 5, 4, 4)): 57_584_834}
ENCODEC_SHAPE = {"hidden_size": 128, "num_residual_layers": 1, "kernel_size": 7, "compress": 2, "num_lstm_layers": 2}


def _decoder(c: Config, crossed: bool) -> ModelSpec:
    """The decoder: a table and a logits matrix for every codebook, no bias anywhere; sinusoids are no parameters.

    A position holds one code of every codebook, so that tokens are frames of sound, 50 a second.
    """
    hidden, layers = c.int("hidden_size", 1024), c.layers(default=24)
    attention = equal_heads(c, hidden, "num_attention_heads", 16, names=NAMES)
    layer = decoder_layer(attention, hidden, c.int("ffn_dim", 4096), crossed, bias="")
    # the class has the cross-attention whatever add_cross_attention says, and never ties
    c.ignore("add_cross_attention", "cross_attention_hidden_size")
    c.overruled("tie_word_embeddings", False)
    books = c.int("num_codebooks", 4)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=2048,
        positions=2048,
        final_norm=2 * hidden,
        extra=(Weight("embed_tokens", books, hidden, kind="lookup", shard="none"),),  # a row more in every table
        prefix="model.decoder.layers",
        encoder="text" if crossed else "",
    )
    return replace(spec, vocab=books * spec.vocab, tied=False)


@importer("musicgen_decoder")
def musicgen_decoder(c: Config) -> ModelSpec:
    """MusicGen's decoder (transformers models/musicgen)."""
    return _decoder(c, crossed=True)


@importer("musicgen_melody_decoder")
def musicgen_melody_decoder(c: Config) -> ModelSpec:
    """MusicGen Melody's decoder: text and melody stand before the sound, as ordinary entries (models/musicgen_melody)."""
    return _decoder(c, crossed=False)


@importer("musicgen", "musicgen_melody")
def musicgen(c: Config) -> ModelSpec:
    """MusicGen with its text encoder and codec, which stand beside the count: a causal LM is the decoder alone.

    The decoder's class does not build from the outer file (transformers models/musicgen, models/musicgen_melody).
    """
    melody = c.raw.get("model_type") == "musicgen_melody"
    spec = _decoder(c.sub("decoder", {}), crossed=not melody)
    t5 = c.sub("text_encoder", {})
    # an encoder alone, which as a model of its own would cache nothing
    t5.raw = {key: value for key, value in t5.raw.items() if key != "architectures"}
    text = import_as(t5, "t5")
    reader = text.towers[0]
    table = text.vocab * text.hidden
    towers = [
        replace(
            reader,
            name="text_encoder",
            parameters=reader.parameters + table,
            counted=False,
            vectors=reader.vectors + table,
        )
    ]
    notes = spec.notes
    projected: tuple[int, ...] = (text.hidden,) if text.hidden != spec.hidden else ()
    if melody:
        chroma = c.int("num_chroma", 12)
        projected += (chroma,) if chroma != spec.hidden else ()
        notes += ("text and melody are entries of the same cache: count them into the context",)
    towers += [Tower("projection", (inputs + 1) * spec.hidden, False, spec.hidden) for inputs in projected]
    a = Config(c.get("audio_encoder", {}), c.where, "audio_encoder.")
    ratios = a.ints("upsampling_ratios", least=1) or [8, 5, 4, 2]
    known = ENCODEC.get((a.int("num_filters", 32), tuple(ratios)))
    if known and all(a.get(key, value) == value for key, value in ENCODEC_SHAPE.items()):
        towers.append(Tower("audio_encoder", known, False, known))
    else:
        notes += ("audio_encoder is not a published EnCodec: its weights are not counted",)
    return replace(
        spec,
        model_type=c.str("model_type", ""),
        prefix="decoder.model.decoder.layers",
        towers=tuple(towers),
        notes=notes,
    )
