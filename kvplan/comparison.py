"""Ways of keeping the cache side by side: one row per scheme and engine, the model as published first.

Four questions stay apart, because a scheme answers them differently: what is resident, what a decode step reads,
FLOPs of prefill and decode, parameters. CLA-2 keeps 0.500 of the cache and reads 1.000 of it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kvplan.described import described_scheme, shown_scheme
from kvplan.report import Report
from kvplan.text import markdown, to_csv, to_json
from kvplan.units import format_bytes, format_count, format_parameters, format_ratio, format_seconds, format_si
from kvplan.version import __version__

__all__ = ["Comparison", "Row", "compared"]

MARK = "●"
# name in JSON and CSV -> heading for people; the order of the columns
HEADINGS = {
    "kv_bytes_per_token": "KV/token",
    "kv_bytes_per_sequence": "KV/sequence",
    "kv_bytes": "KV, batch",
    "kv_ratio": "KV ×",
    "bytes_read_per_step": "read/step",
    "read_ratio": "read ×",
    "bytes_over_link_per_step": "over link",
    "prefill_flops": "prefill",
    "decode_flops": "decode",
    "parameters": "params",
    "max_batch": "max batch",
    "max_context": "max context",
    "decode_bound": "decode ≥",
}
LINK = "bytes_over_link_per_step"
WORK = ("prefill_flops", "decode_flops", "parameters")
GPU_ONLY = ("max_batch", "max_context", "decode_bound")
DESCRIBED = 16  # the headline has it all
LABEL = 34  # a longer scheme is folded


class Row(NamedTuple):
    """One way of keeping the cache. Bytes are whole-model sums; ratios are to the first row, the model as published.

    ``kv_*`` say what is resident for one sequence, ``bytes_read_per_step`` what one decode step of the whole batch
    reads of it, ``bytes_over_link_per_step`` the part of that which comes from host memory or disk. A ratio is None
    where the model as published has nothing to compare with; the last six are None without a GPU.
    """

    scheme: str | None  # None: the model as published
    described: str  # what the model does, in the notation of schemes
    engine: str
    kv_bytes_per_token: int
    kv_bytes_per_sequence: int
    kv_bytes: int
    kv_bytes_per_gpu: int
    kv_ratio: float | None
    bytes_read_per_step: int
    read_ratio: float | None
    bytes_over_link_per_step: int
    prefill_flops: int
    decode_flops: int
    parameters: int
    pareto: bool
    fits: bool | None
    max_batch: int | None
    max_context: int | None
    decode_step_s: float | None
    tokens_per_s: float | None
    decode_bound: str | None  # compute | memory | link

    @property
    def label(self) -> str:
        """The scheme as it was asked for; of the model as published, what it does where that is short."""
        short = 0 < len(self.described) <= DESCRIBED
        return self.scheme or (f"as published ({self.described})" if short else "as published")


class Comparison(NamedTuple):
    """Rows and the reports that they were read from, in the same order."""

    rows: tuple[Row, ...]
    reports: tuple[Report, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what was asked, and one mapping per row."""
        first = self.reports[0]
        spec = first.answer.spec
        inputs = {name: value for name, value in first.answer.settings.inputs if name not in ("scheme", "engine")}
        return {
            "schema": 1,
            "kvplan_version": __version__,
            "inputs": inputs,
            "model": {"name": spec.name, "model_type": spec.model_type, "layers": len(spec.layers)},
            "rows": [row._asdict() for row in self.rows],
            "notes": list(self.notes()),
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return to_json(self.to_dict())

    def to_csv(self) -> str:
        """One line per row under a header; exact integers, nothing where there is no answer."""
        return to_csv([Row._fields, *self.rows])

    def to_markdown(self) -> str:
        """The rows as a Markdown table, notes below."""
        header, *rows = [[cell.strip() for cell in row] for row in self._cells()]
        lines = [
            f"# {markdown(self.headline())}",
            "",
            f"| {' | '.join(header)} |",
            f"|---|{'---:|' * (len(header) - 1)}",
        ]
        lines += [f"| {' | '.join(map(markdown, row))} |" for row in rows]
        return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in self.notes())]) + "\n"

    def to_text(self, width: int = 80, color: bool = False) -> str:
        """Tables and bars for a terminal of ``width`` columns: one table where it fits, else memory and work apart."""
        from kvplan.render import bars, bullets, heading, table

        columns = self._columns()
        cells = self._cells()
        groups: list[list[str]] = [[]]
        for name in columns:
            if name in (WORK[0], GPU_ONLY[0]):
                groups.append([])
            groups[-1].append(name)
        lead = min(max(len(row[0]) for row in cells), LABEL)
        room = {name: 2 + max(len(row[i]) for row in cells) for i, name in enumerate(columns, 1)}
        parts: list[list[str]] = []
        for group in [[name] for name in groups[0]] + groups[1:]:
            if not parts:
                parts.append(list(group))
                continue
            if lead + sum(room[name] for name in parts[-1] + group) <= width:
                parts[-1] = parts[-1] + group
            else:
                parts.append(group)
        drawn = []
        for part in parts:
            picked = [(row[0], *(row[1 + columns.index(name)] for name in part)) for row in cells]
            drawn.append(table("", picked[0], [folded(row) for row in picked[1:]], width, color, right=True))
        labels = [self._label(row) for row in self.rows]
        measured = [(row.kv_ratio or 0.0, row.read_ratio or 0.0) for row in self.rows]
        chart = bars(("resident KV", "read per decode step"), labels, measured, width, color)
        return "\n".join([heading(self.headline(), width, color), *drawn, chart, bullets(self.notes(), width, color)])

    def headline(self) -> str:
        """What was compared, on one line."""
        first = self.reports[0]
        s = first.answer.settings
        where = f" · {s.gpu.name}" if s.gpu else ""
        name = " · ".join(filter(None, (first.answer.spec.name, shown_scheme(first.answer.spec))))
        return f"{name} · {s.batch} × {format_count(s.context)} tokens{where} · {dict(s.inputs)['kv_dtype']} cache"

    def notes(self) -> Iterator[str]:
        """How to read the columns, and what the marks mean."""
        s = self.reports[0].answer.settings
        yield (
            f"KV × and read × are to the model as published: what one sequence of {format_count(s.context)} tokens keeps,"
            " and what a decode step reads of it. Sharing a cache across layers lowers the first, not the second."
        )
        yield (
            f"{MARK} Pareto: no other row keeps and reads as little or less. FLOPs, parameters and quality are not in it."
        )
        yield (
            "KV/token: one more token below every window, in the newest tokens' format where a scheme keeps a residual; a step"
            " right after a segment or chunk has filled reads the least that such schemes ever read."
        )
        told = set()
        for row, report in zip(self.rows, self.reports, strict=True):
            if row.engine in told or row.engine == "ideal":
                continue
            told.add(row.engine)
            passed = {"context": s.context, "batch": s.batch, **report.answer.settings.options}
            words = ", ".join(f"{name}={value}" for name, value in {**passed, **report.stated}.items())
            yield f"{row.engine} was asked for {words}, {dict(report.answer.settings.inputs)['kv_dtype']} cache."
            if report.engine["ignores"]:
                yield f"{report.engine['name']} does not honour: {'; '.join(report.engine['ignores'])}."
        if all(row.fits is None for row in self.rows):
            yield "max batch, max context and the decode bound need --gpu (or --memory)."
        elif any(row.decode_step_s is not None for row in self.rows):
            yield "decode ≥: lower bound of a decode step and what sets it; a bound, never a prediction."

    def _columns(self) -> list[str]:
        hidden = set() if any(row.bytes_over_link_per_step for row in self.rows) else {LINK}
        if all(row.kv_bytes == row.kv_bytes_per_sequence for row in self.rows) or not self._several:
            hidden.add("kv_bytes")  # a multiple of the column before
        if all(row.fits is None for row in self.rows):
            hidden |= set(GPU_ONLY)
        return [name for name in HEADINGS if name not in hidden]

    def _label(self, row: Row) -> str:
        return f"{row.label}, {row.engine}" if self._several else row.label

    @property
    def _several(self) -> bool:
        """Whether engines are compared."""
        return len({row.engine for row in self.rows}) > 1

    def _cells(self) -> list[list[str]]:
        """Header and rows as text: mark and scheme in one cell, then the columns that have answers."""
        columns = self._columns()
        rows = [
            [f"{MARK if row.pareto else ' '} {self._label(row)}", *(_cell(row, name) for name in columns)]
            for row in self.rows
        ]
        return [["  scheme", *(HEADINGS[name] for name in columns)], *rows]


