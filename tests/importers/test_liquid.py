"""LFM2-MoE; the expected sizes are those of the README of LiquidAI/LFM2-8B-A1B."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support.held import active, counted

FULL = {2, 6, 10, 14, 18, 21}
LFM2_8B = {
    "model_type": "lfm2_moe",
    "num_hidden_layers": 24,
    "layer_types": ["full_attention" if i in FULL else "conv" for i in range(24)],
}


def test_published_size() -> None:
    """8.3 billion parameters, 1.5 billion of them active."""
    assert round(counted(LFM2_8B) / 1e9, 1) == 8.3
    assert active(LFM2_8B) // 10**8 == 15


def test_layer_types_have_no_default() -> None:
    """The class builds nothing without them."""
    with pytest.raises(InvalidInput, match="layer_types: got 'missing'"):
        from_config({"model_type": "lfm2_moe"})
