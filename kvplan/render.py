"""A report for a terminal: verdict, memory bar, table, what was left out, what to try. Rich draws, nobody prints."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvplan.units import format_bytes

if TYPE_CHECKING:
    from kvplan.report import Report

__all__ = ["table", "text"]

# Okabe and Ito's palette: told apart without red and green. Patterns tell the same where there is no colour.
SEGMENTS = (("#0072B2", "█"), ("#E69F00", "▓"), ("#999999", "▒"), ("", "░"))


def console(width: int, color: bool) -> Console:
    """A Rich console that draws into a string."""
    return Console(
        file=StringIO(),
        width=max(width, 40),
        force_terminal=color,
        no_color=not color,
        color_system="truecolor" if color else None,
        highlight=False,
        soft_wrap=False,
        legacy_windows=False,
    )


def drawn(c: Console) -> str:
    """What was drawn, without blanks at line ends."""
    assert isinstance(c.file, StringIO)
    return "\n".join(line.rstrip() for line in c.file.getvalue().splitlines()) + "\n"


def text(report: Report, width: int, color: bool) -> str:
    """The whole report as text."""
    c = console(width, color)
    c.print(Text(report.headline(), style="bold"))
    style = "" if report.fits is None else "bold #009E73" if report.fits else "bold #D55E00"
    c.print(Text(("" if report.fits is None else "✔ " if report.fits else "✘ ") + report.verdict(), style=style))
    if report.capacity is not None:
        c.print()
        for line in memory_bar(report, c.width):
            c.print(line)
    c.print()
    rows = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    rows.add_column(style="", no_wrap=False)
    rows.add_column(justify="right", style="bold", no_wrap=True)
    rows.add_column(style="dim", no_wrap=False)
    for row in report.rows():
        rows.add_row(*row)
    c.print(rows)
    for title, items in (
        ("notes", report.notes),
        ("left out", tuple(f"{o.path}: {o.why}" for o in report.omitted)),
        ("try", report.suggestions),
    ):
        if items:
            c.print()
            c.print(Text(title, style="bold"))
            for item in items:
                c.print(_bullet(item))
    return drawn(c)


def _bullet(item: str) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column()
    grid.add_row("·", item)
    return grid


def memory_bar(report: Report, width: int) -> list[Text]:
    """One GPU's memory as a bar and its legend; the cells add up to the width, a part that exists gets at least one."""
    assert report.capacity is not None
    usable = report.capacity.usable_bytes
    parts = report.memory()
    used = sum(size for _, size in parts)
    parts = [*parts, ("free", max(usable - used, 0))]
    whole = max(usable, used)
    cells = width - 2
    bar, legend = Text("▕"), Text(" ")
    left = cells
    for i, (name, size) in enumerate(parts):
        style, block = SEGMENTS[i]
        n = left if i == len(parts) - 1 else min(left, max(round(size * cells / whole), 1 if size else 0))
        left -= n
        bar.append(block * n, style)
        if i:
            legend.append("  ")
        legend.append(f"{block} ", style)
        legend.append(f"{name} {format_bytes(size)}")
    bar.append("▏")
    return [bar, legend]


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, color: bool) -> str:
    """A plain listing; numbers are right-aligned where every cell of a column is one."""
    c = console(width, color)
    drawing = Table(title=None, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        numeric = all(row[i][:1].isdigit() for row in rows) if rows else False
        drawing.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawing.add_row(*row)
    if title:
        c.print(Text(title, style="bold"))
    c.print(drawing)
    return drawn(c)
