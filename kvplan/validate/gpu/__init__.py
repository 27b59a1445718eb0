"""The suite ``gpu``: what a GPU that is at hand for ten minutes can prove or refute, the most valuable rows first.

``run_gpu`` takes the tasks of its stages in order, starts one only where its worst case still fits the time allowed, and
writes the record after each. Every task runs in a worker process (``worker.py``); this process never touches the device.
Without a GPU the same code goes through small sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from kvplan.validate.gpu.task import Task
from kvplan.validate.gpu.worker import START_S, Worker
from kvplan.validate.records import BAD, NOT_RUN, Record, Row, said

__all__ = ["MINUTES", "run_gpu", "suite_tasks"]

MINUTES = 7.0


def suite_tasks(device: str) -> list[Task]:
    """Every task in the order of its value; the rest of the schemes come last, as time allows."""
    from kvplan.validate.gpu import classes, ends, schemes, times
    from kvplan.validate.gpu import device as first

    covering, rest = schemes.tasks(device)
    return [*first.tasks(device), *classes.tasks(device), *covering, *ends.tasks(device), *times.tasks(device), *rest]


def run_gpu(
    device: str,
    minutes: float = MINUTES,
    place: Path | None = None,
    *,
    resume: bool = False,
    tasks: Iterable[Task] | None = None,
) -> Record:
    """Runs tasks (the suite's) until they or the minutes end; returns the record, which ``place`` holds after every task.

    With ``resume`` what the record of ``place`` holds is kept; tasks that were not run there are tried again. Raises
    InvalidInput where that record is of another suite, device or version.
    """
    begun = time.monotonic()
    worker = Worker(device)
    try:
        record = Record(worker.about("gpu"), place, resume=resume)
        # a task that did not come to its end is done again, whole
        again = {(row.stage, row.case) for row in record.rows if row.verdict == NOT_RUN}
        record.rows = [row for row in record.rows if (row.stage, row.case) not in again]
        _run(list(suite_tasks(device) if tasks is None else tasks), record, worker, begun, minutes * 60)
    except KeyboardInterrupt:
        if place is not None and place.is_file():
            said(f"interrupted: {place} holds what was done; --resume goes on from it")
        raise
    finally:
        worker.end()
    return record


def _run(tasks: list[Task], record: Record, worker: Worker, begun: float, allowed: float) -> None:
    done = {(row.stage, row.case) for row in record.rows}
    earlier = float(record.notes.get("seconds", 0))  # of the runs that this one resumes
    left_out: list[Row] = []
    todo = [task for task in tasks if (task.stage, task.name) not in done]
    for count, task in enumerate(todo, 1):
        spent = time.monotonic() - begun
        needed = task.limit_s + (0 if worker.alive else START_S)
        if needed > allowed - spent:
            note = f"it may take {needed:.0f} s, and {max(allowed - spent, 0):.0f} s of {allowed:.0f} were left"
            left_out.append(Row(task.name, {}, "run", None, None, NOT_RUN, note, task.stage))
            continue
        found = worker.ask(task, {**record.notes.get("facts", {}), "configs": record.notes.get("configs", {})})
        facts = dict(found.facts)
        record.notes["configs"] = facts.pop("configs", {})
        record.notes["facts"] = facts
        spent = time.monotonic() - begun
        record.notes["seconds"] = round(earlier + spent, 1)
        record.notes.setdefault("stages", {})[task.stage] = round(earlier + spent, 1)  # when its last task so far ended
        rows = found.rows or [Row(task.name, {}, "run", None, None, "reported", "nothing to compare")]
        record.add(row._replace(case=task.name, stage=task.stage) for row in rows)
        bad = sum(row.verdict in BAD for row in rows)
        said(
            f"{spent:5.0f} s, {max(allowed - spent, 0):.0f} s left, {count}/{len(todo)} {task.stage}: {task.name}: {len(rows)} rows"
            + (f", {bad} BAD" if bad else "")
        )
    if left_out:
        record.add(left_out)
    record.save()
