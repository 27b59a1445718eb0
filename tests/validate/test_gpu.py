"""The suite gpu without a GPU: bounded, resumed, its workers broken, faults planted in every stage, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import kvplan
from kvplan import planner
from kvplan.cli import app
from kvplan.validate import boundary, checks
from kvplan.validate.allocator import Host
from kvplan.validate.cases import REAL, TOY, ci_cases, covering
from kvplan.validate.front import Result
from kvplan.validate.gpu import classes, device, ends, run_gpu, schemes, suite_tasks, times, worker
from kvplan.validate.gpu.task import STAGES, Bench, Task
from kvplan.validate.gpu.told import LINES, told
from kvplan.validate.measure import Ceilings
from kvplan.validate.records import BAD, Record, Row, junit, read, replay
from tests.support import gpu_tasks

ROOT = Path(__file__).parents[2]
Rehearsal = tuple[subprocess.CompletedProcess[str], dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tests share two cores: torch's threads would wait for each other.

    And a process: what another test left as the main module (Streamlit's own tests do) is nothing that a worker could run.
    """
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def keys(rows: list[Any]) -> list[tuple[str, str]]:
    """Stage and case of rows, each once, in order."""
    return list(
        dict.fromkeys((row["stage"], row["case"]) if isinstance(row, dict) else (row.stage, row.case) for row in rows)
    )


def done(task: Task) -> list[Row]:
    """The rows of a task, run here instead of in a worker."""
    return list(task.run(Bench(Host(), {}), **task.arguments))


def named(tasks: list[Task], name: str) -> Task:
    return next(task for task in tasks if name in task.name)


def wrong(rows: list[Row]) -> set[str]:
    return {row.quantity for row in rows if row.verdict in BAD}


# --- bounded, and going on -------------------------------------------------------------------------------------------


def test_killed_in_every_stage_it_goes_on(tmp_path: Path) -> None:
    """SIGKILL once in each stage: what was in the record stays as it was, nothing is missing, nothing was done twice."""
    place = tmp_path / "gpu.json"
    tasks = gpu_tasks.short()
    command = [sys.executable, "-m", "tests.support.gpu_tasks", str(place)]
    kept: list[Any] = []
    for stage in STAGES:
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # killed when the first row of the stage is there: the next one runs
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and run.poll() is None:
            if place.exists() and any(row["stage"] == stage for row in read(place)["rows"]):
                break
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        rows = read(place)["rows"]
        assert kept == rows[: len(kept)]
        assert any(row["stage"] == stage for row in rows)
        kept = rows
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = read(place)["rows"]
    assert kept == rows[: len(kept)]
    assert gpu_tasks.planned(tasks) == keys(rows)
    # the rows of a task stand together, once
    runs = [key for key, _ in groupby((row["stage"], row["case"]) for row in rows)]
    assert len(runs) == len(set(runs))
    assert not [row for row in rows if row["verdict"] in BAD]


def test_too_few_minutes_leave_the_valuable_rows(tmp_path: Path) -> None:
    """A slow stage ends in time; what came before it is there, what did not fit says so, and the exit code is 3."""
    place = tmp_path / "gpu.json"
    tasks = [
        Task("device", "first", gpu_tasks.good, {"name": "first"}, 5.0),
        Task("classes", "slow", gpu_tasks.slow, {"seconds": 3600}, 6.0),  # slower than it may be
        Task("schemes", "too long", gpu_tasks.good, {"name": "too long"}, 50.0),
        Task("ends", "quick", gpu_tasks.good, {"name": "quick"}, 2.0),
    ]
    record = run_gpu("cpu", 0.6, place, tasks=tasks)
    verdicts = {(row.case, row.quantity): row.verdict for row in record.rows}
    assert "exact" == verdicts["first", "run"]
    slow = [row for row in record.rows if row.case == "slow"]
    assert ["exact", "not run"] == [row.verdict for row in slow]
    assert "no end after 6 s, its limit" == slow[1].note
    (late,) = (row for row in record.rows if row.case == "too long")
    assert "not run" == late.verdict
    assert late.note.startswith("it may take ")
    # a task after it that fits still runs, in a new worker
    assert "exact" == verdicts["quick", "run"]
    assert record.rows == [*Record.of(place).rows]
    assert 36 > record.notes["seconds"]
    # again with more time: only what was not run is done
    again = run_gpu("cpu", 5, place, resume=True, tasks=tasks)
    assert set(keys(record.rows)) == set(keys(again.rows))
    assert {"exact"} == {row.verdict for row in again.rows if row.case == "too long"}
    assert 1 == sum(row.case == "first" for row in again.rows)


