"""Running many configurations: in fresh worker processes, one record, one line of progress; and saying what came out."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch

from kvplan.errors import InvalidInput, KvplanError, Unsupported
from kvplan.validate.allocator import Cuda
from kvplan.validate.cases import Case
from kvplan.validate.checks import check
from kvplan.validate.measure import out_of_memory
from kvplan.validate.records import BAD, Record, Row, said

__all__ = ["device_of", "run_cases", "summary", "table"]


def device_of(name: str) -> str:
    """The device, if it is there. Raises InvalidInput where it is not."""
    if name not in ("cpu", "cuda"):
        raise InvalidInput("--device", name, "cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device", name, f"cpu: torch {torch.__version__} sees no CUDA device here")
    return name


def run_cases(cases: Iterable[Case], record: Record, device: str, jobs: int) -> None:
    """Runs what the record does not hold yet; each case is written when it is done."""
    todo = [case for case in cases if not record.done(case.name)]
    begun = time.monotonic()
    for done, (case, rows) in enumerate(_each(todo, device, jobs), 1):
        record.add(rows)
        bad = sum(row.verdict in BAD for row in record.rows)
        left = (time.monotonic() - begun) / done * (len(todo) - done)
        if done % 20 == 0 or done == len(todo) or any(row.verdict in BAD for row in rows):
            said(f"{done}/{len(todo)} configurations, {bad} bad rows, {left:.0f} s left; last: {case.name}")


def _each(cases: list[Case], device: str, jobs: int) -> Iterator[tuple[Case, list[Row]]]:
    if jobs <= 1 or device == "cuda":
        for case in cases:
            yield case, attempt(case, device)
        return
    # spawned, not forked: a fork of a process with torch's threads may hang
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        waiting = {pool.submit(attempt, case, device): case for case in cases}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                raise Unsupported(
                    "a worker was killed (out of memory?); the rows done so far are kept: try --resume"
                ) from None


def attempt(case: Case, device: str) -> list[Row]:
    """The rows of a case; one that cannot run, or breaks, is a row too, and those after it still run."""
    try:
        return check(case, device)
    except KvplanError as e:
        verdict, note = "skipped", str(e)
    except Exception as e:
        verdict, note = "failed", first_line(e)
        if out_of_memory(e):
            verdict, note = "skipped", f"out of memory: {note}"
        else:
            at = traceback.extract_tb(e.__traceback__)[-1]
            note = f"{note} ({at.name}, line {at.lineno})"
    # the error, which held the tensors of its frames, is gone by now
    give_back(device)
    return [Row(case.name, {**case.plan, "context": case.context}, "run", None, None, verdict, note)]


def first_line(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]


def give_back(device: str) -> None:
    """On a GPU, returns what torch holds and nothing uses, so that another process, or a larger block, may have it."""
    if device == "cuda":
        Cuda().give_back()


# --- saying it -------------------------------------------------------------------------------------------------------


def summary(rows: Iterable[Row], what: str = "rows") -> str:
    """A line: how many configurations and rows, and how many of each verdict."""
    rows = list(rows)
    counts = Counter(row.verdict for row in rows)
    cases = len({row.case for row in rows})
    good = cases - len({row.case for row in rows if row.verdict in BAD or row.verdict == "skipped"})
    said_counts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts))
    return f"{good} of {cases} configurations hold; {len(rows)} {what}: {said_counts}"


def shown(amount: float | int | None, quantity: str) -> str:
    """An amount as a person reads it."""
    if amount is None:
        return "–"
    if isinstance(amount, float):
        return f"{amount:.3g}"
    return f"{amount:,}"


def table(rows: Iterable[Row], columns: int = 80, *, only: Callable[[Row], bool] = lambda row: True) -> str:
    """Rows as text: case, quantity, predicted, measured, ratio, verdict; a case that is too long goes on a line of its own."""
    lines: list[str] = []
    last = None
    for row in filter(only, rows):
        if row.case != last:
            lines.append(row.case if len(row.case) <= columns else row.case[: columns - 1] + "…")
            last = row.case
        ratio = f"{row.ratio:.4f}" if row.ratio is not None else ""
        predicted, measured = shown(row.predicted, row.quantity), shown(row.measured, row.quantity)
        quantity = row.quantity.removesuffix(".total")
        if isinstance(row.plan.get("context"), int) and "." in row.quantity:
            quantity += f" S={row.plan['context']}"
        lines.append(f"  {quantity:<22} {predicted:>17} {measured:>17} {ratio:>8} {row.verdict}")
        if row.note and row.verdict in (*BAD, "skipped"):
            lines += [f"    {piece}" for piece in _wrap(row.note, columns - 4)]
    if lines:
        lines.insert(0, f"  {'quantity':<22} {'predicted':>17} {'measured':>17} {'ratio':>8} verdict")
    return "\n".join(lines) + ("\n" if lines else "")


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(width, 20))


def any_bad(rows: Iterable[Row]) -> bool:
    """Whether anything says no."""
    return any(row.verdict in BAD for row in rows)


def counted(items: Iterable[Any]) -> Counter[str]:
    """How many of each verdict."""
    return Counter(item.verdict for item in items)
