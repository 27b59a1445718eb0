"""DBRX: its published size, and keys that the class overrules."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of

DBRX: dict[str, Any] = {
    "model_type": "dbrx",
    "d_model": 6144,
    "n_heads": 48,
    "n_layers": 40,
    "max_seq_len": 32768,
    "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}


def test_published_size() -> None:
    """131,596,523,520, the total of the checkpoint (databricks/dbrx-base)."""
    attention, experts = 6144 * (6144 + 2 * 8 * 128) + 6144 * 6144, 16 * (3 * 6144 * 10752 + 6144)

    assert 40 * (attention + experts + 2 * 6144) + 2 * 100352 * 6144 + 6144 == 131_596_523_520 == parameters(DBRX)
    assert 40 * 2 * 8 * 128 * 2 == kept(DBRX, 1)


def test_kv_heads_at_the_top_are_not_read() -> None:
    """The class sets them to those of attn_config, and a note says so."""
    spec = spec_of({**DBRX, "num_key_value_heads": 48})

    assert any("num_key_value_heads (48)" in note for note in spec.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_config": {"kv_n_heads": 5}}, "attn_config.kv_n_heads: got 5, allowed: a divisor"),
        ({"ffn_config": {"moe_num_experts": 4, "moe_top_k": 5}}, "ffn_config.moe_top_k: got 5"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: got True"),
        ({"hidden_size": 4096}, r"hidden_size: got 4096, allowed: the same as d_model \(6144\)"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    """What the class does not build."""
    with pytest.raises(InvalidInput, match=message):
        spec_of({**DBRX, **change})
