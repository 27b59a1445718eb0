"""Two plans term by term: what moved and by how much. Terms are joined by their path, whatever number of layers holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from kvplan.report import Report
from kvplan.text import markdown, to_csv, to_json
from kvplan.units import format_bytes, format_count, format_ratio, format_seconds, format_si
from kvplan.version import __version__

__all__ = ["Difference", "Moved", "differ"]

LAYERS = re.compile(r" \((\d+) layers?\)$")
# Sections of the contract that hold figures, and the unit of what they hold where its name does not say it.
SECTIONS = {"model": "", "kv": "bytes", "weights": "bytes", "capacity": "bytes", "time": "s"}
COUNTS = {"parameters": "parameters", "active_parameters": "parameters", "layers": "layers", "max_context": "tokens"}
COUNTS |= {"kv_tokens": "tokens", "max_batch": "sequences", "tokens_per_s": "tokens/s"}
# What was asked and is no name of a model: formats and engines differ where checkpoints do.
INPUTS = ("dtype", "kv_dtype", "scheme")

Value = int | float | str | bool | None


class Moved(NamedTuple):
    """One thing that differs. ``difference`` and ``ratio`` are of numbers; None where one side has none of it."""

    path: str
    unit: str  # "" of what is no number
    before: Value
    after: Value
    difference: int | float | None
    ratio: float | None


class Difference(NamedTuple):
    """What moved from one plan to another: figures of the contract first, then the ledger's terms."""

    before: Report
    after: Report
    figures: tuple[Moved, ...]
    terms: tuple[Moved, ...]
    unmoved: int  # figures and terms that are equal

    @property
    def moved(self) -> bool:
        """Whether anything did."""
        return bool(self.figures or self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: both questions, what moved, how much did not."""
        return {
            "schema": 1,
            "kvplan_version": __version__,
            "before": _side(self.before),
            "after": _side(self.after),
            "figures": [row._asdict() for row in self.figures],
            "terms": [row._asdict() for row in self.terms],
            "unmoved": self.unmoved,
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return to_json(self.to_dict())

    def to_csv(self) -> str:
        """One line per thing that moved under a header; exact numbers, nothing where a side has none."""
        return to_csv([Moved._fields, *self.figures, *self.terms])

    def to_markdown(self) -> str:
        """What moved as Markdown tables."""
        lines = [f"# {markdown(self.headline())}", ""]
        for title, rows in self._tables():
            lines += [f"| {title} | before | after | change | ratio |", "|---|---:|---:|---:|---:|"]
            lines += [f"| {' | '.join(map(markdown, row))} |" for row in rows]
            lines.append("")
        return "\n".join([*lines, markdown(self.verdict())]) + "\n"

    def to_text(self, width: int = 80, color: bool = False) -> str:
        """What moved as tables for a terminal of ``width`` columns."""
        from kvplan.render import heading, table

        parts = [heading(self.headline(), width, color)]
        for title, rows in self._tables():
            header = (title, "before", "after", "change", "ratio")
            parts.append(table("", header, [tuple(row) for row in rows], width, color, right=True))
        parts.append(heading(self.verdict(), width, color))
        return "\n".join(parts)

    def headline(self) -> str:
        """Both sides on one line."""
        s = self.before.answer.settings
        sides = [_name(self.before), _name(self.after)]
        where = f"{format_count(s.batch)} × {format_count(s.context)} tokens, engine {s.engine.name}"
        return f"{sides[0]} → {sides[1]} · {where}{f', {s.gpu.name}' if s.gpu else ''}"

    def verdict(self) -> str:
        """How much moved."""
        count = len(self.figures) + len(self.terms)
        return f"{count} moved, {self.unmoved} did not" if count else f"nothing moved: all {self.unmoved} are equal"

    def _tables(self) -> Iterator[tuple[str, list[list[str]]]]:
        for title, rows in (("figure", self.figures), ("term", self.terms)):
            if rows:
                yield title, [_cells(row) for row in rows]


def differ(before: Report, after: Report) -> Difference:
    """What moved from one report to another, of the same question about two models or two schemes."""
    figures, same = _moved(_figures(before), _figures(after))
    terms, equal = _moved(_terms(before), _terms(after))
    return Difference(before, after, figures, terms, same + equal)


Amounts = dict[str, tuple[Value, str]]


def _figures(report: Report) -> Amounts:
    """Figures of the contract by path with their unit: model, kv, weights, FLOPs, capacity, time, and formats asked for."""
    data = report.to_dict()
    found: Amounts = {f"inputs.{name}": (data["inputs"][name], "") for name in INPUTS}
    for section, unit in SECTIONS.items():
        for name, value in (data[section] or {}).items():
            if section == "model" and name == "name":
                continue
            counted = COUNTS.get(name, unit) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
            found[f"{section}.{name}"] = (value, counted)
    for name in ("prefill", "decode"):
        found[f"flops.{name}.total"] = (data["flops"][name]["total"], "FLOPs")
    return found


def _terms(report: Report) -> Amounts:
    """The ledger by path. The number of layers in a path is an amount of its own: it may be what moved."""
    values: dict[str, tuple[int | float, str]] = {}
    layers: dict[str, int] = {}
    for term in report.terms:
        path = LAYERS.sub("", term.path)
        values[path] = (values.get(path, (0, ""))[0] + term.value, term.unit)
        match = LAYERS.search(term.path)
        if match:
            layers[path] = layers.get(path, 0) + int(match[1])
    found: Amounts = dict(values)
    found |= {f"{path} layers": (count, "layers") for path, count in layers.items()}
    return {path: found[path] for path in sorted(found, key=lambda path: _order(path, list(values)))}


def _order(path: str, paths: list[str]) -> tuple[int, bool]:
    """The ledger's order, a term's layers right behind it."""
    plain = path.removesuffix(" layers")
    return paths.index(plain), plain != path


def _moved(before: Amounts, after: Amounts) -> tuple[tuple[Moved, ...], int]:
    """Rows of what differs, in the order of the first side, what only the second has behind it; and how many are equal."""
    rows, same = [], 0
    for path in dict.fromkeys([*before, *after]):
        (old, unit), (new, other) = before.get(path, (None, "")), after.get(path, (None, ""))
        if old == new:
            same += 1
            continue
        numbers = _number(old) and _number(new)
        rows.append(
            Moved(
                path,
                unit or other,
                old,
                new,
                new - old if numbers else None,  # type: ignore[operator]  # numbers says that both are
                new / old if numbers and old else None,  # type: ignore[operator]
            )
        )
    return tuple(rows), same


def _number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(report: Report) -> dict[str, Any]:
    data = report.to_dict()
    return {"model": data["model"]["name"], "inputs": data["inputs"]}


def _name(report: Report) -> str:
    scheme = dict(report.answer.settings.inputs)["scheme"]
    return f"{report.answer.spec.name} with {scheme}" if scheme else report.answer.spec.name


def _cells(row: Moved) -> list[str]:
    change = ""
    if row.difference is not None:
        change = ("+" if row.difference > 0 else "−") + _shown(abs(row.difference), row.unit)
    ratio = "" if row.ratio is None else format_ratio(row.ratio) if row.ratio >= 0 else f"{row.ratio:.3f}"
    return [row.path, _shown(row.before, row.unit), _shown(row.after, row.unit), change, ratio]


def _shown(value: Value, unit: str) -> str:
    """A value for people; a dash where a side has none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, (bool, str)):
        return str(value).lower() if isinstance(value, bool) else value
    if unit == "bytes":
        return format_bytes(int(value))
    if unit == "s":
        return format_seconds(value)
    if unit == "FLOPs":
        return format_si(value, "FLOP")
    return format_count(value) if isinstance(value, int) else f"{value:,.0f}"
