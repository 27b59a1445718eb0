"""Published numbers, asked again: what a paper printed beside what ``kvplan.plan`` answers.

Nothing here computes a cache: a row of a paper's file says what to ask and which number to take. Numbers are exact
fractions until they are shown.

Quality (perplexity, benchmark averages) is what a paper measured: data beside the memory, never a prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import Any, NamedTuple

from kvplan.api import plan
from kvplan.errors import InvalidInput, KvplanError
from kvplan.papers import TAKES, UNITS, Paper, asks_of, last_place, paper_file, papers, takes_of
from kvplan.report import Report
from kvplan.text import markdown as as_markdown
from kvplan.text import printable
from kvplan.units import parse_bytes

__all__ = [
    "OUTCOMES",
    "Paper",
    "Quality",
    "Row",
    "as_dicts",
    "markdown",
    "paper_file",
    "papers",
    "quality",
    "reproduce",
    "text",
]

# What can come of a row, best first. The first two count as reproduced; DIFFERS fails `kvplan reproduce`.
OUTCOMES = ("exact", "rounds", "within", "upper bound", "wrong in paper", "shown", "DIFFERS")
SUMMARY_NOTE = """
bound: an upper bound in the paper's terms, never an equality.
wrong: wrong in the paper, kept and marked with the reason.
shown: its inputs are printed results or assumptions, so it is not counted.
`kvplan reproduce PAPER` has the rows and their sources.
"""
# A published binary double carries no more digits than this.
NOISE = Fraction(1, 10**12)


class Row(NamedTuple):
    """One published number and what came of asking for it; ``computed`` is None where nothing could be asked."""

    paper: str
    id: str
    quantity: str
    published: int | float | None
    unit: str
    computed: int | float | None
    outcome: str
    note: str
    where: str
    confidence: str


class Quality(NamedTuple):
    """One measured quality beside the memory it was bought with. ``pareto``: none of its set is as small and better."""

    paper: str
    set: str
    name: str
    memory_bytes: int
    memory: str  # which number of the report ``memory_bytes`` is
    metric: str
    value: float
    printed: str  # the value as the paper prints it
    better: str  # lower | higher
    pareto: bool
    training: str
    where: str


# --- asking ----------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A value as JSON would hold it: the file's decimals as floats, in tables (a config) too."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return float(value) if isinstance(value, Decimal) else value


def _report(paper: Paper, ask: dict[str, Any], memo: dict[str, Report]) -> Report:
    words: dict[str, Any] = {}
    if "shape" in ask:
        words |= paper.shapes[ask["shape"]]
    words |= {key: value for key, value in ask.items() if key not in ("shape", "take")}
    words = {key: _plain(value) for key, value in words.items()}
    key = repr(sorted(words.items()))
    if key not in memo:
        memo[key] = plan(words.pop("model", None), **words)
    return memo[key]


def _taken(paper: Paper, row: dict[str, Any], key: str, memo: dict[str, Report]) -> Fraction:
    """The numbers of every ask under ``key``, added up."""
    total = Fraction(0)
    for ask in asks_of(row, key):
        report = _report(paper, ask, memo)
        for take in takes_of(ask, row):
            if take in TAKES:
                value = TAKES[take](report)
            else:
                prefix = take.removeprefix("term ")
                values = [term.value for term in report.terms if term.path.startswith(prefix)]
                value = sum(values) if values else None
            if value is None:
                raise InvalidInput("take", take, "a number that this ask has (a term of its ledger, a GPU that binds)")
            total += Fraction(value)
    return total


def _computed(paper: Paper, row: dict[str, Any], memo: dict[str, Report]) -> Fraction:
    value = _taken(paper, row, "ask", memo)
    if "over" in row:
        base = _taken(paper, row, "over", memo)
        join = row.get("join", "ratio")
        value = value - base if join == "difference" else value / base if join == "ratio" else 1 - value / base
    if "room" in row:
        room = row["room"]
        value = Fraction(parse_bytes(room, "room") if isinstance(room, str) else room) / value
    value = value * Fraction(row.get("times", 1)) / Fraction(row.get("per", 1)) / UNITS[row["unit"]]
    return Fraction(int(value)) if row.get("whole") else value


# --- judging ---------------------------------------------------------------------------------------------------------


def _agrees(value: Fraction, printed: Fraction, step: Fraction) -> str:
    if abs(value - printed) <= NOISE * abs(printed):
        return "exact"
    return "rounds" if 2 * abs(value - printed) <= step else "DIFFERS"


def _judge(row: dict[str, Any], value: Fraction) -> str:
    status = row.get("status", "counted")
    if status == "shown":
        return "shown"
    printed, step = Fraction(row["published"]), last_place(row)
    if status == "upper-bound":
        return "upper bound" if printed <= value else "DIFFERS"
    if status == "within":
        return "within" if 100 * abs(value - printed) <= Fraction(row["within"]) * abs(printed) else "DIFFERS"
    if status == "wrong-in-paper":
        # only wrong if it does not agree; and where the file says what would be right, that must come out
        right = "right" not in row or _agrees(value, Fraction(row["right"]), step) != "DIFFERS"
        return "wrong in paper" if right and _agrees(value, printed, step) == "DIFFERS" else "DIFFERS"
    return _agrees(value, printed, step)


def _number(value: Fraction | Decimal | int) -> int | float:
    return int(value) if value == int(value) else float(value)


def _row(paper: Paper, row: dict[str, Any], memo: dict[str, Report]) -> Row:
    note = row.get("note", "")
    value: Fraction | None = None
    outcome = {"shown": "shown", "wrong-in-paper": "wrong in paper"}.get(row.get("status", ""), "DIFFERS")
    if asks_of(row, "ask"):
        try:
            value = _computed(paper, row, memo)
            outcome = _judge(row, value)
        except (KvplanError, ZeroDivisionError) as e:
            note, outcome = f"cannot be asked: {e}", "DIFFERS"
    return Row(
        paper.name,
        row["id"],
        row["quantity"],
        _number(row["published"]) if "published" in row else None,
        row["unit"],
        None if value is None else _number(value),
        outcome,
        note,
        row["where"],
        row.get("confidence", ""),
    )


def reproduce(paper: str | None = None) -> list[Row]:
    """Every published number of one paper, or of all, with what kvplan answers to the same question.

    Raises UnknownName for a paper that is not on file. A row that cannot be asked comes out as DIFFERS, with the error
    as its note.

    >>> reproduce("cla")[0]._asdict()["outcome"]
    'exact'
    """
    rows: list[Row] = []
    for name in papers() if paper is None else [paper]:
        found = paper_file(name)
        memo: dict[str, Report] = {}
        rows += [_row(found, row, memo) for row in found.rows]
    return rows


# --- quality ---------------------------------------------------------------------------------------------------------


def quality(paper: str | None = None) -> list[Quality]:
    """Measured quality beside the memory of each model's cache, smallest first within a set, Pareto rows marked.

    The memory is asked of kvplan with the arguments of the row that the quality belongs to; the quality is the paper's.
    """
    rows: list[Quality] = []
    for name in papers() if paper is None else [paper]:
        found = paper_file(name)
        by_id = {row["id"]: row for row in found.rows}
        memo: dict[str, Report] = {}
        for table in found.quality:
            take = table.get("memory", "kv.bytes_per_token")
            points = []
            for id_, value in table["values"].items():
                row = by_id.get(id_)
                if row is None or not asks_of(row, "ask"):
                    raise InvalidInput("quality.values", id_, "the id of a row that asks", found.where)
                report = _report(found, asks_of(row, "ask")[0], memo)
                points.append((int(TAKES[take](report)), float(value), id_))
            rows += _pareto(found.name, table, take, points)
    return rows


def _pareto(name: str, table: dict[str, Any], take: str, points: list[tuple[int, float, str]]) -> Iterator[Quality]:
    sign = 1 if table["better"] == "lower" else -1
    for size, value, id_ in sorted(points, key=lambda point: (point[0], sign * point[1])):
        beaten = any(
            other <= size and sign * rival <= sign * value and (other < size or rival != value)
            for other, rival, _ in points
        )
        yield Quality(
            name,
            table["set"],
            id_,
            size,
            take,
            table["metric"],
            value,
            str(table["values"][id_]),
            table["better"],
            not beaten,
            table["training"],
            table["where"],
        )


# --- renderings ------------------------------------------------------------------------------------------------------


def as_dicts(rows: Iterable[Row | Quality]) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return [row._asdict() for row in rows]


def text(paper: str | None = None, width: int | None = 80, color: bool = False, *, with_quality: bool = False) -> str:
    """A summary of all papers, or every row of one and its notes, for a terminal of ``width`` columns."""
    from kvplan.render import table

    if with_quality:
        return "\n".join(table(title, header, lines, width, color) for title, header, lines in _quality_tables(paper))
    rows = reproduce(paper)
    if paper is None:
        # counts in words that fit 80 columns; sources stand with the rows of each paper and in the Markdown
        lines = [(line[0], *line[2:]) for line in _summary(rows, _short)]
        header = ("paper", "exact", "rounds", "within", "bound", "wrong", "shown", "differs")
        return table("", header, lines, width, color) + SUMMARY_NOTE
    return table("", ROW_HEADER[:-1], [line[:-1] for line in _row_table(rows)], width, color) + _notes(rows)


def markdown(paper: str | None = None, *, with_quality: bool = False) -> str:
    """The summary of all papers (the README's table), or every row of one, as Markdown."""
    if with_quality:
        return "\n".join(
            f"{as_markdown(title)}\n\n{_pipes(header, lines)}" for title, header, lines in _quality_tables(paper)
        )
    rows = reproduce(paper)
    if paper is None:
        return _pipes(("paper", "source", *OUTCOMES), _summary(rows, _link))
    return _pipes(ROW_HEADER, _row_table(rows))


class _Made(str):
    """What is Markdown already."""

    __slots__ = ()


def _link(paper: Paper) -> str:
    """The title of a paper, which leads to it where its address ends where it should."""
    plain = paper.url.startswith("https://") and paper.url.isascii() and paper.url.isprintable()
    title = as_markdown(paper.title)
    return _Made(f"[{title}]({paper.url})" if plain and not set(paper.url) & set("<>()[]\\ |") else title)


def _pipes(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| " + " | ".join(cell if isinstance(cell, _Made) else as_markdown(cell) for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row], source: Callable[[Paper], str]) -> list[tuple[str, ...]]:
    lines = []
    for name in dict.fromkeys(row.paper for row in rows):
        counts = Counter(row.outcome for row in rows if row.paper == name)
        lines.append((name, source(paper_file(name)), *(str(counts[outcome] or "") for outcome in OUTCOMES)))
    counts = Counter(row.outcome for row in rows)
    lines.append(("all", f"{len(lines)} sources", *(str(counts[outcome]) for outcome in OUTCOMES)))
    return lines


def _short(paper: Paper) -> str:
    return f"arXiv {paper.arxiv}" if paper.arxiv else paper.title


ROW_HEADER = ("quantity", "published", "computed", "unit", "outcome", "where")


def _row_table(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(row.quantity, _cell(row.published), _cell(row.computed), row.unit, row.outcome, row.where) for row in rows]


def _quality_tables(paper: str | None) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """One table per set: models of one training budget, the only ones that may be compared."""
    for _, group in groupby(quality(paper), lambda row: (row.paper, row.set, row.metric)):
        rows = list(group)
        first = rows[0]
        title = f"{first.paper}, {first.set} ({first.where}). {first.training[:1].upper()}{first.training[1:]}."
        memory = f"KV bytes per {first.memory.rpartition('_')[2]}"
        header = ("model", memory, f"{first.metric} ({first.better} is better)", "Pareto")
        yield (
            title,
            header,
            [(row.name, f"{row.memory_bytes:,}", row.printed, "*" if row.pareto else "") for row in rows],
        )


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}" if abs(value) < 10**6 else f"{value:,.0f}"


def _notes(rows: list[Row]) -> str:
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.id)
    lines = [f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {note}" for note, ids in notes.items()]
    return "".join(f"\n{printable(line)}" for line in lines) + "\n" if lines else ""
