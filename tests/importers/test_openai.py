"""GPT-2. Expected numbers: transformers 5.23 on the meta device, or sums of the class's tensor shapes."""

import pytest

from kvplan.costs import profile
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import kept


def test_defaults_are_gpt2_small():
    """An empty file is the 124M model: every default is the class's."""
    assert profile(from_config({"model_type": "gpt2"})).parameters == 124_439_808


def test_both_names_of_a_key_are_read_and_must_agree():
    """n_layer and num_hidden_layers are one fact; two values for it are an error, not a choice."""
    spec = from_config({"model_type": "gpt2", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4})
    assert (len(spec.layers), spec.hidden) == (2, 64)
    with pytest.raises(InvalidInput, match="num_hidden_layers"):
        from_config({"model_type": "gpt2", "n_layer": 2, "num_hidden_layers": 3})


def test_grouped_heads_are_not_built():
    """The class knows no grouped queries: a file that asks for them is counted as it builds it, and a note says so."""
    spec = from_config({"model_type": "gpt2", "num_key_value_heads": 4})
    assert spec.layers == from_config({"model_type": "gpt2"}).layers
    assert any("num_key_value_heads (4) and builds 12" in note for note in spec.notes)


def test_the_first_gpt_has_no_cache():
    """GPT (117M; 116,534,784 by its class): keys and values in mathematics, nothing in the class, and a note."""
    raw = {"model_type": "openai-gpt"}
    assert profile(from_config(raw)).parameters == 116_534_784
    assert (kept(raw, 40), kept(raw, 40, transformers=True)) == (12 * 40 * 2 * 768 * 2, 0)
    assert any("returns no cache" in note for note in from_config(raw).notes)
