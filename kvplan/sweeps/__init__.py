"""``kvplan.sweep``: a grid of questions, answered by the formulas of a plan on arrays, streamed in chunks (extra ``sweep``).

The package is called sweeps because ``kvplan.sweep`` is the function.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvplan.errors import InvalidInput, MissingExtra, UnknownName

try:
    import numpy as np
except ModuleNotFoundError:
    raise MissingExtra("kvplan.sweep", "sweep") from None

from kvplan.api import described, known_flags
from kvplan.catalog import find_gpu
from kvplan.engines import find_engine
from kvplan.formats import find_format
from kvplan.specs import ModelSpec
from kvplan.sweeps.columns import COLUMNS, Words, chosen, known
from kvplan.sweeps.evaluate import Chunk, Skips, best, condition_of
from kvplan.sweeps.grid import AXES, Grid
from kvplan.sweeps.progress import Progress
from kvplan.sweeps.ranges import counts, names
from kvplan.sweeps.run import Result, results

__all__ = ["COLUMNS", "Sweep", "sweep"]

CHUNK = 2**18  # points: 2 MiB a column
COUNTED = ("tp", "pp", "dp")


def sweep(
    models: Any = None,
    *,
    context: Any = "1k..1M",
    batch: Any = 1,
    columns: str | Sequence[str] | None = None,
    where: str | None = None,
    top: int | None = None,
    by: str | None = None,
    output: str | Path | None = None,
    scheduler: str | None = None,
    strict: bool = False,
    progress: bool = False,
    chunk: int = CHUNK,
    **axes: Any,
) -> Sweep:
    """Every combination of models, schemes, formats, engines, GPUs, ranks, contexts and batches, as columns.

    ``models`` is anything that ``load`` takes, or a list of it. ``context, batch, tp, pp, dp`` are ranges (``1k..1M``
    powers of two, ``1k..64k:4k`` steps, lists); ``scheme, dtype, kv_dtype, cache_type_k, cache_type_v, weight_dtype,
    engine, gpu`` are names, lists of them, or text with commas. Every other keyword is a flag of ``plan`` and the same
    everywhere. ``columns`` are names of ``COLUMNS`` (the axes that vary always come first), ``where`` a condition on
    them, ``top`` and ``by`` keep the rows with the largest value of a column (``by="kv_bytes:asc"``: the smallest).

    With ``output`` the rows are written at once (.parquet, .csv, .jsonl), and a run that was killed goes on;
    ``scheduler`` is the address of a Dask cluster that does the work. Combinations that cannot be are skipped and
    counted in ``Sweep.skipped``; ``strict`` makes the first one an error. Raises a KvplanError for bad input.

    >>> found = sweep("llama-3.1-8b", context="1k..4k", batch="1,2", columns="kv_bytes")
    >>> [row["kv_bytes"] for row in found.rows()]  # tokens x sequences x 131,072
    [134217728, 268435456, 268435456, 536870912, 536870912, 1073741824]
    """
    grid = _grid(models, context, batch, columns, where, top, by, chunk, axes)
    if strict:
        for number in range(grid.cells):
            grid.cell(number)
    asked = Sweep(grid, scheduler=scheduler, progress=progress, strict=strict)
    if output is not None:
        asked.write(output)
    return asked


def _grid(
    models: Any, context: Any, batch: Any, columns: Any, where: Any, top: Any, by: Any, chunk: Any, axes: dict[str, Any]
) -> Grid:
    flags = known_flags()
    for name in axes:
        if name not in flags and name not in AXES:
            raise UnknownName(
                "flag", name, {*flags, *AXES, "context", "batch", "columns", "where", "top", "by", "output"}
            )
    numbers = {name: axes.pop(name) for name in _numbers() if name in axes}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    specs = _specs(models, numbers)
    values: list[tuple[Any, ...]] = []
    for name in AXES:
        given = axes.pop(name, None)
        if name in COUNTED:
            values.append((1,) if given is None else counts(given, name))
        else:
            values.append(_named(name, given, specs))
    contexts, batches = counts(context, "context"), counts(batch, "batch")
    axis = dict(zip(AXES, values, strict=True))
    varied = [name for name, found in (("model", specs), *axis.items()) if len(found) > 1]
    # one kind of cache in one column, unless K and V were named apart
    varied += ["context", "batch"] if len(batches) > 1 else ["context"]
    gpu = any(axis["gpu"]) or axes.get("memory") is not None
    picked = chosen(columns, varied, gpu)
    top, by = _ranking(top, by)
    if by is not None:
        picked = tuple(dict.fromkeys([*picked, by.partition(":")[0]]))
    fixed = tuple(sorted((name, value) for name, value in axes.items() if value is not None))
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InvalidInput("chunk", chunk, "points of one chunk, at least 1")
    grid = Grid(specs, tuple(values), fixed, contexts, batches, picked, where, top, by, chunk)
    condition_of(grid)  # an error of the condition is one before any work
    return grid


def _numbers() -> tuple[str, ...]:
    from kvplan.api import NUMBERS

    return NUMBERS


def _specs(models: Any, numbers: dict[str, Any]) -> tuple[ModelSpec, ...]:
    if models is None:
        return (described(None, numbers),)
    several = isinstance(models, (list, tuple)) and not isinstance(models, ModelSpec)
    found = [described(model, numbers) for model in (_each(models) if several else _each([models]))]
    return tuple(dict.fromkeys(found))


def _each(models: Sequence[Any]) -> list[Any]:
    """Models one by one: a comma in text separates, unless a file has that name."""
    found: list[Any] = []
    for model in models:
        if isinstance(model, str) and "," in model and not os.path.exists(model):
            found += [name.strip() for name in model.split(",") if name.strip()]
        else:
            found.append(model)
    return found


def _named(axis: str, given: Any, specs: tuple[ModelSpec, ...]) -> tuple[Any, ...]:
    """The names of one axis, each known: an unknown name is an error, a name that does not apply is skipped later."""
    found = names(given, axis)
    check: Callable[[Any], Any] = lambda name: find_format(name, axis)  # noqa: E731
    if axis == "engine":
        check = find_engine
    elif axis == "gpu":
        check = find_gpu
    elif axis == "scheme":
        from kvplan.schemes import parse

        check = parse
    for name in found:
        if name is not None:
            check(name)
    return found


def _ranking(top: Any, by: Any) -> tuple[int | None, str | None]:
    if top is None and by is None:
        return None, None
    if top is None or by is None:
        given, missing = ("by", "top") if top is None else ("top", "by")
        raise InvalidInput(missing, None, f"{given} was given: --top 20 --by tokens_per_s")
    (number,) = found if len(found := counts(top, "top")) == 1 else (0,)
    if not 0 < number <= 1_000_000:
        raise InvalidInput("top", top, "one number of rows, at most 1,000,000")
    name, _, order = str(by).partition(":")
    if known(name).kind in ("text", "truth") or order not in ("", "asc", "desc"):
        raise InvalidInput("by", by, "a column of numbers, largest first; NAME:asc for the smallest")
    return number, f"{name}:{order}" if order == "asc" else name


class Sweep:
    """A grid that was asked. Rows come when they are read: nothing is kept but what could not be asked (``skipped``)."""

    def __init__(
        self, grid: Grid, *, scheduler: str | None = None, progress: bool = False, strict: bool = False
    ) -> None:
        self.grid, self.scheduler, self.progress, self.strict = grid, scheduler, progress, strict
        self.rows_written: int | None = None
        self._skips = Skips(Counter(), Counter())

    @property
    def points(self) -> int:
        """Points of the whole grid, those that cannot be included."""
        return self.grid.points

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in their order."""
        return self.grid.columns

    @property
    def skipped(self) -> dict[str, tuple[int, int]]:
        """What could not be asked in the last pass: reason -> (combinations of the outer axes, points)."""
        return {reason: (self._skips.cells[reason], n) for reason, n in self._skips.points.most_common()}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The rows, as dicts of one-dimensional NumPy arrays of equal length, one chunk at a time.

        Whole numbers are int64; those that may be missing float64, NaN where there is no answer and infinite where
        nothing bounds; truths are bool, text objects (str), None where there is no answer.
        """
        for columns in self._filled():
            yield {name: _public(name, values) for name, values in columns.items()}

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts of Python values, None where there is no answer or no bound. For results that fit into memory."""
        found: list[dict[str, Any]] = self.table().to_pylist()
        return found

    def table(self) -> Any:
        """All rows as a pyarrow Table, typed as the files are. For results that fit into memory."""
        files = _files()
        tables = [files.table(columns) for columns in self._filled()]
        return files.one(tables) if tables else files.schema(self.columns).empty_table()

    def to_parquet(self, path: str | Path) -> None:
        """Writes a Parquet file: int64 and float64 columns, keys as dictionaries. A run that was killed goes on."""
        self._written(Path(path), "parquet")

    def to_csv(self, path: str | Path) -> None:
        """Writes CSV with a header; nothing where there is no answer. A run that was killed goes on."""
        self._written(Path(path), "csv")

    def to_jsonl(self, path: str | Path) -> None:
        """Writes one JSON object per line; null where there is no answer. A run that was killed goes on."""
        self._written(Path(path), "jsonl")

    def write(self, path: str | Path) -> None:
        """Writes the format that the file's name asks for: .parquet, .csv, .jsonl or .ndjson."""
        files = _files()
        self._written(Path(path), files.format_of(Path(path)))

    def lines(self, kind: str) -> Iterator[bytes]:
        """The rows as text, a piece at a time: ``csv`` with its header, or ``jsonl``."""
        files = _files()
        yield files.header(self.columns, kind)
        for columns in self._filled():
            yield from files.lines(files.table(columns), kind)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _filled(self) -> Iterator[dict[str, Any]]:
        """Columns of every chunk that has rows; with ``top`` of one."""
        self._skips = Skips(Counter(), Counter())
        grid = self.grid
        with Progress(grid.points, shown=self.progress) as shown:

            def found() -> Iterator[Chunk]:
                for result in results(grid, range(grid.chunks), "", self.scheduler):
                    self._take(result, shown)
                    yield Chunk(result.columns, result.rows, result.skips)

            kept = iter([best(grid, found())]) if grid.top else found()
            for chunk in kept:
                if chunk.rows:
                    yield chunk.columns
        self._none_at_all()

    def _take(self, result: Result, shown: Progress) -> None:
        self._skips.add(result.skips)
        if self.strict and result.skips.points:
            raise InvalidInput("strict", next(iter(result.skips.points)), "combinations that can all be")
        shown.add(result.points)

    def _none_at_all(self) -> None:
        """Raises InvalidInput where no point could be asked."""
        if sum(self._skips.points.values()) == self.grid.points:
            reason, _ = self._skips.points.most_common(1)[0]
            raise InvalidInput("sweep", f"{self.grid.cells} combinations", f"at least one that can be ({reason})")

    def _written(self, path: Path, kind: str) -> None:
        files = _files()
        from kvplan.sweeps.parts import Parts

        grid = self.grid
        self._skips = Skips(Counter(), Counter())
        ranked = grid.top is not None
        parts = Parts(path, {**grid.asked(), "kind": kind}, "npz" if ranked else kind)
        try:
            done = parts.finished()
            done = {number: entry for number, entry in done.items() if number < grid.chunks}
            before = sum(tile.points for number in done for tile in grid.tiles(number))
            for entry in done.values():
                self._skips.add(entry.skips)
            missing = (number for number in range(grid.chunks) if number not in done)
            with Progress(grid.points, before, shown=self.progress) as shown:
                for result in results(grid, missing, parts.kind, self.scheduler):
                    self._take(result, shown)
                    done[result.number] = parts.keep(result.number, result.data, result.rows, result.skips)
            self._none_at_all()
            paths = [parts.path(number) for number in range(grid.chunks) if done[number].rows]
            with parts.result() as out:
                if ranked:
                    empty = Skips(Counter(), Counter())
                    chunks = [Chunk(files.unpacked(p), 0, empty) for p in paths]
                    self.rows_written = files.write(
                        best(grid, chunks).columns if chunks else None, self.columns, kind, out
                    )
                else:
                    files.joined(paths, self.columns, kind, out)
                    self.rows_written = sum(entry.rows for entry in done.values())
            parts.remove()
        finally:
            parts.close()


def _files() -> Any:
    """The module that writes files, which needs pyarrow."""
    try:
        from kvplan.sweeps import files
    except ModuleNotFoundError as e:
        if e.name and e.name.startswith("kvplan"):
            raise
        raise MissingExtra("a table or a file of a sweep", "sweep") from None
    return files


def _public(name: str, values: Any) -> Any:
    if isinstance(values, Words):
        return np.array([*values.words, None], dtype=object)[values.codes]
    if COLUMNS[name].kind == "truth":
        return values == 1 if (values >= 0).all() else np.array([False, True, None], dtype=object)[values]
    return values
