"""Llama with one detail changed. Literals are what transformers 5.23 said, or the authors' totals for remote code."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of, without
from tests.support import config

NAS = "nvidia__Llama-3_3-Nemotron-Super-49B-v1"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        (NAS, 49_867_145_216),
        ("baichuan-inc__Baichuan2-13B-Base", 13_896_668_160),
        ("xverse__XVERSE-7B", 7_299_846_144),
        # 14,498,288,640 with RMSNorms, and 81 biases of 5,120: two LayerNorms a layer and the last
        ("OrionStarAI__Orion-14B-Chat", 14_498_288_640 + 81 * 5120),
        # 40 layers of 4 x 2304^2 attention, 8 experts of 3 x 2304 x 5760, a router, two norms; one tied token table
        ("openbmb__MiniCPM-MoE-8x2B", 40 * (21_233_664 + 318_504_960 + 18_432 + 4608) + 2304 + 122_753 * 2304),
    ],
)
def test_remote_code_totals(name: str, published: int) -> None:
    """Families without a transformers class have the parameters that their authors' code builds."""
    assert parameters(config(name)) == published


def test_nemotron_nas_stores_only_where_it_attends() -> None:
    """The 49B keeps KV in 49 of 80 layers, 8 heads of 128 each."""
    raw = config(NAS)
    attending = sum(not block["attention"]["no_op"] for block in raw["block_configs"])

    assert attending == 49
    assert kept(raw, 8192) == 49 * 8192 * 2 * 8 * 128 * 2


def test_nemotron_nas_block_by_block() -> None:
    """Width 2/3 x ffn_mult x hidden up to a multiple of 256; a matrix in place of attention stores nothing."""
    attends: dict[str, Any] = {"n_heads_in_group": 4, "no_op": False}
    blocks = [
        {"attention": attends, "ffn": {"ffn_mult": 1.0, "no_op": False}},
        {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
        {"attention": {"no_op": True}, "ffn": {"replace_with_linear": True}},
    ]
    raw = {"model_type": "nemotron-nas", "num_hidden_layers": 3, "hidden_size": 1024, "num_attention_heads": 8}
    raw |= {"vocab_size": 100, "block_configs": blocks}
    # 8 heads in groups of 4: 2 KV heads of 128; 2/3 x 1024 = 682, up to 768
    first = 2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 768 + 2 * 1024
    other = 1024 * 1024 + 1024

    assert parameters(raw) == 2 * 100 * 1024 + 1024 + first + 2 * other
    assert kept(raw, 600) == 600 * 2 * 2 * 128 * 2
    with pytest.raises(InvalidInput, match=r"block_configs\[0\].attention.n_heads_in_group"):
        spec_of(raw | {"block_configs": [{"attention": {"n_heads_in_group": 3}, "ffn": {"no_op": True}}, *blocks[1:]]})
    with pytest.raises(InvalidInput, match="num_sink_tokens"):
        spec_of(raw | {"block_configs": [{"attention": attends | {"num_sink_tokens": 4}, "ffn": {}}, *blocks[1:]]})


def test_seed_oss_head_dim_is_not_hidden_over_heads() -> None:
    """80 heads of 128 on a hidden size of 5,120; an explicit null means hidden / heads, 64."""
    raw = config("ByteDance-Seed__Seed-OSS-36B-Instruct")

    assert parameters(raw) == parameters(without(raw, "head_dim")) == 36_151_104_512
    assert kept(raw | {"head_dim": None}, 4224) == kept(raw, 4224) // 2 == 1_107_296_256 // 2


def test_smollm3_slides_where_it_has_no_rotary_positions() -> None:
    """Of nine layers the fourth and the eighth slide, once use_sliding_window says so."""
    raw = {"model_type": "smollm3", "num_hidden_layers": 9, "sliding_window": 100, "vocab_size": 1000}

    assert kept(raw, 600) == 9 * 600 * 2048
    assert kept(raw | {"use_sliding_window": True}, 600, transformers=True) == (7 * 600 + 2 * 99) * 2048 == 9_007_104


def test_apertus_activation_has_two_parameters_a_layer() -> None:
    """No gate; xIELU learns two numbers in each of 32 layers."""
    raw = config("swiss-ai__Apertus-8B-2509")

    assert parameters(raw) == 8_053_338_176
    assert parameters(raw) - parameters(raw | {"hidden_act": "gelu"}) == 64


def test_hunyuan_shares_nothing_without_use_cla() -> None:
    """cla_share_factor 2 alone has no effect; with use_cla the class would not do what the file says."""
    raw = config("tencent__HunyuanImage-2.1-reprompt")

    assert raw["cla_share_factor"] == 2
    assert kept(raw, 4224) == 32 * 4224 * 2 * 8 * 128 * 2 == 553_648_128
    with pytest.raises(InvalidInput, match="use_cla"):
        spec_of(raw | {"use_cla": True})


def test_helium_output_projection_is_square() -> None:
    """Two layers with biases: 406,384,640 parameters in the class; heads x head_dim must be hidden."""
    raw = config("kyutai__helium-1-preview") | {"num_hidden_layers": 2, "attention_bias": True, "mlp_bias": True}

    assert parameters(raw) == 406_384_640
    with pytest.raises(InvalidInput, match="head_dim"):
        spec_of(raw | {"head_dim": 64})


def test_granite_is_llama_with_its_own_defaults() -> None:
    """Two layers with all biases and 1,000 tokens of vocabulary: 413,047,808 parameters in the class."""
    raw = {"model_type": "granite", "num_hidden_layers": 2, "vocab_size": 1000}

    assert parameters(raw | {"attention_bias": True, "mlp_bias": True}) == 413_047_808
    assert parameters(raw | {"num_key_value_heads": 8, "head_dim": 64}) == 320_688_128
