"""ModernBERT's decoder: whose window is whose."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.specs import Attention
from tests.importers.probe import spec_of

BASE = {"model_type": "modernbert-decoder", "num_hidden_layers": 4}


def _windows(**changes: object) -> list[int | None]:
    mixers = [layer.mixers[0] for layer in spec_of(BASE | changes).layers]
    return [mixer.window for mixer in mixers if isinstance(mixer, Attention)]


def test_local_attention_counts_both_sides() -> None:
    """Half of it looks back; sliding_window, written by the class, wins (config class of transformers 5.23)."""
    assert _windows() == [None, 64, 64, None]
    assert _windows(local_attention=49, global_attn_every_n_layers=2) == [None, 24, None, 24]
    assert _windows(local_attention=48, sliding_window=7) == [None, 7, 7, None]


def test_without_a_window_all_layers_are_global() -> None:
    """The class writes -1 for none, and runs only where no layer asks for one."""
    full = ["full_attention"] * 4
    assert _windows(layer_types=full, local_attention=None, sliding_window=-1) == [None] * 4
    with pytest.raises(InvalidInput, match="sliding_window"):
        _windows(local_attention=None)
