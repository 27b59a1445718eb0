"""Two real processes over gloo: what each rank keeps, and that a rank which keeps something else is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.errors import Unsupported
from kvplan.validate import parallel, suites
from kvplan.validate.parallel import GRIDS, parallel_cases, run_parallel
from kvplan.validate.records import Record, environment


def test_two_processes_keep_what_is_predicted_for_each() -> None:
    """One KV head over two ranks is copied, two stages part their layers: logits of one process, exact bytes."""
    rows = run_parallel(2, "cpu", ["mqa", "cla:2"])
    assert {"6x64 mqa tp=2 pp=1 fp32 b2 S13+4", "6x64 cla:2 tp=2 pp=1 fp32 b2 S13+4", "6x64 cla:2 tp=1 pp=2 fp32 b2 S13+4"} == {
        row.case for row in rows
    }  # fmt: skip
    assert [] == [row for row in rows if row.verdict != "exact"]
    # K and V of 16 elements in fp32 for 2 sequences: 6 layers of 13 tokens with the one head whole on both ranks
    assert [2 * 6 * 13 * 2 * 16 * 4] * 2 == [
        row.measured for row in rows if "mqa" in row.case and row.quantity.startswith("kv bytes of rank")
    ][:2]
    # 3 owners, of whose 4 heads each of two ranks has 2
    assert [3 * 13 * 2 * 2 * 2 * 16 * 4] * 2 == [
        row.measured for row in rows if "cla:2 tp=2" in row.case and row.quantity.startswith("kv bytes of rank")
    ][:2]


def test_every_grid_of_the_suite_is_run_by_some_number_of_processes() -> None:
    """Suite parallel runs 2 and 4 processes, and no grid takes another number."""
    assert sum(map(len, GRIDS.values())) == len(parallel_cases(2)) + len(parallel_cases(4))


def test_torchrun_that_fails_is_a_failed_row_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that breaks in every rank: a line that says so, and the suite goes on to the next number of ranks."""
    monkeypatch.setattr(parallel.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho 'ImportError: no module of that name' >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(Unsupported, match="2 processes failed: ImportError: no module of that name"):
        run_parallel(2, "cpu")
    record = Record(environment("cpu", "parallel"), None)
    suites.parallel(record, "cpu", 1)
    assert ["failed", "failed"] == [row.verdict for row in record.rows]


def test_more_ranks_than_gpus_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU: a row that says how many are needed, not a hang of NCCL."""
    monkeypatch.setattr(parallel.torch.cuda, "device_count", lambda: 1)
    (row,) = run_parallel(2, "cuda")
    assert ("skipped", "2 ranks need as many GPUs; 1 are here") == (row.verdict, row.note)
