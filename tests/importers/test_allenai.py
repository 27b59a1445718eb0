"""OLMo. Expected numbers: transformers 5.23 on the meta device."""

from kvplan.cache import build_plan
from kvplan.costs import profile
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
