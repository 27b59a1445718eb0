"""The files of presets/papers: the words that a row may use, and rows read and checked against them.

A row says what to ask (keyword arguments of ``plan``), which number of the report to take, and in which of a few ways to
put two answers together: as a ratio, as the share saved, as a difference, or as how many fit into a stated amount. There
are no expressions, so a row cannot be made to agree by arithmetic of its own. Published numbers are read as decimals.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.catalog import preset_folders
from kvplan.errors import InvalidInput, UnknownName
from kvplan.importers.files import TOML_LIMIT, parse_toml, read_text
from kvplan.report import Report
from kvplan.units import BINARY, DECIMAL

__all__ = ["TAKES", "UNITS", "Paper", "asks_of", "last_place", "paper_file", "papers", "takes_of"]

STATUSES = ("counted", "within", "upper-bound", "wrong-in-paper", "shown")
JOINS = ("ratio", "saved", "difference")

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
    raw = parse_toml(read_text(path, "paper", TOML_LIMIT), "paper", where, parse_float=Decimal)
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
    printed = () if row.get("status") == "shown" else ("published",)  # what is shown need not be printed anywhere
    _need(row, ("id", "quantity", *printed, "unit", "where"), place)
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
    last_place(row, place)
    for key in ("ask", "asks", "over"):
        given = row.get(key, {})
        if not all(isinstance(ask, dict) for ask in (given if isinstance(given, list) else [given])):
            raise InvalidInput(key, given, "a table of flags, or a list of such", place)
    for ask in [*asks_of(row, "ask"), *asks_of(row, "over")]:
        shape = ask.get("shape")
        if shape is not None and shape not in shapes:
            raise InvalidInput("shape", shape, f"one of {', '.join(shapes)}", place)
        for take in takes_of(ask, row):
            if not isinstance(take, str) or (take not in TAKES and not take.startswith("term ")):
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
        lines = list(csv.DictReader(read_text(path, "measured.file", TOML_LIMIT).splitlines()))
    except csv.Error as e:
        raise InvalidInput("measured.file", table["file"], f"a readable CSV file ({e})", where) from None
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


def asks_of(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The asks of a row under ``ask`` (one or several) or ``over``."""
    if key == "over":
        over = row.get("over", [])
        return over if isinstance(over, list) else [over]
    return list(row["asks"]) if "asks" in row else [row["ask"]] if "ask" in row else []


def takes_of(ask: dict[str, Any], row: dict[str, Any]) -> list[Any]:
    """The numbers of the report that an ask takes: its own, else its row's."""
    take = ask.get("take", row.get("take", "kv.bytes_per_token"))
    return take if isinstance(take, list) else [take]


def last_place(row: dict[str, Any], where: str = "") -> Fraction:
    """What one step of the last printed place is worth; 0 where the number was printed exactly."""
    rounding = str(row.get("rounding", "exact"))
    if rounding == "exact":
        return Fraction(0)
    count, _, kind = rounding.partition(" ")
    if not count.isdigit() or kind not in ("decimals", "digits"):
        raise InvalidInput("rounding", rounding, "exact, N decimals, or N digits (significant ones)", where)
    if kind == "decimals":
        return Fraction(1, 10 ** int(count))
    if "published" not in row:
        return Fraction(0)
    return Fraction(10) ** (Decimal(str(row["published"])).adjusted() + 1 - int(count))
