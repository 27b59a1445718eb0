"""BLT is refused in one line that says why."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import spec_of


def test_patches_are_no_tokens() -> None:
    """Its cache is no function of the context."""
    with pytest.raises(InvalidInput, match="model_type: got 'blt', allowed: a model whose cache follows from"):
        spec_of({"model_type": "blt"})
