"""The same chunks on a real Dask cluster of two worker processes, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.sweeps import sweep

pytest.importorskip("pyarrow")
distributed = pytest.importorskip("distributed")

GRID: dict[str, Any] = {
    "context": "1..6000:1",
    "batch": "1..16:1",
    "gpu": "rtx-4090,h100-80gb-sxm",
    "kv_dtype": "bf16,int4",
    "tp": "1,3",
    "columns": "kv_bytes,max_batch,max_context,tokens_per_s,binding",
    "chunk": 2000,
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own, started as people start them."""
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}
    file = tmp_path / "scheduler.json"
    quiet: dict[str, Any] = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
    ]
    processes = [subprocess.Popen([*command, "--scheduler-file", str(file)], **quiet)]
    try:
        wait_for(file.exists)
        time.sleep(0.2)
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            str(file),
            "--no-nanny",
            "--no-dashboard",
        ]
        workers = [
            subprocess.Popen([*command, "--nthreads", "2", "--local-directory", str(tmp_path / name)], **quiet)
            for name in ("a", "b")
        ]
        processes += workers
        import json

        address = json.loads(file.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.filterwarnings("default")  # warnings of the cluster's own libraries are not ours
def test_a_cluster_that_loses_a_worker_gives_the_same(
    tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    """Two workers, one killed after the first chunks came back: byte for byte the file of one process."""
    address, workers = cluster
    here = sweep("gemma-3-12b", output=tmp_path / "here.parquet", **GRID)
    log = tmp_path / "there.parquet.parts" / "chunks.jsonl"
    at = []

    def kill_one() -> None:
        wait_for(log.exists)
        wait_for(lambda: len(log.read_text().splitlines()) >= 5)
        workers[0].kill()
        at.append(len(log.read_text().splitlines()))

    killer = threading.Thread(target=kill_one)
    killer.start()
    there = sweep("gemma-3-12b", output=tmp_path / "there.parquet", scheduler=address, **GRID)
    killer.join()
    assert -signal.SIGKILL == workers[0].wait(timeout=10)
    assert workers[1].poll() is None
    assert 5 <= at[0] < here.grid.chunks  # there was work left to take over
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert here.skipped == there.skipped
    assert here.skipped


@pytest.mark.filterwarnings("default")
def test_chunks_and_top_on_a_cluster(cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    """Rows and ranked rows are those of one process, in the same order."""
    address, _ = cluster
    for extra in ({"where": "max_batch > 30 and context < 100"}, {"top": 10, "by": "tokens_per_s"}):
        expected = sweep("gemma-3-12b", **GRID, **extra).rows()
        assert expected == sweep("gemma-3-12b", scheduler=address, **GRID, **extra).rows()
        assert expected


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "here", "", "http://x", 3])
def test_no_scheduler_there(address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""
    from kvplan.sweeps import run

    monkeypatch.setattr(run, "CONNECT_S", 1)
    with pytest.raises(InvalidInput, match=r"^scheduler: "):
        sweep("llama-3.1-8b", scheduler=address).rows()
