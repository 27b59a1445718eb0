"""Bamba: its published size."""

from __future__ import annotations

import pytest

from kvplan.errors import UnreadKeys
from tests.importers.probe import kept, parameters, spec_of

# ibm-fms/Bamba-9.8b-2.2T-hf
BAMBA = {"model_type": "bamba", "attn_layer_indices": [9, 18, 27], "mamba_d_state": 128}


def test_bamba_9_8b() -> None:
    """9.78 billion; three layers of eight KV heads of 128, and 29 states of 128 heads."""
    state = 128 * 64 * 128 * 4 + 3 * (8192 + 2 * 128) * 2

    assert 978 == round(parameters(BAMBA) / 1e7)
    assert 3 * 100 * 2 * 8 * 128 * 2 + 29 * state == kept(BAMBA, 100)


def test_a_list_of_kinds_is_not_read() -> None:
    """The class derives it, and does not let it be set."""
    with pytest.raises(UnreadKeys, match="layer_types"):
        spec_of({**BAMBA, "layer_types": ["full_attention"] * 32})
