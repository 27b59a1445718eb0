"""Linear attention. Literals are what transformers 5.23 classes held and counted when run on these configs."""

from __future__ import annotations

import pytest

from kvplan.costs import prefill_flops, profile
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted, ideal, transformers
from tests.support.recurrent import state_bytes


def test_qwen3_next_splits_into_a_cache_that_grows_and_a_state_that_does_not():
    """8,192 tokens: 12 layers x 2 KV heads x 256; 36 layers x 32 heads x 128 x 128 fp32 and 8192 channels of 4 or 3."""
    raw = config("Qwen__Qwen3-Next-80B-A3B-Instruct")
    state = 36 * 32 * 128 * 128 * 4
    assert state_bytes(raw, 8192) == state + 36 * 8192 * 4 * 2 == 77_856_768
    assert state_bytes(raw, 8192, ideal=True) == state + 36 * 8192 * 3 * 2 == 77_266_944
    assert transformers(raw, 8192) - 77_856_768 == 12 * 8192 * 2 * 2 * 256 * 2 == 201_326_592


def test_qwen_output_gate_doubles_the_query_projection():
    """q_proj is heads * head_dim * 2 wide: with one head more of 256, one layer grows by q, its gate and o."""
    raw = {"model_type": "qwen3_5_text", "num_hidden_layers": 4, "hidden_size": 512, "num_key_value_heads": 1}
    more = counted(raw | {"num_attention_heads": 3}) - counted(raw | {"num_attention_heads": 2})
    assert more == 3 * 512 * 256


def test_qwen3_5_counts_the_text_part():
    """AutoModelForCausalLM builds the decoder alone for the outer type (27B: 26,895,998,464)."""
    raw = config("Qwen__Qwen3.5-27B")
    assert counted(raw) == 26_895_998_464
    assert transformers(raw, 4224) == 431_751_168


def test_qwen3_5_ties_as_its_text_config_says():
    """The class that is built sees text_config only; the outer flag changes nothing."""
    raw = config("Qwen__Qwen3.5-4B")
    untied = raw | {"text_config": raw["text_config"] | {"tie_word_embeddings": False}}
    assert counted(raw | {"tie_word_embeddings": False}) == counted(raw) == 4_205_751_296
    assert counted(untied) == 4_205_751_296 + 248_320 * 2560


def test_qwen_interval_is_used_only_without_a_list():
    """layer_types wins; without it every full_attention_interval-th layer attends."""
    raw = {"model_type": "qwen3_5_text", "num_hidden_layers": 6, "full_attention_interval": 3}
    per_token = 2 * 4 * 256 * 2
    assert transformers(raw, 2) - transformers(raw, 1) == 2 * per_token
    raw |= {"layer_types": ["linear_attention"] * 5 + ["full_attention"]}
    assert transformers(raw, 2) - transformers(raw, 1) == per_token


def test_kimi_lists_layers_from_one():
    """Layers 4, 8 .. 24 and 27 of 27 hold latent + rope (576); 20 hold 32 x 128 x 128 fp32 and 3 x 4096 channels."""
    raw = config("moonshotai__Kimi-Linear-48B-A3B-Instruct")
    assert counted(raw) == 49_122_675_072
    assert transformers(raw, 4224) == 7 * 4224 * 576 * 2 + 20 * (32 * 128 * 128 * 4 + 3 * 4096 * 4 * 2) == 77_971_456


def test_kimi_lists_must_cover_every_layer_once():
    """A 0 (counting from zero), a gap or a layer named twice is refused."""
    raw = {"model_type": "kimi_linear", "num_hidden_layers": 3}
    for full, linear in (([0], [1, 2]), ([1], [2]), ([1, 2], [2, 3])):
        with pytest.raises(InvalidInput, match="linear_attn_config"):
            from_config(raw | {"linear_attn_config": {"full_attn_layers": full, "kda_layers": linear}})


def test_minimax_attends_in_every_eighth_layer():
    """456,089,655,296 parameters (456B published); per token 10 layers x 8 KV heads x 128, keys and values."""
    raw = config("MiniMaxAI__MiniMax-Text-01")
    assert counted(raw) == 456_089_655_296
    assert transformers(raw, 2) - transformers(raw, 1) == 10 * 2 * 8 * 128 * 2
    # the authors' code keeps 64 heads of 128 x 128 in fp32, the transformers port in the dtype of the activations
    assert state_bytes(raw, 1) == 70 * 64 * 128 * 128 * 4


def test_minimax_class_keeps_every_token_under_a_window():
    """MiniMaxCache is built without the config: 3 layers x 2 KV heads x 16 grow past the window; ideal stops at 4."""
    raw = {"model_type": "minimax", "num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"num_key_value_heads": 2, "sliding_window": 4, "vocab_size": 96, "intermediate_size": 96}
    state = 2 * 4 * 16 * 16 * 2
    assert transformers(raw, 9) == 3 * 9 * 2 * 2 * 16 * 2 + state == 7_552
    assert ideal(raw, 9) == 3 * 4 * 2 * 2 * 16 * 2 + state


def test_experts_cost_the_flops_of_those_visited():
    """Ten experts of 512 and one shared, not 512: doubling num_experts changes only the router's FLOPs."""
    raw = config("Qwen__Qwen3-Next-80B-A3B-Instruct")
    once, twice = (
        prefill_flops(profile(from_config(raw | {"num_experts": n})), 1, 1, full=False, all_logits=False).linear
        for n in (512, 1024)
    )
    assert twice - once == 2 * 48 * 2048 * 512
