"""SantaCoder, StarCoder, StarCoder 2. Expected numbers: transformers 5.23 on the meta device."""

from kvplan.cache import build_plan
from kvplan.costs import profile
from kvplan.importers import from_config


def test_multi_query_is_the_default():
    """A file that says nothing shares one key and value: 111,446,784 parameters, not GPT-2's 124,439,808."""
    spec = from_config({"model_type": "gpt_bigcode"})
    assert profile(spec).parameters == 111_446_784
    assert build_plan(spec).stores[0].parts[0].heads == 1


def test_multi_head_when_told():
    """multi_query false gives every head its own key and value."""
    spec = from_config({"model_type": "gpt_bigcode", "multi_query": False})
    assert build_plan(spec).stores[0].parts[0].heads == 12


def test_starcoder2_window_holds_for_all_layers():
    """The class has no pattern: a sliding_window slides every layer, null slides none."""
    spec = from_config({"model_type": "starcoder2", "sliding_window": 4096})
    assert {read.growth.limit for read in build_plan(spec).reads} == {4096}
    spec = from_config({"model_type": "starcoder2", "sliding_window": None})
    assert {read.growth.kind for read in build_plan(spec).reads} == {"full"}
