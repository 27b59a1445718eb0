"""Stage 5: seconds of one decode step and one prompt per scheme beside kvplan's bound at the ceilings of stage 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.validate.gpu.device import ceilings
from kvplan.validate.gpu.task import Bench, Task
from kvplan.validate.records import Row
from kvplan.validate.suites import TIMED, asked_of
from kvplan.validate.timing import timed

__all__ = ["tasks"]


def tasks(device: str) -> list[Task]:
    """One task a scheme, at one sequence and, for a step, at eight."""
    chosen = TIMED if device == "cuda" else TIMED[:4]
    context = {} if device == "cuda" else {"context": 256}
    made = [
        asked_of(device, scheme, batch=batch, **context)
        for batch in ((1, 8) if device == "cuda" else (1,))
        for scheme in chosen
    ]
    worst = 45.0 if device == "cuda" else 15.0
    return [
        Task(
            "times",
            f"time: {plan['scheme'] or 'mha'} b{plan['batch']}",
            seconds_of,
            {"asked": plan, "prompt": plan["batch"] == 1},
            worst,
        )
        for plan in made
    ]


def seconds_of(bench: Bench, asked: dict[str, Any], prompt: bool) -> Iterator[Row]:
    """Rows of a step and a prompt; where a bound is beaten the ceilings are measured again, for the device may have been busy."""
    bench.allocator.give_back()
    rows = timed(asked, bench.device, ceilings(bench), prompt=prompt)
    if any(row.verdict == "wrong" for row in rows):
        bench.allocator.give_back()
        rows = timed(asked, bench.device, ceilings(bench, again=True), prompt=prompt)
    yield from rows
