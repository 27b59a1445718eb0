"""Stage 4: where memory ends, after LCKV's experiment (arXiv 2405.10637): one shape under seven ways of sharing KV.

The predicted largest batch is tried first, then one more; only if one of the two answers is wrong does a search begin.
Memory beside weights and caches is measured at two smaller batches of the same process and subtracted. Without a GPU memory
ends at a budget of counted storages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.validate.boundary import Attempt, boundary, decoding, held_at
from kvplan.validate.checks import built
from kvplan.validate.gpu.device import ceilings
from kvplan.validate.gpu.task import Bench, Task
from kvplan.validate.measure import out_of_memory
from kvplan.validate.records import Row
from kvplan.validate.suites import LCKV, RATE, TOY_LCKV, asked_of, rated

__all__ = ["tasks"]

MIB = 2**20
BUDGET = 48 * MIB  # of storages, where there is no device that ends


def tasks(device: str) -> list[Task]:
    """One task a scheme."""
    chosen = LCKV if device == "cuda" else TOY_LCKV
    made = [asked_of(device, scheme) for scheme in chosen]
    if device == "cpu":
        made = [{**plan, "context": 256} for plan in made]
    return [
        Task(
            "ends",
            f"largest batch: {plan['scheme'] or 'mha'}",
            largest,
            {"asked": plan},
            45.0 if device == "cuda" else 20.0,
        )
        for plan in made
    ]


def largest(bench: Bench, asked: dict[str, Any]) -> Iterator[Row]:
    """The largest batch against the predicted one, bytes and segments there, and tokens per second."""
    memory = bench.allocator
    limit = ceilings(bench)
    memory.give_back()
    budget = None if bench.device == "cuda" else BUDGET
    with memory.watching(budget):
        before = memory.phase().allocated
        made = built(decoding(asked), bench.device)
        weights = memory.phase().allocated - before

        def attempt(at: dict[str, Any]) -> Attempt:
            ran = True
            try:
                return held_at(made, decoding(at), memory, weights)
            except Exception as e:
                if not out_of_memory(e):
                    raise
                ran = False
            finally:
                made.model.forget()
                if not ran:
                    memory.give_back()
            return Attempt(False)

        total = memory.free()[1] - weights
        found = boundary(asked, bench.device, "batch", total=total, attempts=attempt, takes=memory.takes)
    rows = rated(found, limit)
    if any(row.quantity == RATE and row.verdict == "wrong" for row in rows):
        del made
        memory.give_back()
        rows = rated(found, ceilings(bench, again=True))  # the device may have been busy
    yield from rows
