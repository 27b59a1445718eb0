"""Inkling 2; expected numbers are sums over the shapes that Inkling2ForCausalLM of transformers 5.23 builds."""

from __future__ import annotations

from typing import Any

from kvplan.importers import from_config
from tests.support.held import counted, ideal

SIX: dict[str, Any] = {"model_type": "inkling2_text", "num_hidden_layers": 6}


def test_a_full_layer_more() -> None:
    """A full layer in the place of a sliding one: three norms and queries for one, taps of each token's own."""
    kinds = ["hybrid_sliding"] * 5
    sliding = counted(SIX | {"layer_types": [*kinds, "hybrid_sliding"]})
    full = counted(SIX | {"layer_types": [*kinds, "hybrid"]})
    assert full - sliding == 2 * 4608 + 2 * 4608 + 2 * 4608 * 8 * 4


def test_ideal_keeps_three_columns() -> None:
    """Two convolutions over 8 KV heads of 128 and two over the residual; one layer of six sees everything."""
    state = 6 * 3 * (2 * 8 * 128 + 2 * 4608)
    assert ideal(SIX, 3000) == (2 * 8 * 128 * (5 * 1024 + 3000) + state) * 2


def test_the_other_name_of_the_experts_width() -> None:
    """intermediate_size is an alias of moe_intermediate_size, and the context has two names as well."""
    assert counted(SIX | {"intermediate_size": 100}) == counted(SIX | {"moe_intermediate_size": 100})
    assert from_config(SIX | {"model_max_length": 4096}).max_context == 4096
