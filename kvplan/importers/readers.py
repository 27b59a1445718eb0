"""Decoders that read pages, pictures and speech: Fuyu, GOT-OCR 2, Emu3, MOSS-Transcribe-Diarize."""

from __future__ import annotations

from typing import Any

from kvplan.importers import import_as, import_model, importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.towers import towers
from kvplan.specs import Dense, Layer, ModelSpec, replace

# What the outer classes take for the decoder where a file has no text_config at all.
GOT_OCR2 = {
    "model_type": "qwen2",
    "vocab_size": 151860,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
}
MOSS = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def _outer(c: Config, text: ModelSpec, *, counted: bool = True, prefix: str, **facts: Any) -> ModelSpec:
    """The decoder under its outer name, beside what reads for it."""
    beside = towers(c, counted=counted, hidden=text.hidden)
    return replace(text, model_type=c.str("model_type", ""), prefix=prefix, towers=beside, **facts)


@importer("fuyu")
def fuyu(c: Config) -> ModelSpec:
    """Fuyu 8B: Persimmon, and one matrix for the patches; hub files keep the decoder's keys at the top (models/fuyu)."""
    text = import_model(c.sub("text_config"), "persimmon") if c.has("text_config") else import_as(c, "persimmon")
    return _outer(c, text, prefix="model.language_model.layers", tied=c.bool("tie_word_embeddings"))


@importer("got_ocr2")
def got_ocr2(c: Config) -> ModelSpec:
    """GOT-OCR 2: Qwen2 of half a billion behind SAM, tied unless told otherwise (transformers models/got_ocr2)."""
    text = import_model(c.sub("text_config", GOT_OCR2), "qwen2")
    return _outer(c, text, prefix="model.language_model.layers", tied=c.bool("tie_word_embeddings", True))


@importer("moss_transcribe_diarize")
def moss_transcribe_diarize(c: Config) -> ModelSpec:
    """MOSS-Transcribe-Diarize: Qwen3 0.6B behind Whisper's encoder (transformers models/moss_transcribe_diarize)."""
    c.ignore("audio_chunk_size")  # samples of sound that the encoder takes at once
    text = import_model(c.sub("text_config", MOSS), "qwen3")
    return _outer(c, text, prefix="model.language_model.layers", tied=c.bool("tie_word_embeddings", True))


@importer("emu3_text_model")
def emu3_text(c: Config) -> ModelSpec:
    """The decoder of Emu3: Llama's layer over words and pieces of images (transformers models/emu3)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=8, bias=bias)
    mlp = Dense(c.int("intermediate_size", 14336), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=184622, positions=9216)


@importer("emu3")
def emu3(c: Config) -> ModelSpec:
    """Emu3: AutoModelForCausalLM builds the decoder alone, the image tokenizer stands beside it (models/emu3)."""
    spec = _outer(c, emu3_text(c.sub("text_config", {})), counted=False, prefix="model.layers")
    if spec.towers:
        return spec
    note = "vq_config is not the published one: the weights of the image tokenizer are not counted"
    return replace(spec, notes=(*spec.notes, note))
