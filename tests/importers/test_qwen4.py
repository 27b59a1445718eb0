"""Qwen4-Exp."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support.held import counted, ideal, transformers

QSA: dict[str, Any] = {
    "model_type": "qwen4_exp_text",
    "num_hidden_layers": 4,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 128,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 32,
}
NGRAMS = QSA | {"ple_layer_ids": [1], "eos_token_id": 0}


def test_one_index_key_per_block() -> None:
    """The mean of 32 keys and the open sum are enough; the class keeps every key. Keys and values are full."""
    linear = 3 * (32 * 128 * 128 * 4 + 3 * (2 * 16 + 32) * 128 * 2)
    kv = 1000 * 2 * 2 * 256 * 2
    assert ideal(QSA, 1000) == linear + kv + (1000 // 32 + 1) * 128 * 2
    column = 3 * (2 * 16 + 32) * 128 * 2  # of three convolutions, where the class keeps four
    assert transformers(QSA, 1000) == linear + column + kv + 1000 * 128 * 2


def test_tables_of_ngrams() -> None:
    """16 tables of the primes from 97 on, rounded up to 128 rows in all, beside projections, norms and taps."""
    primes = [97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173]
    rows = -(-sum(primes) // 128) * 128
    wide = 4 * 2048
    more = rows * 128 + 2048 * wide + 2048 * 2048 + 3 * wide + wide * 4
    assert counted(NGRAMS | {"ngram_vocab_size_base": 97}) == counted(QSA) + more
    assert ideal(NGRAMS, 1) == ideal(QSA, 1) + wide * 9 * 2  # three taps, three tokens apart


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indexer_budget": None}, "indexer_budget: got 'missing'"),
        ({"indexer_kv_heads": 2}, "indexer_kv_heads: got 2, allowed: 1"),
        ({"indexer_compress_ratio": 30}, "indexer_compress_ratio: got 30, allowed: a divisor of indexer_budget"),
        ({"ple_layer_ids": [4]}, "ple_layer_ids: got 4, allowed: layers of linear attention"),
        ({"ple_layer_ids": [1], "ple_embed_dim": 100}, "ple_embed_dim: got 16, allowed: a divisor"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    """What the class refuses or cannot build, by name."""
    with pytest.raises(InvalidInput, match=message):
        from_config(QSA | changes)
