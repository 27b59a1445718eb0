"""The fuzzer's targets hold on their seeds and on a few hundred changed ones, and it catches what it is there to catch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import kvplan
from tests.fuzz import __main__ as main
from tests.fuzz import guard, mutators, targets
from tests.fuzz.__main__ import NAMES, smallest
from tests.fuzz.guard import Attempt, State, Tally, attempt, scratch
from tests.fuzz.worker import Job

ROOT = Path(__file__).parents[2]
# inputs of each target beside its seeds, as many as take about half a second
FEW = {
    "config": 60,
    "gguf": 60,
    "safetensors": 200,
    "scheme": 200,
    "ranges": 300,
    "where": 500,
    "budget": 60,
    "link": 100,
}


def test_the_command_knows_every_target() -> None:
    """It does not import kvplan, so it has a list of its own."""
    assert NAMES == tuple(targets.TARGETS) == tuple(mutators.MUTATORS)


def test_seeds_and_a_few_changed_ones_are_answered_or_refused(tmp_path: Path) -> None:
    """The same inputs in every run, in a process of its own: what hangs or eats the machine is killed and named."""
    job = Job("few", NAMES, tuple(FEW.get(name, 40) for name in NAMES), 0.0, 20_260, "", str(tmp_path))
    tallies, faults = main.run([job], 1, tmp_path)
    said = [
        f"{fault['target']}: {fault['text']}\n{(tmp_path / fault['file']).read_bytes()[:1000]!r}" for fault in faults
    ]
    assert "" == "\n\n".join(said)
    assert all(tallies[name].inputs > FEW.get(name, 40) for name in NAMES)


def test_mutations_differ() -> None:
    """And each is at most as large as the file that holds it."""
    for name in NAMES:
        rng, seeds = Random(7), mutators.seeds(name)
        inputs = [mutators.mutated(name, rng.choice(seeds), rng) for _ in range(50)]
        assert len(set(inputs)) > 40
        assert max(map(len, inputs)) <= guard.LARGEST


def planted(monkeypatch: pytest.MonkeyPatch, plan: object) -> Attempt:
    """An honest config, tried with another function in the place of ``kvplan.plan``."""
    monkeypatch.setattr(kvplan, "plan", plan)
    with scratch():
        return attempt(targets.config, b'{"model_type": "gpt2"}')


class Report:
    """Says what a test has it say."""

    def __init__(self, text: str) -> None:
        self.text = text

    def to_json(self) -> str:
        """Its text."""
        return self.text


def test_a_traceback_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its kind and by the innermost function of kvplan."""

    def plan(model: object, **_: object) -> object:
        return kvplan.load(model).no_such_name

    fault = planted(monkeypatch, plan).fault
    assert fault is not None
    assert ("traceback", True) == (fault.kind, fault.where.startswith("AttributeError at "))
    assert "no_such_name" in fault.text


@pytest.mark.parametrize("text", ['"\x1b[2J"', '"\u202e"', "{", "NaN", '"\x85"'])
def test_what_nobody_should_see_is_caught(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Escape sequences, characters that turn the direction of writing, JSON that does not read back."""
    fault = planted(monkeypatch, lambda model, **_: Report(text)).fault
    assert fault is not None
    assert "output" == fault.kind


@pytest.mark.parametrize("message", ["a\nb", "", "x" * 3000])
def test_an_error_that_is_no_line_is_caught(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Even where its class makes lines of most things."""

    class Long(kvplan.KvplanError):
        def __str__(self) -> str:
            return message

    def plan(model: object, **_: object) -> object:
        raise Long

    fault = planted(monkeypatch, plan).fault
    assert fault is not None
    assert "output" == fault.kind


@pytest.mark.skipif(guard.resource is None, reason="no resource module: time and memory are not measured")
def test_time_and_memory_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time, not a clock's; and how far one input raises the peak."""
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    monkeypatch.setattr(guard, "MEGABYTES", 20)
    guard.forget_peak()
    slow = planted(monkeypatch, lambda model, **_: Report(str(sum(range(10_000_000)))))
    large = planted(monkeypatch, lambda model, **_: Report(str(len(b"x" * (guard.peak() + 200_000_000)))))
    assert slow.fault is not None
    assert ("slow", True) == (slow.fault.kind, slow.seconds > 0.05)
    assert large.fault is not None
    assert large.growth > 20_000_000
    assert large.fault.kind in ("memory", "slow")


def test_nothing_outside_the_scratch_folder_is_written(tmp_path: Path) -> None:
    """Nor is a process started or an address asked."""
    import socket

    outside = tmp_path / "file"
    with scratch() as folder:
        (folder / "file").write_text("inside")
        with pytest.raises(PermissionError):
            outside.write_text("outside")
        with pytest.raises(PermissionError):
            subprocess.run(["true"], check=False)
        with pytest.raises(PermissionError), socket.socket() as s:
            s.connect(("127.0.0.1", 9))
    outside.write_text("now")
    assert not folder.exists()


def test_tallies_and_the_input_being_tried_are_read_by_another(tmp_path: Path) -> None:
    """What a killed process leaves."""
    child, parent = State(tmp_path / "state", 2), State(tmp_path / "state", 2)
    assert -1 == parent.now()[0]
    child.begins(1, b"first")
    child.ends(1, Attempt(0.5, 100, None))
    child.begins(1, b"second")
    child.is_at("a.py:b")
    assert (1, b"second", "a.py:b") == parent.now()
    assert Tally(1, 0.5, 0.5, 100) == parent.tally(1)
    assert Tally() == parent.tally(0)


def test_one_fault_of_a_kind_and_place_is_kept() -> None:
    """With the smallest input."""
    found = [{"file": "a", "bytes": 9}, {"file": "b", "bytes": 5}, {"file": "a", "bytes": 3}]
    assert [("a", 3), ("b", 5)] == [(fault["file"], fault["bytes"]) for fault in smallest(found)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_counts_and_ends(tmp_path: Path) -> None:
    """A number of inputs of one target, without atheris."""
    done = run("--engine", "random", "--target", "safetensors", "--runs", "200", "--seed", "1", "--out", str(tmp_path))
    assert (0, "") == (done.returncode, done.stderr)
    row = next(line for line in done.stdout.splitlines() if line.startswith("safetensors"))
    assert "200" == row.split()[1]


def test_a_saved_input_is_tried_again(tmp_path: Path) -> None:
    """The target is in the file's name."""
    saved = tmp_path / "ranges-traceback-0"
    saved.write_bytes(b"1..8")
    assert 0 == run("--replay", str(saved)).returncode
    strange = tmp_path / "strange"
    strange.write_bytes(b"1..8")
    assert 2 == run("--replay", str(strange)).returncode
    assert 0 == run("--target", "where", "--replay", str(strange)).returncode


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that ends a process")
def test_a_process_that_dies_is_named_with_its_input(tmp_path: Path) -> None:
    """A worker is killed where an input does not end; the parent has the input from the file they share."""
    script = f"""
import json, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.fuzz import guard, targets, worker
guard.KILLED_AFTER = 0.2
def hang(data):
    while True:
        pass
targets.TARGETS["where"] = hang
worker.main(sys.argv[1])
"""
    saved, state = tmp_path / "where-x", tmp_path / "state"
    saved.write_bytes(b"fits")
    job = {
        "engine": "replay", "targets": ["where"], "quotas": [1], "seconds": 0, "seed": 0, "state": str(state),
        "out": str(tmp_path), "files": [str(saved)],
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, json.dumps(job)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode < 0
    assert (0, b"fits") == State(state, 1).now()[:2]
