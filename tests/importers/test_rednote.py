"""dots.llm1 and dots3-note: published sizes, and the two ways of writing a layer's own shapes."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.weights import active_parameters, count_parameters
from tests.importers.probe import kept, parameters, spec_of

# rednote-hilab/dots.llm1.base: "142B total parameters, 14B activated"
DOTS1: dict[str, Any] = {
    "model_type": "dots1",
    "hidden_size": 4096,
    "n_routed_experts": 128,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "sliding_window": None,
    "max_window_layers": 62,
}
NOTE: dict[str, Any] = {"model_type": "dots3_note_text", "num_hidden_layers": 5}


def test_dots1_as_its_card_rounds_it() -> None:
    """142B and 14B; without a window nothing slides, wherever it would begin."""
    spec = spec_of(DOTS1)

    assert (142, 14) == (count_parameters(spec) // 10**9, active_parameters(spec) // 10**9)
    assert kept(DOTS1, 5000, transformers=True) == kept({**DOTS1, "max_window_layers": 0}, 5000, transformers=True)


def test_dots1_needs_its_experts() -> None:
    """The class has no default for them, unless all layers are dense."""
    with pytest.raises(InvalidInput, match="n_routed_experts: got 'missing'"):
        spec_of({"model_type": "dots1"})
    assert 4096 == spec_of({"model_type": "dots1", "hidden_size": 4096, "first_k_dense_replace": 62}).hidden


def test_dots3_keeps_two_kinds_of_latent() -> None:
    """Layers 0 and 1 of five: 512 + 64 in 16 bit, an index key of 128 in 32; the others 1024 + 64 of 511 tokens."""
    expected = 2 * 600 * (2 * (512 + 64) + 4 * 128) + 3 * 511 * 2 * (1024 + 64)

    assert expected == kept(NOTE, 600, transformers=True)


def test_dots3_shapes_in_either_spelling() -> None:
    """What transformers writes for a published file says the same."""
    entry = {"num_attention_heads": 64, "num_key_value_heads": 64, "kv_lora_rank": 96, "qk_nope_head_dim": 192}
    written = {**NOTE, "per_layer_config": {str(i): entry for i in (2, 3, 4)}}

    assert parameters({**NOTE, "swa_kv_lora_rank": 96}) == parameters(written)


def test_dots3_under_its_outer_name() -> None:
    """Published files have the decoder's keys at the top; transformers nests them."""
    flat, nested = {**NOTE, "model_type": "dots3_note"}, {"model_type": "dots3_note", "text_config": NOTE}

    assert parameters(NOTE) == parameters(flat) == parameters(nested)


def test_full_attention_of_old_files_is_indexed() -> None:
    """Unless ``use_dsa`` is false, layers that a published file calls full have an indexer."""
    kinds = {"layer_types": ["full_attention"] * 5}

    assert 5 * 4 * 128 == (kept({**NOTE, **kinds}, 1)) - kept({**NOTE, **kinds, "use_dsa": False}, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swa_head_dim": 128}, "swa_head_dim: got 128, allowed: the sum of"),
        ({"per_layer_config": {"7": {}}}, "per_layer_config: got .*, allowed: an object whose keys are layers, 0 to 4"),
        ({"per_layer_config": {"2": {"hidden_size": 8}}}, "per_layer_config.2.hidden_size: got 8"),
        ({"moe_layer_freq": [1, 1]}, "moe_layer_freq: got '?2 entries"),
    ],
)
def test_dots3_refuses(change: dict[str, Any], message: str) -> None:
    """Shapes that cannot be, and those that are not understood."""
    with pytest.raises(InvalidInput, match=message):
        spec_of({**NOTE, **change})
