"""Rows of a sweep for people: a table with sizes in words, and what was skipped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from kvplan.sweeps import Sweep
from kvplan.sweeps.columns import COLUMNS
from kvplan.units import format_bytes, format_count, format_parameters, format_seconds, format_si

__all__ = ["SHOWN", "first_rows", "skipped", "text"]

SHOWN = 50
REASONS = 10


def first_rows(sweep: Sweep, most: int) -> list[dict[str, Any]]:
    """The first rows, no more than ``most``; what comes after them is not evaluated."""

    def rows() -> Iterator[dict[str, Any]]:
        for columns in sweep.chunks():
            names = list(columns)
            for values in zip(*(columns[name][:most].tolist() for name in names), strict=True):
                yield dict(zip(names, values, strict=True))

    return list(islice(rows(), most))


def text(rows: list[dict[str, Any]], columns: tuple[str, ...], width: int | None, color: bool) -> str:
    """A table, or a paragraph per row where the columns are too many for the line."""
    from kvplan.render import listing

    header = tuple(name.replace("_", " ") for name in columns)
    cells = [tuple(cell(name, row[name]) for name in columns) for row in rows]
    return listing(header, cells, width, color)


def cell(name: str, value: Any) -> str:
    """One value in words."""
    if value is None or value != value:
        return "n/a"
    kind = COLUMNS[name].kind
    if kind == "text":
        return str(value)
    if kind == "truth":
        return "yes" if value else "no"
    if value == float("inf"):
        return "unbounded"
    if name == "tokens_per_s":
        return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
    if name.endswith("_flops"):
        return format_si(value, "FLOP")
    if name.endswith("_s"):
        return format_seconds(value)
    if name.endswith("parameters"):
        return format_parameters(int(value))
    return format_bytes(int(value)) if "bytes" in name else format_count(int(value))


def skipped(sweep: Sweep) -> Iterator[str]:
    """One line per reason for which combinations were left out, the commonest first."""
    reasons = list(sweep.skipped.items())
    for reason, (cells, points) in reasons[:REASONS]:
        yield f"skipped {cells:,} of {sweep.grid.cells:,} combinations ({points:,} points): {reason}"
    if reasons[REASONS:]:
        points = sum(n for _, (_, n) in reasons[REASONS:])
        yield f"skipped {points:,} points for {len(reasons) - REASONS} more reasons"
