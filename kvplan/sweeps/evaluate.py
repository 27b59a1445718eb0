"""One chunk of a grid: its cells evaluated, filtered, and gathered into typed columns."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from kvplan.catalog import find_gpu
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.formats import find_format
from kvplan.sweeps.columns import COLUMNS, KEYS, Words, buffer
from kvplan.sweeps.grid import AXES, Cell, Grid, Tile
from kvplan.sweeps.points import asked
from kvplan.sweeps.surface import Surface, suits
from kvplan.sweeps.where import Filter, condition, one_of

__all__ = ["Chunk", "Skips", "best", "condition_of", "evaluate"]

Array = Any


class Skips(NamedTuple):
    """What could not be asked: reason -> combinations of the outer axes, and points."""

    cells: Counter[str]
    points: Counter[str]

    def add(self, other: Skips) -> None:
        """Counts another chunk's too."""
        self.cells.update(other.cells)
        self.points.update(other.points)


class Chunk(NamedTuple):
    """Rows of one chunk: columns in their order, as ``columns.buffer`` types them; text as Words of codes."""

    columns: dict[str, Any]
    rows: int
    skips: Skips


def condition_of(grid: Grid) -> Filter | None:
    """The grid's condition, its quoted names checked against what the grid can hold."""
    if grid.where is None:
        return None
    axis = dict(zip(AXES, grid.axes, strict=True))

    def format_name(word: str) -> str:
        # K and V that differ are written k=...,v=...
        return word if "=" in word.split(":")[0] else find_format(word, "where").name

    def of_gpu(word: str) -> str:
        return word if word == "none" else find_gpu(word).name

    sides = ("compute", "memory", "link")
    return condition(
        grid.where,
        {
            "model": one_of("model", tuple(spec.name for spec in grid.models)),
            "scheme": one_of("scheme", tuple(scheme or "none" for scheme in axis["scheme"])),
            "engine": one_of("engine", tuple((name or "ideal").lower() for name in axis["engine"])),
            "gpu": of_gpu,
            "weight_dtype": one_of("weight_dtype", tuple(name or "auto" for name in axis["weight_dtype"])),
            **dict.fromkeys(("dtype", "kv_dtype", "cache_type_k", "cache_type_v"), format_name),
            "prefill_bound": one_of("prefill_bound", sides),
            "decode_bound": one_of("decode_bound", sides),
        },
    )


# What is derived from a spec is remembered on it, and threads of one process share specs.
_preparing = threading.Lock()


def evaluate(grid: Grid, chunk: int) -> Chunk:
    """The rows of one chunk. Raises UnknownName; a combination that cannot be is counted in ``skips``."""
    filter_ = condition_of(grid)
    skips = Skips(Counter(), Counter())
    gathered = _Gathered(grid.columns, sum(tile.points for tile in grid.tiles(chunk)))
    for tile in grid.tiles(chunk):
        try:
            with _preparing:
                cell = grid.cell(tile.cell)
        except UnknownName:
            raise
        except KvplanError as e:
            skips.cells[str(e)] += tile.first
            skips.points[str(e)] += tile.points
            continue
        _fill(gathered, grid, tile, cell, filter_, skips)
    found = Chunk(gathered.columns(), gathered.rows, skips)
    return best(grid, [found]) if grid.top else found


def _fill(gathered: _Gathered, grid: Grid, tile: Tile, cell: Cell, filter_: Filter | None, skips: Skips) -> None:
    contexts, batches = grid.contexts[tile.contexts], grid.batches[tile.batches]
    if suits(cell):
        surface = Surface(cell, np.array(contexts, dtype="f8"), np.array(batches, dtype="f8"))
        with _preparing:
            exact = surface.exact()
        if exact:
            gathered.surface(surface, cell, filter_)
            return
    with _preparing:
        gathered.points(asked(cell, contexts, batches, grid.columns), filter_, skips)


