"""MiMo-V2-Flash; expected numbers are those of MiMoV2FlashForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted, ideal, transformers


def eight_layers() -> dict[str, Any]:
    raw = config("XiaomiMiMo__MiMo-V2-Flash") | {"num_hidden_layers": 8, "vocab_size": 1000}
    del raw["hybrid_layer_pattern"], raw["moe_layer_freq"]
    return raw


# layers 0 and 5 full with 4 KV heads, six sliding with 8; a head's entry is (192 + 128) x 2 = 640 bytes
@pytest.mark.parametrize(
    ("tokens", "size"), [(126, 4515840), (127, 4551680), (128, 4587520), (129, 4592640), (130, 4597760)]
)
def test_window_of_129_keeps_128(tokens: int, size: int) -> None:
    """sliding_window_size 128 counts the tokens before the query: the class's cache stops growing at 128."""
    assert transformers(eight_layers(), tokens) == size == (2 * tokens * 4 + 6 * min(tokens, 128) * 8) * 640


def test_parameters_with_the_pattern_left_out() -> None:
    """Without hybrid_layer_pattern and moe_layer_freq the class's own patterns hold: one dense layer, sinks in six."""
    assert counted(eight_layers()) == 46058574208


def test_sliding_layers_hold_other_heads_than_full_ones() -> None:
    """Engine ideal at 4096 tokens, published file: 9 full layers of 4 heads, 39 sliding ones of 8."""
    raw = config("XiaomiMiMo__MiMo-V2-Flash")
    assert ideal(raw, 4096) == (9 * 4096 * 4 + 39 * 129 * 8) * 640


def test_the_file_s_own_sliding_heads_count() -> None:
    """swa_num_key_value_heads says 4 here, and 4 it is."""
    raw = config("XiaomiMiMo__MiMo-V2-Flash") | {"swa_num_key_value_heads": 4}
    assert ideal(raw, 4096) == (9 * 4096 + 39 * 129) * 4 * 640


def test_a_pattern_of_the_wrong_length_is_an_error() -> None:
    """One entry per layer, not one less."""
    raw = config("XiaomiMiMo__MiMo-V2-Flash")
    raw["hybrid_layer_pattern"] = raw["hybrid_layer_pattern"][1:]
    with pytest.raises(InvalidInput, match="hybrid_layer_pattern"):
        from_config(raw)
