"""Where it really stops: the largest batch, or context, whose decode does not run out of memory, against the prediction.

An attempt builds the model, allocates caches at full length, as serving does, and runs decode steps: each in a fresh
process, so that nothing left over decides, or one after the other beside a model that stays (``held_at``). On a GPU memory is
what the device has; on a CPU the process is held to a budget by the operating system, so that the same search can be tested
anywhere.

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
from kvplan.validate.allocator import Allocator, Cuda, filled
from kvplan.validate.cases import Case
from kvplan.validate.checks import Built, built, part_bytes, reserved
from kvplan.validate.measure import out_of_memory, seconds, storage_bytes
from kvplan.validate.records import Row, said
from kvplan.validate.transformer import Transformer

__all__ = [
    "Attempt",
    "Boundary",
    "Overhead",
    "attempt",
    "boundary",
    "decoding",
    "held_at",
    "largest_running",
    "overhead",
]

STEPS, RUNS = 2, 5


class Attempt(NamedTuple):
    """What one process reports: whether it ran, and bytes of weights, caches and what lies beside them."""

    ran: bool
    weights: int = 0
    caches: int = 0
    beside: int = 0  # at most, in a step: transients; on a CPU what the allocator maps besides
    outside: int = 0  # what does not grow: contexts (the parent's too) and libraries outside torch, workspaces in it
    segments: int = 0  # newly reserved for the caches
    spare: int = 0  # free before that, in segments that weights lie in: transients, and a cache, may lie there
    step: float = 0.0  # seconds of a decode step
    total: int = 0  # memory of the device, or the budget


def decoding(asked: dict[str, Any]) -> Case:
    """The case of a plan whose last tokens are decoded, so that it ends with ``context`` tokens."""
    plan_of = {k: v for k, v in asked.items() if k != "context"}
    return Case(plan_of, int(asked["context"]) - STEPS - RUNS, STEPS + RUNS, reserve=True)


# --- in the child ----------------------------------------------------------------------------------------------------


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def attempt(asked: dict[str, Any], device: str, budget: int | None) -> Attempt:
    """Builds, allocates and decodes in this process; an Attempt that did not run where memory ran out."""
    try:
        return _ran(decoding(asked), device, budget)
    except Exception as e:
        if not out_of_memory(e):
            raise
        return Attempt(False)


def _ran(case: Case, device: str, budget: int | None) -> Attempt:
    """What ``attempt`` reports where memory is enough."""
    if device == "cuda":
        memory = Cuda()
        before = memory.phase().allocated
        made = built(case, device)
        return held_at(made, case, memory, memory.phase().allocated - before)
    made = built(case, device)
    _warm(made.model, made.spec.vocab)
    start = _status("VmSize")
    if budget is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (start + budget, start + budget))
    step = _steps(made, case)
    caches = storage_bytes(made.model.cache_tensors())
    beside = _status("VmPeak") - start - caches
    return Attempt(True, storage_bytes(made.model.parameters()), caches, beside, step=step, total=budget or 0)


def held_at(made: Built, case: Case, memory: Allocator, weights: int) -> Attempt:
    """Allocates the caches of a case beside a model that is there already, steps, and reads the allocator's counters."""
    model = made.model
    _warm(model, made.spec.vocab)
    memory.give_back()
    before = memory.phase()
    model.allocate(int(case.plan["batch"]), case.context)
    segments = memory.phase().reserved - before.reserved
    step = _steps(made, case, allocated=True)
    after = memory.phase()
    held = model.cache_tensors()
    free, total = memory.free()
    # blocks that nothing uses go back to the device before it is full, so what counts of a step is what it uses
    beside = after.peak - after.allocated
    outside = total - free - after.taken + before.allocated - weights
    spare = before.taken - before.allocated
    return Attempt(True, weights, storage_bytes(held), beside, outside, segments, spare, step, total)


def _steps(made: Built, case: Case, *, allocated: bool = False) -> float:
    """Seconds of a decode step over caches at full length."""
    model, batch = made.model, int(case.plan["batch"])
    if not allocated:
        model.allocate(batch, case.context)
    inputs = [torch.randint(0, made.spec.vocab, (batch,), device=model.device) for _ in range(STEPS + RUNS)]
    return seconds(lambda i: model.step(inputs[i]), model.device, warm=STEPS, runs=RUNS)


def _warm(model: Transformer, vocab: int) -> None:
    """One step of one short sequence and a product of two matrices, so that no library asks for its buffers later.

    Under a limit MKL does without a buffer that it would otherwise have taken: the search would meet another library.
    """
    reserve, model.reserve = model.reserve, 8
    try:
        model.allocate(1, 4)
        model.step(torch.zeros(1, dtype=torch.long, device=model.device) % vocab)
    finally:
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
    """The largest n that runs and how many attempts it took.

    The guess is tried first, then ``slack`` more; only if one of the two answers is wrong does a search begin, with steps
    that double until an edge is passed and halves after that, until ``slack`` is left.
    """
    low, high, step, attempts = 0, 0, slack, 0
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
    """Bytes beside weights and caches: what does not grow, what is free beside weights, and a line through what a step uses."""

    outside: int
    spare: int
    fixed: float
    each: float

    def at(self, n: int) -> float:
        """Bytes at a size: what a step uses lies in what is free beside weights as far as that goes."""
        return self.outside + max(self.spare, self.fixed + self.each * n)


