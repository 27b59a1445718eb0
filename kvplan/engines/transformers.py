"""Hugging Face transformers 5.23: ``DynamicCache``, read from ``cache_utils.py`` of that version."""

from __future__ import annotations

from kvplan.cache import mixer_parts
from kvplan.engines import Engine
from kvplan.specs import FULL, Attention, Compressed, Growth, Latent, Mixer, Part, Recurrent

__all__ = ["ENGINE", "parts_of"]


def parts_of(mixer: Mixer) -> tuple[Part, ...]:
    """The tensors the class caches for one mixer.

    A sliding or chunked layer returns window - 1 entries; a convolution keeps ``kernel`` columns, not kernel - 1;
    some classes cache something else than the method needs (expanded MLA heads), and say so in the spec.
    """
    if isinstance(mixer, Compressed):
        return _compressed(mixer)
    if isinstance(mixer, (Attention, Latent, Recurrent)) and mixer.transformers_parts is not None:
        return mixer.transformers_parts
    parts = mixer_parts(mixer)
    if isinstance(mixer, Recurrent):
        return tuple(p._replace(width=p.width + 1) if p.name.startswith("conv") else p for p in parts)
    if isinstance(mixer, (Attention, Latent)) and mixer.indexer is not None and mixer.indexer.pooled:
        # the class keeps the key of every token, and pools them anew at every step
        parts = tuple(p._replace(growth=FULL) if p.name == "index" else p for p in parts if p.name != "index_open")
    if isinstance(mixer, Attention) and mixer.expanded:
        parts = tuple(p._replace(heads=mixer.heads) if p.name in ("key", "value") else p for p in parts)
    if isinstance(mixer, Attention) and mixer.transformers_keeps_all:
        return tuple(p._replace(growth=FULL) for p in parts)
    return tuple(p._replace(growth=_keeps(p.growth)) for p in parts)


def _compressed(m: Compressed) -> tuple[Part, ...]:
    """DeepseekV4HCACache and DeepseekV4CSACache: the buffer of the open group, not one of fixed size.

    A layer without a compressor is an ordinary sliding layer: its one vector is cached twice, as key and as value.
    """
    if not m.ratio:
        growth = _keeps(Growth("window", m.window))
        return Part("key", 1, m.dim, "latent", growth, "none"), Part("value", 1, m.dim, "latent", growth, "none")
    parts = []
    for part in mixer_parts(m):
        if part.growth.kind != "constant":
            parts.append(part._replace(growth=_keeps(part.growth)))
            continue
        dim = m.indexer.dim if m.indexer is not None and part.name == "index_compressor" else m.dim
        series = 2 if m.overlap else 1
        parts.append(part._replace(width=2 * series * dim, growth=Growth("remainder", m.ratio)))
        if m.overlap:
            parts.append(
                part._replace(name=f"{part.name}_overlap", width=2 * dim, growth=Growth("last_group", m.ratio))
            )
    return tuple(parts)


def _keeps(growth: Growth) -> Growth:
    if growth.kind not in ("window", "chunk"):
        return growth
    # the class slices [-limit + 1:], and [0:] of a window of one keeps everything
    return Growth("window_transformers", growth.limit) if growth.limit > 1 else FULL


ENGINE = Engine(
    name="transformers",
    version="5.23.0",
    summary="DynamicCache after a prefill: W - 1 entries in a sliding layer, convolution states of K columns",
    utilization=1.0,
    source="transformers 5.23.0, cache_utils.py",
    parts_of=parts_of,
    one_shot_prefill=True,
    prefill_storage=True,
)
