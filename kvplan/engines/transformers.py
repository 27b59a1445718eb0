"""Hugging Face transformers 5.23: ``DynamicCache``, read from ``cache_utils.py`` of that version."""

from __future__ import annotations

from kvplan.cache import mixer_parts
from kvplan.specs import Attention, Growth, Mixer, Part, Recurrent

__all__ = ["VERSION", "parts_of"]

VERSION = "5.23.0"


def parts_of(mixer: Mixer) -> tuple[Part, ...]:
    """The tensors the class caches for one mixer.

    A sliding or chunked layer returns window - 1 entries; a convolution keeps ``kernel`` columns, not kernel - 1;
    some classes cache something else than the method needs (expanded MLA heads), and say so in the spec.
    """
    if not isinstance(mixer, Attention) and mixer.transformers_parts is not None:
        return mixer.transformers_parts
    parts = mixer_parts(mixer)
    if isinstance(mixer, Recurrent):
        return tuple(p._replace(width=p.width + 1) if p.name.startswith("conv") else p for p in parts)
    return tuple(p._replace(growth=_keeps(p.growth)) for p in parts)


def _keeps(growth: Growth) -> Growth:
    return Growth("window_transformers", growth.limit) if growth.kind in ("window", "chunk") else growth
