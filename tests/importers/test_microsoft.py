"""Phi and BitNet. Expected numbers: transformers 5.23 on the meta device, published file sizes for remote code."""

import pytest

from kvplan.cache import build_plan
from kvplan.costs import held_bytes, hold, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.errors import InvalidInput
from kvplan.importers import from_config


def test_phi_msft_is_phi_2():
    """The first Phi-2 file (n_embd, n_head …) comes to the 5,559,367,680 bytes of its fp16 weights."""
    raw = {"model_type": "phi-msft", "n_embd": 2560, "n_head": 32, "n_layer": 32, "vocab_size": 51200, "n_inner": None}
    assert 2 * profile(from_config(raw)).parameters == 5_559_367_680


def test_phi3small_holds_every_token():
    """Blocksparse layers read less but cache all; the note says that reads are an upper bound."""
    spec = from_config({"model_type": "phi3small"})
    plan = build_plan(spec)
    assert len(plan.stores) == 32
    assert {store.label for store in plan.stores} == {"global"}
    assert "16 of 32 layers are blocksparse" in spec.notes[0]
    with pytest.raises(InvalidInput, match="ff_dim_multiplier"):
        from_config({"model_type": "phi3small", "ff_intermediate_size": None})


def test_bitnet_null_is_not_missing():
    """num_key_value_heads: missing is 5, null is one per query head (815,299,584 parameters with two layers)."""
    assert build_plan(from_config({"model_type": "bitnet"})).stores[0].parts[0].heads == 5
    spec = from_config({"model_type": "bitnet", "num_key_value_heads": None, "num_hidden_layers": 2})
    assert profile(spec).parameters == 815_299_584


@pytest.mark.parametrize(("tokens", "entries"), [(2045, 2045), (2046, 2046), (2047, 2046), (4224, 2046)])
def test_phi3_window_of_2047(tokens, entries):
    """Phi-3-mini-4k slides all 32 layers at 2,047; the class keeps W - 1 of them: 32 x 2 x 3072 x 2 bytes each."""
    spec = from_config({"model_type": "phi3", "sliding_window": 2047})
    held = hold(profile(spec, parts_of).plan, resolve_formats(spec, "bf16", None, None, None))
    assert sum(held_bytes(part, tokens) for part in held) == entries * 32 * 2 * 3072 * 2


def test_window_of_one_is_kept_whole_by_the_class():
    """[-W + 1:] is [0:] for W = 1: measured 8,650,752 bytes for a two-layer StarCoder 2 after 4,224 tokens."""
    spec = from_config({"model_type": "starcoder2", "sliding_window": 1, "num_hidden_layers": 2})
    held = hold(profile(spec, parts_of).plan, resolve_formats(spec, "bf16", None, None, None))
    assert sum(held_bytes(part, 4224) for part in held) == 8_650_752


def test_phimoe_has_the_published_size():
    """Phi-3.5-MoE: 41.9 billion parameters, 6.6 billion active, biases in attention and logits (README)."""
    made = profile(from_config({"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True}))
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + (4096 + 2 * 1024 + 4096) + 4 * 4096 + 16 * 4096 + 16 * 3 * 4096 * 6400
    assert made.parameters == 2 * 32064 * 4096 + 32064 + 32 * layer + 2 * 4096 == 41_873_153_344
    assert round(made.active_parameters / 1e9, 1) == 6.6
