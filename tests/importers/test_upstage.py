"""Solar Open; the expected number is that of SolarOpenForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from tests.support.held import counted


def test_every_layer_holds_experts() -> None:
    """Three layers, two shared experts, biases on q, k, v and none on the output."""
    raw = {
        "model_type": "solar_open",
        "num_hidden_layers": 3,
        "attention_bias": True,
        "n_shared_experts": 2,
        "vocab_size": 1000,
    }
    assert counted(raw) == 6370486272
