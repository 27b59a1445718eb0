"""EXAONE's window pattern. Literals are what transformers 5.23 said of the same configs."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.weights import active_parameters, count_parameters
from tests.importers.probe import kept, parameters, spec_of, without
from tests.support import config


def test_exaone_ties_unless_told() -> None:
    """3.5 7.8B says false and has 7,818,448,896 parameters; the configuration's default ties."""
    raw = config("LGAI-EXAONE__EXAONE-3.5-7.8B-Instruct")

    assert parameters(raw) == 7_818_448_896
    assert parameters(without(raw, "tie_word_embeddings")) == 7_818_448_896 - 102_400 * 4096


def test_exaone4_pattern_as_a_number() -> None:
    """Six layers, every fourth global: (5 x 199 + 600) entries of 4,096 bytes."""
    raw = without(config("LGAI-EXAONE__EXAONE-4.0-32B"), "layer_types")
    raw |= {"num_hidden_layers": 6, "sliding_window": 200, "sliding_window_pattern": 4}

    assert kept(raw, 600, transformers=True) == (5 * 199 + 600) * 4096 == 6_533_120


def test_exaone4_letters_need_layer_types() -> None:
    """LLLG is documentation beside layer_types; alone, the class cannot read it and neither do we."""
    raw = without(config("LGAI-EXAONE__EXAONE-4.0-32B"), "layer_types")

    with pytest.raises(InvalidInput, match="sliding_window_pattern"):
        spec_of(raw)


def test_exaone4_without_a_window_is_global() -> None:
    """The 1.2B says sliding_window null."""
    raw = without(config("LGAI-EXAONE__EXAONE-4.0-32B"), "layer_types") | {"sliding_window": None}

    assert kept(raw, 8192) == 64 * 8192 * 4096


def test_k_exaone_as_its_card_rounds_it() -> None:
    """LGAI-EXAONE/K-EXAONE-236B-A23B; its file names a pattern of letters beside layer_types."""
    raw = {
        "model_type": "exaone_moe",
        "hidden_size": 6144,
        "intermediate_size": 18432,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts": 128,
        "moe_intermediate_size": 2048,
        "vocab_size": 153600,
        "sliding_window": 128,
        "sliding_window_pattern": "LLLG",
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 12,
    }
    spec = spec_of(raw)

    assert (236, 23) == (count_parameters(spec) // 10**9, active_parameters(spec) // 10**9)
    assert (12 * 1000 + 36 * 127) * 2 * 8 * 128 * 2 == kept(raw, 1000, transformers=True)
