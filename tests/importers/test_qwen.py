"""Qwen's traps. Literals are what transformers 5.23 said of the same configs, or the authors' totals for Qwen 1."""

from __future__ import annotations

from tests.importers.probe import kept, parameters, without
from tests.support import config


def test_use_sliding_window_false_cancels_the_window() -> None:
    """Qwen2 7B's file says sliding_window 131072 and use_sliding_window false."""
    raw = config("Qwen__Qwen2-7B-Instruct") | {"sliding_window": 100}

    assert kept(raw, 8192) == 28 * 8192 * 2 * 4 * 128 * 2


def test_the_window_starts_at_max_window_layers() -> None:
    """Five layers, the first two full: (2 x 600 + 3 x 99) entries of 2,048 bytes."""
    raw = config("Qwen__Qwen2-7B-Instruct") | {"num_hidden_layers": 5, "max_window_layers": 2}
    raw |= {"use_sliding_window": True, "sliding_window": 100}

    assert kept(raw, 600, transformers=True) == (2 * 600 + 3 * 99) * 2048 == 3_065_856
    assert kept(raw | {"max_window_layers": 5}, 600) == 5 * 600 * 2048


def test_null_kv_heads_mean_all_heads() -> None:
    """A missing key means 32, null means as many as heads (28 here)."""
    raw = config("Qwen__Qwen2-7B-Instruct") | {"num_hidden_layers": 5, "num_key_value_heads": None}

    assert kept(raw, 600, transformers=True) == 5 * 600 * 2 * 28 * 128 * 2 == 43_008_000


def test_qwen3_heads_are_128_wide() -> None:
    """Qwen3 0.6B: 16 heads of 128 on a hidden size of 1,024; without the key it is the same model."""
    raw = config("Qwen__Qwen3-0.6B")

    assert parameters(without(raw, "head_dim")) == parameters(raw) == 596_049_920


def test_qwen1_intermediate_size_counts_gate_and_up() -> None:
    """Qwen 14B: 14,167,290,880 parameters; reading intermediate_size as a width would add 8.4e9."""
    assert parameters(config("Qwen__Qwen-14B")) == 14_167_290_880
    assert parameters(config("Qwen__Qwen-72B")) == 72_287_920_128
