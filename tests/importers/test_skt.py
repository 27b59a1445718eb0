"""A.X K1 and K2: published sizes, what one layer of K2 holds."""

from __future__ import annotations

from kvplan.weights import active_parameters, count_parameters
from tests.importers.probe import kept, parameters, spec_of


def test_k1_as_its_card_rounds_it() -> None:
    """skt/A.X-K1, the class's default: "519B total, 33B active"."""
    spec = spec_of({"model_type": "axk1"})

    assert (519, 33) == (round(count_parameters(spec) / 1e9), round(active_parameters(spec) / 1e9))


def test_one_dense_layer_of_k2() -> None:
    """By the class's own shapes (transformers models/axk2): a fused, twice as tall query and gate projection."""
    raw = {"model_type": "axk2", "first_k_dense_replace": 9}
    hidden, q, kv, rope, heads, head = 2048, 384, 128, 32, 32, 64
    attention = hidden * q + q + 2 * q * heads * (head + rope + head)  # q_a_proj, its norm, q_gate_proj
    attention += hidden * (kv + rope) + kv + kv * heads * 2 * head + heads * head * hidden
    indexer = q * 16 * 128 + hidden * 128 + 2 * 128 + hidden * 16
    layer = attention + indexer + 3 * hidden * 5120 + 2 * hidden + 2 * 16 * hidden

    one, two = ({**raw, "num_hidden_layers": layers} for layers in (1, 2))
    assert layer == parameters(two) - parameters(one)
    assert 2 * (kv + rope + 128) * 100 == kept(one, 100)


def test_an_alias_counts_more_than_the_own_name() -> None:
    """The aliased name is set last, so that it overwrites what the class calls its experts."""
    raw = {"model_type": "axk1", "num_hidden_layers": 2}

    assert parameters({**raw, "n_routed_experts": 64}) == parameters(
        {**raw, "n_routed_experts": 192, "num_local_experts": 64}
    )
