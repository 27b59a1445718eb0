"""One process that tries inputs until its time or number is up: made at random, or by atheris from what they reach.

The tallies and the input being tried are in a file that the parent reads, so that nothing is lost with a process that
was killed. Faults go into the folder of the run: the smallest input of each kind and place, and one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.fuzz.guard import LARGEST, State, attempt, key, late, limit_memory, scratch, unguarded

__all__ = ["Job", "main"]

STARTED = time.monotonic()
SEEDS = 60
SLICE = 0.3  # seconds of CPU time that a target has before it is the next one's turn


class Job(NamedTuple):
    """What one process does."""

    engine: str  # random | atheris | few | replay
    targets: tuple[str, ...]
    quotas: tuple[int, ...]  # inputs of each target; 0: as many as there is time for; of few: beside the seeds
    seconds: float  # of wall time; 0: without end
    seed: int
    state: str
    out: str
    files: tuple[str, ...] = ()


class Record:
    """The faults of a run as files."""

    def __init__(self, job: Job) -> None:
        self.out, self.lines = Path(job.out), Path(job.out) / f"faults-{os.getpid()}.jsonl"
        self.seen: dict[str, int] = {}  # bytes of the smallest input

    def add(self, target: str, data: bytes, tried: Any) -> None:
        """One more fault; its input is written where it is the first of its kind, or clearly smaller."""
        name = key(target, tried.fault)
        if len(data) >= self.seen.get(name, 1 << 60):
            return
        self.seen[name] = len(data)
        (self.out / name).write_bytes(data)
        row = {"target": target, "file": name, "bytes": len(data), "seconds": tried.seconds, "growth": tried.growth}
        row |= tried.fault._asdict()
        descriptor = os.open(self.lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, json.dumps(row).encode() + b"\n")
        os.close(descriptor)


def warm() -> None:
    """Imports what inputs would otherwise import at their cost."""
    import kvplan

    place = Path(kvplan.__file__).parent
    for path in sorted(place.rglob("*.py")):
        parts = path.relative_to(place).with_suffix("").parts
        name = ".".join(("kvplan", *(part for part in parts if part != "__init__")))
        if parts[0] not in ("validate", "__main__"):  # they run models; the other one runs
            with contextlib.suppress(ImportError):  # of an extra that is not there
                import_module(name)


def at_random(job: Job) -> None:
    """Turns of all targets: a seed, changed once or a few times over."""
    from tests.fuzz import mutators, targets

    with unguarded():
        state, record, rng = State(Path(job.state), len(job.targets)), Record(job), Random(job.seed)
    late.append(state.is_at)
    end = time.monotonic() + job.seconds if job.seconds else float("inf")
    open_ = list(range(len(job.targets)))
    while open_ and time.monotonic() < end:
        for i in list(open_):
            target = job.targets[i]
            run, seeds = targets.TARGETS[target], mutators.seeds(target)
            turn = time.process_time() + SLICE
            while time.process_time() < turn:
                if job.quotas[i] and state.tally(i).inputs >= job.quotas[i]:
                    open_.remove(i)
                    break
                data = rng.choice(seeds)
                for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
                    data = mutators.mutated(target, data, rng)
                state.begins(i, data)
                tried = attempt(run, data)
                state.ends(i, tried)
                if tried.fault is not None:
                    with unguarded():
                        record.add(target, data, tried)


def a_few(job: Job) -> None:
    """Every seed of every target as it stands (of configs, which other tests plan, some), then changed ones."""
    from tests.fuzz import mutators, targets

    with unguarded():
        state, record = State(Path(job.state), len(job.targets)), Record(job)
    late.append(state.is_at)
    for i, target in enumerate(job.targets):
        rng, found = Random(job.seed), list(dict.fromkeys(mutators.seeds(target)))
        inputs = found[:SEEDS] + [mutators.mutated(target, rng.choice(found), rng) for _ in range(job.quotas[i])]
        for data in inputs:
            state.begins(i, data)
            tried = attempt(targets.TARGETS[target], data)
            state.ends(i, tried)
            if tried.fault is not None:
                with unguarded():
                    record.add(target, data, tried)


def by_coverage(job: Job) -> None:
    """One target under atheris: its corpus lies in the folder of runs and grows from run to run."""
    import atheris

    # left open: kvplan imports its modules when they are asked for, and each is to be instrumented
    atheris.instrument_imports(include=["kvplan"], enable_loader_override=False).__enter__()
    from tests.fuzz import mutators, targets

    target = job.targets[0]
    if target == "cli":
        warm()  # what is instrumented later says so on the stderr that is looked at
    run = targets.TARGETS[target]
    with unguarded():
        state, record = State(Path(job.state), 1), Record(job)
    late.append(state.is_at)
    corpus = Path(job.out) / "corpus" / target
    quota = job.quotas[0]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.25:
            return atheris.Mutate(data, most)
        found = mutators.mutated(target, data, rng)
        return found if len(found) <= most else atheris.Mutate(data[:most], most)

    def one(data: bytes) -> None:
        state.begins(0, data)
        tried = attempt(run, data)
        state.ends(0, tried)
        if tried.fault is not None:
            with unguarded():
                record.add(target, data, tried)

    left = job.seconds - (time.monotonic() - STARTED)  # instrumenting takes seconds
    limits = [f"-max_total_time={max(round(left), 2)}"] if job.seconds else []
    limits += [f"-runs={quota}"] if quota else []
    arguments = [
        "kvplan-fuzz", *limits, f"-seed={job.seed % 2**31 or 1}", f"-max_len={2**18}", "-rss_limit_mb=0", "-timeout=100000",
        "-len_control=0", "-detect_leaks=0", "-reload=0", f"-artifact_prefix={job.out}/", str(corpus),
    ]  # fmt: skip
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


def replayed(job: Job) -> None:
    """Saved inputs, each once; the faults that it has are recorded anew."""
    from tests.fuzz import targets

    state, record = State(Path(job.state), 1), Record(job)
    late.append(state.is_at)
    target = job.targets[0]
    data = Path(job.files[0]).read_bytes()[:LARGEST]
    warm()
    with scratch(Path(job.state).parent):
        limit_memory()
        run = targets.TARGETS[target]
        state.begins(0, data)
        tried = attempt(run, data)
        state.ends(0, tried)
    if tried.fault is not None:
        record.add(target, data, tried)


def main(text: str) -> None:
    """Does the job of a JSON text."""
    given = json.loads(text)
    # its scratch folder is in the parent's, who removes it: not every end is one that can tidy up
    job = Job(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    if job.engine == "replay":
        replayed(job)
    elif job.engine in ("random", "few"):
        warm()
        with scratch(Path(job.state).parent):
            limit_memory()
            (at_random if job.engine == "random" else a_few)(job)
    else:
        with scratch(Path(job.state).parent):
            limit_memory()
            by_coverage(job)


if __name__ == "__main__":
    main(sys.argv[1])
