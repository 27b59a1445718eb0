"""Lines that engines printed, asked again: one number of a log beside what ``kvplan.plan`` answers for that setting.

Rows lie in ``presets/engine_logs``, a file per engine, a JSON object per line: what to ask, which number of the report to
read, the bytes or tokens that one printed unit stands for, and the value as it was printed. Nothing here computes a cache.

A number agrees where the prediction, rounded to the decimals that were printed, is the value. Where an input of the run
was printed rounded, the prediction is made at both ends of what it may have been, and the value must lie between them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.api import plan
from kvplan.catalog import preset_folders
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.importers.files import parse_object, read_text
from kvplan.report import Report
from kvplan.text import markdown as as_markdown
from kvplan.text import printable

__all__ = [
    "OUTCOMES",
    "Row",
    "as_dicts",
    "judge",
    "log_engines",
    "log_rows",
    "markdown",
    "predicted",
    "reproduce",
    "text",
]

EXACT, WITHIN, DISAGREES, DIFFERS = "exact", "within input rounding", "disagrees", "DIFFERS"
# What can come of a row, best first; DIFFERS fails `kvplan reproduce engines`.
OUTCOMES = (EXACT, WITHIN, DISAGREES, DIFFERS)
LONGEST = 2**20  # bytes of the rows of one engine; they have up to 84 kB
KEYS = {
    "id", "engine", "printed_version", "version", "model", "ask", "read", "scale", "value", "unit", "decimals", "between",
    "gpu", "grade", "line", "source", "note", "disagrees",
}  # fmt: skip
SUFFIX = ".jsonl"


class Row(NamedTuple):
    """One printed number and what came of asking for it; ``predicted`` is in the printed unit, None where nothing was."""

    id: str
    engine: str  # as kvplan names it
    version: str
    model: str
    grade: str  # how much of the run its log shows: A all, B some inputs elsewhere, C parts assumed
    printed: int | float
    decimals: int
    unit: str
    predicted: tuple[int | float, ...]  # one number, or those at both ends of a rounded input
    outcome: str
    note: str
    line: str
    source: str


# --- files -----------------------------------------------------------------------------------------------------------


def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in preset_folders("engine_logs"):
        if os.path.isdir(folder):
            for entry in sorted(os.listdir(folder)):
                if entry.endswith(SUFFIX):
                    found.setdefault(entry.removesuffix(SUFFIX), folder / entry)
    return found


def log_engines() -> tuple[str, ...]:
    """Engines of which there are rows."""
    return tuple(sorted(_files()))


def log_rows(engine: str) -> list[dict[str, Any]]:
    """The rows of one engine as they stand, decimals exact. Raises UnknownName or InvalidInput."""
    files = _files()
    if engine not in files:
        raise UnknownName("engine log", engine, files)
    rows = []
    lines = read_text(files[engine], "rows", LONGEST).splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{files[engine].name}, line {number}"
        row = parse_object(line.encode(), "row", where, parse_float=Decimal)
        _check(row, where)
        rows.append(row)
    return rows


def _check(row: Any, where: str) -> None:
    """Raises InvalidInput for a row that says something this module does not know, or leaves something out."""
    unknown, missing = sorted(set(row) - KEYS), sorted(KEYS - set(row))
    if unknown or missing:
        name = (unknown or missing)[0]
        raise InvalidInput(name, row.get(name, "missing"), f"exactly the keys {', '.join(sorted(KEYS))}", where)
    if not isinstance(row["ask"], dict):
        raise InvalidInput("ask", row["ask"], "keyword arguments of kvplan.plan", where)
    if isinstance(row["decimals"], bool) or not isinstance(row["decimals"], int) or row["decimals"] < 0:
        raise InvalidInput("decimals", row["decimals"], "how many were printed", where)
    if not isinstance(row["value"], (int, Decimal)) or not row["scale"]:
        raise InvalidInput("value, scale", row["value"], "numbers", where)
    between = row["between"]
    if between is not None and not {"option", "low", "high"} <= set(between):
        raise InvalidInput("between", between, "null, or option, low and high", where)
    if row["disagrees"] is not None and not str(row["disagrees"]).strip():
        raise InvalidInput("disagrees", row["disagrees"], "null, or why it cannot be explained", where)


# --- asking and judging ----------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _report(engine: str, row: dict[str, Any], extra: dict[str, Any]) -> Report:
    words = {"engine": engine, "engine_version": row["version"], **_plain(row["ask"])}
    if extra:
        words["engine_options"] = {**words.get("engine_options", {}), **extra}
    return plan(words.pop("model", None), **words)


def _read(report: Report, what: str) -> Fraction:
    """The number that a row reads: facts.NAME of the engine, kv.FIELD, or lines.PREFIX, the sum of such terms."""
    kind, _, name = what.partition(".")
    value: Any = None
    if kind == "facts":
        value = report.engine["facts"].get(name)
    elif kind == "kv":
        value = report.kv.get(name)
    elif kind == "lines":
        sizes = [term.value for term in report.terms if term.path.startswith(name) and term.unit == "bytes"]
        value = sum(sizes) if sizes else None
    if value is None or isinstance(value, str):
        raise InvalidInput("read", what, "a number of this report: facts.NAME, kv.FIELD or lines.PREFIX")
    return Fraction(value)


def predicted(engine: str, row: dict[str, Any]) -> tuple[Fraction, ...]:
    """What kvplan answers to a row, in the printed unit: one number, or two where an input was printed rounded."""
    between = row["between"]
    if between is None:
        ends: list[dict[str, Any]] = [{}]
    else:
        ends = [{between["option"]: between[end]} for end in ("low", "high")]
    return tuple(_read(_report(engine, row, end), row["read"]) / Fraction(row["scale"]) for end in ends)


def _rounded(value: Fraction, decimals: int) -> set[Fraction]:
    """The value rounded to decimals, ties away from zero (as C's round) and to even (as printf and Python format)."""
    scaled = value * 10**decimals
    return {Fraction(floor(scaled + Fraction(1, 2)), 10**decimals), Fraction(round(scaled), 10**decimals)}


def judge(row: dict[str, Any], answers: tuple[Fraction, ...]) -> str:
    """Whether predictions agree with the printed value: exact, within input rounding, or DIFFERS.

    >>> row = {"value": 2.13, "decimals": 2}
    >>> judge(row, (Fraction(2125, 1000),)), judge(row, (Fraction(2124, 1000),))
    ('exact', 'DIFFERS')
    """
    printed = Fraction(str(row["value"]))
    if len(answers) == 1:
        return EXACT if printed in _rounded(answers[0], row["decimals"]) else DIFFERS
    rounded = [_rounded(answer, row["decimals"]) for answer in answers]
    if all(printed in values for values in rounded):
        return EXACT
    low, high = min(map(min, rounded)), max(map(max, rounded))
    return WITHIN if low <= printed <= high else DIFFERS


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _judged(engine: str, row: dict[str, Any]) -> Row:
    answers: tuple[Fraction, ...] = ()
    note, outcome = row["note"] or "", DIFFERS
    try:
        answers = predicted(engine, row)
        outcome = judge(row, answers)
    except KvplanError as e:
        note = f"cannot be asked: {e}"
    if row["disagrees"] is not None:
        # a row that is said not to agree must not
        agrees = outcome in (EXACT, WITHIN)
        note = f"said to disagree ({row['disagrees']}), and agrees" if agrees else row["disagrees"]
        outcome = DIFFERS if agrees else DISAGREES
    return Row(
        row["id"],
        engine,
        row["version"] or "",
        row["model"],
        row["grade"],
        _number(Fraction(str(row["value"]))),
        row["decimals"],
        row["unit"],
        tuple(_number(answer) for answer in answers),
        outcome,
        note,
        row["line"] or "",
        row["source"],
    )


def reproduce(engine: str | None = None) -> list[Row]:
    """Every printed number of one engine, or of all, with what kvplan answers to the same setting."""
    return [_judged(name, row) for name in ([engine] if engine else log_engines()) for row in log_rows(name)]


# --- renderings ------------------------------------------------------------------------------------------------------


def as_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return [row._asdict() for row in rows]


def _counts(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """Counts per engine and grade, and of all."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        groups.setdefault((row.engine, row.grade), Counter())[row.outcome] += 1
    for (engine, grade), counts in sorted(groups.items()):
        yield (engine, grade, str(counts.total()), *(str(counts[outcome] or "") for outcome in OUTCOMES))
    total = Counter(row.outcome for row in rows)
    yield ("all", "", str(total.total()), *(str(total[outcome]) for outcome in OUTCOMES))


def _printed(row: Row) -> str:
    return f"{row.printed:,.{row.decimals}f}"


def _predicted(row: Row) -> str:
    return " to ".join(f"{float(answer):,.{row.decimals}f}" for answer in row.predicted) or "-"


ROW_HEADER = ("id", "model", "version", "grade", "printed", "predicted", "unit", "outcome")


def _lines(rows: list[Row]) -> list[tuple[str, ...]]:
    return [
        (row.id, row.model, row.version, row.grade, _printed(row), _predicted(row), row.unit, row.outcome)
        for row in rows
    ]


def text(rows: list[Row], width: int | None = 80, color: bool = False, *, every: bool = False) -> str:
    """Counts per engine and grade with every row that does not agree, or every row."""
    from kvplan.render import table

    if every:
        return table("", ROW_HEADER, _lines(rows), width, color) + _notes(rows)
    header = ("engine", "grade", "rows", "exact", "within", "disagrees", "DIFFERS")
    body = table("", header, list(_counts(rows)), width, color)
    body += (
        "\nwithin: an input of the run was printed rounded, and the value lies between the predictions at its ends.\n"
    )
    return body + _notes(rows)


def _notes(rows: list[Row]) -> str:
    lines = [
        f"{row.id}: printed {_printed(row)}, predicted {_predicted(row)} {row.unit}; {row.outcome}"
        f"{': ' + row.note if row.note else ''}"
        for row in rows
        if row.outcome in (DISAGREES, DIFFERS)
    ]
    return "".join(f"\n{printable(line)}" for line in lines) + "\n" if lines else ""


def markdown(rows: list[Row], *, every: bool = False) -> str:
    """The counts, or every row, as Markdown."""
    header: tuple[str, ...] = ROW_HEADER if every else ("engine", "grade", "rows", *OUTCOMES)
    lines: Iterable[tuple[str, ...]] = _lines(rows) if every else _counts(rows)
    body = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    body += ["| " + " | ".join(map(as_markdown, line)) + " |" for line in lines]
    return "\n".join(body) + "\n"
