"""Llama and Code World Model. Expected numbers: transformers 5.23 on the meta device."""

from kvplan.cache import build_plan
from kvplan.costs import profile
from kvplan.importers import from_config


def test_cwm_first_of_each_four_is_full():
    """CWM counts from zero: layers 0, 4, 8 … see everything, the others 8,192 tokens."""
    plan = build_plan(from_config({"model_type": "cwm", "num_hidden_layers": 6}))
    assert [read.growth.kind for read in plan.reads] == ["full", "window", "window", "window", "full", "window"]
    assert {read.growth.limit for read in plan.reads} == {0, 8192}


def test_cwm_defaults():
    """An empty file is the published 32B: 32,581,097,472 parameters."""
    assert profile(from_config({"model_type": "cwm"})).parameters == 32_581_097_472
