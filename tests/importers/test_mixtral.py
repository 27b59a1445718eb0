"""Mixtral; expected numbers are those of MixtralForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

import pytest

from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted, transformers

SHALLOW = {"num_hidden_layers": 3, "vocab_size": 1000}


@pytest.mark.parametrize("tokens", [31, 32, 33])
def test_a_window_holds_in_every_layer(tokens: int) -> None:
    """With sliding_window 32 all three layers keep 31 entries of 2 x 8 x 128 x 2 bytes."""
    raw = config("mistralai__Mixtral-8x7B-Instruct-v0.1") | SHALLOW | {"sliding_window": 32}
    assert transformers(raw, tokens) == 380928 == 3 * 31 * 4096


def test_head_dim_is_its_own_number() -> None:
    """head_dim 96 beside hidden 4096 and 32 heads, tied logits, 5 experts named num_experts."""
    raw = config("mistralai__Mixtral-8x7B-Instruct-v0.1") | SHALLOW
    del raw["num_local_experts"]
    assert counted(raw | {"head_dim": 96, "tie_word_embeddings": True, "num_experts": 5}) == 2740969472


def test_experts_go_by_the_names_of_the_checkpoint() -> None:
    """Ignore-lists of quantisers say block_sparse_moe, so the experts must."""
    mlp = from_config(config("mistralai__Mixtral-8x7B-Instruct-v0.1")).layers[0].mlps[0]
    assert mlp.module == "block_sparse_moe"
