"""Gemma 4 as transformers 5.23 writes it, the 12B without towers, and drafts."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.specs import Attention
from tests.importers.probe import kept, parameters, spec_of

TEXT = {"model_type": "gemma4_text", "num_hidden_layers": 12}
LOCAL, GLOBAL = 2 * 4 * 256 * 2, 2 * 4 * 512 * 2  # bytes of an entry


@pytest.mark.parametrize("numbers", ["5 11", "05 11"])
def test_layers_may_be_padded_with_zeros(numbers: str) -> None:
    """Layer numbers all have as many digits as the last one."""
    stated = {number: {"head_dim": 512} for number in numbers.split()}

    assert kept(TEXT | {"per_layer_config": stated}, 40) == (10 * LOCAL + 2 * GLOBAL) * 40
    assert parameters(TEXT | {"per_layer_config": stated}) == parameters(TEXT)


@pytest.mark.parametrize("nothing", [{}, None])
def test_a_stated_nothing_is_not_a_missing_key(nothing: object) -> None:
    """The class derives global head dims only where the key is missing."""
    assert kept(TEXT | {"per_layer_config": nothing}, 40) == 12 * LOCAL * 40
    assert kept(TEXT, 40) == (10 * LOCAL + 2 * GLOBAL) * 40


def test_layers_out_of_range_are_refused() -> None:
    """A twelfth layer counts as 11."""
    with pytest.raises(InvalidInput, match="per_layer_config"):
        spec_of(TEXT | {"per_layer_config": {"12": {"head_dim": 512}}})


def test_unified_reads_without_towers() -> None:
    """sum(p.numel()) of Gemma4UnifiedForConditionalGeneration with default configs, and of its two embedders."""
    raw = {"model_type": "gemma4_unified", "vision_config": {}, "audio_config": {}}
    spec = spec_of(raw)

    assert parameters(raw) == 3_056_257_024
    assert {tower.name: tower.parameters for tower in spec.towers} == {
        "model.embed_vision": 44_024_064,
        "model.embed_audio": 1_474_560,
    }
    assert {m.window for layer in spec.layers for m in layer.mixers if isinstance(m, Attention)} == {None, 1024}
    assert not spec_of({"model_type": "gemma4_unified"}).towers


@pytest.mark.parametrize("name", ["gemma4_assistant", "gemma4_unified_assistant"])
def test_a_draft_is_refused_by_name(name: str) -> None:
    """It caches nothing and cannot be planned alone."""
    with pytest.raises(InvalidInput, match=f"model_type: got '{name}', allowed: a model with a cache of its own"):
        spec_of({"model_type": name})
