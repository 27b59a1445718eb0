"""Kyutai's Moshi (Helium is among Llama's kin)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec, Tower, Weight, replace

# MimiModel as its configuration class has it and kyutai/mimi is published, counted on the meta device.
MIMI = {"hidden_size": 512, "num_filters": 64, "num_hidden_layers": 8, "num_quantizers": 32, "codebook_size": 2048}
MIMI_PARAMETERS, MIMI_MATRICES = 79_308_609, 8 * (4 * 512 * 512 + 2 * 512 * 2048)


@importer("moshi")
def moshi(c: Config) -> ModelSpec:
    """Moshi: a decoder under one window, and beside it a small one per audio token and a codec (models/moshi).

    AutoModelForCausalLM builds the decoder alone, for text. ``ffn_dim`` counts gate and up together. The token table
    has a row more than there are logits, which are never tied.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    window = c.int("sliding_window", 3000)
    attention = grouped_attention(c, hidden, heads=32, window=window)
    layer = Layer((attention,), (_mlp(c, 22528),), norms=2 * hidden)
    vocab = c.int("vocab_size", 32000)
    c.overruled("tie_word_embeddings", False)
    depth = Config(c.get("depth_decoder_config", {}), c.where, "depth_decoder_config.")
    a = Config(c.get("audio_encoder_config", {}), c.where, "audio_encoder_config.")
    codes = c.int("audio_vocab_size", a.int("codebook_size", 2048))
    streams = c.int("num_codebooks", 8)
    tables = 2 * streams * (codes + 1) * hidden  # of the codes of both speakers
    towers: tuple[Tower, ...] = (
        Tower("embed_tokens", tables, False, tables),
        Tower("depth_decoder", *_depth(depth, hidden, vocab, codes, streams)),
    )
    notes: tuple[str, ...] = (
        f"the depth decoder's own cache, of the {streams} codes of one step, is gone after the step: not counted",
    )
    if all(a.get(key, value) == value for key, value in MIMI.items()):
        towers += (Tower("audio_encoder", MIMI_PARAMETERS, False, MIMI_PARAMETERS - MIMI_MATRICES),)
    else:
        notes += ("audio_encoder_config is not the published one: the weights of the codec are not counted",)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=vocab,
        positions=3000,
        extra=(Weight("embed_tokens", 1, hidden, kind="lookup", shard="none"),),
        towers=towers,
        notes=notes,
    )
    return replace(spec, tied=False)


def _mlp(c: Config, default: int) -> Dense:
    width = c.int("ffn_dim", default, least=2)
    if width % 2:
        raise c.error("ffn_dim", width, "an even number: it is cut into gate and up")
    return Dense(width // 2, names="fc1 fc1 fc2")


def _depth(d: Config, outer: int, vocab: int, codes: int, streams: int) -> tuple[int, bool, int]:
    """Parameters, whether they are counted, and vectors of the depth decoder: matrices of its own for every code."""
    hidden, heads = d.int("hidden_size", 1024), d.int("num_attention_heads", 16)
    dim = d.maybe_int("head_dim") or hidden // heads
    kv_heads, width = d.int("num_key_value_heads", heads), _mlp(d, 5632).width
    tables = (vocab + 1 + (streams - 1) * (codes + 1)) * hidden
    matrices = 2 * hidden * (heads + kv_heads) * dim + 3 * hidden * width
    layers = d.layers(default=6)
    vectors = tables + layers * 2 * hidden
    return streams * (layers * matrices + hidden * (outer + codes)) + vectors, False, vectors
