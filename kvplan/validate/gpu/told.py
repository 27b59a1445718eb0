"""What a record of the suite says, in at most 60 lines: each stage's count, what was measured of the device, every wrong row."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

from kvplan.units import format_bytes
from kvplan.validate.gpu.task import STAGES
from kvplan.validate.records import BAD, NOT_RUN, Row
from kvplan.validate.suite import shown
from kvplan.validate.suites import lckv_table

__all__ = ["LINES", "told"]

LINES = 60


def told(rows: list[Row], notes: dict[str, Any], columns: int) -> str:
    """The summary of a run: stages, facts, the table of schemes, and every wrong row in full as far as lines allow."""
    lines = [*_stages(rows, notes, columns), *_facts(notes.get("facts", {}), columns)]
    lines += lckv_table(rows).splitlines()
    bad = [row for row in rows if row.verdict in BAD]
    if bad:
        lines.append(f"{len(bad)} rows say no:")
        for i, row in enumerate(bad):
            told_row = _row(row, columns)
            rest = len(bad) - i
            if len(lines) + len(told_row) + (rest > 1) > LINES:
                lines.append(f"  and {rest} more, in the record: kvplan validate --show FILE")
                break
            lines += told_row
    return "\n".join(lines) + "\n"


def _stages(rows: list[Row], notes: dict[str, Any], columns: int) -> list[str]:
    lines = []
    for stage, what in STAGES.items():
        mine = [row for row in rows if row.stage == stage]
        if not mine:
            continue
        counts = Counter(row.verdict for row in mine)
        cases = {row.case for row in mine if row.verdict != NOT_RUN}
        waiting = counts.pop(NOT_RUN, 0)
        ended = notes.get("stages", {}).get(stage)
        text = f"{stage:<8} {len(cases):>3} run" + (f", {waiting} not run" if waiting else "")
        text += ": " + ", ".join(f"{counts[v]} {v}" for v in sorted(counts)) if counts else ""
        text += f"; done at {ended:.0f} s" if ended else ""
        lines += textwrap.wrap(f"{text}: {what}", columns, subsequent_indent="  ", drop_whitespace=True)
    return lines


def _facts(facts: dict[str, Any], columns: int) -> list[str]:
    said = []
    for path, each in facts.items():
        value = each["value"]
        text = (
            format_bytes(value)
            if each["unit"] == "bytes"
            else f"{value:.4g}"
            if isinstance(value, float)
            else str(value)
        )
        said.append(
            f"{path.partition('/')[2]} {text}" + (f" {each['unit']}" if each["unit"] not in ("", "bytes") else "")
        )
    return textwrap.wrap("measured: " + "; ".join(said), columns, subsequent_indent="  ") if said else []


def _row(row: Row, columns: int) -> list[str]:
    at = " ".join(f"{name}={row.plan[name]}" for name in ("context", "batch") if isinstance(row.plan.get(name), int))
    ratio = f", ratio {row.ratio:.3f}" if row.ratio is not None else ""
    text = (
        f"{row.stage}: {row.case} {at} {row.quantity}: predicted {shown(row.predicted, row.quantity)}, "
        f"measured {shown(row.measured, row.quantity)}{ratio}, {row.verdict}" + (f"; {row.note}" if row.note else "")
    )
    return textwrap.wrap(text, columns, initial_indent="  ", subsequent_indent="    ")
