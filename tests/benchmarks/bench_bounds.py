"""What files written to hurt take, beside an honest one: CPU seconds, peak memory, and the ratio to a plan of gpt2.

Usage: python tests/benchmarks/bench_bounds.py [PART OF A NAME]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import bombs

PEAK = (
    "import sys, runpy\nsys.argv = ['kvplan', *sys.argv[1:]]\ntry:\n    runpy.run_module('kvplan', run_name='__main__')\n"
    "finally:\n    print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1], file=sys.stderr)"
)


def taken(words: list[str], place: Path) -> tuple[float, int, int]:
    """CPU seconds, kB at the peak and the exit code of one command."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], capture_output=True, text=True, cwd=place, env=env, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stderr.split()[-1]), done.returncode


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as place:
        honest = min(taken(["plan", "gpt2"], Path(place))[0] for _ in range(5))
    print(f"{'plan gpt2':<40} {honest:>6.2f} s")
    for name, bomb in bombs.BOMBS.items():
        if wanted in name:
            with tempfile.TemporaryDirectory() as place:
                seconds, peak, code = taken(bomb(Path(place)), Path(place))
            print(f"{name:<40} {seconds:>6.2f} s {seconds / honest:>6.1f} x {peak / 1000:>6.0f} MB  exit {code}")


if __name__ == "__main__":
    main()
