"""Published numbers, asked again: what a paper printed beside what ``kvplan.plan`` answers.

Nothing here computes a cache. A row of ``presets/papers/<paper>.toml`` says what to ask (keyword arguments of ``plan``),
which number of the report to take, and in which of a few ways to put two answers together: as a ratio, as the share
saved, as a difference, or as how many fit into a stated amount. There are no expressions, so a row cannot be made to
agree by arithmetic of its own. Numbers are exact fractions until they are shown; published ones are read as decimals.

Quality (perplexity, benchmark averages) is what a paper measured: data beside the memory, never a prediction.
"""

from __future__ import annotations

import csv
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.api import plan
from kvplan.catalog import preset_folders
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.report import Report
from kvplan.units import BINARY, DECIMAL, parse_bytes

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
STATUSES = ("counted", "within", "upper-bound", "wrong-in-paper", "shown")
JOINS = ("ratio", "saved", "difference")
# A published binary double carries no more digits than this.
NOISE = Fraction(1, 10**12)

# What one of a unit is worth of what ``take`` gives: bytes, seconds, FLOPs, or a plain count.
UNITS: dict[str, Fraction] = {
    **{name: Fraction(size) for name, size in (BINARY | DECIMAL).items()},
    "bytes": Fraction(1),
    "elements": Fraction(1),  # the row asks for a cache of one byte per element
    "elements of 4 bytes": Fraction(4),
    "bits per element": Fraction(1, 8),  # the row is a ratio to a cache of one byte per element
    "K tokens": Fraction(1000),
    "tokens": Fraction(1),
    "sequences": Fraction(1),
    "KV heads": Fraction(1),
    "KV layers": Fraction(1),
    "parameters": Fraction(1),
    "passes": Fraction(1),
    "FLOP": Fraction(1),
    "GFLOP/token": Fraction(10**9),
    "tokens/s": Fraction(1),
    "GB/s": Fraction(10**9),
    "ms": Fraction(1, 1000),
    "x": Fraction(1),
    "fraction": Fraction(1),
}


def _kv(name: str) -> Callable[[Report], int]:
    return lambda report: report.kv[name]


# The numbers of a report that a row may take; `term PREFIX` is the sum of the ledger's terms under a path.
TAKES: dict[str, Callable[[Report], Any]] = {
    **{
        f"kv.{name}": _kv(name)
        for name in (
            "bytes_per_token",
            "bytes_per_token_marginal",
            "bytes_per_sequence",
            "state_bytes_per_sequence",
            "bytes",
            "bytes_per_gpu",
            "bytes_read_per_step",
            "bytes_over_link_per_step",
        )
    },
    "model.parameters": lambda report: report.answer.profile.parameters,
    "model.active_parameters": lambda report: report.answer.profile.active_parameters,
    "weights.bytes": lambda report: report.answer.weights.total if report.answer.weights else None,
    "flops.prefill.total": lambda report: report.answer.prefill.total,
    "flops.prefill.linear": lambda report: report.answer.prefill.linear,
    "flops.prefill.attention": lambda report: report.answer.prefill.attention,
    "flops.decode.total": lambda report: report.answer.decode.total,
    "capacity.max_batch": lambda report: report.capacity.max_batch if report.capacity else None,
    "capacity.max_context": lambda report: report.capacity.max_context if report.capacity else None,
    "time.decode_step_s": lambda report: report.answer.times.decode.seconds if report.answer.times else None,
    "time.tokens_per_s": lambda report: report.answer.times.tokens_per_s if report.answer.times else None,
}


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


class Paper(NamedTuple):
    """One file of presets/papers."""

    name: str
    title: str
    arxiv: str
    url: str
    about: str
    shapes: dict[str, dict[str, Any]]
    rows: tuple[dict[str, Any], ...]
    quality: tuple[dict[str, Any], ...]
    where: str


# --- files -----------------------------------------------------------------------------------------------------------


def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in preset_folders("papers"):
        if os.path.isdir(folder):
            for path in sorted(folder.glob("*.toml")):
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def papers() -> list[str]:
    """Names of the papers whose numbers are on file, a user's ``KVPLAN_PRESETS`` among them."""
    return list(_files())


