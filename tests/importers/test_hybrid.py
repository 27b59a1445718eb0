"""Attention beside state. Literals are what transformers 5.23 classes held and counted when run on these configs."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted, transformers
from tests.support.recurrent import state_bytes


def test_falcon_h1_caches_both_mixers_in_every_layer():
    """32 layers: 2 KV heads of 128, keys and values; 4096 x 256 in fp32; 4096 + 2 * 256 channels of 4 columns."""
    raw = config("tiiuae__Falcon-H1-3B-Base")
    state = 32 * (4096 * 256 * 4 + (4096 + 512) * 4 * 2)
    assert transformers(raw, 4224) == 32 * 4224 * 2 * 2 * 128 * 2 + state == 273_809_408
    assert state_bytes(raw, 4224) == state


def test_falcon_h1_width_of_mamba_missing_and_null_differ():
    """The class's default for a missing mamba_d_ssm is 1024; null means mamba_expand * hidden_size."""
    raw = {"model_type": "falcon_h1", "num_hidden_layers": 1, "hidden_size": 1024, "num_attention_heads": 8}
    wide = state_bytes(raw | {"mamba_d_ssm": None}, 1, ideal=True)
    narrow = state_bytes(raw, 1, ideal=True)
    assert wide - narrow == 1024 * (256 * 4 + 3 * 2)


def test_jamba_has_attention_in_one_layer_of_eight():
    """Layers 4, 12, 20, 28 of 32 cache 8 KV heads of 128; the others Mamba state: 8192 x 16 fp32 and 4 columns."""
    raw = config("ai21labs__Jamba-v0.1")
    assert counted(raw) == 51_570_323_328
    assert transformers(raw, 4224) == 4 * 4224 * 2 * 8 * 128 * 2 + 28 * 8192 * (16 * 4 + 4 * 2)


def test_zamba_2_shares_weights_and_not_caches():
    """9 uses of one block: its weights once, a KV cache of 32 heads of 2 * 2560 / 32 = 160 for each."""
    raw = config("Zyphra__Zamba2-2.7B")
    assert counted(raw) == 2_481_848_336
    assert transformers(raw, 4225) - transformers(raw, 4224) == 9 * 2 * 32 * 160 * 2


def test_zamba_2_head_dim_is_twice_hidden_over_heads():
    """7B: 2 * 3584 / 32 = 224 (vLLM prints head_size 224), 13 uses of two blocks."""
    raw = config("Zyphra__Zamba2-7B-Instruct")
    assert counted(raw) == 7_326_532_760
    assert transformers(raw, 2) - transformers(raw, 1) == 13 * 2 * 32 * 224 * 2


def test_zamba_2_adapters_are_not_shared():
    """Four uses of two blocks, rank 5: each use adds q, k, v and MLP adapters (class run: 384,096 parameters)."""
    raw = {"model_type": "zamba2", "num_hidden_layers": 6, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"vocab_size": 96, "layers_block_type": ["hybrid", "mamba", "hybrid", "mamba", "hybrid", "hybrid"]}
    raw |= {"num_mem_blocks": 2, "use_shared_attention_adapter": True, "adapter_rank": 5, "intermediate_size": 112}
    raw |= {"mamba_ngroups": 2, "n_mamba_heads": 4, "mamba_d_state": 16, "mamba_d_conv": 3, "add_bias_linear": True}
    assert counted(raw) == 384_096
    # without the adapters on q, k, v: 4 uses * 3 * 2 * (2 * 64) * 5 less
    assert counted(raw | {"use_shared_attention_adapter": False}) == 384_096 - 4 * 3 * 2 * 128 * 5


