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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from kvplan.api import plan
from kvplan.errors import Unsupported
from kvplan.validate.cases import Case
from kvplan.validate.checks import built, part_bytes
from kvplan.validate.measure import CudaPhase, cuda_segments, out_of_memory, seconds, storage_bytes
from kvplan.validate.records import Row, said
from kvplan.validate.transformer import Transformer

__all__ = ["Overhead", "attempt", "boundary", "largest_running", "overhead"]

STEPS, RUNS = 2, 5


class Attempt(NamedTuple):
    """What one process reports: whether it ran, and bytes of weights, caches and the peak beside them."""

    ran: bool
    weights: int = 0
    caches: int = 0
    beside: int = 0  # peak less weights and caches: transients, workspaces; on a CPU what the allocator maps besides
    outside: int = 0  # CUDA contexts (the parent's too) and libraries, outside torch's allocator
    segments: int = 0  # newly reserved for the caches
    spare: int = 0  # free before that, in segments that weights lie in: a cache may lie there too
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
    try:
        return _ran(case, device, budget)
    except Exception as e:
        if not out_of_memory(e):
            raise
        return Attempt(False)


def _ran(case: Case, device: str, budget: int | None) -> Attempt:
    """What ``attempt`` reports where memory is enough."""
    before = CudaPhase.now().allocated if device == "cuda" else 0
    made = built(case, device)
    model, batch = made.model, int(case.plan["batch"])
    weights = (CudaPhase.now().allocated if device == "cuda" else storage_bytes(model.parameters())) - before
    _warm(model, made.spec.vocab)
    start = 0
    if device == "cpu":
        start = _status("VmSize")
        if budget is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (start + budget, start + budget))
    bare, spare = _reserved(device)
    model.allocate(batch, case.context)
    segments = _reserved(device)[0] - bare
    inputs = [torch.randint(0, made.spec.vocab, (batch,), device=model.device) for _ in range(STEPS + RUNS)]
    step = seconds(lambda i: model.step(inputs[i]), device, warm=STEPS, runs=RUNS)
    held = model.cache_tensors()
    caches = storage_bytes(held)
    if device == "cpu":
        beside = _status("VmPeak") - start - caches
        return Attempt(True, weights, caches, beside, step=step, total=budget or 0)
    stats = torch.cuda.memory_stats()
    free, total = torch.cuda.mem_get_info()
    outside = total - free - stats["reserved_bytes.all.current"]
    # caches count as the segments that they fill, as in the prediction, so that only what is beside them is fitted
    beside = stats["reserved_bytes.all.peak"] - weights - _filled(t.untyped_storage().nbytes() for t in held)
    return Attempt(True, weights, caches, beside, outside, segments, spare, step, total)


def _filled(sizes: Iterable[int]) -> int:
    """Bytes of the segments that tensors of these sizes take."""
    return sum(size * count for size, count in cuda_segments(sizes).items())


def _reserved(device: str) -> tuple[int, int]:
    """Bytes of segments after what nothing uses has gone back, and what is free within those that stay; peaks restart."""
    if device != "cuda":
        return 0, 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    stats = torch.cuda.memory_stats()
    return stats["reserved_bytes.all.current"], stats["inactive_split_bytes.all.current"]


def _warm(model: Transformer, vocab: int) -> None:
    """One step of one short sequence and a product of two matrices, so that no library asks for its buffers later.

    Under a limit MKL does without a buffer that it would otherwise have taken: the search would meet another library.
    """
    reserve, model.reserve = model.reserve, 8
    model.allocate(1, 4)
    model.step(torch.zeros(1, dtype=torch.long, device=model.device) % vocab)
    model.reserve = reserve
    model.forget()
    square = torch.zeros(512, 512, dtype=model.dtype, device=model.device)
    torch.matmul(square, square)


# --- in the parent ---------------------------------------------------------------------------------------------------


def run(asked: dict[str, Any], device: str, budget: int | None) -> Attempt:
    """One attempt in a process of its own."""
    # glibc keeps large blocks in maps of their own, so that address space is what is allocated
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):  # segments are those of the default allocator
        environ.pop(name, None)
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
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message"])[-1]
        raise Unsupported(f"an attempt at batch {asked['batch']}, context {asked['context']} failed: {last[:300]}")
    return Attempt(**json.loads(lines[-1]))


def largest_running(runs: Callable[[int], bool], guess: int, slack: int) -> tuple[int, int]:
    """The largest n that runs and how many attempts it took: grown from a guess, then halved until ``slack`` is left."""
    low, high, step, attempts = 0, 0, max(guess // 64, 1), 0
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
        + (f"; {seen.outside:,} B of them lie outside torch: contexts and libraries" if device == "cuda" else "")
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
        # one segment of each size may be shared or broken up otherwise, and weights leave room in theirs
        low, high = predicted - found.spare - sum(made), predicted + sum(made)
        verdict = "exact" if predicted == found.segments else "within" if low <= found.segments <= high else "wrong"
        note = f"within one segment of each size, less {found.spare:,} B that are free beside weights"
        rows.append(Row(case, at, "cuda reserved", predicted, found.segments, verdict, note))
    return tuple(rows)


def largest_fitting(base: dict[str, Any], axis: str, room: int, each: float, device: str) -> int | None:
    """The largest n whose caches, by kvplan's bytes, and transients lie in ``room``; None where nothing grows."""

    def fits(n: int) -> bool:
        answer = plan(**{**base, axis: n}).answer
        sizes = part_bytes(answer, answer.settings.context)
        taken = _filled(sizes) if device == "cuda" else sum(-(-size // 4096) * 4096 for size in sizes)
        return taken + each * n <= room

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
