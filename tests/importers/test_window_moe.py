"""Mixtures of experts under windows: which layers slide, which are sparse, by the defaults of each class."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.specs import Attention, MoE
from tests.importers.probe import kept, spec_of


@pytest.mark.parametrize(
    ("model_type", "full", "dense"),
    [
        ("mellum", set(range(28)), set()),
        ("kolibri1", set(range(4, 50, 5)), set()),
        ("flint", {0, 1, *range(5, 49, 4)}, {0, 1}),  # the last, 48, is 4 k and full only for being the last
        ("beam", {*range(5, 52, 6), 51}, {0, 1, 2}),
    ],
)
def test_defaults_of_the_class(model_type: str, full: set[int], dense: set[int]) -> None:
    """A file that says nothing."""
    layers = spec_of({"model_type": model_type}).layers
    windows = [layer.mixers[0].window for layer in layers if isinstance(layer.mixers[0], Attention)]

    assert {i for i, window in enumerate(windows) if window is None} == full | (
        {48} if model_type == "flint" else set()
    )
    assert {i for i, layer in enumerate(layers) if not isinstance(layer.mlps[0], MoE)} == dense


def test_kolibri_keeps_512_of_513() -> None:
    """Its window is 513, so that the class keeps a round 512; 4 KV heads of 128."""
    assert kept({"model_type": "kolibri1"}, 1000, transformers=True) == (10 * 1000 + 40 * 512) * 2 * 4 * 128 * 2


def test_two_names_of_one_number_must_agree() -> None:
    """The class takes either name; nothing says which of two values counts."""
    with pytest.raises(InvalidInput, match=r"num_local_experts: got 8, allowed: the same as num_experts \(16\)"):
        spec_of({"model_type": "mellum", "num_experts": 16, "num_local_experts": 8})


def test_more_visited_than_there_are() -> None:
    """A token cannot visit nine of eight."""
    with pytest.raises(InvalidInput, match="num_experts_per_tok"):
        spec_of({"model_type": "beam", "num_experts": 8, "num_experts_per_tok": 9})
