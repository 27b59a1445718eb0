"""Models whose memory does not grow. Literals are what transformers 5.23 classes held and counted when run."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.support import config
from tests.support.held import counted, ideal, transformers
from tests.support.recurrent import state_bytes

SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "vocab_size": 96}


def test_mamba_keeps_an_fp32_state_and_kernel_columns_in_the_class_one_less_in_theory():
    """Per layer and channel: 16 state elements of 4 bytes, 4 (ideal 3) convolution columns of 2 bytes."""
    raw = config("state-spaces__mamba-130m-hf")
    assert transformers(raw, 4224) == 24 * 1536 * (16 * 4 + 4 * 2) == 2_654_208
    assert ideal(raw, 4224) == 24 * 1536 * (16 * 4 + 3 * 2)
    assert transformers(raw, 1) == transformers(raw, 10**6)


def test_intermediate_size_beats_expand():
    """falcon-mamba-7b says expand 16 and hidden 4096 but is 8192 wide; the class takes the number from the file."""
    raw = config("tiiuae__falcon-mamba-7b")
    assert counted(raw) == 7_272_665_088
    assert state_bytes(raw, 100, ideal=True) == 64 * 8192 * (16 * 4 + 3 * 2)


def test_mamba_2_convolves_x_b_and_c_together():
    """Channels of the convolution are inner + 2 * groups * state, the state is inner * state in fp32."""
    raw = {"model_type": "mamba2", **SMALL, "num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16}
    assert counted(raw) == 103_432
    assert transformers(raw, 5) == 3 * ((128 + 2 * 2 * 16) * 4 * 2 + 128 * 16 * 4) == 29_184


def test_mamba_2_heads_must_fill_the_inner_width():
    """The class refuses heads that do not make expand * hidden_size; so does the importer, naming the field."""
    with pytest.raises(InvalidInput, match="num_heads"):
        counted({"model_type": "mamba2", **SMALL, "num_heads": 8, "head_dim": 8})


def test_xlstm_state_has_the_dtype_of_the_activations():
    """The default class (7B) keeps C, n and m of 8 heads in bf16: 256 * 512 + 256 + 1 elements per head."""
    raw = {"model_type": "xlstm"}
    assert counted(raw) == 6_865_424_896
    assert transformers(raw, 130) == 32 * 8 * (256 * 512 + 256 + 1) * 2 == 67_240_448


@pytest.mark.parametrize(("tokens", "entries"), [(5, 5), (6, 6), (7, 6), (8, 6), (20, 6)])
def test_recurrent_gemma_attends_locally_and_keeps_its_state_in_modules(tokens, entries):
    """Window 7 keeps 6 in the class; 4 of 5 layers hold kernel - 1 columns and one fp32 number per channel."""
    raw = {"model_type": "recurrent_gemma", "num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"num_key_value_heads": 1, "attention_window_size": 7, "vocab_size": 96, "intermediate_size": 96}
    assert counted(raw) == 124_192
    # layers 0 1 (2 attention) 3 4: 64 channels * (3 columns * 2 bytes + 4); one KV head of 16, keys and values
    assert transformers(raw, tokens) == 4 * 64 * (3 * 2 + 4) + entries * 2 * 16 * 2
    assert ideal(raw, tokens) == 4 * 64 * (3 * 2 + 4) + min(tokens, 7) * 2 * 16 * 2


def test_rwkv_state_is_a_matrix_per_head_and_two_shifted_tokens():
    """24 layers: 32 heads of 64 x 64 in fp32 and two vectors of 2048 in bf16, whatever the context."""
    expected = 24 * (32 * 64 * 64 * 4 + 2 * 2048 * 2)
    for name in ("RWKV__rwkv-6-world-1b6", "RWKV__RWKV7-Goose-World3-1.5B-HF"):
        assert transformers(config(name), 1) == ideal(config(name), 10**6) == expected


def test_rwkv_7_counts_what_its_authors_publish():
    """World3-1.5B: 24 blocks of 52,203,520, 23 value residuals of 264,192, 65536 x 2048 twice and two norms."""
    expected = 24 * 52_203_520 + 23 * 264_192 + 2 * 65536 * 2048 + 2 * 4096
    assert counted(config("RWKV__RWKV7-Goose-World3-1.5B-HF")) == expected == 1_527_404_544
