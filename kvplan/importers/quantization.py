"""How a checkpoint stores its weights, from ``quantization_config`` (or ``compression_config``)."""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.specs import Quantization

__all__ = ["read_quantization"]


def read_quantization(config: Config) -> tuple[Quantization | None, str | None]:
    """The weight formats of a config and the KV dtype it states; (None, None) where it states neither."""
    return None, None
