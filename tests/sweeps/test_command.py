"""``kvplan sweep``: what it prints where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kvplan.cli import app
from kvplan.errors import MissingExtra
from kvplan.sweeps import COLUMNS, progress, sweep

pytest.importorskip("kvplan.sweeps.files")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["sweep", *arguments])


GRID = (
    "llama-3.1-8b",
    "-c",
    "1k..8k",
    "-b",
    "1,8",
    "--gpu",
    "rtx-4090",
    "--tp",
    "1,3",
    "--columns",
    "kv_bytes,max_batch",
)


def expected() -> list[dict[str, Any]]:
    grid: dict[str, Any] = {"context": "1k..8k", "batch": "1,8", "gpu": "rtx-4090", "tp": "1,3"}
    return sweep("llama-3.1-8b", columns="kv_bytes,max_batch", **grid).rows()


SKIPPED = "kvplan: skipped 1 of 2 combinations (8 points): tp: got 3, allowed: a divisor of the 32 attention heads\n"


def test_streams_are_data_and_stderr_is_talk() -> None:
    """CSV and JSON lines on stdout and nothing else there; what was skipped on stderr."""
    found = run(*GRID, "--jsonl")
    assert (0, SKIPPED) == (found.exit_code, found.stderr)
    assert expected() == [json.loads(line) for line in found.stdout.splitlines()]
    found = run(*GRID, "--csv")
    assert (0, SKIPPED) == (found.exit_code, found.stderr)
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [{n: str(v) for n, v in row.items()} for row in expected()] == rows


def test_a_table_for_people() -> None:
    """Sizes in words; no more than fifty rows, and a word about the others."""
    found = run(*GRID)
    assert 0 == found.exit_code
    lines = found.stdout.splitlines()
    assert ["tp", "context", "batch", "kv bytes", "max batch"] == [w.strip() for w in lines[0].split("  ") if w.strip()]
    assert ["1", "1,024", "1", "128 MiB"] == [w.strip() for w in lines[1].split("  ") if w.strip()][:4]
    assert 9 == len(lines)
    found = run("llama-3.1-8b", "-b", "1..100:1", "-c", "1k..2k", "--columns", "kv_bytes")
    assert 51 == len(found.stdout.splitlines())
    assert "the first 50 rows" in found.stderr


def test_a_file(tmp_path: Path) -> None:
    """``-o`` writes it and says how many rows; nothing on stdout."""
    path = tmp_path / "grid.csv"
    found = run(*GRID, "-o", str(path))
    assert (0, "") == (found.exit_code, found.stdout)
    assert SKIPPED + f"kvplan: 8 rows of 16 points in {path}\n" == found.stderr
    assert 9 == len(path.read_text().splitlines())


def test_where_and_top() -> None:
    """The issue's own condition, and the best twenty."""
    found = run(
        "llama-3.1-8b", "-c", "1k..128k", "-b", "1..256", "--gpu", "h100-80gb-sxm", "--jsonl", "--top", "20", "--by", "tokens_per_s",
        "--where", "max_batch >= 32 and kv_bytes_per_gpu < 40GiB", "--columns", "max_batch,kv_bytes_per_gpu,tokens_per_s",
    )  # fmt: skip
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert 20 == len(rows)
    assert all(row["max_batch"] >= 32 and row["kv_bytes_per_gpu"] < 40 * 2**30 for row in rows)
    rates = [row["tokens_per_s"] for row in rows]
    assert sorted(rates, reverse=True) == rates


def test_plain_numbers_and_engine_options() -> None:
    """Flags of a plan work here too."""
    found = run("--layers", "2", "--hidden", "64", "--heads", "4", "--ffn", "128", "--vocab", "100", "-c", "10", "--jsonl",
                "--columns", "kv_bytes")  # fmt: skip
    assert {"context": 10, "kv_bytes": 10 * 2 * 2 * 64 * 2} == json.loads(found.stdout)
    found = run(
        "llama-3.1-8b",
        "-c",
        "10",
        "--engine",
        "vllm",
        "--engine-option",
        "block_size=64",
        "--columns",
        "kv_bytes",
        "--jsonl",
    )
    assert 64 * 131072 == json.loads(found.stdout)["kv_bytes"]


