"""What the suite is made of: a task is one row of work of a stage, run by a worker that has the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kvplan.validate.allocator import Allocator
from kvplan.validate.records import Row

__all__ = ["STAGES", "Bench", "Task", "fact"]

# stage -> what it proves, in the order of their value
STAGES = {
    "device": "what the device has, and what a process takes of it",
    "classes": "transformers' own classes with random weights, in bf16",
    "schemes": "every scheme at real widths through the small transformer",
    "ends": "where memory ends: the largest batch under seven ways of sharing",
    "times": "seconds beside the bound at the measured ceilings",
    "more": "the schemes at other lengths and in other dtypes, as time allows",
}

Facts = dict[str, dict[str, Any]]


class Bench(NamedTuple):
    """The device that a task runs on, and what was measured of it so far."""

    allocator: Allocator
    facts: Facts

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``."""
        return self.allocator.device


class Task(NamedTuple):
    """One row of work: ``run(bench, **arguments)`` yields its comparisons, and may add to ``bench.facts``."""

    stage: str
    name: str  # the record's key within the stage
    run: Callable[..., Iterator[Row]]
    arguments: dict[str, Any]
    limit_s: float  # its worst case: it is not started where less time is left, and ended where it takes more


def fact(value: float | int | str, unit: str, source: str) -> dict[str, Any]:
    """A measured fact as the record holds it."""
    return {"value": value, "unit": unit, "basis": "measured", "source": source}