def test_zamba_2_untied_blocks_hold_the_adapters_of_all_uses():
    """Without ties each of four uses of two blocks is built anew: twice two uses' adapters, one of each idle.

    Shared per block, and now there twice: norms 3 * 64, attention 4 * 128 * 128 - 128 * 64, MLP 3 * 64 * 112; the
    head is 96 * 64. A use's adapters are 5 * (64 + 2 * 112) and, for q, k, v, 3 * 5 * 2 * 128.
    """
    raw = {"model_type": "zamba2", "num_hidden_layers": 6, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"vocab_size": 96, "layers_block_type": ["hybrid", "mamba", "hybrid", "mamba", "hybrid", "hybrid"]}
    raw |= {"num_mem_blocks": 2, "use_shared_attention_adapter": True, "adapter_rank": 5, "intermediate_size": 112}
    block = 3 * 64 + 4 * 128 * 128 - 128 * 64 + 3 * 64 * 112
    adapters = 5 * (64 + 2 * 112) + 3 * 5 * 2 * 128
    more = counted(raw | {"tie_word_embeddings": False}) - counted(raw)
    assert 96 * 64 + 2 * block + 4 * adapters == more


def test_zamba_2_names_of_the_authors_fork_are_not_read():
    """The class ignores state_size and takes mamba_d_state: so does the answer, and a note says so."""
    raw = config("Zyphra__Zamba2-7B-Instruct")
    spec = from_config(raw | {"state_size": 128})
    assert spec.layers == from_config(raw).layers
    assert any("state_size (128) and builds 64" in note for note in spec.notes)


def test_nemotron_layers_are_counted_by_list_or_pattern():
    """Ultra has no num_hidden_layers; 12 of its 108 layers attend with 2 KV heads of 128; 48 are Mamba 2."""
    raw = config("nvidia__NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16")
    assert "num_hidden_layers" not in raw
    assert counted(raw) == 549_308_968_960
    assert transformers(raw, 4225) - transformers(raw, 4224) == 12 * 2 * 2 * 128 * 2
    pattern = {"linear_attention": "M", "mamba": "M", "attention": "*", "moe": "E"}
    letters = "".join(pattern[kind] for kind in raw.pop("layers_block_type"))
    assert transformers(raw | {"hybrid_override_pattern": letters}, 4224) == 461_635_584


def test_nemotron_pattern_letters_are_checked():
    """An unknown letter is an error that names the key."""
    with pytest.raises(InvalidInput, match="hybrid_override_pattern"):
        from_config({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"})


def test_granite_without_experts_keeps_its_shared_mlp():
    """granite-4.0-h-1b has num_local_experts 0: dense, 4 of 40 layers attend."""
    raw = config("ibm-granite__granite-4.0-h-1b")
    assert counted(raw) == 1_461_538_368
    assert transformers(raw, 4225) - transformers(raw, 4224) == 4 * 2 * 4 * 128 * 2


def test_olmo_hybrid_defaults_attend_every_fourth_layer():
    """The default class: 8 of 32 layers cache 30 KV heads of 128, 24 a state of 30 x 96 x 192 and 4 columns."""
    raw = {"model_type": "olmo_hybrid"}
    assert counted(raw) == 7_430_870_688
    state = 24 * (30 * 96 * 192 * 4 + (2 * 30 * 96 + 30 * 192) * 4 * 2)
    assert transformers(raw, 130) == 8 * 130 * 2 * 30 * 128 * 2 + state == 71_270_400


@pytest.mark.parametrize("tokens", [1, 2, 3, 4224])
def test_lfm2_convolutions_hold_their_columns_from_the_first_token(tokens):
    """22 convolutions of 2048 channels: 3 columns in the class, 2 in theory; 8 layers cache 8 KV heads of 64."""
    raw = config("LiquidAI__LFM2-2.6B")
    assert transformers(raw, tokens) == 22 * 2048 * 3 * 2 + 8 * tokens * 2 * 8 * 64 * 2
    assert state_bytes(raw, tokens, ideal=True) == 22 * 2048 * 2 * 2


def test_lfm2_cuts_its_mlp_unless_told_not_to():
    """300 becomes 200, rounded up to 256 (class run: 261,120); with block_auto_adjust_ff_dim false it stays 300."""
    raw = {"model_type": "lfm2", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"vocab_size": 96, "num_key_value_heads": 2, "intermediate_size": 300, "full_attn_idxs": [1, 3]}
    assert counted(raw) == 261_120
    assert counted(raw | {"block_auto_adjust_ff_dim": False}) == 261_120 + 4 * 3 * 64 * (300 - 256)
