"""What importer tests ask of a spec: what one sequence keeps, in 16 bit, and how many parameters there are."""

from __future__ import annotations

from typing import Any

from kvplan import costs
from kvplan.cache import mixer_parts
from kvplan.engines.transformers import parts_of
from kvplan.importers import from_config
from kvplan.specs import ModelSpec


def kept(raw: dict[str, Any], tokens: int, *, transformers: bool = False) -> int:
    """Bytes that one sequence of ``tokens`` keeps: what the mathematics needs, or what transformers' cache holds."""
    spec = from_config(raw)
    plan = costs.profile(spec, parts_of if transformers else mixer_parts).plan
    formats = costs.resolve_formats(spec, "bf16", "bf16", None, None)
    return sum(costs.held_bytes(held, tokens) for held in costs.hold(plan, formats))


def parameters(raw: dict[str, Any]) -> int:
    """Parameters of the imported spec."""
    return costs.profile(from_config(raw)).parameters


def flops(raw: dict[str, Any], tokens: int) -> int:
    """FLOPs of a prefill with S x S scores and all logits, as a counter over eager matmuls sees them."""
    profile = costs.profile(from_config(raw))
    return costs.prefill_flops(profile, tokens, 1, full=True, all_logits=True).total


def without(raw: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The config with these keys left out."""
    return {key: value for key, value in raw.items() if key not in keys}


def spec_of(raw: dict[str, Any]) -> ModelSpec:
    """The imported spec."""
    return from_config(raw)
