"""InternLM's biases and shapes."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of
from tests.support import config


def test_internlm_biases_four_projections() -> None:
    """Llama 7B's layer plus 4 x 4096 biases in each of 32 layers, on a vocabulary of 103,168."""
    raw = config("internlm__internlm-chat-7b")

    assert parameters(raw) - parameters(raw | {"bias": False}) == 32 * 4 * 4096
    assert parameters(raw) == 7_321_948_160


def test_internlm2_groups_queries() -> None:
    """8 KV heads of 128; one fused matrix holds queries, keys and values."""
    raw = config("internlm__internlm2-7b")

    assert parameters(raw) == 7_737_708_544
    assert kept(raw, 8192) == 32 * 8192 * 2 * 8 * 128 * 2


def test_internlm3_is_llama_with_two_kv_heads() -> None:
    """An empty file: transformers 5.23 counts 492,662,784 at 3 layers and 1,000 tokens of vocabulary."""
    raw = {"model_type": "internlm3", "num_hidden_layers": 3, "vocab_size": 1000}

    assert parameters(raw) == 492_662_784
    assert parameters(raw | {"qkv_bias": True, "bias": True}) == 492_762_624
    assert kept(raw, 600) == 3 * 600 * 2 * 2 * 128 * 2 == 1_843_200
    with pytest.raises(InvalidInput, match="qkv_bias"):
        spec_of(raw | {"qkv_bias": True})
