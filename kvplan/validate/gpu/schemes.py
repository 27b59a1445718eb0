"""Stage 3: the configurations of the suite ``ci`` at real widths, held against the allocator's counters.

That their caches are right is proved at small widths on the same device first, where the definition can be run key by key.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.validate.cases import REAL, TOY, Case, ci_cases, covering
from kvplan.validate.checks import check, proof
from kvplan.validate.gpu.task import Bench, Task
from kvplan.validate.records import BAD, Row

__all__ = ["tasks"]

REHEARSED = 4  # without a GPU every so many-th of those that cover every axis are run


def tasks(device: str) -> tuple[list[Task], list[Task]]:
    """Those that cover every axis, each scheme once; and the others."""
    small = list(ci_cases(TOY))
    wide = list(ci_cases(REAL)) if device == "cuda" else small
    ordered = covering(wide)
    first = len({case.plan["scheme"] for case in wide})
    # a scheme of real widths and the same one of small widths stand in the same order
    twins = dict(zip((c.name for c in covering(wide)[:first]), covering(small)[:first], strict=True))
    worst = 25.0 if device == "cuda" else 15.0
    made = [
        Task("schemes", case.name, scheme, {"case": case._replace(proved=True), "twin": twins.get(case.name)}, worst)
        for case in ordered
    ]
    if device == "cpu":
        return made[:first:REHEARSED], [made[first]._replace(stage="more")]
    return made[:first], [task._replace(stage="more") for task in made[first:]]


def scheme(bench: Bench, case: Case, twin: Case | None) -> Iterator[Row]:
    """The logits of the same scheme at small widths; then bytes, counters and FLOPs at these widths."""
    if twin is not None:
        row = proof(twin, bench.device)
        yield row._replace(note=f"at {row.case}: {row.note}")
        if row.verdict in BAD:
            return
    bench.allocator.give_back()
    with bench.allocator.watching():
        yield from check(case, bench.device, memory=bench.allocator)
