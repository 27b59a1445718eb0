"""Cohere: Command R, R+, R7B, A and Aya."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Attention, Dense, Layer, ModelSpec, replace


def _block(c: Config, hidden: int, attention: Attention) -> Layer:
    # attention and MLP run in parallel behind one LayerNorm without bias
    return Layer((attention,), (Dense(c.int("intermediate_size", 22528)),), norms=hidden)


@importer("cohere")
def cohere(c: Config) -> ModelSpec:
    """Command R and R+: a parallel block, in R+ a norm on each head's queries and keys (transformers models/cohere)."""
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    attention = grouped_attention(
        c,
        hidden,
        heads=64,
        bias="qkvo" if c.bool("attention_bias") else "",
        qk_norm="all" if c.bool("use_qk_norm") else "",
    )
    return decoder(c, hidden, (_block(c, hidden, attention),) * layers, vocab=256000, positions=8192, tied=True)


@importer("cohere2")
def cohere2(c: Config) -> ModelSpec:
    """Command R7B and A: three sliding layers, then a full one without positions (transformers models/cohere2)."""
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    attention = grouped_attention(c, hidden, heads=64, bias="qkvo" if c.bool("attention_bias") else "")
    every = c.int("sliding_window_pattern", 4)
    derived = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    block = _block(c, hidden, attention)
    stack = tuple(replace(block, mixers=(windowed(attention, window),)) for window in layer_windows(c, derived, 4096))
    return decoder(c, hidden, stack, vocab=256000, positions=8192, tied=True)
