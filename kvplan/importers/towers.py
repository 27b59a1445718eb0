"""Parameters of what stands beside a decoder: vision and audio towers, projectors."""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.specs import Tower

__all__ = ["towers"]


def towers(c: Config, *, counted: bool) -> tuple[Tower, ...]:
    """The towers of an outer config, found by its ``model_type``; ``counted`` says whether the class's count holds them."""
    return ()
