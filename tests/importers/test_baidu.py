"""ERNIE 4.5; expected numbers are those of the transformers 5.23 classes on the meta device."""

from __future__ import annotations

from kvplan.importers import from_config
from kvplan.specs import MoE
from tests.support import config
from tests.support.held import counted


def test_null_head_dim_and_null_end_index_fall_back() -> None:
    """The published file says null twice; without the two keys the class gives this number."""
    raw = config("baidu__ERNIE-4.5-21B-A3B-PT")
    assert raw["head_dim"] is None
    assert raw["moe_layer_end_index"] is None
    assert counted(raw) == 21825437888


def test_experts_lie_between_two_indices_at_an_interval() -> None:
    """Start 2, end 4, interval 2 of 8 layers: layer 3 alone; the correction bias counts as a parameter."""
    raw = config("baidu__ERNIE-4.5-21B-A3B-PT") | {
        "head_dim": 96,
        "moe_layer_start_index": 2,
        "moe_layer_end_index": 4,
        "moe_layer_interval": 2,
        "num_hidden_layers": 8,
        "use_bias": True,
        "vocab_size": 1000,
    }
    assert [i for i, layer in enumerate(from_config(raw).layers) if isinstance(layer.mlps[0], MoE)] == [3]
    assert counted(raw) == 1536551464


def test_untied_logits_have_a_bias_too() -> None:
    """use_bias reaches the head of the mixture of experts; no shared experts here."""
    raw = config("baidu__ERNIE-4.5-21B-A3B-PT") | {
        "head_dim": 96,
        "moe_layer_end_index": -1,
        "num_hidden_layers": 4,
        "use_bias": True,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
        "moe_num_shared_experts": 0,
    }
    assert counted(raw) == 2412165800


def test_dense_head_dim_missing_is_128_and_null_is_derived() -> None:
    """Ernie4_5Config: the default is 128, an explicit null means hidden / heads (64)."""
    assert counted({"model_type": "ernie4_5"}) == 360748032
    raw = {"model_type": "ernie4_5", "use_bias": True, "head_dim": None, "num_hidden_layers": 3}
    assert counted(raw) == 141331200
