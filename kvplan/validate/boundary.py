"""Where it really stops: the largest batch, or context, whose decode does not run out of memory, against the prediction.

Every attempt is a fresh process, so that nothing left over decides. It builds the model, allocates caches at full
length, as serving does, and runs decode steps. On a GPU memory is what the device has; on a CPU the process is held to
a budget by the operating system, so that the same search can be tested anywhere.

What is predicted is kvplan's bytes per sequence. What a running process takes beside weights and caches (context,
libraries, workspaces, transients of a step) is measured in the same run at a half and three quarters of what caches
alone would allow, and subtracted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from kvplan.api import plan
from kvplan.errors import Unsupported
from kvplan.validate.cases import Case
from kvplan.validate.checks import built, part_bytes
from kvplan.validate.measure import CudaPhase, cuda_bytes, cuda_segments, seconds, storage_bytes
from kvplan.validate.records import Row, said

__all__ = ["Overhead", "attempt", "boundary", "largest_running", "overhead"]

STEPS, RUNS = 2, 5


class Attempt(NamedTuple):
    """What one process reports: whether it ran, and bytes of weights, caches and the peak beside them."""

    ran: bool
    weights: int = 0
    caches: int = 0
    beside: int = 0  # peak less weights and caches: transients, workspaces; on a CPU what the allocator maps besides
    outside: int = 0  # CUDA context and libraries, outside torch's allocator
    segments: int = 0  # reserved for the caches
    step: float = 0.0  # seconds of a decode step
    total: int = 0  # memory of the device, or the budget


# --- in the child ----------------------------------------------------------------------------------------------------


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def attempt(asked: dict[str, Any], device: str, budget: int | None) -> Attempt:
    """Builds, allocates and decodes in this process; an Attempt that did not run where memory ran out."""
    plan_of = {k: v for k, v in asked.items() if k != "context"}
    case = Case(plan_of, int(asked["context"]) - STEPS - RUNS, STEPS + RUNS, reserve=True)
    before = CudaPhase.now().allocated if device == "cuda" else 0
    made = built(case, device)
    model, batch = made.model, int(asked["batch"])
    weights = (CudaPhase.now().allocated if device == "cuda" else storage_bytes(model.parameters())) - before
    start = 0
    if device == "cpu":
        _warm(model, made.spec.vocab)
        start = _status("VmSize")
        if budget is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (start + budget, start + budget))
    try:
        bare = _reserved(device)
        model.allocate(batch, case.context)
        segments = _reserved(device) - bare
        inputs = [torch.randint(0, made.spec.vocab, (batch,), device=device) for _ in range(STEPS + RUNS)]
        step = seconds(lambda i: model.step(inputs[i]), device, warm=STEPS, runs=RUNS)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        if "memory" not in str(e):
            raise
        return Attempt(False, weights)
    caches = storage_bytes(model.cache_tensors())
    if device == "cpu":
        beside = _status("VmPeak") - start - caches
        return Attempt(True, weights, caches, beside, step=step, total=budget or 0)
    stats = torch.cuda.memory_stats()
    free, total = torch.cuda.mem_get_info()
    outside = total - free - stats["reserved_bytes.all.current"]
    beside = stats["reserved_bytes.all.peak"] - weights - caches
    return Attempt(True, weights, caches, beside, outside, segments, step, total)


def _reserved(device: str) -> int:
    """Bytes that torch's allocator holds, after what nothing uses has gone back."""
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def _warm(model: Any, vocab: int) -> None:
    """One step of one sequence, so that libraries have made their threads and buffers before the limit is set."""
    model.allocate(1, 8)
    model.step(torch.zeros(1, dtype=torch.long) % vocab)
    model.forget()


# --- in the parent ---------------------------------------------------------------------------------------------------


