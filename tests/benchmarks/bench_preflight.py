"""How the time of a preflight grows with its command: ten times the words, how many times the seconds.

    python tests/benchmarks/bench_preflight.py [--runs 5]

Target: about 10 for each, from 10,000 words to 100,000, and at most 2 s. Reports, asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import kvplan

ENGINE = ["vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct"]
# What a command of n words of a kind looks like.
COMMANDS: dict[str, Callable[[int], list[str] | str]] = {
    "unknown flags": lambda n: [*ENGINE, *(f"--unknown{i}" for i in range(n))],
    "A=B words": lambda n: [*(f"A{i}=B" for i in range(n)), *ENGINE],
    "A=B words in one text": lambda n: " ".join([*(f"A{i}=B" for i in range(n)), *ENGINE]),
    "commands before it": lambda n: "a && " * n + " ".join(ENGINE),
    "values of one flag": lambda n: [*ENGINE, "--served-model-name", *map(str, range(n))],
}


def seconds(command: list[str] | str, runs: int) -> float:
    """Median of reading a command, planning it and writing the answer as text and as JSON."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        found = kvplan.preflight(command, "rtx-4090")
        found.to_text(), found.to_json()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints one line per kind of command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    empty = seconds(ENGINE, args.runs)
    for kind, words in COMMANDS.items():
        few, many = (seconds(words(n), args.runs) for n in (10_000, 100_000))
        ratio = (many - empty) / max(few - empty, 1e-9)
        print(f"{kind}: 10,000 in {few * 1e3:.0f} ms, 100,000 in {many * 1e3:.0f} ms; ratio {ratio:.1f} (linear: 10)")


if __name__ == "__main__":
    main()
