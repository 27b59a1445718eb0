"""LongCat-Flash."""

from __future__ import annotations

import pytest

from kvplan.checkpoint import weight_bytes
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support.held import active, counted, ideal

LONGCAT = {"model_type": "longcat_flash"}
ZERO = 28 * 256 * 2 * 2048 * 6144  # gate and up projections of zero experts, which only the class has


def test_published_size() -> None:
    """560 billion parameters, and at most 31.3 billion that a token activates, one table apart (arXiv 2509.01322)."""
    assert (counted(LONGCAT) - ZERO) // 10**9 == 560
    assert (active(LONGCAT) - 131072 * 6144) // 10**8 == 313
    assert weight_bytes(from_config(LONGCAT), "bf16", None).total == 2 * (counted(LONGCAT) - ZERO)
    assert any(f"{ZERO // 28:,} elements a layer" in note for note in from_config(LONGCAT).notes)


def test_two_latents_a_layer() -> None:
    """512 and 64 elements for each of a layer's two attentions."""
    assert ideal(LONGCAT, 1000) == 28 * 2 * 1000 * (512 + 64) * 2


def test_num_hidden_layers_counts_attention() -> None:
    """The class halves it, rounded down, and prefers it to num_layers."""
    assert len(from_config(LONGCAT | {"num_layers": 3, "num_hidden_layers": 9}).layers) == 4


def test_a_head_dim_that_does_not_add_up() -> None:
    """The refusal says what qk_head_dim must be."""
    with pytest.raises(InvalidInput, match=r"qk_head_dim: got 200, allowed: qk_nope_head_dim \+ qk_rope_head_dim"):
        from_config(LONGCAT | {"qk_head_dim": 200})
