"""Command R. Expected numbers: transformers 5.23 on the meta device."""

import pytest

from kvplan.cache import build_plan
from kvplan.costs import held_bytes, hold, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.errors import InvalidInput
from kvplan.importers import from_config

R7B = {
    "model_type": "cohere2",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
}


def full_layers(raw):
    return [read.layer for read in build_plan(from_config(raw)).reads if read.growth.kind == "full"]


def test_r7b_has_a_window_nobody_wrote_down():
    """Window 4,096 and pattern 4 are class defaults: at 4,224 tokens 24 layers keep 4,095 and 8 keep all."""
    spec = from_config(R7B)
    assert profile(spec).parameters == 8_028_033_024
    held = hold(profile(spec, parts_of).plan, resolve_formats(spec, "bf16", None, None, None))
    # (24 * 4,095 + 8 * 4,224) entries x 2 x 8 heads x 128 x 2 bytes
    assert sum(held_bytes(part, 4224) for part in held) == 540_966_912


def test_pattern_counts_from_one_and_layer_types_beat_it():
    """Every n-th layer is full, the last of each group; layer_types, where written, are used instead."""
    assert full_layers({**R7B, "num_hidden_layers": 7}) == [3]
    assert full_layers({**R7B, "num_hidden_layers": 7, "sliding_window_pattern": 3}) == [2, 5]
    types = ["full_attention", "sliding_attention"]
    assert full_layers({**R7B, "num_hidden_layers": 2, "layer_types": types}) == [0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_types", ["full_attention"]), ("layer_types", ["linear_attention"] * 32), ("sliding_window", None)],
)
def test_what_the_class_could_not_build_is_refused(key, value):
    """Too few layer types, a foreign one, or sliding layers whose window is null."""
    with pytest.raises(InvalidInput, match=key):
        from_config({**R7B, key: value})


def test_dense_layers_of_a_mixture_have_a_pattern_of_their_own():
    raw = {
        "model_type": "cohere2_moe",
        "num_hidden_layers": 9,
        "first_k_dense_replace": 3,
        "prefix_dense_sliding_window_pattern": 2,
    }
    # two by two in the first three, then four by four; by default the first three all see everything
    assert full_layers(raw) == [1, 6]
    raw.pop("prefix_dense_sliding_window_pattern")
    assert full_layers(raw) == [0, 1, 2, 6]
