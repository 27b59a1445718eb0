"""GLM-4.5: shapes of the published models put through Glm4MoeForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from tests.support.held import active, counted

AIR = {
    "model_type": "glm4_moe",
    "hidden_size": 4096,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "vocab_size": 151552,
    "num_nextn_predict_layers": 1,
}
LARGE = AIR | {
    "hidden_size": 5120,
    "num_hidden_layers": 92,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "first_k_dense_replace": 3,
    "use_qk_norm": True,
}


def test_parameters() -> None:
    """GLM-4.5-Air and GLM-4.5 as the class builds them; the MTP layer is not part of it."""
    assert counted(AIR) == 106852245504
    assert counted(LARGE) == 352797814784


def test_active_parameters() -> None:
    """Only the layers behind the dense ones have idle experts: 45 of 46 and 89 of 92."""
    assert counted(AIR) - active(AIR) == 45 * (128 - 8) * 3 * 4096 * 1408
    assert counted(LARGE) - active(LARGE) == 89 * (160 - 8) * 3 * 5120 * 1536


def test_all_layers_may_be_dense() -> None:
    """first_k_dense_replace beyond the last layer; head_dim is 4096 // 96 = 42, rounded down as the class does."""
    raw = {"model_type": "glm4_moe", "num_hidden_layers": 5, "first_k_dense_replace": 7, "vocab_size": 1000}
    assert counted(raw) == active(raw) == 859549696
