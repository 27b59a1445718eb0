"""ZAYA1."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support.held import ideal, transformers

ZAYA = {"model_type": "zaya", "num_hidden_layers": 3}


def test_state_beside_the_cache() -> None:
    """Two columns of 10 convolved heads and half of 2 value heads; the class keeps no column more than that."""
    entries, state = 100 * 2 * 2 * 128, 2 * 10 * 128 + 128
    assert ideal(ZAYA, 100) == transformers(ZAYA, 100) == 3 * (entries + state) * 2


def test_the_class_visits_one_expert() -> None:
    """And refuses every other number."""
    with pytest.raises(InvalidInput, match="num_experts_per_tok: got 2, allowed: 1"):
        from_config(ZAYA | {"num_experts_per_tok": 2})
