"""The fuzzer: ``python -m tests.fuzz``, in the checkout's root, with kvplan and its extra ``sweep`` installed.

    python -m tests.fuzz --seconds 60                    every target in turn; with atheris where it is installed
    python -m tests.fuzz --seconds 3600 --jobs 2         an hour
    python -m tests.fuzz --engine random --runs 1000000  a number of inputs in all
    python -m tests.fuzz --target gguf --target config   some targets
    python -m tests.fuzz --replay FILE ...               saved inputs; the target is the first word of a file's name

Exit code 1 where an input made a traceback, said what is not printable, took more than 2 s of CPU time, or raised the
peak of memory by more than 300 MB; its file is named, and lies in the folder of ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from typing import Any

from tests.fuzz.guard import KILLED_AFTER, MEGABYTES, Fault, State, Tally, in_memory, key
from tests.fuzz.worker import Job

ROOT = Path(__file__).parents[2]
SHOWN = 200  # bytes of an input with a fault: where its file is gone with the machine that found it
# the order is that of targets.TARGETS, which imports kvplan: the parent does not
NAMES = ("config", "gguf", "safetensors", "scheme", "ranges", "where", "budget", "link", "command", "cli")


class Worker:
    """A process, its job and what it left."""

    def __init__(self, job: Job, folder: Path, number: int) -> None:
        self.job = job._replace(state=str(folder / f"state-{number}"))
        self.state = State(Path(self.job.state), len(job.targets))
        self.log = folder / f"log-{number}"
        self.began = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, or goes on with it after it was killed."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", json.dumps(self.job._asdict())],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def go_on(self) -> bool:
        """Starts it again with the time and the inputs that are left; False where none are."""
        if self.job.engine == "few":  # the same inputs would meet the same end
            return False
        left = self.job.seconds - (time.monotonic() - self.began) if self.job.seconds else 0.0
        done = [self.state.tally(i).inputs for i in range(len(self.job.targets))]
        finished = all(quota and n >= quota for quota, n in zip(self.job.quotas, done, strict=True))
        if (self.job.seconds and left < 1) or finished:
            return False
        quotas = self.job.quotas
        if self.job.engine == "atheris":
            quotas = tuple(max(quota - n, 1) if quota else 0 for quota, n in zip(quotas, done, strict=True))
        self.state.map.flush()
        self.began = time.monotonic()
        self.job = self.job._replace(seconds=left, quotas=quotas, seed=self.job.seed + 1_000_003)
        self.start()
        return True

    def killed(self) -> Fault:
        """What became of a process that did not end by itself."""
        code = self.process.returncode if self.process else 0
        by = f"signal {-code}" if code < 0 else f"exit code {code}"
        place = self.state.now()[2]
        by += f" in {place}" if place else ""
        return Fault(
            "killed", by, f"the process ended by {by}; SIGPROF, 27 on Linux, comes after {KILLED_AFTER:g} s of CPU time"
        )


def seconds_and_quotas(asked: argparse.Namespace, targets: int, engine: str) -> tuple[float, int]:
    """Of one process: its seconds of wall time and its inputs of each target."""
    jobs = max(1, asked.jobs)
    seconds = asked.seconds or 0.0
    if engine == "atheris":
        return seconds * min(jobs, targets) / targets, -(-asked.runs // targets)
    return seconds, -(-asked.runs // (targets * jobs))


def jobs(asked: argparse.Namespace, out: Path, engine: str) -> list[Job]:
    """What the processes of a run do."""
    targets = tuple(asked.target or NAMES)
    seconds, quota = seconds_and_quotas(asked, len(targets), engine)
    groups = [(target,) for target in targets] if engine == "atheris" else [targets] * asked.jobs
    if engine == "atheris":
        for target in targets:
            corpus(out, target)
    return [
        Job(engine, group, (quota,) * len(group), seconds, asked.seed + 7919 * i, "", str(out))
        for i, group in enumerate(groups)
    ]


def run(waiting: list[Job], at_once: int, out: Path) -> tuple[dict[str, Tally], list[dict[str, Any]]]:
    """All processes to their end; the tally of each target, and the faults as they were recorded."""
    waiting = list(waiting)
    tallies = {target: Tally() for job in waiting for target in job.targets}
    faults: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kvplan-fuzz-", dir=in_memory(), ignore_cleanup_errors=True) as folder:
        running: list[Worker] = []
        number = broken = 0
        try:
            while waiting or running:
                while waiting and len(running) < max(1, at_once):
                    running.append(Worker(waiting.pop(0), Path(folder), number))
                    number += 1
                time.sleep(0.1)
                for worker in list(running):
                    assert worker.process is not None
                    if worker.process.poll() is None:
                        continue
                    index, data, _ = worker.state.now()
                    if worker.process.returncode != 0:
                        if index < 0:
                            broken += 1
                            if broken > 3:
                                sys.stderr.write(worker.log.read_text(errors="replace")[-4000:])
                                raise SystemExit("the fuzzer itself does not run")
                        else:
                            faults.append(_killed(worker, index, data, out))
                        worker.state.forget()
                        if worker.go_on():
                            continue
                    running.remove(worker)
                    for i, target in enumerate(worker.job.targets):
                        tallies[target] = tallies[target].plus(worker.state.tally(i))
        finally:
            for worker in running:
                if worker.process is not None:
                    worker.process.kill()
                    worker.process.wait()
    for lines in sorted(out.glob("faults-*.jsonl")):
        faults += [json.loads(line) for line in lines.read_text().splitlines()]
        lines.unlink()
    return tallies, smallest(faults)


def corpus(out: Path, target: str) -> None:
    """The folder of atheris's inputs, with the seeds in it; it stays from run to run."""
    place = out / "corpus" / target
    place.mkdir(parents=True, exist_ok=True)
    from tests.fuzz.mutators import seeds

    for i, data in enumerate(dict.fromkeys(seeds(target))):
        (place / f"seed-{i:03}").write_bytes(data)


