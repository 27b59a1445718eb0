"""Runs as a user starts them: killed and resumed, out of memory for real, over ranks, and without what they need."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kvplan.cli import app
from kvplan.validate.boundary import boundary, largest_running
from kvplan.validate.cases import SHAPE
from kvplan.validate.records import read

SHORT = {**SHAPE, "layers": 4, "dtype": "fp32", "context": 2048}


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL leaves a whole record of the cases done; --resume keeps them and ends as an unbroken run does."""
    place = tmp_path / "ci.json"
    command = [sys.executable, "-m", "kvplan", "validate", "--suite", "ci", "--jobs", "1", "--record", str(place)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not place.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = read(place)["rows"]
    assert before
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    after = read(place)["rows"]
    assert done.returncode == 0, done.stderr
    assert before == after[: len(before)]
    unbroken = read(Path(__file__).parents[1] / "records/ci-cpu.json")["rows"]
    assert [(row["case"], row["quantity"], row["predicted"]) for row in unbroken] == sorted_as(unbroken, after)


def sorted_as(order: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows in the order of another record's cases: workers finish in any order, and rows of a case stay together."""
    place = {row["case"]: i for i, row in reversed(list(enumerate(order)))}
    rows = sorted(rows, key=lambda row: place[row["case"]])
    return [(row["case"], row["quantity"], row["predicted"]) for row in rows]


def test_the_largest_batch_is_found_by_running_out() -> None:
    """Fresh processes under the operating system's limit stop within one sequence, or 1 %, of the prediction."""
    found = boundary({**SHORT, "scheme": "cla:2"}, "cpu", "batch", 64 * 2**20)
    assert found.row.verdict in ("exact", "within"), found.row
    assert {row.verdict for row in found.rows} == {"exact"}


def test_the_search_ends_at_the_edge() -> None:
    """Whatever the guess: the largest n that runs, and 0 where none does."""
    for edge in (1, 7, 100, 1000):
        for guess in (1, 50, 5000):
            assert largest_running(lambda n, edge=edge: n <= edge, guess, 1)[0] == edge
    assert largest_running(lambda n: False, 10, 1)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "nosuch"], "unknown suite 'nosuch'"),
        (["--suite", "ci", "--layers", "4"], "nothing beside --suite ci"),
        (["--device", "tpu", "--suite", "ci"], "--device: got 'tpu', allowed: cpu or cuda"),
        ([], "a model, numbers, or --suite"),
        (["llama-3.1-8b", "--reference", "jax"], "unknown reference 'jax'"),
        (["--suite", "types", "--types", "lama"], "unknown model_type 'lama'"),
        (
            ["--suite", "ci", "--resume", "--record", "/dev/null"],
            "--record: got '/dev/null', allowed: the name of a file",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    """It names the flag, the value and what is allowed, and exits 2."""
    result = CliRunner().invoke(app, ["validate", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_without_torch_it_says_what_to_install() -> None:
    """One line that names the extra."""
    code = "import sys; sys.modules['torch'] = None; from kvplan.cli import app; app(['validate', '--suite', 'ci'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'kvplan[validate]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_one_config_against_its_class() -> None:
    """A windowed preset above its window: every row exact."""
    result = CliRunner().invoke(app, ["validate", "gemma-2-2b", "--reference", "transformers", "-c", "4097", "--json"])
    assert result.exit_code == 0, result.stdout
    assert {row["verdict"] for row in json.loads(result.stdout)["rows"]} == {"exact"}