def run(asked: dict[str, Any], device: str, budget: int | None) -> Attempt:
    """One attempt in a process of its own."""
    # glibc keeps large blocks in maps of their own, so that address space is what is allocated
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    order = json.dumps({"asked": asked, "device": device, "budget": budget})
    done = subprocess.run(
        [sys.executable, "-m", "kvplan.validate.boundary", order],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    if done.returncode in (-9, 137):  # the kernel's way of saying that memory ran out
        return Attempt(False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unsupported(f"an attempt at batch {asked['batch']}, context {asked['context']} failed: {last[:300]}")
    return Attempt(**json.loads(done.stdout.strip().splitlines()[-1]))


def largest_running(runs: Callable[[int], bool], guess: int, slack: int) -> tuple[int, int]:
    """The largest n that runs and how many attempts it took: grown from a guess, then halved until ``slack`` is left."""
    low, high, step, attempts = 0, 0, max(guess // 16, 1), 0
    n = max(guess, 1)
    while not high or not low:
        attempts += 1
        if runs(n):
            low, n = n, n + step
            step *= 2
            if high and low >= high:
                break
        else:
            high, n = n, n - step
            step *= 2
            if high == 1:
                return 0, attempts
        n = max(n, 1)
        if low and high:
            break
    while high - low > slack:
        middle = (low + high) // 2
        attempts += 1
        low, high = (middle, high) if runs(middle) else (low, middle)
    return low, attempts


class Overhead(NamedTuple):
    """Bytes beside weights and caches: fixed, and for each unit of what grows."""

    fixed: int
    each: float


def overhead(
    asked: dict[str, Any], device: str, budget: int | None, axis: str, small: tuple[int, int]
) -> tuple[Overhead, Attempt]:
    """Measured at two sizes of ``axis`` (batch or context) that fit easily; a straight line through them."""
    low, high = (run({**asked, axis: n}, device, budget) for n in small)
    if not (low.ran and high.ran):
        raise Unsupported(f"{axis} = {small[1]} does not run: no room to measure what a step needs beside the cache")
    each = max((high.beside - low.beside) / (small[1] - small[0]), 0.0)
    return Overhead(round(high.beside + high.outside - each * small[1]), each), high


class Boundary(NamedTuple):
    """The row of a search, what runs at the largest size, and rows beside it."""

    row: Row
    at: dict[str, Any]
    largest: Attempt | None
    rows: tuple[Row, ...] = ()


def boundary(asked: dict[str, Any], device: str, axis: str, budget: int | None = None) -> Boundary:
    """Largest batch or context found by running, against the one predicted: equal within one sequence or 1 %."""
    unit = 1 if axis == "batch" else 64
    base = {"batch": 1, "context": 4096} | asked
    total = budget or torch.cuda.mem_get_info()[1] - 2 * plan(**base).answer.profile.parameters
    alone = largest_fitting(base, axis, total, 0.0, device)
    if alone is None:
        return Boundary(Row(_name(base, axis), base, f"max {axis}", None, None, "skipped", "nothing grows"), base, None)
    beside, seen = overhead(base, device, budget, axis, (max(alone // 2, 1), max(alone * 3 // 4, 2)))
    room = (budget if device == "cpu" and budget is not None else seen.total - seen.weights) - beside.fixed
    predicted = largest_fitting(base, axis, room, beside.each, device) or 0

    last: dict[int, Attempt] = {}

    def runs(n: int) -> bool:
        last[n] = run({**base, axis: n * unit}, device, budget)
        said(f"  {axis} {n * unit:,}: {'runs' if last[n].ran else 'out of memory'}")
        return last[n].ran

    slack = 1 if axis == "batch" else max(predicted // unit // 200, 1)
    found, attempts = largest_running(runs, predicted // unit, slack)
    measured = found * unit
    close = abs(measured - predicted) <= max(unit, predicted // 100)
    note = (
        f"{attempts} processes; beside weights ({seen.weights:,} B) and caches {beside.fixed:,} B and {beside.each:,.0f} B "
        f"per {axis} were measured and subtracted from {seen.total or budget:,} B"
    )
    verdict = "exact" if measured == predicted else "within" if close else "wrong"
    row = Row(_name(base, axis), base, f"max {axis}", predicted, measured, verdict, note)
    at = {**base, axis: measured}
    return Boundary(row, at, last.get(found), _rows(row.case, at, last.get(found), device))


def _name(base: dict[str, Any], axis: str) -> str:
    shape = base.get("model") or f"{base['layers']}x{base['hidden']}"
    held = f"context {base['context']}" if axis == "batch" else f"batch {base['batch']}"
    return f"largest {axis}: {shape} {base.get('scheme') or 'mha'} {base['dtype']} at {held}"


def _rows(case: str, at: dict[str, Any], found: Attempt | None, device: str) -> tuple[Row, ...]:
    """At the largest size: the caches' bytes, and on a GPU the segments that they reserve."""
    if found is None:
        return ()
    answer = plan(**at).answer
    size = answer.bytes_per_gpu
    rows = [Row(case, at, "kv.bytes_per_gpu", size, found.caches, "exact" if size == found.caches else "wrong")]
    if device == "cuda":
        made = cuda_segments(part_bytes(answer, answer.settings.context))
        predicted = sum(each * count for each, count in made.items())
        # one segment of each size class may be shared with what was there, or be broken up otherwise
        close = abs(predicted - found.segments) <= sum(made)
        verdict = "exact" if predicted == found.segments else "within" if close else "wrong"
        rows.append(
            Row(case, at, "cuda reserved", predicted, found.segments, verdict, "within one segment per size class")
        )
    return tuple(rows)


def largest_fitting(base: dict[str, Any], axis: str, room: int, each: float, device: str) -> int | None:
    """The largest n whose caches, by kvplan's bytes, and transients lie in ``room``; None where nothing grows."""
    round_up = cuda_bytes if device == "cuda" else lambda size: -(-size // 4096) * 4096

    def fits(n: int) -> bool:
        answer = plan(**{**base, axis: n}).answer
        return sum(map(round_up, part_bytes(answer, answer.settings.context))) + each * n <= room

    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
        if high > 2**40:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(attempt(given["asked"], given["device"], given["budget"])._asdict()))