def paper_file(name: str) -> Paper:
    """What is on file about one paper. Raises UnknownName with the nearest ones, InvalidInput for a bad file."""
    files = _files()
    path = files.get(name.strip().lower())
    if path is None:
        raise UnknownName("paper", name, files)
    where = str(path)
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file, parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InvalidInput("paper", where, f"a readable TOML file ({e})") from None
    _need(raw, ("schema", "title", "url", "checked"), where)
    shapes = _tables(raw, "shape", where)
    defaults = raw.get("defaults", {})
    entries = [defaults | row for row in _list(raw, "row", where)]
    for table in _list(raw, "measured", where):
        entries += _measured(table, path.parent, where)
    tables = _list(raw, "quality", where)
    for table in tables:
        _need(table, ("set", "metric", "better", "training", "where", "values"), where)
    for entry in entries:
        _check(entry, shapes, where)
    names = Counter(entry["id"] for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise InvalidInput("row.id", twice[0], "an id that no other row has", where)
    return Paper(
        path.stem,
        raw["title"],
        str(raw.get("arxiv", "")),
        raw["url"],
        raw.get("about", ""),
        shapes,
        tuple(entries),
        tuple(tables),
        where,
    )


def _need(table: dict[str, Any], keys: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in table:
            raise InvalidInput(key, "missing", "a value", where)


def _list(raw: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    tables = raw.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidInput(key, tables, f"tables [[{key}]]", where)
    return list(tables)


def _tables(raw: dict[str, Any], key: str, where: str) -> dict[str, dict[str, Any]]:
    tables = raw.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidInput(key, tables, "tables of keyword arguments of kvplan.plan", where)
    return tables


ROW_KEYS = {
    "id", "quantity", "ask", "asks", "over", "take", "join", "room", "times", "per", "whole", "published", "unit",
    "rounding", "within", "right", "where", "confidence", "status", "note",
}  # fmt: skip


def _check(row: dict[str, Any], shapes: dict[str, dict[str, Any]], where: str) -> None:
    """Raises InvalidInput for a row that says something the vocabulary does not hold."""
    place = f"{where}: row {row.get('id', '?')}"
    _need(row, ("id", "quantity", "published", "unit", "where"), place)
    unknown = sorted(set(row) - ROW_KEYS)
    if unknown:
        raise InvalidInput(unknown[0], row[unknown[0]], f"one of {', '.join(sorted(ROW_KEYS))}", place)
    if row["unit"] not in UNITS:
        raise InvalidInput("unit", row["unit"], f"one of {', '.join(UNITS)}", place)
    for key, allowed in (("status", STATUSES), ("join", JOINS)):
        if key in row and row[key] not in allowed:
            raise InvalidInput(key, row[key], " or ".join(allowed), place)
    for key in ("published", "right", "within", "times", "per"):
        if key in row and (isinstance(row[key], bool) or not isinstance(row[key], (int, Decimal))):
            raise InvalidInput(key, row[key], "a number", place)
    if (row.get("status") == "within") != ("within" in row):
        raise InvalidInput("within", row.get("within", "missing"), 'per cent, with status = "within" only', place)
    if "join" in row and "over" not in row:
        raise InvalidInput("over", "missing", "the ask that the join compares with", place)
    _ulp(row, place)
    for ask in [*_asks(row, "ask"), *_asks(row, "over")]:
        shape = ask.get("shape")
        if shape is not None and shape not in shapes:
            raise InvalidInput("shape", shape, f"one of {', '.join(shapes)}", place)
        for take in _takes(ask, row):
            if take not in TAKES and not take.startswith("term "):
                raise InvalidInput("take", take, f"term PREFIX, or one of {', '.join(TAKES)}", place)


MEASURED_KEYS = (
    "id", "quantity", "file", "where", "confidence", "model_column", "batch_column", "column", "unit", "take",
    "context", "asks",
)  # fmt: skip


def _measured(table: dict[str, Any], folder: Path, where: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV of measurements: one ask per model, the batch from a column, the tokens cached from the table."""
    _need(table, MEASURED_KEYS, where)
    path = folder / table["file"]
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as e:
        raise InvalidInput("measured.file", table["file"], f"a readable CSV file ({e.strerror})", where) from None
    exceptions = {(e["model"], e["batch"]): e for e in table.get("except", [])}
    for line in lines:
        model, batch = line[table["model_column"]], int(line[table["batch_column"]])
        if model not in table["asks"]:
            raise InvalidInput("measured.asks", model, f"one of {', '.join(table['asks'])}", where)
        entry = table["asks"][model]
        other = exceptions.get((model, batch), {})
        tokens = other.get("context", table["context"])
        yield {
            "id": f"{table['id']}-{entry['name']}-{batch}",
            "quantity": f"{table['quantity']}, {entry['name']}, batch {batch}",
            "ask": {**entry["ask"], "context": tokens, "batch": batch},
            "take": table["take"],
            "published": Decimal(line[table["column"]]),
            "unit": table["unit"],
            "rounding": "exact",
            "where": table["where"],
            "confidence": table["confidence"],
            "status": other.get("status", "counted"),
            "note": other.get("note", ""),
        }


# --- asking ----------------------------------------------------------------------------------------------------------


def _asks(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if key == "over":
        over = row.get("over", [])
        return over if isinstance(over, list) else [over]
    return list(row["asks"]) if "asks" in row else [row["ask"]] if "ask" in row else []


def _takes(ask: dict[str, Any], row: dict[str, Any]) -> list[str]:
    take = ask.get("take", row.get("take", "kv.bytes_per_token"))
    return take if isinstance(take, list) else [take]


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
    for ask in _asks(row, key):
        report = _report(paper, ask, memo)
        for take in _takes(ask, row):
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


def _ulp(row: dict[str, Any], where: str = "") -> Fraction:
    """What one step of the last printed place is worth; 0 where the number was printed exactly."""
    rounding = str(row.get("rounding", "exact"))
    if rounding == "exact":
        return Fraction(0)
    count, _, kind = rounding.partition(" ")
    if not count.isdigit() or kind not in ("decimals", "digits"):
        raise InvalidInput("rounding", rounding, "exact, N decimals, or N digits (significant ones)", where)
    if kind == "decimals":
        return Fraction(1, 10 ** int(count))
    return Fraction(10) ** (Decimal(str(row["published"])).adjusted() + 1 - int(count))


def _agrees(value: Fraction, printed: Fraction, step: Fraction) -> str:
    if abs(value - printed) <= NOISE * abs(printed):
        return "exact"
    return "rounds" if 2 * abs(value - printed) <= step else "DIFFERS"


def _judge(row: dict[str, Any], value: Fraction) -> str:
    status, printed, step = row.get("status", "counted"), Fraction(row["published"]), _ulp(row)
    if status == "shown":
        return "shown"
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
    if _asks(row, "ask"):
        try:
            value = _computed(paper, row, memo)
            outcome = _judge(row, value)
        except (KvplanError, ZeroDivisionError) as e:
            note, outcome = f"cannot be asked: {e}", "DIFFERS"
    return Row(
        paper.name,
        row["id"],
        row["quantity"],
        _number(row["published"]),
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
                if row is None or not _asks(row, "ask"):
                    raise InvalidInput("quality.values", id_, "the id of a row that asks", found.where)
                report = _report(found, _asks(row, "ask")[0], memo)
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
        return "\n".join(f"{title}\n\n{_pipes(header, lines)}" for title, header, lines in _quality_tables(paper))
    rows = reproduce(paper)
    if paper is None:
        return _pipes(("paper", "source", *OUTCOMES), _summary(rows, _link))
    return _pipes(ROW_HEADER, _row_table(rows))


def _pipes(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
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


def _link(paper: Paper) -> str:
    return f"[{paper.title}]({paper.url})" if paper.url.startswith("https://") else paper.title


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
    return "".join(f"\n{line}" for line in lines) + "\n" if lines else ""
