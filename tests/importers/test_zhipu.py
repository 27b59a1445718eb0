"""GLM's traps. The remote code's totals are the authors'; the rest is what transformers 5.23 said."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of
from tests.support import config


def test_chatglm_caches_groups_not_heads() -> None:
    """multi_query_attention with 2 groups: 2 of 32 heads are cached, in each of 28 layers."""
    raw = config("THUDM__chatglm3-6b")

    assert parameters(raw) == 6_243_584_000
    assert kept(raw, 8192) == 28 * 8192 * 2 * 2 * 128 * 2
    assert kept(raw | {"multi_query_attention": False}, 8192) == 28 * 8192 * 2 * 32 * 128 * 2


def test_remote_and_transformers_glm4_are_one_model() -> None:
    """GLM-4 9B in both shapes has 9,399,951,360 parameters and the same cache."""
    remote, ours = config("THUDM__glm-4-9b"), config("THUDM__glm-4-9b-chat-hf")

    assert parameters(remote) == parameters(ours) == 9_399_951_360
    assert kept(remote, 4224) == kept(ours, 4224) == 173_015_040


def test_glm4_adds_two_norms_a_layer() -> None:
    """GLM-4-0414 norms after attention and MLP too."""
    raw = config("THUDM__glm-4-9b-chat-hf")

    assert parameters(raw | {"model_type": "glm4"}) - parameters(raw) == 40 * 2 * 4096


def test_groups_must_divide_heads() -> None:
    """Three groups cannot serve 32 heads."""
    with pytest.raises(InvalidInput, match="multi_query_group_num"):
        spec_of(config("THUDM__chatglm3-6b") | {"multi_query_group_num": 3})
