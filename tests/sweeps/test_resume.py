"""A sweep that was killed goes on: finished chunks are kept and verified, and the result is the uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.sweeps import run, sweep

files = pytest.importorskip("kvplan.sweeps.files")

GRID: dict[str, Any] = {
    "context": "1..3000:1",
    "batch": "1..10:1",
    "gpu": "rtx-4090",
    "columns": "kv_bytes,max_batch,tokens_per_s,binding",
    "chunk": 300,
}
CHUNKS = 100
LONG = {**GRID, "context": "1..9000:1", "chunk": 150}
LONG_CHUNKS = 600
CHILD = """
import json, sys
import kvplan.sweeps.files
from kvplan.sweeps import sweep
print("ready", flush=True)
sweep("gemma-3-12b", output=sys.argv[1], **json.loads(sys.argv[2]))
print("done", flush=True)
"""


def start(path: Path, grid: dict[str, Any]) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), json.dumps(grid)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert "ready\n" == child.stdout.readline()
    return child


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("grid.parquet", {}),
        ("grid.csv", {"where": "max_batch > 5 and context > 1k"}),
        ("grid.jsonl", {"top": 50, "by": "tokens_per_s"}),
    ],
)
def test_killed_ten_times(tmp_path: Path, name: str, extra: dict[str, Any]) -> None:
    """SIGKILL at random moments, ten times, then to the end: byte for byte the file of a run that nobody stopped."""
    grid = {**LONG, **extra}
    child = start(tmp_path / f"whole-{name}", grid)
    child.communicate(timeout=300)
    assert 0 == child.returncode
    expected = (tmp_path / f"whole-{name}").read_bytes()

    random_ = random.Random(name)
    path, log = tmp_path / name, tmp_path / f"{name}.parts/chunks.jsonl"
    progress = [0]
    for _ in range(10):
        # a few chunks more, and some milliseconds: in the middle of whatever it does then
        more = progress[-1] + random_.randrange(LONG_CHUNKS // 20)
        child = start(path, grid)
        wait_for(lambda more=more, child=child: lines(log) >= more or child.poll() is not None)
        time.sleep(random_.uniform(0, 0.03))
        child.kill()
        child.communicate()
        assert -signal.SIGKILL == child.returncode
        assert not path.exists()
        progress.append(lines(log))
    assert progress == sorted(progress)
    assert LONG_CHUNKS // 10 < progress[-1] < LONG_CHUNKS
    child = start(path, grid)
    child.communicate(timeout=300)
    assert 0 == child.returncode
    assert expected == path.read_bytes()
    assert not log.parent.exists()


def lines(log: Path) -> int:
    """Whole lines of a log: chunks that are finished."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Stop(Exception):
    """What interrupts a sweep here."""


