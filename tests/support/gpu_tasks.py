"""Tasks that behave badly, and a short suite, in a module that a spawned worker can import."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvplan.errors import InvalidInput, Unsupported
from kvplan.validate.gpu import run_gpu, suite_tasks
from kvplan.validate.gpu.task import STAGES, Bench, Task
from kvplan.validate.records import Row


def good(bench: Bench, name: str) -> Iterator[Row]:
    """A row that says in which process it was made, and a fact."""
    bench.facts[name] = {"value": os.getpid(), "unit": "", "basis": "measured", "source": "test"}
    yield Row(name, {}, "run", 1, 1, "exact", str(os.getpid()))


def slow(bench: Bench, seconds: float) -> Iterator[Row]:
    """A row, then nothing for a while."""
    yield Row("slow", {}, "run", 1, 1, "exact")
    time.sleep(seconds)


def bad(bench: Bench, how: str) -> Iterator[Row]:
    """One row, then the end of the process, or an error."""
    bench.facts[f"before {how}"] = {"value": 1, "unit": "", "basis": "measured", "source": "test"}
    yield Row("bad", {}, "first", 1, 1, "exact")
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    if how == "error":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if how == "refusal":
        raise Unsupported("a cache of this kind is not run")
    raise InvalidInput("scheme", "nosuch", "another")


def short(device: str = "cpu") -> list[Task]:
    """Two tasks of every stage: enough to be killed in each."""
    chosen: list[Task] = []
    for stage in STAGES:
        mine = [task for task in suite_tasks(device) if task.stage == stage]
        chosen += [*mine[:1], *mine[-1:]] if len(mine) > 1 else mine
    return chosen


def main(place: str) -> None:
    """Runs the short suite on from where the record is."""
    run_gpu("cpu", 5, Path(place), resume=True, tasks=short())


def planned(tasks: list[Task]) -> list[tuple[Any, ...]]:
    """What is to be done, by the record's keys."""
    return [(task.stage, task.name) for task in tasks]


if __name__ == "__main__":
    main(sys.argv[1])
