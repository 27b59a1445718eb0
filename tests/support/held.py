"""What a config caches, in bytes of bf16, for tests of importers."""

from __future__ import annotations

from typing import Any

from kvplan.cache import mixer_parts
from kvplan.costs import held_bytes, hold, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.importers import from_config
from kvplan.weights import active_parameters, count_parameters

__all__ = ["active", "counted", "ideal", "transformers"]


def _held(raw: dict[str, Any], tokens: int, parts: Any) -> int:
    spec = from_config(raw)
    plan = profile(spec, parts).plan
    return sum(held_bytes(group, tokens) for group in hold(plan, resolve_formats(spec, "bf16", "bf16", None, None)))


def ideal(raw: dict[str, Any], tokens: int) -> int:
    """Bytes of one sequence as the mathematics needs them."""
    return _held(raw, tokens, mixer_parts)


def transformers(raw: dict[str, Any], tokens: int) -> int:
    """Bytes of one sequence as the transformers cache returns them."""
    return _held(raw, tokens, parts_of)


def counted(raw: dict[str, Any]) -> int:
    """Parameters of a config."""
    return count_parameters(from_config(raw))


def active(raw: dict[str, Any]) -> int:
    """Parameters that one token visits."""
    return active_parameters(from_config(raw))
