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


def test_keys_that_the_class_does_not_read() -> None:
    """MiMoV2FlashForCausalLM builds the same model whatever these say, and the answer says which it ignores."""
    raw = config("XiaomiMiMo__MiMo-V2-Flash")
    others = {"swa_num_key_value_heads": 4, "swa_head_dim": 96, "add_swa_attention_sink_bias": False}
    spec = from_config(raw | others | {"hybrid_layer_pattern": [1] * 48, "moe_layer_freq": [0] * 48})
    assert spec.layers == from_config(raw).layers
    said = " ".join(spec.notes)
    assert all(key in said for key in (*others, "hybrid_layer_pattern", "moe_layer_freq"))
    assert "ignores" not in " ".join(from_config(raw).notes)


def test_layer_types_of_the_wrong_length_are_an_error() -> None:
    """One entry per layer, not one less."""
    with pytest.raises(InvalidInput, match="layer_types"):
        from_config(config("XiaomiMiMo__MiMo-V2-Flash") | {"layer_types": ["full_attention"] * 47})
