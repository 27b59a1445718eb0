"""Hunyuan and Hy3."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from kvplan.specs import Attention
from tests.support import config
from tests.support.held import counted, ideal


def test_every_second_layer_of_hunyuan_large_reads_the_one_below() -> None:
    """cla_share_factor 2: 32 of 64 layers store 2 x 8 x 80 elements a token (head_dim is 6400 / 80)."""
    raw = config("tencent__Tencent-Hunyuan-Large")
    mixers = [layer.mixers[0] for layer in from_config(raw).layers]
    reads = [mixer.reads for mixer in mixers if isinstance(mixer, Attention)]
    assert reads == [None if i % 2 == 0 else i - 1 for i in range(64)]
    assert ideal(raw, 1000) == 32 * 1000 * 2 * 8 * 80 * 2


def test_a_factor_alone_shares_nothing() -> None:
    """Files of the dense models hold cla_share_factor 2 without use_cla."""
    raw = config("tencent__Tencent-Hunyuan-Large") | {"use_cla": False}
    assert ideal(raw, 1000) == 64 * 1000 * 2 * 8 * 80 * 2


def test_a_factor_of_three_over_an_odd_stack() -> None:
    """Layers 0, 3 and 6 of 7 own; the rest read the last owner."""
    raw = config("tencent__Tencent-Hunyuan-Large") | {"cla_share_factor": 3, "num_hidden_layers": 7}
    mixers = [layer.mixers[0] for layer in from_config(raw).layers]
    assert [mixer.reads for mixer in mixers if isinstance(mixer, Attention)] == [None, 0, 0, None, 3, 3, None]


def test_hunyuan_large_has_the_published_size() -> None:
    """389 billion parameters, shared expert included, per the README of the checkpoint."""
    assert round(counted(config("tencent__Tencent-Hunyuan-Large")) / 1e9) == 389


def test_hunyuan_a13b_equals_the_class_in_transformers() -> None:
    """HunYuanMoEV1ForCausalLM of transformers 5.23 on the same numbers (model_type hunyuan_v1_moe, head_dim 128)."""
    assert counted(config("tencent__Hunyuan-A13B-Instruct")) == 80393183232


def test_hy3_layer_kinds_and_biases() -> None:
    """HYV3ForCausalLM of transformers 5.23: sparse, dense, sparse; two shared experts; biases in attention and MLPs."""
    raw = {
        "model_type": "hy_v3",
        "num_hidden_layers": 3,
        "mlp_layer_types": ["sparse", "dense", "sparse"],
        "num_shared_experts": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "vocab_size": 1000,
    }
    assert counted(raw) == 7723213568


def test_hunyuan_a13b_under_the_name_that_transformers_uses() -> None:
    """The published file under hunyuan_v1_moe is the same model: keys of Tencent's own code change nothing."""
    raw = config("tencent__Hunyuan-A13B-Instruct")
    assert counted(raw | {"model_type": "hunyuan_v1_moe", "head_dim": 128}) == counted(raw) == 80393183232


def test_a_shared_indexer_needs_a_full_one_before_it() -> None:
    """As in the class of Hy4, which raises."""
    with pytest.raises(InvalidInput, match="indexer_types: got 'shared first'"):
        from_config({"model_type": "hy_v4", "num_hidden_layers": 2, "indexer_types": ["shared", "full"]})
