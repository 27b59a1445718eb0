"""Granite 3 MoE."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support.held import active, counted

# ibm-granite/granite-3.0-1b-a400m-base: 1.3 billion parameters, 400 million of them active, per its README
TINY = {
    "model_type": "granitemoe",
    "vocab_size": 49155,
    "hidden_size": 1024,
    "intermediate_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "num_experts_per_tok": 8,
    "tie_word_embeddings": True,
}


def test_published_size() -> None:
    """Total and active parameters of the published 1B."""
    assert round(counted(TINY) / 1e9, 1) == 1.3
    assert round(active(TINY) / 1e6, -2) == 400


def test_a_shared_mlp_is_built_by_two_of_the_types() -> None:
    """GraniteMoe ignores the key; in the other classes it adds three matrices to every layer."""
    shared = TINY | {"shared_intermediate_size": 100}
    more = 24 * 3 * 1024 * 100
    assert counted(shared) == counted(TINY)
    assert counted(shared | {"model_type": "granitemoeshared"}) == counted(TINY) + more
    assert counted(shared | {"model_type": "granitemoe_swa"}) == counted(TINY) + more + 24 * 16  # and a sink per head


def test_more_experts_visited_than_there_are() -> None:
    """The refusal names the field and the bound."""
    with pytest.raises(InvalidInput, match=r"num_experts_per_tok: got 33, allowed: at most the number of experts"):
        from_config(TINY | {"num_experts_per_tok": 33})
