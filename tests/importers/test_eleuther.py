"""GPT-J and GPT-NeoX. Expected numbers: transformers 5.23 on the meta device."""

from kvplan.costs import profile
from kvplan.importers import from_config


def test_gptj_defaults_are_the_6b():
    """GPT-J's logits carry a bias: 50,400 elements that no other classic decoder has."""
    spec = from_config({"model_type": "gptj"})
    assert spec.head_bias
    assert profile(spec).parameters == 6_050_882_784


def test_neox_bias_can_be_switched_off():
    """attention_bias takes 3 * hidden + hidden elements away from each layer and nothing else."""
    base = {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    with_bias = profile(from_config(base)).parameters
    without = profile(from_config({**base, "attention_bias": False})).parameters
    assert with_bias - without == 3 * 4 * 64
