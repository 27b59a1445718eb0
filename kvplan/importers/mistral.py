"""Mistral: a Llama whose window, where it has one, covers every layer."""

from __future__ import annotations

from typing import Any

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.specs import Attention, Dense, Layer, ModelSpec


@importer("mistral", "ministral")
def mistral(c: Config) -> ModelSpec:
    """Mistral 7B to Large, Ministral 8B: grouped queries, no biases, window 4096 by default (models/mistral, ministral).

    A file without ``sliding_window`` gets the class's 4096; null means none, as Mistral 7B v0.2 and later say.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    window = c.maybe_int("sliding_window")
    notes: tuple[str, ...] = ()
    if "sliding_window" not in c.raw:
        window, notes = 4096, ("the config omits sliding_window: the class's window of 4096 applies",)
    attention = grouped_attention(c, hidden, heads=32, kv_heads=8)
    return _decoder(c, layers, hidden, attention, window, vocab=32000, positions=131072, notes=notes)


@importer("ministral3")
def ministral3(c: Config) -> ModelSpec:
    """Ministral 3, Devstral 2: Mistral's layer, head_dim 128, no window by default (transformers models/ministral3)."""
    layers, hidden = c.layers(default=34), c.int("hidden_size", 4096)
    # an explicit null means hidden / heads, a missing key means 128
    attention = grouped_attention(c, hidden, heads=32, kv_heads=8, head_dim=None if "head_dim" in c.raw else 128)
    return _decoder(c, layers, hidden, attention, c.maybe_int("sliding_window"), vocab=131072, positions=262144)


def _decoder(c: Config, layers: int, hidden: int, attention: Attention, window: int | None, **facts: Any) -> ModelSpec:
    # a window slides in every layer unless the file lists layer_types (interleaved Ministral files do)
    windows = layer_windows(c, layers, window, lambda i: window is not None)
    mlp = Dense(c.int("intermediate_size", 14336))
    stack = tuple(Layer((windowed(attention, w),), (mlp,), norms=2 * hidden) for w in windows)
    return decoder(c, hidden, stack, **facts)
