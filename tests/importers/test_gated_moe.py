"""Trinity and Laguna: gates, heads per layer, published sizes."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.specs import Attention, MoE
from kvplan.weights import active_parameters, count_parameters
from tests.importers.probe import parameters, spec_of

# arcee-ai/Trinity-Mini: "26B parameters, 3B active"
TRINITY: dict[str, Any] = {
    "model_type": "afmoe",
    "num_dense_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "moe_intermediate_size": 1024,
}


def test_trinity_mini() -> None:
    """As its card rounds it; every fourth layer of 32 sees everything."""
    spec = spec_of(TRINITY)

    assert (26, 3) == (count_parameters(spec) // 10**9, active_parameters(spec) // 10**9)
    mixers = [layer.mixers[0] for layer in spec.layers]
    assert list(range(3, 32, 4)) == [i for i, m in enumerate(mixers) if isinstance(m, Attention) and m.window is None]


def test_laguna_counts_heads_per_layer() -> None:
    """Queries, output and gate follow the layer's own heads, keys do not; a gate of one element per head."""
    raw = {"model_type": "laguna", "num_hidden_layers": 2}
    one, two = ({**raw, "num_attention_heads_per_layer": [48, heads]} for heads in (48, 64))

    assert 16 * (2 * 2048 * 128 + 2048) == parameters(two) - parameters(one)


def test_laguna_gates_whatever_gating_says() -> None:
    """False is not "no gate": the class then has one element per head and dim."""
    layers = {"model_type": "laguna", "num_hidden_layers": 1}

    assert 48 * 127 * 2048 == parameters({**layers, "gating": False}) - parameters({**layers, "gating": True})


def test_laguna_defaults() -> None:
    """Laguna XS.2 is the class's default: 33B parameters, one dense layer first."""
    spec = spec_of({"model_type": "laguna"})

    assert 33 == count_parameters(spec) // 10**9
    assert [0] == [i for i, layer in enumerate(spec.layers) if not isinstance(layer.mlps[0], MoE)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gating": "per-token"}, "gating: got 'per-token', allowed: per-head, per-element, true or false"),
        ({"num_attention_heads_per_layer": [48, 12]}, "num_key_value_heads: got 8, allowed: a divisor of the query"),
        ({"num_attention_heads_per_layer": [48]}, "num_attention_heads_per_layer: got .1 entries"),
    ],
)
def test_laguna_refuses(change: dict[str, Any], message: str) -> None:
    """Values that its class does not build."""
    with pytest.raises(InvalidInput, match=message):
        spec_of({"model_type": "laguna", "num_hidden_layers": 2, **change})
