"""How far a sweep is, on stderr: a bar with rate and time left on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]

EVERY_S = 10.0


class Progress:
    """Counts points. A context: the bar goes when it ends. Silent where ``shown`` is false or stderr is closed."""

    def __init__(self, total: int, done: int = 0, *, shown: bool = True) -> None:
        """``done`` points were finished by an earlier run; they count as done, not towards the rate."""
        self.total, self.done, self.before = total, done, done
        self.start = self.said = time.monotonic()
        self.bar: Any = None
        self.task: Any = None
        self.shown = shown and sys.stderr is not None

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("sweep"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("sweep", total=self.total, completed=self.done, said="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    @property
    def rate(self) -> float:
        """Points per second of this run."""
        return (self.done - self.before) / max(time.monotonic() - self.start, 1e-9)

    def add(self, points: int) -> None:
        """Counts finished points, and says so."""
        self.done += points
        if not self.shown:
            return
        said = f"{self.done:,} of {self.total:,} points, {_per_second(self.rate)}"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, said=said)
            return
        now = time.monotonic()
        if now - self.said >= EVERY_S:
            self.said = now
            left = (self.total - self.done) / max(self.rate, 1e-9)
            print(f"kvplan: sweep {100 * self.done // self.total} %, {said}, {_clock(left)} left", file=sys.stderr)


def _per_second(rate: float) -> str:
    return f"{rate / 1e6:.1f} million points/s" if rate >= 1e5 else f"{rate:,.0f} points/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(min(seconds, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
