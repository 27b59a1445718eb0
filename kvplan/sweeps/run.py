"""Chunks, one after another in this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput, KvplanError, MissingExtra
from kvplan.sweeps.evaluate import Chunk, Skips, evaluate
from kvplan.sweeps.grid import Grid
from kvplan.version import __version__

__all__ = ["Result", "results"]

CONNECT_S = 10


class Result(NamedTuple):
    """One finished chunk: as columns, or encoded where a format was asked for."""

    number: int
    points: int
    rows: int
    skips: Skips
    columns: dict[str, Any]
    data: bytes
    version: str


def work(grid: Grid, number: int, kind: str) -> Result:
    """One chunk, evaluated and encoded (``kind`` of ``files.encoded``, or "" for columns)."""
    found: Chunk = evaluate(grid, number)
    points = sum(tile.points for tile in grid.tiles(number))
    data = b""
    columns = found.columns
    if kind:
        from kvplan.sweeps.files import encoded

        data, columns = encoded(columns, kind), {}
    return Result(number, points, found.rows, found.skips, columns, data, __version__)


def results(grid: Grid, numbers: Iterable[int], kind: str = "", scheduler: str | None = None) -> Iterator[Result]:
    """The chunks of these numbers, in their order; with ``scheduler`` on the workers of that Dask cluster."""
    if scheduler is not None:
        yield from _on_dask(grid, numbers, kind, scheduler)
        return
    for number in numbers:
        yield work(grid, number, kind)


def _on_dask(grid: Grid, numbers: Iterable[int], kind: str, scheduler: str) -> Iterator[Result]:
    """Chunks as Dask tasks. Dask starts a task again elsewhere where its worker is lost; we only ask and wait."""
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise MissingExtra("kvplan sweep --scheduler", "dask") from None
    if "://" not in str(scheduler):
        raise InvalidInput("scheduler", scheduler, "the address of a running Dask scheduler, e.g. tcp://host:8786")
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError):
        raise InvalidInput(
            "scheduler", scheduler, "the address of a running Dask scheduler, e.g. tcp://host:8786"
        ) from None
    with client:
        # a task and no scattered data: what a lost worker held is made again
        told = client.submit(pickle.loads, pickle.dumps(grid.bare()), pure=False)
        ahead = max(4, 3 * sum(client.nthreads().values()))
        waiting: deque[Any] = deque()
        for number in numbers:
            waiting.append(client.submit(work, told, number, kind, pure=False, retries=2))
            if len(waiting) >= ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _result(future: Any) -> Result:
    try:
        result: Result = future.result()
    except KvplanError:
        raise
    except Exception as e:
        raise InvalidInput(
            "scheduler",
            type(e).__name__,
            f"workers that run kvplan {__version__} with the extra sweep ({str(e)[:200]})",
        ) from None
    if result.version != __version__:
        raise InvalidInput(
            "scheduler", f"kvplan {result.version} on a worker", f"workers that run kvplan {__version__}"
        )
    return result
