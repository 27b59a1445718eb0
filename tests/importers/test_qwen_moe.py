"""Qwen's mixtures of experts; expected numbers are those of the transformers 5.23 classes on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from kvplan.specs import Dense
from tests.support import config
from tests.support.held import counted, transformers

SHALLOW = {"num_hidden_layers": 7, "vocab_size": 1000}


def first() -> dict[str, Any]:
    return config("Qwen__Qwen1.5-MoE-A2.7B-Chat") | SHALLOW


def third() -> dict[str, Any]:
    return config("Qwen__Qwen3-30B-A3B-Base") | SHALLOW


def test_sparse_step_and_dense_only_layers() -> None:
    """A layer is sparse iff its index + 1 is a multiple of the step and mlp_only_layers does not name it."""
    raw = first() | {"mlp_only_layers": [0, 3], "decoder_sparse_step": 2}
    assert [isinstance(layer.mlps[0], Dense) for layer in from_config(raw).layers] == [
        True,
        False,
        True,
        True,
        True,
        False,
        True,
    ]
    assert counted(raw) == 1402171392
    assert counted(third() | {"mlp_only_layers": [1, 2], "decoder_sparse_step": 3, "attention_bias": True}) == 967033600


def test_a_declared_window_that_is_switched_off_limits_nothing() -> None:
    """use_sliding_window false: the file's sliding_window of 32768 has no effect at 40,000 tokens."""
    raw = first()
    assert raw["sliding_window"] == 32768
    assert transformers(raw, 40_000) == 7 * 40_000 * 2 * 16 * 128 * 2


def test_windows_switched_on_alternate_below_max_window_layers() -> None:
    """Layers 0 and 2 of 7 slide: (2 x 19 + 5 x 50) entries of 2 x 16 x 128 x 2 bytes after 50 tokens."""
    raw = first() | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 4}
    assert transformers(raw, 50) == 2359296 == (2 * 19 + 5 * 50) * 8192
    assert transformers(raw, 51) == 2400256


def test_qwen3_slides_everywhere_once_switched_on() -> None:
    """Qwen3MoeConfig has no layer_types: a window, where switched on, holds in all layers."""
    raw = third() | {"use_sliding_window": True, "sliding_window": 20}
    assert transformers(raw, 50) == 272384 == 7 * 19 * 2 * 4 * 128 * 2


def test_sliding_layers_without_a_switched_on_window_are_an_error() -> None:
    """The class would build a window of 0 from that; nobody means it."""
    with pytest.raises(InvalidInput, match="layer_types"):
        from_config(first() | {"layer_types": ["sliding_attention"] * 7})
