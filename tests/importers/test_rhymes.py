"""Aria's decoder: its published size."""

from __future__ import annotations

from tests.importers.probe import parameters


def test_aria() -> None:
    """rhymes-ai/Aria, 24.9 billion without its tower: by the shapes of its layers."""
    hidden, width, layers = 2560, 1664, 28
    layer = 4 * hidden * hidden + 64 * hidden + (64 + 2) * 3 * hidden * width + 2 * hidden
    raw = {
        "model_type": "aria_text",
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 20,
        "moe_num_experts": 64,
        "moe_topk": 6,
        "vocab_size": 100352,
    }

    assert layers * layer + 2 * 100352 * hidden + hidden == parameters(raw)