def interrupted(path: Path, monkeypatch: pytest.MonkeyPatch, after: int, **grid: Any) -> Path:
    """A sweep that fails after some chunks; returns the folder of its parts."""
    real, done = run.evaluate, []

    def failing(*arguments: Any) -> Any:
        done.append(1)
        if len(done) > after:
            raise Stop
        return real(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(run, "evaluate", failing)
        sweep("gemma-3-12b", output=path, **grid)
    return path.with_name(path.name + ".parts")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the chunks that are evaluated from here on."""
    real, seen = run.evaluate, []

    def counted(grid: Any, number: int) -> Any:
        seen.append(number)
        return real(grid, number)

    monkeypatch.setattr(run, "evaluate", counted)
    return seen


def test_finished_chunks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is evaluated; what was skipped before is still counted."""
    grid = {**GRID, "tp": "1,3", "batch": "1"}
    path = tmp_path / "a.csv"
    interrupted(path, monkeypatch, 15, **grid)
    seen = counting(monkeypatch)
    found = sweep("gemma-3-12b", output=path, **grid)
    assert list(range(15, 20)) == seen
    ((reason, counted),) = found.skipped.items()
    assert (1, 3000) == counted
    assert "tp: got 3" in reason
    assert 3000 == found.rows_written


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_failure_while_parts_are_joined_costs_no_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All parts stay until the output has its name, and half an output is no output."""
    sweep("gemma-3-12b", output=tmp_path / f"whole-{name}", **GRID)
    real = files.joined

    def half(parts: Any, names: Any, kind: Any, out: Any) -> None:
        real(list(parts)[:50], names, kind, out)
        raise Stop

    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(files, "joined", half)
        sweep("gemma-3-12b", output=tmp_path / name, **GRID)
    assert not (tmp_path / name).exists()
    assert CHUNKS == len(list((tmp_path / f"{name}.parts").glob("0*")))
    seen = counting(monkeypatch)
    sweep("gemma-3-12b", output=tmp_path / name, **GRID)
    assert [] == seen
    assert (tmp_path / f"whole-{name}").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("fault", ["changed", "cut", "gone"])
def test_a_part_that_is_not_what_it_was_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its checksum says so."""
    sweep("gemma-3-12b", output=tmp_path / "whole.parquet", **GRID)
    path = tmp_path / "a.parquet"
    part = interrupted(path, monkeypatch, 5, **GRID) / "00000003.parquet"
    data = part.read_bytes()
    if fault == "gone":
        part.unlink()
    else:
        part.write_bytes(data[:-1] if fault == "cut" else data[:200] + bytes([data[200] ^ 1]) + data[201:])
    seen = counting(monkeypatch)
    sweep("gemma-3-12b", output=path, **GRID)
    assert [3, *range(5, CHUNKS)] == seen
    assert (tmp_path / "whole.parquet").read_bytes() == path.read_bytes()


def test_a_torn_line_of_the_log_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle of a line: that chunk is asked again, and the log stays readable."""
    path = tmp_path / "a.csv"
    log = interrupted(path, monkeypatch, 4, **GRID) / "chunks.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    interrupted(path, monkeypatch, 2, **GRID)  # asks chunk 3 again and one more
    assert [0, 1, 2, 3, 4] == [json.loads(line)["chunk"] for line in log.read_text().splitlines()]
    seen = counting(monkeypatch)
    sweep("gemma-3-12b", output=path, **GRID)
    assert list(range(5, CHUNKS)) == seen


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"context": "1..3001:1"}, "context"),
        ({"columns": "kv_bytes"}, "columns"),
        ({"where": "fits"}, "where"),
        ({"kv_dtype": "fp8"}, "kv_dtype"),
        ({"chunk": 301}, "chunk"),
        ({"logits": "all"}, "logits"),
        ({"memory": "20GiB"}, "memory"),
    ],
)
def test_another_grid_in_the_same_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], names: str
) -> None:
    """One line that says what differs; what was finished stays."""
    path = tmp_path / "a.csv"
    parts = interrupted(path, monkeypatch, 3, **GRID)
    with pytest.raises(InvalidInput, match=f"an unfinished sweep with other {names} ") as e:
        sweep("gemma-3-12b", output=path, **{**GRID, **change})
    assert "\n" not in str(e.value)
    assert 3 == len((parts / "chunks.jsonl").read_text().splitlines())
    seen = counting(monkeypatch)
    sweep("gemma-3-12b", output=path, **GRID)
    assert list(range(3, CHUNKS)) == seen


def test_a_model_of_the_same_name_that_changed_is_another_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json that was edited in between."""
    path, numbers = tmp_path / "a.csv", {"hidden": 64, "heads": 4, "vocab": 100, "ffn": 128}
    grid = {"context": "1..100:1", "columns": "kv_bytes", "chunk": 10}
    real, done = run.evaluate, []

    def failing(*arguments: Any) -> Any:
        done.append(1)
        if len(done) > 3:
            raise Stop
        return real(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(run, "evaluate", failing)
        sweep(output=path, layers=2, **numbers, **grid)
    with pytest.raises(InvalidInput, match="an unfinished sweep with other facts"):
        sweep(output=path, layers=3, **numbers, **grid)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """No manifest and files in it: not ours."""
    (tmp_path / "a.csv.parts").mkdir()
    (tmp_path / "a.csv.parts" / "thesis.tex").write_text("precious")
    with pytest.raises(InvalidInput, match="no sweep's"):
        sweep("gemma-3-12b", output=tmp_path / "a.csv", **GRID)
    assert "precious" == (tmp_path / "a.csv.parts" / "thesis.tex").read_text()


@pytest.mark.skipif(os.name == "nt", reason="no file locks of this kind")
def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """The second one says so, and the first goes on."""
    path = tmp_path / "a.parquet"
    child = start(path, {**GRID, "context": "1..60000:1"})
    wait_for((tmp_path / "a.parquet.parts" / "chunks.jsonl").exists)
    child.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(InvalidInput, match="in use"):
            sweep("gemma-3-12b", output=path, **{**GRID, "context": "1..60000:1"})
    finally:
        child.kill()
        child.communicate()


def test_an_output_that_exists_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written under a temporary name, then renamed."""
    path = tmp_path / "a.csv"
    path.write_text("old")
    interrupted(path, monkeypatch, 3, **GRID)
    assert "old" == path.read_text()
    sweep("gemma-3-12b", output=path, **GRID)
    assert path.read_text().startswith("context,batch,kv_bytes")
