"""gpt-oss: alternating windows of 128, from GptOssForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.importers import from_config
from kvplan.specs import Attention
from tests.support import config
from tests.support.held import counted, ideal, transformers


def five_layers() -> dict[str, Any]:
    raw = config("openai__gpt-oss-20b") | {"num_hidden_layers": 5, "num_local_experts": 6}
    del raw["layer_types"], raw["quantization_config"]
    return raw


def test_parameters_of_five_layers() -> None:
    """Sinks, router, expert and projection biases all count; the class gives this number."""
    assert counted(five_layers()) == 2037890910


# three sliding layers, two full, an entry is 2 x 8 x 64 x 2 = 2048 bytes: at 129 tokens 3 x 127 + 2 x 129 entries
@pytest.mark.parametrize(
    ("tokens", "size"), [(126, 1290240), (127, 1300480), (128, 1304576), (129, 1308672), (200, 1599488)]
)
def test_a_sliding_layer_keeps_one_entry_less_than_its_window(tokens: int, size: int) -> None:
    """What the class's cache returned after a prefill of so many tokens."""
    assert transformers(five_layers(), tokens) == size


def test_the_method_needs_the_whole_window() -> None:
    """Engine ideal holds min(S, 128) entries in the three sliding layers and S in the two full ones."""
    assert ideal(five_layers(), 200) == (3 * 128 + 2 * 200) * 2048


def test_the_first_layer_slides_where_layer_types_is_missing() -> None:
    """The configuration class derives sliding, full, sliding ... from an absent layer_types."""
    windows = [
        mixer.window
        for layer in from_config(five_layers()).layers
        for mixer in layer.mixers
        if isinstance(mixer, Attention)
    ]
    assert windows == [128, None, 128, None, 128]