class _Gathered:
    """Columns being filled, block by block."""

    def __init__(self, names: tuple[str, ...], room: int) -> None:
        self.names, self.rows = names, 0
        self.buffers = {name: buffer(COLUMNS[name], room) for name in names}
        self.words: dict[str, dict[str, int]] = {name: {} for name in names if COLUMNS[name].kind == "text"}

    def columns(self) -> dict[str, Any]:
        """What was filled."""
        filled = {name: values[: self.rows] for name, values in self.buffers.items()}
        return {
            name: Words(values, tuple(self.words[name])) if name in self.words else values
            for name, values in filled.items()
        }

    def surface(self, surface: Surface, cell: Cell, filter_: Filter | None) -> None:
        """Adds the rows of one tile that a filter keeps."""
        start = self.rows
        down, across = surface.shape
        whole = {
            name: values[start : start + down * across].reshape(down, across) for name, values in self.buffers.items()
        }
        once: set[str] = set()
        for rows, columns, block in surface.blocks():
            if filter_ is None:
                for name in self.names:
                    if name not in once:
                        value = _value(block, cell, name)
                        if _constant(value):  # one value for the tile: no need to come back
                            once.add(name)
                            self._put(name, whole[name], value)
                        else:
                            self._put(name, whole[name][rows, columns], value)
                self.rows += block.shape[0] * block.shape[1]
                continue
            kept = filter_.keeps({name: _value(block, cell, name) for name in filter_.columns})
            kept = np.broadcast_to(kept, block.shape)
            count = int(np.count_nonzero(kept))
            if not count:
                continue
            for name in self.names:
                value = _value(block, cell, name)
                place = self.buffers[name][self.rows : self.rows + count]
                self._put(name, place, value if _constant(value) else _picked(value, kept))
            self.rows += count

    def points(self, points: Iterable[tuple[int, int, Any]], filter_: Filter | None, skips: Skips) -> None:
        """Adds points that were asked one by one."""
        refused: set[str] = set()
        for _, _, point in points:
            if isinstance(point, KvplanError):
                if isinstance(point, UnknownName):
                    raise point
                reason = str(point)
                skips.cells[reason] += reason not in refused
                skips.points[reason] += 1
                refused.add(reason)
                continue
            if filter_ is not None and not bool(filter_.keeps(_Lone(point))):
                continue
            for name in self.names:
                value = point[name]
                lone = Words(0, (value,)) if isinstance(value, str) else value
                self._put(name, self.buffers[name][self.rows : self.rows + 1], lone)
            self.rows += 1

    def _put(self, name: str, place: Array, value: Any) -> None:
        kind = COLUMNS[name].kind
        if kind == "text":
            if value is None:
                place[...] = -1
                return
            known = self.words[name]
            codes = np.array([known.setdefault(word, len(known)) for word in value.words] or [0], dtype="i4")
            place[...] = codes[np.asarray(value.codes, dtype="i4")]
        elif value is None:
            place[...] = -1 if kind == "truth" else np.nan
        else:
            np.copyto(place, value, casting="unsafe")


class _Lone(Mapping[str, Any]):
    """One point as the columns that a filter looks at."""

    def __init__(self, point: dict[str, Any]) -> None:
        self.point = point

    def __getitem__(self, name: str) -> Any:
        value = self.point[name]
        return Words(np.int32(0), (value,)) if isinstance(value, str) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.point)

    def __len__(self) -> int:
        return len(self.point)


def _value(block: Surface, cell: Cell, name: str) -> Any:
    if name in KEYS and name not in ("context", "batch"):
        value = cell.keys[name]
        return Words(np.int32(0), (value,)) if isinstance(value, str) else value
    return getattr(block, name)


def _constant(value: Any) -> bool:
    array = value.codes if isinstance(value, Words) else value
    return np.ndim(array) == 0


def _picked(value: Any, kept: Array) -> Any:
    if isinstance(value, Words):
        return Words(np.broadcast_to(value.codes, kept.shape)[kept], value.words)
    return np.broadcast_to(value, kept.shape)[kept]


def best(grid: Grid, chunks: Iterable[Chunk]) -> Chunk:
    """The rows that ``top`` keeps of several chunks, the best first; rows without a value are none of them."""
    assert grid.top is not None
    assert grid.by is not None
    name, _, order = grid.by.partition(":")
    names = grid.columns  # the one that ranks is among them
    skips = Skips(Counter(), Counter())
    held: dict[str, Any] | None = None
    for chunk in chunks:
        skips.add(chunk.skips)
        both = chunk.columns if held is None else {n: _joined(held[n], chunk.columns[n]) for n in names}
        values = both[name].astype("f8")
        # stable, so that equal rows keep the grid's order
        ranked = np.argsort(values if order == "asc" else -values, kind="stable")
        ranked = ranked[~np.isnan(values[ranked])][: grid.top]
        held = {n: _taken(both[n], ranked) for n in names}
    if held is None:
        raise InvalidInput("top", grid.top, "a grid with at least one chunk")
    return Chunk(held, len(held[name]), skips)


def _joined(a: Any, b: Any) -> Any:
    if not isinstance(a, Words):
        return np.concatenate([a, b])
    words = tuple(dict.fromkeys([*a.words, *b.words]))
    places = np.array([*(words.index(word) for word in b.words), -1], dtype="i4")  # the last one is for -1
    return Words(np.concatenate([a.codes, places[b.codes]]), words)


def _taken(values: Any, rows: Array) -> Any:
    return Words(values.codes[rows], values.words) if isinstance(values, Words) else values[rows]
