"""Laws that every mixture of experts keeps."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.support import config
from tests.support.held import active, counted


def test_a_token_visits_all_but_the_idle_experts() -> None:
    """active_parameters is all less the routed experts a token does not visit."""
    raw = config("mistralai__Mixtral-8x7B-Instruct-v0.1")
    # 32 layers x (8 - 2) idle experts x three matrices of 4096 x 14336
    assert counted(raw) - active(raw) == 32 * 6 * 3 * 4096 * 14336


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen__Qwen3-30B-A3B-Base", 3.3),
        ("Qwen__Qwen3-235B-A22B-Instruct-2507", 22),
        ("meta-llama__Llama-4-Scout-17B-16E-Instruct", 17),
        ("tencent__Hunyuan-A13B-Instruct", 13),
        ("XiaomiMiMo__MiMo-V2-Flash", 15),
    ],
)
def test_active_parameters_match_the_name(name: str, billions: float) -> None:
    """The publisher's rounded figure of activated parameters, within its rounding."""
    assert active(config(name)) / 1e9 == pytest.approx(billions, rel=0.035)


def test_more_active_experts_than_experts_is_an_error() -> None:
    """A token cannot visit more experts than there are."""
    raw = config("openai__gpt-oss-20b") | {"num_experts_per_tok": 33}
    with pytest.raises(InvalidInput, match="num_experts_per_tok: got 33, allowed: at most the number of experts"):
        from_config(raw)


def test_two_names_that_disagree_are_an_error() -> None:
    """num_experts and num_local_experts name one number; two values for it are no number."""
    raw = config("Qwen__Qwen3-30B-A3B-Base") | {"num_local_experts": 64}
    with pytest.raises(InvalidInput, match="num_local_experts"):
        from_config(raw)


def test_experts_counted_under_the_other_name() -> None:
    """Qwen3MoeForCausalLM of transformers 5.23 reads num_local_experts too: 16 experts, head_dim 64."""
    raw = config("Qwen__Qwen3-30B-A3B-Base") | {"num_hidden_layers": 7, "vocab_size": 1000, "num_local_experts": 16}
    del raw["num_experts"], raw["head_dim"]
    assert counted(raw) == 598899584