def test_columns_are_listed() -> None:
    """Every column with its type and what it says."""
    found = run("--list-columns")
    assert 0 == found.exit_code
    for name, column in COLUMNS.items():
        assert name in found.stdout
        assert column.says in found.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("llama-3.1-8b", "-c", "1..100"),
        ("llama-3.1-8b", "-c", "0"),
        ("llama-3.1-8b", "--where", "batch ="),
        ("llama-3.1-8b", "--columns", "kv"),
        ("llama-3.1-8b", "--top", "3"),
        ("llama-3.1-8b", "--tp", "3,5"),
        ("llama-3.1-8b", "--tp", "1,3", "--strict"),
        ("llama-3.1-8b", "-o", "x.xlsx"),
        ("llama-3.1-8b", "-o", "no/such/folder.csv"),
        ("llama-3.1-8b", "-o", "x.csv", "--csv"),
        ("llama-3.1-8b", "--csv", "--jsonl"),
        ("llama-3.1-8c",),
        (),
        ("llama-3.1-8b", "--scheduler", "tcp//x"),
        ("llama-3.1-8b", "--kv-dtype", "bf17"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, no half answer, no file."""
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert 2 == found.exit_code
    assert "" == found.stdout
    # a combination that cannot be may be told besides
    assert 1 == len(found.stderr.splitlines())
    assert found.stderr.startswith("kvplan: ")
    assert [] == [p.name for p in tmp_path.iterdir() if p.suffix == ".csv"]


def test_without_numpy_the_extra_is_named() -> None:
    """`pip install kvplan` alone has no NumPy: one line; the other commands do not need it."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from kvplan.cli import app\n"
        "sys.argv = ['kvplan', 'sweep', 'llama-3.1-8b']\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (2, "") == (done.returncode, done.stdout)
    assert "kvplan: kvplan.sweep needs an optional dependency: pip install 'kvplan[sweep]'\n" == done.stderr


def test_without_pyarrow_chunks_still_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays need NumPy alone; files and tables name the extra."""
    monkeypatch.delitem(sys.modules, "kvplan.sweeps.files")
    monkeypatch.delattr("kvplan.sweeps.files")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    asked = sweep("llama-3.1-8b", context="1k..4k", columns="kv_bytes")
    assert [2**27, 2**28, 2**29] == [n for chunk in asked.chunks() for n in chunk["kv_bytes"].tolist()]
    with pytest.raises(MissingExtra, match=r"kvplan\[sweep\]"):
        asked.table()


def test_import_kvplan_imports_no_numpy() -> None:
    """Nor does the command line; ``kvplan.sweep`` does when it is asked for."""
    code = (
        "import sys, kvplan, kvplan.cli\n"
        "heavy = {'numpy', 'pyarrow', 'distributed', 'kvplan.sweeps'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "kvplan.sweep\n"
        "assert 'numpy' in sys.modules and 'pyarrow' not in sys.modules\n"
        "import kvplan.sweeps\n"
        "assert callable(kvplan.sweep)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Screen(io.StringIO):
    """A stderr that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        """Whether it is one."""
        return self.terminal


def test_progress_off_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share, rate and time left; an earlier run's points count as done and not towards the rate."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Screen(False)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.Progress(1000_000_000, 400_000_000) as shown:
        for _ in range(10):
            now[0] += 4
            shown.add(40_000_000)
    assert [
        "kvplan: sweep 52 %, 520,000,000 of 1,000,000,000 points, 10.0 million points/s, 0:48 left",
        "kvplan: sweep 64 %, 640,000,000 of 1,000,000,000 points, 10.0 million points/s, 0:36 left",
        "kvplan: sweep 76 %, 760,000,000 of 1,000,000,000 points, 10.0 million points/s, 0:24 left",
    ] == screen.getvalue().splitlines()


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate and time left beside it; gone when it ends."""
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.Progress(1000) as shown:
        shown.add(500)
        shown.bar.refresh()
    assert "500 of 1,000 points" in screen.getvalue()
    assert "points/s" in screen.getvalue()
