"""GPT-Neo, GPT-J and GPT-NeoX. Expected numbers: transformers 5.23 on the meta device."""

import pytest

from kvplan.costs import profile
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import kept


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


@pytest.mark.parametrize(
    ("changes", "local"),
    [
        ({}, [1, 3]),
        ({"attention_types": [[["global"], 1], [["local"], 3]]}, [1, 2, 3]),
        # what the class makes of attention_types is saved beside it, and wins over it when read back
        ({"attention_types": [[["global"], 4]], "attention_layers": ["local"] + ["global"] * 3}, [0]),
    ],
)
def test_neo_lists_its_local_layers(changes, local):
    """Local layers see 256 tokens; the class caches all of them all the same."""
    raw = {"model_type": "gpt_neo", "num_layers": 4, "attention_types": [[["global", "local"], 2]], **changes}
    windows = [layer.mixers[0].window for layer in from_config(raw).layers]
    assert [i for i, window in enumerate(windows) if window == 256] == local
    assert kept(raw, 1000, transformers=True) == 4 * 1000 * 2 * 2048 * 2


@pytest.mark.parametrize(
    "types", [[[["global"], 3]], [["global", 4]], "global", [[["sparse"], 4]], [[["local"], 10**9]]]
)
def test_neo_types_must_make_the_layers(types):
    """One line that says what the list should be."""
    with pytest.raises(InvalidInput, match=r"attention_types.*4 layers"):
        from_config({"model_type": "gpt_neo", "num_layers": 4, "attention_types": types})


def test_neox_japanese_has_one_bias():
    """Behind the attention of the last layer: 64 elements (sum of the class's tensors)."""
    base = {"model_type": "gpt_neox_japanese", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
    layer = 12 * 64 * 64 + 4 * 64
    assert profile(from_config({**base, "num_hidden_layers": 3})).parameters == 3 * layer + 64 + 100 * 64 + 2 * 64
