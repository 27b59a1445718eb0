"""CodeGen and CTRL."""

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import parameters, spec_of


def test_ctrl_is_the_published_1_63b() -> None:
    """48 layers of 1,280 over 246,534 tied tokens; arXiv 1909.05858 says 1.63 billion."""
    h, d = 1280, 8192
    layer = 4 * (h * h + h) + 2 * h * d + d + h + 4 * h
    assert parameters({"model_type": "ctrl"}) == 48 * layer + 246_534 * (h + 1) + 2 * h
    assert parameters({"model_type": "ctrl"}) // 10**7 == 163


def test_codegen_heads_come_in_fours() -> None:
    """The class cuts its fused matrix four ways and fails on six heads."""
    with pytest.raises(InvalidInput, match=r"n_head.*multiple of 4"):
        spec_of({"model_type": "codegen", "n_head": 6, "n_embd": 96})
