"""Pieces that many importers share: reading heads, window patterns, and the frame of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.importers.config import Config
from kvplan.specs import Attention, Layer, ModelSpec, Weight, vector

__all__ = ["decoder", "grouped_attention", "layer_windows", "windowed"]


def grouped_attention(
    c: Config,
    hidden: int,
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    rounds: bool = False,
    **facts: Any,
) -> Attention:
    """Attention from the usual keys; the keywords are the class's own defaults for keys that the file omits.

    ``num_key_value_heads`` defaults to the number of heads, ``head_dim`` to hidden / heads; ``rounds``: the class
    rounds that down and runs. Query heads must be a multiple of KV heads.
    """
    n = c.int("num_attention_heads", heads)
    # the classes read an explicit null as "as many as heads", even where a missing key means fewer
    null = "num_key_value_heads" in c.raw and c.raw["num_key_value_heads"] is None
    kv = n if null else c.int("num_key_value_heads", kv_heads or n)
    c.divides("num_key_value_heads", n, kv, "num_attention_heads")
    # rotary positions turn pairs: of one element the classes make two
    dim = c.maybe_int("head_dim", least=2) or head_dim or (hidden // n if rounds else 0)
    dim = dim or c.divides("num_attention_heads", hidden, n, "hidden_size")
    return Attention(n, kv, dim, dim, **facts)


def windowed(attention: Attention, window: int | None) -> Attention:
    """The same attention under a sliding window; None leaves it full."""
    from kvplan.specs import replace

    return replace(attention, window=window)


def layer_windows(
    c: Config, count: int, window: int | None, slides: Callable[[int], bool], key: str = "layer_types"
) -> list[int | None]:
    """The window of each layer: those that ``layer_types`` calls sliding, or ``slides`` where the file lists none.

    None is a full layer. A sliding layer without a window is an error.
    """
    names = c.strings(key, count, ("full_attention", "sliding_attention"))
    local = [slides(i) for i in range(count)] if names is None else [name == "sliding_attention" for name in names]
    if window is None and any(local):
        raise c.error("sliding_window", "none", f"a window: {key} has sliding layers")
    return [window if is_local else None for is_local in local]


def decoder(
    c: Config,
    hidden: int,
    layers: tuple[Layer, ...],
    *,
    vocab: int | None = None,
    positions: int | None = None,
    tied: bool = False,
    final_norm: int | None = None,
    extra: tuple[Weight, ...] = (),
    **facts: Any,
) -> ModelSpec:
    """A decoder with token table, final norm and logits; ``tied`` is the class's default for tie_word_embeddings.

    ``positions`` is the default of ``max_position_embeddings`` (what the model was made for, not a table);
    ``final_norm`` counts the last norm's elements (default: hidden, one RMSNorm).
    """
    return ModelSpec(
        name="",
        model_type=c.str("model_type", ""),
        text_type=c.str("model_type", ""),
        hidden=hidden,
        vocab=c.int("vocab_size", vocab),
        layers=layers,
        tied=c.bool("tie_word_embeddings", tied),
        final=(vector("norm", hidden if final_norm is None else final_norm), *extra),
        max_context=c.maybe_int("max_position_embeddings") or positions,
        **facts,
    )
