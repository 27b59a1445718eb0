"""Families near Llama: published totals by arithmetic of their files' numbers, and what is refused."""

from __future__ import annotations

import pytest

from kvplan import costs
from kvplan.errors import InvalidInput
from tests.importers.probe import flops, kept, parameters, spec_of

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}


def test_vectors_of_a_norm_are_counted_where_the_class_has_them() -> None:
    """Squared ReLU without a gate: RMSNorms in AFM, biased LayerNorms in Jais 2, nothing in nanochat."""
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 96) + 2 * 100 * 64
    biases = 2 * (4 * 64 + 96 + 64)

    assert parameters(SMALL | {"model_type": "arcee"}) == matrices + 5 * 64
    assert parameters(SMALL | {"model_type": "jais2"}) == matrices + 2 * 5 * 64 + biases
    assert parameters(SMALL | {"model_type": "nanochat"}) == matrices


def test_hyperclovax_may_leave_out_the_norms_behind() -> None:
    """Two more vectors a layer unless use_post_norm is false."""
    raw = SMALL | {"model_type": "hyperclovax"}

    assert parameters(raw) - parameters(raw | {"use_post_norm": False}) == 2 * 2 * 64


def test_iquestcoder_knows_no_windows() -> None:
    """use_sliding_window is an error in the class."""
    assert (
        parameters({"model_type": "iquestcoder"})
        == 80 * (2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648 + 2 * 5120) + 5120 + 2 * 76800 * 5120
    )
    with pytest.raises(InvalidInput, match="use_sliding_window: got True, allowed: false"):
        spec_of({"model_type": "iquestcoder", "use_sliding_window": True})


def test_granite_swa_slides_in_three_of_four() -> None:
    """24 layers, 6 of them full; 4 KV heads of 128; the class keeps 127 of 128; a null window is an error."""
    assert kept({"model_type": "granite_swa"}, 1000, transformers=True) == (6 * 1000 + 18 * 127) * 2 * 4 * 128 * 2
    with pytest.raises(InvalidInput, match="sliding_window"):
        spec_of({"model_type": "granite_swa", "sliding_window": None})


def test_diffllama_scores_twice_and_halves_its_values() -> None:
    """Two softmaxes a layer: 2 x 4 heads x 40^2 pairs x (16 + 16) multiply-adds; KV heads come in pairs."""
    raw = SMALL | {"model_type": "diffllama"}
    llama = SMALL | {"model_type": "llama"}

    assert flops(raw, 40) - flops(llama, 40) == 2 * 2 * 4 * 40 * 40 * 32
    assert kept(raw, 40) == kept(llama, 40)
    assert parameters(raw) - parameters(llama) == 2 * 4 * 16
    with pytest.raises(InvalidInput, match="num_key_value_heads: got 1, allowed: an even number"):
        spec_of(raw | {"num_key_value_heads": 1})


def test_doge_experts_are_rows_of_two_tables() -> None:
    """Of 120 experts product keys reach 10 x 10; a token visits 8 rows of each table."""
    raw = SMALL | {"model_type": "doge"}
    sparse = raw | {"is_moe": True, "num_experts": 120, "num_experts_per_tok": 8}
    profile = costs.profile(spec_of(sparse))

    assert parameters(sparse) - parameters(raw) == 2 * (2 * 120 * 64 + 2 * 10 * 64)
    assert profile.parameters - profile.active_parameters == 2 * 2 * 112 * 64
    with pytest.raises(InvalidInput, match="num_experts_per_tok"):
        spec_of(sparse | {"num_experts_per_tok": 101})
