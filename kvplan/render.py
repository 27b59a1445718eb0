"""A report for a terminal: verdict, memory bar, table, what was left out, what to try. Rich draws, nobody prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvplan.text import inert, printable
from kvplan.units import format_bytes, format_ratio

if TYPE_CHECKING:
    from kvplan.report import Report

__all__ = ["bars", "bullets", "heading", "listing", "papers", "table", "text"]

# Okabe and Ito's palette: told apart without red and green. Patterns tell the same where there is no colour.
SEGMENTS = (("#0072B2", "█"), ("#E69F00", "▓"), ("#999999", "▒"), ("", "░"))
GAP = 2  # blanks between columns
FOLD = 16  # characters that a word other than a name or a number keeps together
NO_LIMIT = 100_000


def console(width: int, color: bool) -> Console:
    """A Rich console that draws into a string, taking every text as it stands: ``[@L:G]`` is notation, not markup."""
    return Console(
        file=StringIO(),
        width=min(max(width, 40), NO_LIMIT),
        force_terminal=color,
        no_color=not color,
        color_system="truecolor" if color else None,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
        legacy_windows=False,
    )


def drawn(c: Console) -> str:
    """What was drawn, without blanks at line ends."""
    assert isinstance(c.file, StringIO)
    # what a name holds may have come to stand at the start of a line
    return "\n".join(inert(line.rstrip()) for line in c.file.getvalue().split("\n")).removesuffix("\n") + "\n"


def shown(text: str, style: str = "") -> Text:
    """A text as it may be drawn: printable, on the lines that kvplan itself broke it into."""
    return Text("\n".join(map(printable, text.split("\n"))), style=style)


def text(report: Report, width: int, color: bool) -> str:
    """The whole report as text."""
    c = console(width, color)
    c.print(shown(report.headline(), "bold"))
    style = "" if report.fits is None else "bold #009E73" if report.fits else "bold #D55E00"
    c.print(shown(("" if report.fits is None else "✔ " if report.fits else "✘ ") + report.verdict(), style))
    if report.capacity is not None:
        c.print()
        for line in memory_bar(report, c.width):
            c.print(line)
    c.print()
    _columns(c, list(report.rows()), ({}, {"justify": "right", "style": "bold"}, {"style": "dim"}))
    for title, items in (
        (f"what {report.engine['name']} prints", report.engine["printed"]),
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
    grid.add_row("·", shown(item))
    return grid


def column_widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Columns' widths that share out ``width``: the widest gives way first, and none breaks a name or a number.

    Where names and numbers alone are wider than ``width``, so is the sum.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    least = least_widths(columns, width)
    while spanned(widths) > width and any(map(int.__gt__, widths, least)):
        i = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[i] -= 1
    return widths


def least_widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """How narrow each column may get: names (the first column) and numbers stay whole, other words fold at FOLD.

    A number keeps its unit beside it while that fits into ``width``. An owner map names every layer in one word:
    beyond half of the line even a name is folded.
    """
    for units in (True, False):
        least = []
        for i, column in enumerate(columns):
            words = [word for cell in column for word in cell.split()]
            plain = [min(cell_len(word), max(width // 2, FOLD) if i == 0 else FOLD) for word in words]
            numbers = [cell_len(word) for word in words if word[:1].isdigit()]
            if units:
                numbers += [cell_len(cell) for cell in column if cell[:1].isdigit() and cell.count(" ") == 1]
            least.append(max([1, *plain, *numbers]))
        if spanned(least) <= width:
            break
    return least


def spanned(widths: Sequence[int]) -> int:
    """Characters of a line whose columns have these widths."""
    return sum(widths) + GAP * (len(widths) - 1)


def _columns(
    c: Console, rows: Sequence[Sequence[str]], looks: Sequence[dict[str, Any]], header: Sequence[str] = ()
) -> None:
    """Draws rows, each column with its look, as wide as ``column_widths`` says."""
    rows = [["\n".join(map(printable, cell.split("\n"))) for cell in row] for row in rows]
    widths = column_widths([header, *rows] if header else rows, c.width)
    drawing = Table(box=None, padding=0, show_header=bool(header), header_style="bold")
    for i, look in enumerate(looks):
        if i:
            drawing.add_column(width=GAP)
        drawing.add_column(header[i] if header else "", width=widths[i], overflow="fold", **look)
    for first, *others in rows:
        drawing.add_row(Text(first), *(cell for text in others for cell in ("", Text(text))))
    # beyond the console's width Rich would cut columns, and numbers in them
    before, c.width = c.width, max(c.width, spanned(widths))
    c.print(drawing)
    c.width = before


def memory_bar(report: Report, width: int) -> list[Text]:
    """One GPU's memory as a bar and the lines of its legend, which break between items only.

    The cells add up to the width, a part that exists gets at least one. What does not fit is said, not drawn.
    """
    assert report.capacity is not None
    usable = report.capacity.usable_bytes
    parts = report.memory()
    used = sum(size for _, size in parts)
    if used <= usable:
        parts = [*parts, ("free", usable - used)]
    whole = max(usable, used)
    # never wider than the line, whatever an engine makes of options that nobody sets
    cells = [min(max(round(size * (width - 2) / whole), 1 if size else 0), width - 2) for _, size in parts]
    cells[cells.index(max(cells))] += width - 2 - sum(cells)  # what rounding left over, where it shows least
    bar, legend = Text("▕"), []
    for (style, block), n, (name, size) in zip(SEGMENTS, cells, parts, strict=False):
        bar.append(block * n, style)
        legend.append(Text.assemble((f"{block} ", style), f"{name} {format_bytes(size)}"))
    if used > usable:
        legend.append(Text(f"missing {format_bytes(used - usable)}"))
    bar.append("▏")
    lines = [Text(" ").append_text(legend[0])]
    for item in legend[1:]:
        if lines[-1].cell_len + 2 + item.cell_len <= width:
            lines[-1].append("  ").append_text(item)
        else:
            lines.append(Text(" ").append_text(item))
    return [bar, *lines]


def bullets(items: Iterable[str], width: int, color: bool) -> str:
    """Sentences, each behind a dot and wrapped beside it."""
    c = console(width, color)
    for item in items:
        c.print(_bullet(item))
    return drawn(c)


def bars(
    names: tuple[str, ...],
    labels: Sequence[str],
    values: Sequence[tuple[float, ...]],
    width: int,
    color: bool,
) -> str:
    """One group of bars per label, one bar per name: the longest fills the line, and its number stands at the end.

    Bars of different names differ by block as well as by colour; what exists gets at least one cell.
    """
    c = console(min(width, 120), color)  # longer bars say no more
    legend = Text()
    for i, name in enumerate(names):
        legend.append(f"{'   ' if i else ''}{SEGMENTS[i][1]} ", SEGMENTS[i][0])
        legend.append(name)
    legend.append("   (1 = as published)", "dim")
    c.print(legend)
    beside = min(max(map(len, labels)), max(c.width // 3, 12))
    largest = max((value for group in values for value in group), default=0.0) or 1.0
    cells = c.width - beside - 9  # a blank, the bar, a blank and seven characters of number
    for label, group in zip(labels, values, strict=True):
        for i, value in enumerate(group):
            label = printable(label)
            short = label if len(label) <= beside else label[: beside - 1] + "…"
            line = Text(f"{'' if i else short:<{beside}} ")
            style, block = SEGMENTS[i]
            line.append(block * max(round(value * cells / largest), 1 if value else 0), style)
            line.append(f" {format_ratio(value)}")
            c.print(line)
    return drawn(c)


def heading(line: str, width: int, color: bool) -> str:
    """A line that stands above what it names, wrapped where it is too long."""
    c = console(width, color)
    c.print(shown(line, "bold"))
    return drawn(c)


def papers(rows: list[dict[str, Any]], width: int, color: bool) -> str:
    """The literature, a paragraph each: name and source, notation, what rises and what falls, and why."""
    c = console(width, color)
    for row in rows:
        if row is not rows[0]:
            c.print()
        c.print(Text.assemble(shown(row["name"], "bold"), f" {row['year']}  ", shown(row["source"], "dim")))
        if row["notation"]:
            c.print(shown("  " + row["notation"], "#0072B2"))
        moved = [f"{name} {ARROWS[way]}" for name, way in row["changes"].items() if way != "same"]
        kept = [name for name, way in row["changes"].items() if way == "same"]
        words = ["  ".join(moved)] if moved else []
        words += [f"same: {', '.join(kept)}"] if kept else []
        c.print(Padding(Text("  |  ".join(words)), (0, 0, 0, 2)))
        c.print(Padding(shown(row["summary"], "dim"), (0, 0, 0, 2)))
    return drawn(c)


ARROWS = {"down": "↓", "up": "↑"}


def table(
    title: str,
    header: tuple[str, ...],
    rows: list[tuple[str, ...]],
    width: int | None,
    color: bool,
    *,
    right: bool = False,
) -> str:
    """A plain listing; numbers are right-aligned where every cell of a column is one, or all but the first column.

    Names and numbers are never broken (see ``column_widths``); without a ``width``, nothing is.
    """
    c = console(NO_LIMIT if width is None else width, color)
    looks: list[dict[str, Any]] = []
    for i in range(len(header)):
        cells = [row[i] for row in rows if row[i]]
        numeric = i > 0 if right else bool(cells) and all(cell[:1].isdigit() for cell in cells)
        looks.append({"justify": "right" if numeric else "left"})
    if title:
        c.print(shown(title, "bold"))
    _columns(c, rows, looks, header)
    return drawn(c)


def listing(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int | None, color: bool) -> str:
    """Named rows: a table, or a paragraph per row where the names leave the other columns too little of the line."""
    if width is not None:
        room = max(width, 40)
        least = least_widths(list(zip(header, *rows, strict=True)), room)
        longest = max(max(map(cell_len, row[0].split()), default=0) for row in rows)
        if spanned(least) > room or longest > room // 2:
            return records(header, rows, room, color)
    return table("", header, rows, width, color)


def records(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, color: bool) -> str:
    """A paragraph per row: its name, and below it what is known of it."""
    c = console(width, color)
    for row in rows:
        if row is not rows[0]:
            c.print()
        c.print(shown(row[0], "bold"), soft_wrap=True)
        grid = Table.grid(padding=(0, GAP, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell:
                grid.add_row(f"  {name}", shown(cell))
        c.print(grid)
    return drawn(c)
