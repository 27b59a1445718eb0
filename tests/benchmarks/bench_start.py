"""How fast `kvplan plan PRESET --json` starts, against `python -c "import typer, pydantic"`, alternating in one run.

    python tests/benchmarks/bench_start.py [--python PYTHON_WITH_A_REGULAR_INSTALL] [--runs 30]

Target: the median ratio is at most 1.1, measured in an environment where kvplan was installed regularly (an editable
install walks import hooks). Reports, asserts nothing: machines differ and drift, which is why the two take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def once(command: list[str]) -> float:
    """Wall seconds of one process, run from an empty folder so that no checkout is picked up."""
    with tempfile.TemporaryDirectory() as empty:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=empty, env=env)
        return time.perf_counter() - start


def main() -> None:
    """Measures and prints medians and the median of the pairwise ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    # -I: the environment's own packages and nothing else, for both sides
    ours = [args.python, "-I", "-m", "kvplan", "plan", "llama-3.1-8b", "--json"]
    base = [args.python, "-I", "-c", "import typer, pydantic"]
    for command in (ours, base, ours, base):
        once(command)
    pairs = [(once(ours), once(base)) for _ in range(args.runs)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(x / y for x, y in pairs)
    print(f"kvplan plan llama-3.1-8b --json: {a * 1e3:.0f} ms; import typer, pydantic: {b * 1e3:.0f} ms")
    print(f"median of {len(pairs)} pairwise ratios: {ratio:.3f} (target: at most 1.1)")


if __name__ == "__main__":
    main()
