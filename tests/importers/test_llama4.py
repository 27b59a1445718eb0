"""Llama 4; expected numbers are those of Llama4ForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.importers import from_config
from kvplan.weights import count_parameters
from tests.support import config
from tests.support.held import counted, ideal, transformers

SIX: dict[str, Any] = {
    "model_type": "llama4_text",
    "vocab_size": 1000,
    "num_hidden_layers": 6,
    "attention_chunk_size": 64,
    "num_local_experts": 2,
}


# layer 3 full, five chunked, an entry 2 x 8 x 128 x 2 = 4096 bytes: at 65 tokens 65 + 5 x 63
@pytest.mark.parametrize(("tokens", "size"), [(63, 1548288), (64, 1552384), (65, 1556480), (129, 1818624)])
def test_a_chunk_is_cached_like_a_window(tokens: int, size: int) -> None:
    """The class's cache treats chunks as windows and keeps chunk - 1 entries."""
    assert transformers(SIX, tokens) == size == (tokens + 5 * min(tokens, 63)) * 4096


def test_the_method_holds_a_chunk() -> None:
    """Engine ideal: min(S, chunk) in the five local layers."""
    assert ideal(SIX, 200) == (200 + 5 * 64) * 4096


def test_one_means_rotary_means_chunked() -> None:
    """no_rope_layers: 1 is a layer with rotary positions; moe_layers overrules the step and may name absent layers."""
    raw = SIX | {"moe_layers": [1, 4, 9], "no_rope_layers": [1, 0, 1, 0, 0, 1], "attention_bias": True}
    assert counted(raw) == 2149495808
    assert transformers(raw, 100) == 2002944 == (3 * 100 + 3 * 63) * 4096


def test_layer_types_overrule_the_rotary_pattern() -> None:
    """The class caches by layer_types where the file has it."""
    raw = SIX | {"layer_types": ["full_attention"] * 5 + ["chunked_attention"]}
    assert transformers(raw, 100) == 2306048


def test_every_second_layer_sparse() -> None:
    """interleave_moe_layer_step 2 makes layers 1, 3, 5 sparse; an interval of 2 makes the same layers full."""
    raw = SIX | {"no_rope_layer_interval": 2, "interleave_moe_layer_step": 2}
    assert counted(raw) == 2275261440
    assert transformers(raw, 100) == 2002944


def test_the_vision_tower_stands_beside() -> None:
    """model.parameters is the text class's number; the tower is named and not counted."""
    spec = from_config(config("meta-llama__Llama-4-Scout-17B-16E-Instruct"))
    assert count_parameters(spec) == 107769861120
    assert spec.towers
    assert not any(tower.counted for tower in spec.towers)
