"""Inkling; expected numbers are those of InklingForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.held import counted, ideal, transformers

EIGHT: dict[str, Any] = {"model_type": "inkling_text", "vocab_size": 1000, "num_hidden_layers": 8}
# seven sliding layers of 16 KV heads, layer 5 full with 8; an entry of one head takes 2 x 128 x 2 = 512 bytes
CHANNELS = 7 * (2 * 16 * 128 + 2 * 6144) + (2 * 8 * 128 + 2 * 6144)


@pytest.mark.parametrize(
    ("tokens", "size"),
    [(1, 2125824), (3, 2248704), (4, 2310144), (510, 33398784), (511, 33460224), (512, 33464320), (513, 33468416)],
)
def test_window_and_four_convolution_states(tokens: int, size: int) -> None:
    """The class keeps 511 entries under a window of 512, and 4 fp32 columns of four convolutions at once."""
    entries = 7 * 16 * min(tokens, 511) + 8 * tokens
    assert transformers(EIGHT, tokens) == size == entries * 512 + CHANNELS * 4 * 4


def test_the_method_needs_three_columns() -> None:
    """Engine ideal keeps kernel - 1 columns of the bf16 inputs and the whole window."""
    assert ideal(EIGHT, 1000) == (7 * 16 * 512 + 8 * 1000) * 512 + CHANNELS * 3 * 2


def test_parameters() -> None:
    """Relative position tables follow the window, shared experts have router rows, the embedding has a norm."""
    assert counted(EIGHT) == 117940140040
    changed = {
        "local_layer_ids": [1, 2],
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 5,
        "sliding_window_size": 20,
        "conv_kernel_size": 3,
        "swa_head_dim": 64,
        "swa_num_key_value_heads": 4,
        "n_shared_experts": 3,
        "d_rel": 8,
    }
    assert counted(EIGHT | changed) == 75518213192


def test_checkpoint_names() -> None:
    """Beside dense_intermediate_size, intermediate_size is the experts' width; dense_mlp_idx counts dense layers."""
    changed = {
        "dense_mlp_idx": 2,
        "dense_intermediate_size": 2048,
        "intermediate_size": 512,
        "sconv_kernel_size": 5,
        "rel_extent": 99,
    }
    assert counted(EIGHT | changed) == 15751255608
    assert transformers(EIGHT | changed, 60) == 6266880
