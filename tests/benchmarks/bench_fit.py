"""How long `kvplan fit` takes from process start over every GPU preset: demands that GPUs hold, and such as none hold.

    python tests/benchmarks/bench_fit.py [--python PYTHON_WITH_A_REGULAR_INSTALL] [--runs 15] [--engine vllm]

Target: under 1 s cold; under 2 s where nothing holds the demand and every number of ranks is tried. Beside it, in turns,
`python -c "import typer, pydantic"`, because machines differ and drift: the ratio of the two says more than either.
Reports, asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def once(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process, run from an empty folder so that no checkout is picked up."""
    with tempfile.TemporaryDirectory() as empty:
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KVPLAN_PRESETS")}
        before, start = os.times(), time.perf_counter()
        code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=empty, env=env).returncode
        wall, after = time.perf_counter() - start, os.times()
    assert code in (0, 1), command  # 1: nothing holds the demand
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, spent


def main() -> None:
    """Measures and prints one line per question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--engine", action="append", default=[])
    args = parser.parse_args()
    engines = [word for name in args.engine for word in ("--engine", name)]
    base = [args.python, "-I", "-c", "import typer, pydantic"]
    for model, name, demand in (
        ("llama-3.1-70b", "64 sequences at 32k", ["--context", "32k", "--batch", "64"]),
        ("llama-3.1-70b", "10 requests/s of 2k + 512", ["--isl", "2k", "--osl", "512", "--request-rate", "10"]),
        ("gpt2", "2**48 sequences", ["--batch", "281474976710656"]),
        ("gemma-3-12b", "1,000 requests/s of 1k + 1k", ["--isl", "1k", "--osl", "1k", "--request-rate", "1000"]),
    ):
        ours = [args.python, "-I", "-m", "kvplan", "fit", model, *demand, *engines]
        once(ours), once(base)
        pairs = [(once(ours), once(base)) for _ in range(args.runs)]
        wall, spent, empty = (
            statistics.median(column) for column in zip(*((o[0], o[1], b[0]) for o, b in pairs), strict=True)
        )
        ratio = statistics.median(ours_[0] / base_[0] for ours_, base_ in pairs)
        print(
            f"kvplan fit {model}, {name}, all GPUs: {wall * 1e3:.0f} ms from process start"
            f" ({spent * 1e3:.0f} ms of CPU); import typer, pydantic: {empty * 1e3:.0f} ms; ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
