"""The part of a cache that does not grow, in bytes, for tests of families with a state of fixed size."""

from __future__ import annotations

from typing import Any

from kvplan.costs import held_bytes, hold, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.importers import from_config

__all__ = ["state_bytes"]


def state_bytes(raw: dict[str, Any], tokens: int, *, ideal: bool = False) -> int:
    """Recurrent and convolution state of one sequence in bf16: as the transformers class keeps it, or ideal."""
    spec = from_config(raw)
    plan = (profile(spec) if ideal else profile(spec, parts_of)).plan
    groups = hold(plan, resolve_formats(spec, "bf16", "bf16", None, None))
    return sum(held_bytes(group, tokens) for group in groups if group.is_state)
