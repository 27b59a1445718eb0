"""OLMo. Expected numbers: transformers 5.23 on the meta device."""

import pytest

from kvplan.cache import build_plan
from kvplan.costs import profile
from kvplan.errors import InvalidInput
from kvplan.importers import from_config


def test_olmo_norms_have_no_parameters():
    """OLMo-1B with 2,048 hidden: 16 x (4 d^2 + 3 d f) + two tables, and nothing else."""
    raw = {
        "model_type": "olmo",
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "intermediate_size": 8192,
    }
    layer = 4 * 2048**2 + 3 * 2048 * 8192
    assert profile(from_config(raw)).parameters == 16 * layer + 2 * 50304 * 2048 == 1_279_787_008


def test_olmo3_last_of_each_four_is_full_and_olmo2_never_slides():
    """OLMo 3's pattern is a class default; OLMo 2 has none."""
    raw = {"num_hidden_layers": 6, "hidden_size": 64, "num_attention_heads": 4}
    kinds = [read.growth.kind for read in build_plan(from_config({"model_type": "olmo3", **raw})).reads]
    assert kinds == ["window", "window", "window", "full", "window", "window"]
    assert {read.growth.kind for read in build_plan(from_config({"model_type": "olmo2", **raw})).reads} == {"full"}


def test_olmoe_has_the_published_size():
    """OLMoE-1B-7B: 6.9 billion parameters, 1.3 billion active (arXiv 2409.02060); the class's default is wider."""
    raw = {"model_type": "olmoe", "intermediate_size": 1024}
    layer = 4 * 2048**2 + 4 * 2048 + 64 * 2048 + 64 * 3 * 2048 * 1024
    total = 2 * 50304 * 2048 + 16 * layer + 2048
    made = profile(from_config(raw))
    assert made.parameters == total
    assert made.active_parameters == total - 16 * 56 * 3 * 2048 * 1024
    assert (total // 10**8, made.active_parameters // 10**8) == (69, 12)


def test_olmoe_norms_fix_the_head_dim():
    """The class norms hidden / heads per head; with any other head_dim it does not run."""
    with pytest.raises(InvalidInput, match=r"head_dim: got 64, allowed: hidden_size / num_attention_heads \(128\)"):
        from_config({"model_type": "olmoe", "head_dim": 64})


def test_flex_olmo_holds_seven_whole_models():
    """FlexOlmo-7x7B-1T is the class's default: 33.27 billion by the shapes of its layers."""
    layer = 4 * 4096**2 + 4 * 4096 + 7 * 4096 + 7 * 3 * 4096 * 11008
    made = profile(from_config({"model_type": "flex_olmo"}))
    assert made.parameters == 2 * 100352 * 4096 + 32 * layer + 4096 == 33_270_665_216
