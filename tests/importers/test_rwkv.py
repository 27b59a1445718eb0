"""RWKV 4."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of

PILE_169M = {"model_type": "rwkv", "hidden_size": 768, "num_hidden_layers": 12, "attention_hidden_size": 768}


def test_rwkv_4_pile_169m() -> None:
    """Published as 169M: two tables, five h x h matrices, two of h x 4h, 11 vectors a layer, 3 LayerNorms outside."""
    h, vocab = 768, 50277
    layer = 5 * h * h + 2 * h * 4 * h + 7 * h + 4 * h
    assert parameters(PILE_169M) == 2 * vocab * h + 12 * layer + 4 * h == 169_342_464


def test_state_does_not_grow() -> None:
    """Two vectors in 16 bit and three in 32, per layer."""
    assert kept(PILE_169M, 1) == kept(PILE_169M, 5000) == 12 * 768 * (2 * 2 + 3 * 4)


def test_width_of_the_state() -> None:
    """The class keeps states of the hidden size and runs with no other."""
    with pytest.raises(InvalidInput, match=r"attention_hidden_size.*hidden_size \(768\)"):
        spec_of({**PILE_169M, "attention_hidden_size": 512})