def test_a_run_without_time_does_nothing(tmp_path: Path) -> None:
    """All of it is not run, which is incomplete and not wrong."""
    record = run_gpu("cpu", 0.01, tmp_path / "gpu.json")
    assert {"not run"} == {row.verdict for row in record.rows}
    assert keys(record.rows) == gpu_tasks.planned(suite_tasks("cpu"))


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["exact", "reported"], 0),
        (["exact", "not run"], 3),
        (["exact", "wrong", "not run"], 1),
        (["failed"], 1),
        (["not run"], 3),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    """Wrong is 1, whatever else; incomplete is 3."""
    record = Record({"suite": "gpu"}, None)
    record.rows = [Row(str(i), {}, "run", 1, 1, verdict, "", "device") for i, verdict in enumerate(verdicts)]
    assert code == Result(record, "").code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "gpu", "--minutes", "0"], "--minutes: got '0', allowed: a number of minutes above 0"),
        (["--suite", "gpu", "--minutes", "soon"], "--minutes: got 'soon'"),
        (["--suite", "gpu", "--minutes", "nan"], "--minutes: got 'nan'"),
        (["--suite", "ci", "--minutes", "3"], "--suite gpu beside it"),
        (["--suite", "gpu", "--layers", "4"], "nothing beside --suite gpu"),
        (["--show", "nosuch.json"], "--show: got 'nosuch.json', allowed: a record that kvplan validate wrote"),
        (["--show", "r.json", "--suite", "ci"], "alone or with --json, not with suite"),
        (["--suite", "gpu", "--resume"], "--record FILE beside it"),
        (["--suite", "ci", "--record", "x", "--junit", "x"], "another file than --record"),
        (["--suite", "gpu", "--jobs", "0"], "--jobs: got 0"),
        (["--suite", "gpu", "--steps", "few"], "steps: got 'few'"),
        (["--suite", "gpu", "--minutes", "1e9"], "up to 10,000"),
        (["--suite", "ci", "--record", ""], "the name of a file"),
        (
            ["--suite", "gpu", "--resume", "--record", str(ROOT / "tests/records/ci-cpu.json")],
            "a record with suite = gpu",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    """It names the flag, the value and what is allowed, and exits 2."""
    result = CliRunner().invoke(app, ["validate", *arguments])
    assert 2 == result.exit_code
    assert said in result.stderr
    assert 1 == len(result.stderr.strip().splitlines())


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_breaks_costs_one_row(tmp_path: Path) -> None:
    """However it ends: the rows that it sent are kept, one says why, and the next task runs in a new process."""
    how = {
        "exit": ("failed", "the worker was gone, code 7"),
        "kill": ("failed", "the worker was killed by signal 9"),
        "memory": ("skipped", "out of memory: OutOfMemoryError"),
        "error": ("failed", "illegal memory access was encountered (bad, line"),
        "input": ("failed", "nosuch"),
    }
    tasks = []
    for name in how:
        tasks.append(Task("schemes", name, gpu_tasks.bad, {"how": name}, 30.0))
        tasks.append(Task("schemes", f"after {name}", gpu_tasks.good, {"name": f"after {name}"}, 30.0))
    record = run_gpu("cpu", 5, tmp_path / "gpu.json", tasks=tasks)
    processes = set()
    for name, (verdict, note) in how.items():
        rows = [row for row in record.rows if row.case == name]
        assert ["exact", verdict] == [row.verdict for row in rows]
        assert note in rows[1].note
        (after,) = (row for row in record.rows if row.case == f"after {name}")
        processes.add(after.note)
        assert record.notes["facts"][f"after {name}"]["value"] == int(after.note)
        assert record.notes["facts"][f"before {name}"]["value"] == 1
    assert len(how) - 1 == len(processes)  # bad input ends no worker


def test_a_plan_that_is_refused_costs_no_worker(tmp_path: Path) -> None:
    """A refusal of kvplan's own is a row, and the worker goes on."""
    tasks = [
        Task("device", "one", gpu_tasks.good, {"name": "one"}, 30.0),
        Task("schemes", "refused", gpu_tasks.bad, {"how": "refusal"}, 30.0),
        Task("schemes", "two", gpu_tasks.good, {"name": "two"}, 30.0),
    ]
    rows = run_gpu("cpu", 5, tmp_path / "gpu.json", tasks=tasks).rows
    assert ["exact", "exact", "skipped", "exact"] == [row.verdict for row in rows]
    assert rows[0].note == rows[3].note


# --- the CPU's side of the allocator ---------------------------------------------------------------------------------


def test_live_storages_are_counted() -> None:
    """512 bytes a block, views not at all, what is freed no more, and the peak of what was alive at once."""
    host = Host()
    before = torch.zeros(1000)
    with host.watching():
        view = before.view(10, 100).t()
        a = torch.zeros(1000)
        b = a + a
        del a
        c = b[:10]
        phase = host.phase()
    assert (4096, 4000, 2 * 4096) == (phase.allocated, phase.requested, phase.peak)
    assert view.shape[0] == 100
    assert c.numel() == 10


def test_memory_ends_at_a_capacity() -> None:
    """Beyond it an operation raises what an allocator raises, and what it would have made is not there."""
    host = Host()
    with host.watching(8192):
        kept = torch.zeros(1024)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1025)
        assert (8192 - 4096, 8192) == host.free()
        more = torch.zeros(1024)
    assert kept.numel() == more.numel()