def folded(row: tuple[str, ...]) -> tuple[str, ...]:
    """A row whose label is cut into lines of at most LABEL characters, at + and , where there are any."""
    lines, line = [], ""
    for piece in re.findall(r"[^+,_]*[+,_]?", row[0]):
        if line and len(line) + len(piece) > LABEL:
            lines.append(line)
            line = "  "
        line += piece
    return ("\n".join([*lines, line]), *row[1:])


def _cell(row: Row, name: str) -> str:
    value = getattr(row, name)
    if name == "decode_bound":
        return f"{format_seconds(row.decode_step_s)} {value}" if row.decode_step_s is not None else "n/a"
    if name in ("max_batch", "max_context"):
        return "n/a" if row.fits is None else "unbounded" if value is None else format_count(value)
    if name.endswith("_ratio"):
        return "n/a" if value is None else format_ratio(value)
    if name.endswith("_flops"):
        return format_si(value, "F")
    return format_parameters(value) if name == "parameters" else format_bytes(value)


def compared(asked: Sequence[tuple[str | None, Report]]) -> Comparison:
    """The comparison of reports, each with its scheme; the first is what the ratios are to."""
    base = asked[0][1].answer
    sizes = [(r.answer.bytes_per_sequence, r.answer.bytes_read_per_step) for _, r in asked]
    rows = []
    for (scheme, report), size in zip(asked, sizes, strict=True):
        a, c, t = report.answer, report.capacity, report.answer.times
        engine = f"{a.settings.engine.name} {a.settings.engine.version}".strip()
        rows.append(
            Row(
                scheme,
                described_scheme(a.spec),
                engine,
                a.bytes_per_token,
                a.bytes_per_sequence,
                a.kv_bytes,
                a.bytes_per_gpu,
                _ratio(a.bytes_per_sequence, base.bytes_per_sequence),
                a.bytes_read_per_step,
                _ratio(a.bytes_read_per_step, base.bytes_read_per_step),
                a.link_bytes,
                a.prefill.total,
                a.decode.total,
                a.profile.parameters,
                not any(_beats(other, size) for other in sizes),
                report.fits,
                c.max_batch if c else None,
                c.max_context if c else None,
                t.decode.seconds if t else None,
                t.tokens_per_s if t else None,
                t.decode.side if t else None,
            )
        )
    return Comparison(tuple(rows), tuple(report for _, report in asked))


def _ratio(value: int, base: int) -> float | None:
    return value / base if base else (1.0 if value == base else None)


def _beats(other: tuple[int, int], mine: tuple[int, int]) -> bool:
    """Whether another row is no worse on both axes and better on one: equal rows do not beat each other."""
    return other != mine and other[0] <= mine[0] and other[1] <= mine[1]
