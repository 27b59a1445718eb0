"""A grid: which questions a sweep asks, in which order, and how they are cut into tiles and chunks.

The outer axes (model, scheme, formats, engine, GPU, ranks) make *cells*: one spec and one set of settings each, read by
the same code as a plan's. Contexts and batches are the two array axes inside a cell. Points are numbered with the batch
running fastest, then the context, then the cell; a chunk is a run of points, a tile the part of one cell in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from kvplan.api import shared
from kvplan.catalog import find_gpu
from kvplan.checkpoint import weights_known
from kvplan.settings import Settings, read_settings
from kvplan.specs import ModelSpec
from kvplan.stages import Stage, pipeline
from kvplan.version import __version__

__all__ = ["AXES", "Cell", "Grid", "Tile"]

# outermost first; model, context and batch are held apart
AXES = (
    "scheme",
    "dtype",
    "kv_dtype",
    "cache_type_k",
    "cache_type_v",
    "weight_dtype",
    "engine",
    "gpu",
    "tp",
    "pp",
    "dp",
)


class Tile(NamedTuple):
    """The part of one cell in a chunk: ranges of positions on its context and batch axes."""

    cell: int
    contexts: slice
    batches: slice
    points: int

    @property
    def first(self) -> bool:
        """Whether it holds the cell's first point: what is counted per cell is counted here."""
        return bool(self.contexts.start == 0 and self.batches.start == 0)


class Cell(NamedTuple):
    """One combination of the outer axes, ready to be asked. ``settings`` have a context and a batch of no meaning."""

    spec: ModelSpec
    settings: Settings
    stages: tuple[Stage, ...]
    weights_known: bool
    keys: dict[str, Any]  # the key columns, context and batch apart
    scheme: str | None
    flags: dict[str, Any]  # of read_settings, context, batch and scheme apart


class Grid(NamedTuple):
    """Everything that a sweep was asked; plain data, so that a process or another machine can be told."""

    models: tuple[ModelSpec, ...]
    axes: tuple[tuple[Any, ...], ...]  # in the order of AXES
    fixed: tuple[tuple[str, Any], ...]  # flags that are the same everywhere
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    columns: tuple[str, ...]
    where: str | None
    top: int | None
    by: str | None
    chunk: int  # points

    @property
    def cells(self) -> int:
        """Combinations of the outer axes."""
        return len(self.models) * prod(len(axis) for axis in self.axes)

    @property
    def points(self) -> int:
        """All points, those that cannot be included."""
        return self.cells * len(self.contexts) * len(self.batches)

    @property
    def span(self) -> int:
        """Points of one chunk: whole rows of batches where they fit in."""
        row = len(self.batches)
        return max(self.chunk // row, 1) * row if row <= self.chunk else self.chunk

    @property
    def chunks(self) -> int:
        """Number of chunks; where rows are longer than a chunk, each row is cut on its own."""
        row = len(self.batches)
        if row <= self.chunk:
            return -(-self.points // self.span)
        return self.cells * len(self.contexts) * -(-row // self.chunk)

    def tiles(self, chunk: int) -> Iterator[Tile]:
        """The tiles of one chunk, in the order of their points."""
        rows, row = len(self.contexts), len(self.batches)
        if row > self.chunk:
            line, piece = divmod(chunk, -(-row // self.chunk))
            cell, context = divmod(line, rows)
            batches = slice(piece * self.chunk, min((piece + 1) * self.chunk, row))
            yield Tile(cell, slice(context, context + 1), batches, batches.stop - batches.start)
            return
        line, end = chunk * (self.span // row), min((chunk + 1) * (self.span // row), self.cells * rows)
        while line < end:
            cell, context = divmod(line, rows)
            stop = min(rows, context + end - line)
            yield Tile(cell, slice(context, stop), slice(0, row), (stop - context) * row)
            line += stop - context

    def values(self, cell: int) -> tuple[ModelSpec, dict[str, Any]]:
        """The model of a cell, and its values on the outer axes."""
        picked = {}
        for name, axis in zip(reversed(AXES), reversed(self.axes), strict=True):
            cell, i = divmod(cell, len(axis))
            picked[name] = axis[i]
        return self.models[cell], picked

    def cell(self, number: int) -> Cell:
        """One combination. Raises a KvplanError where it cannot be, as a plan of it would."""
        model, picked = self.values(number)
        scheme = picked.pop("scheme")
        spec = shared(model, scheme) if scheme else model
        flags = {**dict(self.fixed), **{name: value for name, value in picked.items() if value is not None}}
        # no context: an engine's option may set it, and then only some points contradict that
        s = read_settings(spec, scheme=scheme, **flags)
        echoed = dict(s.inputs)
        keys = {
            "model": spec.name,
            "scheme": scheme or "none",
            "dtype": echoed["dtype"],
            "kv_dtype": echoed["kv_dtype"],
            "cache_type_k": s.formats.key.name,
            "cache_type_v": s.formats.value.name,
            "weight_dtype": picked["weight_dtype"] or "auto",
            "engine": s.engine.name,
            "gpu": s.gpu.name if s.gpu else "none",
            "tp": s.tp,
            "pp": s.pp,
            "dp": s.dp,
        }
        known = weights_known(spec, s.formats.compute.name, s.quantization)
        return Cell(spec, s, pipeline(spec, s), known, keys, scheme, flags)

    def bare(self) -> Grid:
        """The same grid with specs that remember nothing: small to send."""
        return self._replace(models=tuple(spec._replace() for spec in self.models))

    def asked(self) -> dict[str, str]:
        """What makes this sweep this one, as text: two sweeps with equal texts give equal rows."""
        said = {name: repr(axis) for name, axis in zip(AXES, self.axes, strict=True)}
        devices = [find_gpu(name) for name in self.axes[AXES.index("gpu")] if name]
        specs = [repr(spec) for spec in self.models]
        return {
            "kvplan": __version__,
            "models": ", ".join(spec.name for spec in self.models),
            **said,
            **{name: repr(value) for name, value in self.fixed},
            "context": _folded(self.contexts),
            "batch": _folded(self.batches),
            "columns": ",".join(self.columns),
            "where": self.where or "",
            "top": f"{self.top} by {self.by}" if self.top else "",
            "chunk": str(self.chunk),
            # a file or a preset of the same name may have changed
            "facts": hashlib.sha256(repr((specs, devices)).encode()).hexdigest(),
        }


def _folded(values: tuple[int, ...]) -> str:
    if len(values) <= 20:
        return ",".join(map(str, values))
    digest = hashlib.sha256(repr(values).encode()).hexdigest()[:16]
    return f"{len(values)} values, {values[0]}..{values[-1]}, {digest}"
