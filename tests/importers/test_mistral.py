"""Mistral's windows. Literals are what transformers 5.23 said of the same configs (tests/make_reference.py --print)."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, spec_of, without
from tests.support import config

BYTES = 2 * 8 * 128 * 2  # of one entry


def test_the_window_slides_in_every_layer() -> None:
    """Mistral 7B v0.1 keeps 4,096 entries in each of 32 layers, 4,095 in transformers."""
    raw = config("mistralai__Mistral-7B-v0.1")

    assert kept(raw, 8192) == 32 * 4096 * BYTES
    assert kept(raw, 4224, transformers=True) == 32 * 4095 * BYTES == 536_739_840


def test_a_missing_window_is_4096_and_null_is_none() -> None:
    """The class's default is a window; a file that means none says null."""
    raw = config("mistralai__Mistral-7B-v0.1")

    assert kept(without(raw, "sliding_window"), 8192) == 32 * 4096 * BYTES
    assert any("sliding_window" in note for note in spec_of(without(raw, "sliding_window")).notes)
    assert kept(raw | {"sliding_window": None}, 8192) == 32 * 8192 * BYTES


def test_layer_types_have_the_last_word() -> None:
    """Two sliding layers and a full one: the class cached 3,497,984 bytes at 600 tokens."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    raw = config("mistralai__Mistral-7B-v0.1") | {"num_hidden_layers": 3, "sliding_window": 128, "layer_types": kinds}

    assert kept(raw, 600, transformers=True) == (2 * 127 + 600) * BYTES == 3_497_984
    with pytest.raises(InvalidInput, match="sliding_window"):
        spec_of(raw | {"sliding_window": None})
    with pytest.raises(InvalidInput, match="layer_types"):
        spec_of(raw | {"layer_types": kinds[:2]})


def test_ministral3_has_head_dim_128_and_no_window() -> None:
    """At hidden 8192 and 32 heads hidden / heads would be 256; a missing key means 128."""
    raw = {"model_type": "ministral3", "num_hidden_layers": 2, "hidden_size": 8192}

    assert kept(raw, 600) == 2 * 600 * BYTES
    # the class at hidden 4096, window 300: 2,449,408 bytes
    assert kept(raw | {"sliding_window": 300}, 600, transformers=True) == 2 * 299 * BYTES == 2_449_408