def overhead(
    asked: dict[str, Any], runs: Callable[[dict[str, Any]], Attempt], axis: str, small: tuple[int, int]
) -> tuple[Overhead, Attempt]:
    """Measured at two sizes of ``axis`` (batch or context) that fit easily; a straight line through them."""
    low, high = (runs({**asked, axis: n}) for n in small)
    while not (low.ran and high.ran):
        # caches larger than predicted: smaller ones are measured, and the search says how many run
        if small[1] <= 2:
            raise Unsupported(
                f"{axis} = {small[1]} does not run: no room to measure what a step needs beside the cache"
            )
        small = (max(small[0] // 2, 1), max(small[1] // 2, 2))
        low, high = (runs({**asked, axis: n}) for n in small)
    each = max((high.beside - low.beside) / (small[1] - small[0]), 0.0)
    return Overhead(high.outside, high.spare, high.beside - each * small[1], each), high


class Boundary(NamedTuple):
    """The row of a search, what runs at the largest size, and rows beside it."""

    row: Row
    at: dict[str, Any]
    largest: Attempt | None
    rows: tuple[Row, ...] = ()


def boundary(
    asked: dict[str, Any],
    device: str,
    axis: str,
    budget: int | None = None,
    *,
    total: int | None = None,
    attempts: Callable[[dict[str, Any]], Attempt] | None = None,
    takes: Callable[[Iterable[int]], int] | None = None,
) -> Boundary:
    """Largest batch or context found by running, against the one predicted: equal within one sequence or 1 %.

    ``attempts`` runs one plan; by default each in a fresh process. ``total`` bytes are what there is of the device, of which
    tensors of some sizes take ``takes`` bytes.
    """
    unit = 1 if axis == "batch" else 64
    base = {"batch": 1, "context": 4096} | asked
    ask = attempts or (lambda plan_of: run(plan_of, device, budget))
    total = total or budget or torch.cuda.mem_get_info()[1] - 2 * plan(**base).answer.profile.parameters
    takes = takes or (filled if device == "cuda" else pages)
    alone = largest_fitting(base, axis, total, Overhead(0, 0, 0.0, 0.0), takes)
    if alone is None:
        return Boundary(Row(_name(base, axis), base, f"max {axis}", None, None, "skipped", "nothing grows"), base, None)
    beside, seen = overhead(base, ask, axis, (max(alone // 2, 1), max(alone * 3 // 4, 2)))
    room = budget if budget is not None else seen.total - seen.weights
    predicted = largest_fitting(base, axis, room, beside, takes) or 0

    last: dict[int, Attempt] = {}

    def runs(n: int) -> bool:
        last[n] = ask({**base, axis: n * unit})
        said(f"  {axis} {n * unit:,}: {'runs' if last[n].ran else 'out of memory'}")
        return last[n].ran

    slack = 1 if axis == "batch" else max(predicted // unit // 200, 1)
    found, tried = largest_running(runs, predicted // unit, slack)
    measured = found * unit
    close = abs(measured - predicted) <= max(unit, predicted // 100)
    note = (
        f"{tried + 2} attempts; measured and subtracted from {seen.total or budget:,} B: weights {seen.weights:,} B, contexts, "
        f"libraries and workspaces {beside.outside:,} B, and the larger of {beside.spare:,} B that are free beside weights "
        f"and what a step uses, {beside.fixed:,.0f} B and {beside.each:,.0f} B per {axis}"
    )
    verdict = "exact" if measured == predicted else "within" if close else "wrong"
    row = Row(_name(base, axis), base, f"max {axis}", predicted, measured, verdict, note)
    at = {**base, axis: measured}
    return Boundary(row, at, last.get(found), _rows(row.case, at, last.get(found)))


def _name(base: dict[str, Any], axis: str) -> str:
    shape = base.get("model") or f"{base['layers']}x{base['hidden']}"
    held = f"context {base['context']}" if axis == "batch" else f"batch {base['batch']}"
    return f"largest {axis}: {shape} {base.get('scheme') or 'mha'} {base['dtype']} at {held}"


def pages(sizes: Iterable[int]) -> int:
    """Bytes of address space that blocks of these sizes take of an operating system."""
    return sum(-(-size // 4096) * 4096 for size in sizes)


def _rows(case: str, at: dict[str, Any], found: Attempt | None) -> tuple[Row, ...]:
    """At the largest size: the caches' bytes, and under an allocator with segments those that they reserve."""
    if found is None:
        return ()
    answer = plan(**at).answer
    size = answer.bytes_per_gpu
    rows = [Row(case, at, "kv.bytes_per_gpu", size, found.caches, "exact" if size == found.caches else "wrong")]
    if found.segments:
        sizes = part_bytes(answer, answer.settings.context)
        predicted, verdict, note = reserved(sizes, found.segments, found.spare)
        rows.append(Row(case, at, "cuda reserved", predicted, found.segments, verdict, note))
    return tuple(rows)


def largest_fitting(
    base: dict[str, Any], axis: str, room: int, beside: Overhead, takes: Callable[[Iterable[int]], int]
) -> int | None:
    """The largest n whose caches, by kvplan's bytes, and transients lie in ``room``; None where nothing grows."""

    def fits(n: int) -> bool:
        answer = plan(**{**base, axis: n}).answer
        return takes(part_bytes(answer, answer.settings.context)) + beside.at(n) <= room

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
