"""How long figures take: asking for their data, drawing them once it is there, and plotly's check; medians of one run.

    python tests/benchmarks/bench_figures.py [--engine vllm]

Target: 60 ms to draw a figure whose data are there (answers are remembered on the reports). The ratio is to one
``kvplan.plan`` of the same model on the same GPU, so that it holds on any machine. Reports, asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvplan
from kvplan import figures
from kvplan.figures import Chart
from kvplan.reproduce import reproduce
from kvplan.validate.records import read

RECORD = Path(__file__).parents[1] / "records/ci-cpu.json"
SCHEMES = ["gqa:4", "mqa", "cla:2"]


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cases(engine: str) -> dict[str, Callable[[], Callable[[], Chart]]]:
    """For each figure, what makes fresh reports and gives the call that draws them."""
    flags: dict[str, Any] = {"gpu": "h100", "engine": engine}

    def compared() -> Any:
        return kvplan.compare("gemma-3-12b", SCHEMES, **flags)

    def one() -> Any:
        return kvplan.plan("gemma-3-12b", **flags)

    rows, record = reproduce(), read(RECORD)
    return {
        "kv, 4 lines": lambda: (lambda c: lambda: figures.kv(c.reports))(compared()),
        "frontier, 4 lines": lambda: (lambda c: lambda: figures.frontier(c.reports))(compared()),
        "capacity, 9 x 8 cells": lambda: (lambda r: lambda: figures.capacity([r]))(one()),
        "memory, 4 bars": lambda: (lambda c: lambda: figures.memory(c.reports))(compared()),
        "schemes, 4 points": lambda: (lambda c: lambda: figures.schemes(c))(compared()),
        "owners, 48 layers": lambda: (lambda r: lambda: figures.owners(r))(one()),
        "roofline": lambda: (lambda r: lambda: figures.roofline(r))(one()),
        "bounds": lambda: (lambda r: lambda: figures.bounds([r]))(one()),
        f"published, {len(rows)} rows": lambda: lambda: figures.published(rows),
        f"measured, {len(record['rows'])} rows": lambda: lambda: figures.measured([record]),
    }


def main() -> None:
    """Prints one line per figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="ideal")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    spec = kvplan.load("gemma-3-12b")
    ask = lambda i: kvplan.plan(spec, gpu="h100", engine=args.engine, context=1000 + i)  # noqa: E731
    ask(0)
    plan = statistics.median(seconds(lambda i=i: ask(i)) for i in range(1, 100))
    print(f"one plan, engine {args.engine}: {1e3 * plan:.2f} ms")
    for name, fresh in cases(args.engine).items():
        first, again, checked = [], [], []
        for _ in range(args.runs):
            draw = fresh()
            first.append(seconds(draw))
            again.append(seconds(draw))
            chart = draw()
            checked.append(seconds(chart.figure))
        a, b, c = (statistics.median(times) for times in (first, again, checked))
        print(
            f"{name:24s} {1e3 * a:7.1f} ms with its data, {1e3 * b:5.1f} ms drawn ({b / plan:5.1f} plans), plotly {1e3 * c:5.1f} ms"
        )


if __name__ == "__main__":
    main()