# --- what each stage proves, and that it can fail --------------------------------------------------------------------


def planning(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """``kvplan.plan`` of another config than the one that ran."""
    ask = kvplan.plan

    def plan(raw: dict[str, Any], **flags: Any) -> Any:
        return ask(change(dict(raw)), **flags)

    return plan


CLASSES = {
    "a head too many": ("llama", lambda raw: {**raw, "num_key_value_heads": 4}, {"kv.bytes", "model.parameters", "weights.bytes"}),
    "a layer left out": ("qwen3-8b", lambda raw: {**raw, "num_hidden_layers": 2}, {"kv.bytes", "model.parameters", "weights.bytes"}),
    "a window off by one": ("mistral", lambda raw: {**raw, "sliding_window": 25}, {"kv.bytes", "engine/prefill_storage"}),
    "a state of other width": ("mamba", lambda raw: {**raw, "state_size": 33}, {"kv.bytes", "model.parameters", "weights.bytes"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", CLASSES)
def test_classes_catch(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction of another model than the class that ran."""
    name, change, quantities = CLASSES[fault]
    task = named(classes.tasks("cpu"), name)
    monkeypatch.setattr(classes.kvplan, "plan", planning(change))
    assert quantities == wrong(done(task)) - {"activations/peak"}


def test_classes_catch_an_estimate_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """An activation estimate that was forgotten is off by more than twice."""
    task = named(classes.tasks("cpu"), "falcon")
    assert not wrong(done(task))
    monkeypatch.setattr(planner, "activation_peak", lambda *_: 0)
    assert {"activations/peak"} == wrong(done(task))


@pytest.mark.parametrize(
    ("scheme", "predicted"),
    [("window:8", "window:7"), ("gqa:2", "gqa:1"), ("cla:4", "owners:0_0_0_0_0_0"), ("lckv:w=4,passes=3", "mha")],
)
def test_schemes_catch(scheme: str, predicted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An off-by-one window, a wrong head count, a missing layer: storages and the allocator's counters both differ."""
    case = next(case for case in covering(ci_cases(TOY)) if case.plan["scheme"] == scheme)
    plan = checks.plan
    monkeypatch.setattr(checks, "plan", lambda **asked: plan(**{**asked, "scheme": predicted}))
    task = Task("schemes", case.name, schemes.scheme, {"case": case._replace(proved=True), "twin": None}, 25.0)
    assert {"kv.bytes_per_gpu", "cuda requested"} <= wrong(done(task))


def test_schemes_catch_a_cache_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the logits are not right at small widths nothing is measured at large ones."""
    monkeypatch.setattr(checks, "_error", lambda *_: float("nan"))
    rows = done(schemes.tasks("cpu")[0][0])
    assert [("correct", "failed")] == [(row.quantity, row.verdict) for row in rows]


def test_ends_catch_a_head_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction with twice the heads stops at half the batch: more runs than it says, and a search finds how much."""
    task = named(ends.tasks("cpu"), "gqa:2")
    plan = boundary.plan
    monkeypatch.setattr(boundary, "plan", lambda **asked: plan(**{**asked, "scheme": "gqa:4"}))
    rows = {row.quantity: row for row in done(task)}
    assert {"max batch", "kv.bytes_per_gpu"} <= {row.quantity for row in rows.values() if row.verdict == "wrong"}
    assert rows["max batch"].measured > 1.5 * rows["max batch"].predicted


def test_ends_catch_a_cache_far_larger_than_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what it takes: even the smaller sizes do not run, and yet the search says how many do."""
    sizes = boundary.part_bytes
    monkeypatch.setattr(boundary, "part_bytes", lambda *a: [size // 2 for size in sizes(*a)])
    rows = {row.quantity: row for row in done(named(ends.tasks("cpu"), "mqa"))}
    assert "wrong" == rows["max batch"].verdict
    assert rows["max batch"].measured < 0.7 * rows["max batch"].predicted


def test_ends_try_the_prediction_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts that measure, two that prove: no search where both answers are right."""
    (row, *_) = done(named(ends.tasks("cpu"), "mqa"))
    assert "exact" == row.verdict
    assert row.note.startswith("4 attempts;")


def test_times_catch_a_bound_that_is_beaten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device a million times slower than it is, measured twice so, would be faster than its bound."""
    monkeypatch.setattr(Ceilings, "measured", lambda device, dtype: Ceilings(1e4, 1e4))
    assert {"seconds of a decode step", "seconds of a prefill"} == wrong(done(times.tasks("cpu")[0]))


def test_the_device_catches_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the machine's own tool knows of."""
    task = device.tasks("cpu")[0]
    assert not wrong(done(task))
    total = Host().free()[1]
    monkeypatch.setattr(Host, "free", lambda self: (total, total * 2))
    assert {"memory of the device"} == wrong(done(task))


def test_memory_is_compared_in_the_unit_that_the_tool_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100 has 16160.5 MiB by torch where nvidia-smi prints 16160 (public logs); a whole MiB more is another matter."""
    monkeypatch.setattr(Host, "said_by_driver", lambda self: ("Tesla V100-SXM2-16GB", "535", 16160 * 2**20))
    for total, bad in ((16160 * 2**20 + 2**19, set()), (16161 * 2**20, {"memory of the device"})):
        monkeypatch.setattr(Host, "free", lambda self, total=total: (total, total))
        assert bad == wrong(done(device.tasks("cpu")[0]))


def test_rates_above_the_data_sheet_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a preset states is a bound that nothing beats."""
    monkeypatch.setattr(device, "preset_of", lambda name: kvplan.catalog.find_gpu("h100"))
    monkeypatch.setattr(Ceilings, "measured", lambda device, dtype: Ceilings(4e12, 6e13))
    bench = Bench(Host(), {"device/name": {"value": "NVIDIA H100 80GB HBM3"}})
    rows = {row.quantity: row.verdict for row in device.rates(bench)}
    assert {"copy, bytes/s": "wrong", "matmul fp32, FLOP/s": "reported"} == rows


@pytest.mark.parametrize(
    ("said", "slug"),
    [("NVIDIA H100 80GB HBM3", "h100-80gb-sxm"), ("NVIDIA H200", "h200-141gb-sxm"), ("NVIDIA GeForce GTX 9999", None)],
)
def test_a_driver_s_name_is_a_preset(said: str, slug: str | None) -> None:
    """What nvidia-smi prints; where no preset has it, nothing is claimed."""
    found = device.preset_of(said)
    assert slug == (found.name if found else None)


def test_a_driver_that_says_nothing_costs_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its tool the device is what torch says, and nothing is claimed of its preset."""
    monkeypatch.setattr(Host, "said_by_driver", lambda self: ("Some Device", "", 0))
    bench = Bench(Host(), {})
    rows = [row for task in device.tasks("cpu") for row in task.run(bench)]
    assert {"reported"} == {row.verdict for row in rows}
    assert "device/kept by the driver" not in bench.facts


def test_a_worker_that_does_not_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one: one line, no record. A later one: its task is not run, and may be again."""
    monkeypatch.setattr(worker, "FIRST_S", 0.0)
    monkeypatch.setattr(worker, "START_S", 0.0)
    result = CliRunner().invoke(app, ["validate", "--suite", "gpu"])
    assert 2 == result.exit_code
    assert "no worker process that uses cpu comes up here" in result.stderr
    (row,) = worker.Worker("cpu").ask(device.tasks("cpu")[0], {}).rows
    assert ("not run", "no worker came up: a worker did not start in 0 s") == (row.verdict, row.note)


def test_the_first_rows_cover_every_axis() -> None:
    """Each scheme once, at its longest, before the rest; at least 60 of them; those of both scales stand in one order."""
    wide, small = list(ci_cases(REAL)), list(ci_cases(TOY))
    count = len({case.plan["scheme"] for case in wide})
    first = covering(wide)[:count]
    assert 60 <= count == len({case.plan["scheme"] for case in first})
    assert sorted(case.name for case in wide) == sorted(case.name for case in covering(wide))
    for case, twin in zip(first, covering(small)[:count], strict=True):
        members = [[part.partition(":")[0] for part in str(c.plan["scheme"]).split("+")] for c in (case, twin)]
        assert members[0] == members[1]


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 500])
@pytest.mark.parametrize("columns", [80, 200])
def test_the_summary_is_short(count: int, columns: int) -> None:
    """At most 60 lines, whatever went wrong, and no line wider than the screen."""
    notes = Record.of(ROOT / "tests/records/h100.json").notes
    row = Row(
        "a case of some length " * 6, {"context": 4096}, "kv.bytes", 12345, 54321, "wrong", "why " * 40, "schemes"
    )
    rows = [*Record.of(ROOT / "tests/records/h100.json").rows, *([row] * count)]
    lines = told(rows, notes, columns).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= columns
    assert f"{sum(r.verdict in BAD for r in rows)} rows say no:" in lines
    if count > 100:
        assert "more, in the record" in lines[-1]


@pytest.mark.parametrize("record", sorted((ROOT / "tests/records").glob("*.json")), ids=lambda p: p.name)
def test_a_record_is_shown(record: Path) -> None:
    """Where it was made, and every row."""
    result = CliRunner().invoke(app, ["validate", "--show", str(record)])
    assert 0 == result.exit_code
    about = read(record)
    assert about["torch"] in result.stdout
    shown = sum(line.startswith("  ") for line in result.stdout.splitlines())
    assert shown >= len(about["rows"])
    if "device_name" in about:
        assert about["device_name"] in result.stdout


def written(**changes: Any) -> dict[str, Any]:
    """A small record, with something changed in it."""
    row = Row("a case", {"context": 3}, "kv.bytes", 1, 1, "exact", "", "device").to_dict()
    return {"record": 1, "suite": "gpu", "torch": "2", "device": "cpu", "notes": {}, "rows": [row], **changes}


ROW = written()["rows"][0]
HOSTILE = {
    "notes are a number": written(notes=7),
    "rows are numbers": written(rows=[1, 2]),
    "a row without anything": written(rows=[{}]),
    "a row without a plan": written(rows=[{name: value for name, value in ROW.items() if name != "plan"}]),
    "a plan that is a number": written(rows=[{**ROW, "plan": 7}]),
    "a case that is none": written(rows=[{**ROW, "case": None}]),
    "an escape sequence": written(rows=[{**ROW, "case": "\x1b[31mred"}]),
    "two lines": written(rows=[{**ROW, "quantity": "kv.bytes\nall is well"}]),
    "a verdict of its own": written(rows=[{**ROW, "verdict": "splendid"}]),
    "a verdict that is a list": written(rows=[{**ROW, "verdict": [1]}]),
    "a measured word": written(rows=[{**ROW, "measured": "x"}]),
    "a huge number": written(rows=[{**ROW, "measured": 10**400}]),
    "facts that are a list": written(notes={"facts": [1]}),
    "a fact without a unit": written(notes={"facts": {"a": {"value": 1}}}),
    "a version that is true": written(record=True),
    "a version that is later": written(record=99),
}


@pytest.mark.parametrize("option", ["--show", "--resume", "--record"])
@pytest.mark.parametrize("fault", HOSTILE)
def test_a_record_from_a_stranger(fault: str, option: str, tmp_path: Path) -> None:
    """Bounded and checked: one line that names the file, exit code 2, and the file is as it was."""
    place = tmp_path / "r.json"
    text = json.dumps(HOSTILE[fault])
    place.write_text(text)
    asked = {"--show": ["--show", str(place)], "--record": ["--suite", "ci", "--record", str(place)]}
    asked["--resume"] = [*asked["--record"], "--resume"]
    result = CliRunner().invoke(app, ["validate", *asked[option]])
    assert 2 == result.exit_code, result.exception
    # a long path loses its middle, not its name
    assert f"{option}: got '" in result.stderr
    assert "r.json', allowed: a record that kvplan validate wrote" in result.stderr
    assert 1 == len(result.stderr.strip().splitlines())
    assert text == place.read_text()
    assert [place] == list(tmp_path.iterdir())


def test_a_header_from_a_stranger_is_shown_harmless(tmp_path: Path) -> None:
    """Escape sequences are escaped; depth is an error of one line; --json is the record."""
    place = tmp_path / "r.json"
    place.write_text(json.dumps(written(device="\x1b[31mcuda\n")))
    result = CliRunner().invoke(app, ["validate", "--show", str(place)])
    assert 0 == result.exit_code
    assert "\x1b" not in result.stdout
    assert "\\x1b[31mcuda\\n" in result.stdout
    assert [ROW] == json.loads(CliRunner().invoke(app, ["validate", "--show", str(place), "--json"]).stdout)["rows"]
    place.write_text("[" * 200_000)
    result = CliRunner().invoke(app, ["validate", "--show", str(place)])
    assert (2, 1) == (result.exit_code, len(result.stderr.strip().splitlines()))


def test_nothing_that_lies_there_is_lost(tmp_path: Path) -> None:
    """A record with rows, a text, a folder and a device are refused; a link is followed; a folder without permission is named."""
    text, record, link = tmp_path / "README.md", tmp_path / "r.json", tmp_path / "link.json"
    text.write_text("words")
    record.write_text(json.dumps(written()))
    for place, said in (
        (text, "a record that kvplan validate wrote"),
        (record, "a new file, or --resume beside it: this one holds 1 rows"),
        (tmp_path, "the name of a file"),
        (Path("/dev/null"), "the name of a file"),
    ):
        for suite in (["--suite", "ci"], ["--suite", "gpu", "--minutes", "0.01"]):
            result = CliRunner().invoke(app, ["validate", *suite, "--record", str(place)])
            assert 2 == result.exit_code, result.exception
            assert f"{place.name}', allowed: {said}" in result.stderr
    assert ("words", json.dumps(written())) == (text.read_text(), record.read_text())
    link.symlink_to(tmp_path / "target.json")
    run_gpu("cpu", 0.01, link)
    assert link.is_symlink()
    assert read(tmp_path / "target.json")["rows"]
    result = CliRunner().invoke(app, ["validate", "--suite", "gpu", "--minutes", "0.01", "--record", "/proc/r.json"])
    assert 2 == result.exit_code, result.exception
    assert "--record: got '/proc/r.json', allowed: a file that can be written" in result.stderr
    assert 1 == len([line for line in result.stderr.splitlines() if "--record" in line])


@pytest.mark.parametrize(
    "command",
    [
        ["plot", "kv", "llama-3.1-8b", "-o"],
        ["check", str(ROOT / "tests/data/kvplan.toml"), "--junit"],
        ["validate", "--suite", "gpu", "--minutes", "0.01", "--junit"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_writes_over_what_is_no_file(command: list[str], tmp_path: Path) -> None:
    """A pipe stays a pipe, whatever writes there; a link is followed."""
    pipe, link = tmp_path / "pipe.csv", tmp_path / "link.csv"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "target.csv")
    result = CliRunner().invoke(app, [*command, str(pipe)])
    assert 2 == result.exit_code, result.exception
    assert "allowed: the name of a file" in result.stderr
    assert pipe.is_fifo()
    CliRunner().invoke(app, [*command, str(link)])
    assert link.is_symlink()
    assert (tmp_path / "target.csv").read_bytes()


def test_a_report_says_what_was_not_run() -> None:
    """JUnit: skipped, not passed."""
    rows = [Row("a", {}, "run", None, None, "not run", "no time"), Row("b", {}, "run", 1, 1, "exact")]
    assert 'skipped="1"' in junit(rows, "gpu")


def test_a_record_that_says_no_is_not_passed_over() -> None:
    """What was measured decides: a number that was wrong and still is, a path that is no more; a number mended since holds."""
    plan = {"model": "llama-3.1-8b", "context": 100, "engine": "transformers", "dtype": "bf16"}
    size = 32 * 2 * 8 * 128 * 2 * 100  # layers, K and V, heads, width, bytes, tokens

    def left(*rows: Row) -> list[str]:
        return [row.case for row in replay({"rows": [row.to_dict() for row in rows]})]

    assert ["still wrong", "gone", "no term"] == left(
        Row("still wrong", plan, "kv.bytes", size, 999, "wrong"),
        Row("mended", plan, "kv.bytes", 999, size, "wrong"),
        Row("gone", plan, "kv.bytez", size, size, "exact"),
        Row("no term", plan, "engine/nosuch", 1, 1, "exact"),
    )
    assert ["too low"] == left(
        Row("too low", plan, "activations/peak", 10, 1, "wrong"),
        Row("near", plan, "activations/peak", 10, 2 * 100 * (4 * 4096 + 3 * 14336), "wrong"),
    )


def test_the_readme_says_what_the_record_says() -> None:
    """Its claims about the H100, counted anew."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    about = read(ROOT / "tests/records/h100.json")
    rows = about["rows"]
    sizes = [r for r in rows if r["stage"] == "classes" and r["verdict"] in ("exact", "wrong")]
    equal = sum(r["predicted"] == r["measured"] for r in sizes)
    assert f"{equal} of {len(sizes)} byte counts equal" in readme
    ran = {(r["stage"], r["case"]) for r in rows if r["stage"] in ("schemes", "more")}
    requested = [r for r in rows if r["quantity"] == "cuda requested" and r["predicted"] == r["measured"]]
    assert (
        f"of {len(ran)} configurations of the small transformer {len(requested)} with the requested bytes equal"
        in readme
    )
    peaks = [r["measured"] / r["predicted"] for r in rows if r["quantity"] == "activations/peak"]
    assert f"{len(peaks)} peaks above weights and cache, {min(peaks):.2f} to {max(peaks):.2f} of the estimate" in readme
    batches = [r["measured"] / r["predicted"] - 1 for r in rows if r["quantity"] == "max batch"]
    exact, near = batches.count(0), sum(0 < abs(off) <= 0.01 for off in batches)
    words = f"predicted exactly for {exact}, within 1 % for {near}, and {max(batches):.0%} too low for MQA".replace(
        "%", " %"
    )
    assert words.replace("1  %", "1 %") in readme
    tasks = {(r["stage"], r["case"]) for r in rows}
    ended = about["notes"]["stages"]
    assert (
        f"took {about['notes']['seconds']:.0f} s for all {len(tasks)} tasks (the first three stages {ended['schemes']:.0f} s)"
        in readme
    )
    assert f"says no {'twice' if sum(r['verdict'] in BAD for r in rows) == 2 else '?'}" in readme


def test_a_record_is_replayed_against_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact number that moved, and an estimate that moved too far, are told; one that came nearer is not."""
    found = read(ROOT / "tests/records/h100.json")
    assert not list(replay(found))
    activations = planner.activation_peak
    monkeypatch.setattr(planner, "activation_peak", lambda *a: activations(*a) * 5 // 4)
    assert not list(replay(found))
    monkeypatch.setattr(planner, "activation_peak", lambda *a: activations(*a) * 5)
    assert {"activations/peak"} == {row.quantity for row in replay(found)}


@pytest.fixture(scope="module")
def rehearsed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Rehearsal:
    """The whole suite as a user starts it where there is no GPU."""
    place = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, "-m", "kvplan", "validate", "--suite", "gpu", "--device", "cpu", "--record", str(place)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return run, read(place)


def test_a_rehearsal_goes_through_every_stage(
    rehearsed: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    """Exit 0, every task of the suite, nothing wrong, a summary of at most 60 lines, progress on stderr."""
    run, record = rehearsed
    assert 0 == run.returncode, run.stdout
    assert gpu_tasks.planned(suite_tasks("cpu")) == keys(record["rows"])
    assert not [row for row in record["rows"] if row["verdict"] in (*BAD, "skipped", "not run")]
    assert len(run.stdout.splitlines()) <= LINES
    assert all(stage in run.stdout for stage in STAGES)
    assert f"{len(suite_tasks('cpu'))}/{len(suite_tasks('cpu'))}" in run.stderr
    assert not list(replay(record))
    assert "process/outside torch before the first tensor" in record["notes"]["facts"]