def _killed(worker: Worker, index: int, data: bytes, out: Path) -> dict[str, Any]:
    target, fault = worker.job.targets[index], worker.killed()
    name = key(target, fault)
    if not (out / name).exists() or len(data) < (out / name).stat().st_size:
        (out / name).write_bytes(data)
    return _row_of(target, name, len(data), fault)


def _row_of(target: str, file: str, size: int, fault: Fault) -> dict[str, Any]:
    return {"target": target, "file": file, "bytes": size, "seconds": 0.0, "growth": 0, **fault._asdict()}


def smallest(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One fault of each kind and place, with the smallest input."""
    found: dict[str, dict[str, Any]] = {}
    for fault in sorted(faults, key=lambda fault: fault["bytes"]):
        found.setdefault(fault["file"], fault)
    return list(found.values())


def confirmed(faults: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Faults of time and memory tried once more in a process of their own, without atheris, which is slower."""
    kept = []
    for fault in faults:
        if fault["kind"] in ("slow", "memory", "killed"):
            again = replay(out / fault["file"], fault["target"])
            if not again:
                print(f"{fault['file']}: {fault['text']}, but not when it is tried alone")
                continue
            kept += [{**one, "file": fault["file"]} for one in again]
        else:
            kept.append(fault)
    return kept


def replay(file: Path, target: str) -> list[dict[str, Any]]:
    """The faults of one saved input, tried alone."""
    with tempfile.TemporaryDirectory(prefix="kvplan-fuzz-", dir=in_memory(), ignore_cleanup_errors=True) as folder:
        shutil.copy(file, Path(folder) / "input")
        job = Job("replay", (target,), (1,), 0.0, 0, "", folder, (str(Path(folder) / "input"),))
        worker = Worker(job, Path(folder), 0)
        assert worker.process is not None
        worker.process.wait()
        if worker.process.returncode != 0:
            fault = worker.killed()
            log = worker.log.read_text(errors="replace")[-2000:]
            fault = fault._replace(text=f"{fault.text}\n{log}")
            return [_row_of(target, file.name, 0, fault)]
        lines = [line for path in Path(folder).glob("faults-*.jsonl") for line in path.read_text().splitlines()]
        tally = worker.state.tally(0)
        print(f"{file.name}: {tally.slowest:.2f} s, {tally.growth / 1e6:.0f} MB, {'a fault' if lines else 'no fault'}")
        return [json.loads(line) for line in lines]


def report(tallies: dict[str, Tally], faults: list[dict[str, Any]], out: Path) -> None:
    """A line per target, and every fault with its file."""
    print(f"{'target':12} {'inputs':>10} {'inputs/s':>9} {'CPU s':>8} {'slowest s':>10} {'peak MB':>8} {'faults':>7}")
    total = Tally()
    for target, tally in tallies.items():
        total = total.plus(tally)
        _row(target, tally, sum(fault["target"] == target for fault in faults))
    _row("all", total, len(faults))
    for fault in faults:
        print(
            f"\n== {out / fault['file']} ({fault['bytes']} bytes)\n{fault['kind']}: {fault['where']}\n{fault['text']}"
        )
        begin = (out / fault["file"]).read_bytes()[:SHOWN]
        print(f"the input{' begins' if fault['bytes'] > SHOWN else ''}: {begin!a}")


def _row(name: str, tally: Tally, faults: int) -> None:
    rate = tally.inputs / tally.seconds if tally.seconds else 0.0
    growth = tally.growth / 1e6
    print(
        f"{name:12} {tally.inputs:10,} {rate:9,.0f} {tally.seconds:8,.0f} {tally.slowest:10.2f} {growth:8,.0f} {faults:7}"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz kvplan.")
    parser.add_argument("--target", action="append", choices=NAMES, help="some targets; all without it")
    parser.add_argument("--engine", choices=("auto", "random", "atheris"), default="auto")
    parser.add_argument("--seconds", type=float, help="of wall time, in all")
    parser.add_argument("--runs", type=int, default=0, help="inputs, of all targets together")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, help="of the random engine; printed, where none is given")
    parser.add_argument("--out", type=Path, default=ROOT / ".ci-output" / "fuzz", help="folder of inputs with faults")
    parser.add_argument(
        "--slow",
        type=float,
        default=2.0,
        help="seconds of CPU time that are a fault, 2 without it; more where other work shares the machine",
    )
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="saved inputs")
    asked = parser.parse_args()
    os.environ["KVPLAN_FUZZ_SLOW"] = str(asked.slow)
    if asked.replay:
        faults = []
        for file in asked.replay:
            target = asked.target[0] if asked.target else file.name.partition("-")[0]
            if target not in NAMES:
                parser.error(f"{file.name}: which target? --target {'|'.join(NAMES)}")
            faults += replay(file, target)
        for fault in faults:
            print(f"\n== {fault['kind']}: {fault['where']}\n{fault['text']}")
        return 1 if faults else 0
    engine = asked.engine
    if engine == "auto":
        engine = "atheris" if find_spec("atheris") else "random"
    if asked.seconds is None and not asked.runs:
        asked.seconds = 60.0
    if asked.seed is None:
        asked.seed = SystemRandom().randrange(2**31)
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"engine {engine}, seed {asked.seed}; faults are > {asked.slow:g} s, > {MEGABYTES} MB, a traceback, control characters"
    )
    sys.stdout.flush()
    start = time.monotonic()
    tallies, faults = run(jobs(asked, out, engine), asked.jobs, out)
    faults = confirmed(faults, out)
    report(tallies, faults, out)
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
