"""Predictions beside what others printed or measured: points on a diagonal where they agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.figures.chart import NARROW, PLAIN, SMALL, Chart, Look, chart, escape, folded, size_ticks
from kvplan.figures.roofline import _decades
from kvplan.figures.schemes import front
from kvplan.reproduce import OUTCOMES, Quality, Row

__all__ = ["measured", "published", "quality"]

BAD = frozenset({"wrong", "failed"})  # verdicts of a record's rows that say no
# The lines of a record that are no predictions but tests of the run itself.
NO_PREDICTION = frozenset({"correct"})
# Times and rates stand beside bounds, which nothing has to equal.
BOUND = re.compile(r"\bseconds?\b|/s$")
# A legend of every quantity would be longer than the picture is high: what a series holds, by how its quantities begin.
SERIES = {
    "KV cache": ("kv.",),
    "allocator": ("cuda ", "allocator "),
    "FLOPs": ("flops.",),
    "weights and parameters": ("weights.", "model."),
    "largest batch": ("max batch",),
    "other quantities": ("",),
}


def _scatter(
    name: str, title: str, subtitle: str, rows: Sequence[dict[str, Any]], groups: Mapping[str, Sequence[dict[str, Any]]],
    axes: tuple[str, str], bad: frozenset[str], look: Look,
) -> Chart:  # fmt: skip
    """Points of (x, y, said) by group under the diagonal; both axes logarithmic and alike."""
    theme = look.theme
    values = [row[key] for found in groups.values() for row in found for key in ("x", "y")]
    low, high = min(values, default=1) / 2, max(values, default=10) * 2
    ticks = _decades(low, high, lambda v: f"{v:g}" if 0.001 <= v < 1e4 else f"1e{round_log(v)}")
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "name": "equal", "x": [low, high], "y": [low, high], "hoverinfo": "skip",
            "line": {"color": theme.dim, "width": 1.5, "dash": "dot"},
        }
    ]  # fmt: skip
    for i, (group, found) in enumerate(groups.items()):
        marker = look.marker(i, size=8, opacity=0.85)
        if group in bad:
            # edged, because a series of the palette may have the same colour
            marker |= {"color": theme.bad, "symbol": "x", "size": 12, "line": {"color": theme.ink, "width": 1.5}}
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": escape(f"{group} ({sum(row['count'] for row in found)})"),
                "x": [row["x"] for row in found], "y": [row["y"] for row in found], "marker": marker,
                "text": [row["said"] for row in found], "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    return chart(
        name,
        title,
        rows,
        traces,
        look,
        subtitle=subtitle,
        plot_height=320,
        xaxis={"title": axes[0], **ticks},
        yaxis={"title": axes[1], **ticks},
    )


def round_log(value: float) -> int:
    """The power of ten of a power of ten."""
    from math import log10

    return round(log10(value))


def published(rows: Sequence[Row], look: Look = PLAIN) -> Chart:
    """What papers printed against what kvplan computes, each in the paper's own unit; shapes and colours say how they agree.

    ``rows`` are those of ``kvplan.reproduce.reproduce``. Rows of the chart: the same as mappings.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for outcome in OUTCOMES:
        found = [row for row in rows if row.outcome == outcome and row.published and row.computed]
        found = [row for row in found if (row.published or 0) > 0 and (row.computed or 0) > 0]
        if found:
            groups[outcome] = [
                {
                    "x": float(row.published or 0), "y": float(row.computed or 0), "count": 1,
                    "said": f"<b>{escape(row.paper)}</b>: {escape(row.quantity)}<br>printed {row.published:,} {escape(row.unit)}"
                    f"<br>computed {row.computed:,} {escape(row.unit)}<br>{outcome}",
                }
                for row in found
            ]  # fmt: skip
    counted = sum(len(found) for found in groups.values())
    papers = len({row.paper for row in rows})
    return _scatter(
        "published",
        "Published numbers against computed ones",
        f"{counted} numbers of {papers} source{'s' if papers != 1 else ''}, each in its own unit",
        [row._asdict() for row in rows],
        groups,
        ("printed", "computed by kvplan"),
        frozenset({"wrong in paper", "DIFFERS"}),
        look,
    )


def measured(records: Sequence[Mapping[str, Any]], look: Look = PLAIN) -> Chart:
    """What runs measured against what kvplan predicts, a series per kind of quantity; equal pairs are one point that counts them.

    ``records`` are those that ``kvplan validate --record`` writes (``kvplan.validate.records.read``). Rows: case, quantity,
    predicted, measured, ratio, verdict, note, device, of bytes, FLOPs and counts that were predicted: neither bounds of
    times and rates nor what was measured alone.
    """
    told = ("case", "quantity", "predicted", "measured", "ratio", "verdict", "note")
    rows = [
        {**{key: row.get(key) for key in told}, "device": record.get("device_name") or record.get("device") or ""}
        for record in records
        for row in record["rows"]
        if _is_prediction(row)
    ]
    return _scatter(
        "measured",
        "Measured against predicted",
        _summary(rows, records),
        rows,
        {series: [_point(*pair) for pair in pairs.items()] for series, pairs in _pairs(rows).items()},
        ("predicted by kvplan", "measured"),
        BAD,
        look,
    )


def _is_prediction(row: Mapping[str, Any]) -> bool:
    """Whether a row of a record says what an amount is: bytes, FLOPs or a count."""
    quantity = row["quantity"]
    return row["predicted"] is not None and quantity not in NO_PREDICTION and not BOUND.search(quantity)


def _summary(rows: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]]) -> str:
    """How many rows are shown, how many are exact, and how many rows of the records say no, shown or not."""
    exact = sum(row["verdict"] == "exact" for row in rows)
    devices = ", ".join(dict.fromkeys(str(row["device"]) for row in rows))
    bad = Counter(row["verdict"] for record in records for row in record["rows"] if row["verdict"] in BAD)
    said = [f"{len(rows):,} numbers, {exact:,} equal to the last digit", devices]
    said += [f"rows that say no: {', '.join(f'{n:,} {word}' for word, n in bad.items())}"] if bad else []
    return "; ".join(said)


def _pairs(rows: Sequence[dict[str, Any]]) -> dict[str, dict[tuple[float, float], list[dict[str, Any]]]]:
    """Rows by series and place, in the order of the legend; zeros have no place on logarithmic axes."""
    found: dict[str, dict[tuple[float, float], list[dict[str, Any]]]] = {}
    for row in rows:
        if (row["predicted"] or 0) > 0 and (row["measured"] or 0) > 0:
            pair = (float(row["predicted"]), float(row["measured"]))
            found.setdefault(_series(row), {}).setdefault(pair, []).append(row)
    order = (*SERIES, *sorted(BAD))  # what says no is drawn last, over everything else
    return {series: found[series] for series in order if series in found}


def _series(row: Mapping[str, Any]) -> str:
    if row["verdict"] in BAD:
        return str(row["verdict"])
    return next(name for name, starts in SERIES.items() if row["quantity"].startswith(starts))


def _point(pair: tuple[float, float], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One place on the picture and what is said under the pointer: its first row, its note if it is not exact, how many share it."""
    first, more = rows[0], f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    note = [] if first["verdict"] == "exact" else folded(str(first["note"] or ""), NARROW - 60, SMALL)
    said = (
        f"{escape(str(first['case']))}{more}<br>{escape(first['quantity'])}: predicted {first['predicted']:,}"
        f"<br>measured {first['measured']:,}<br>{'<br>'.join(map(escape, [first['verdict'], *note]))}"
    )
    return {"x": pair[0], "y": pair[1], "count": len(rows), "said": said}


def quality(rows: Sequence[Quality], look: Look = PLAIN) -> Chart:
    """What a paper measured of quality beside the cache it was bought with, and the Pareto front of each set.

    ``rows`` are one paper's of ``kvplan.reproduce.quality``, all of one metric. Rows of the chart: the same as mappings.
    """
    theme = look.theme
    traces: list[dict[str, Any]] = []
    sets = list(dict.fromkeys(row.set for row in rows))
    lower = all(row.better == "lower" for row in rows)
    for i, which in enumerate(sets):
        mine = sorted((row for row in rows if row.set == which), key=lambda row: row.memory_bytes)
        best = [
            (float(row.memory_bytes), row.value if row.better == "lower" else -row.value) for row in mine if row.pareto
        ]
        x, y = front(best)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "showlegend": False, "x": x, "y": y if lower else [-v for v in y],
                "line": look.line(i, width=1.5), "hoverinfo": "skip",
            }
        )  # fmt: skip
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": escape(which),
                "x": [row.memory_bytes for row in mine], "y": [row.value for row in mine],
                "marker": look.marker(
                    i, size=10, line={"color": theme.ink, "width": [2 if row.pareto else 0.5 for row in mine]}
                ),
                "text": [
                    f"<b>{escape(row.name)}</b><br>{look.exact(row.memory_bytes)}<br>{escape(row.metric)} {row.printed}"
                    for row in mine
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    sizes = [row.memory_bytes for row in rows]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    what = ", ".join(dict.fromkeys(row.memory for row in rows))
    return chart(
        "quality",
        f"Quality against the cache · {', '.join(dict.fromkeys(row.paper for row in rows))}",
        [row._asdict() for row in rows],
        traces,
        look,
        subtitle=f"{'lower' if lower else 'higher'} is better; measured by the paper, never predicted; edged points are Pareto",
        xaxis={
            "title": what.replace("kv.", "KV ").replace("_", " "),
            **size_ticks(min(sizes, default=1) / 1.3, max(sizes, default=2) * 1.3, look, most=5),
        },
        yaxis={"title": metrics[0] if len(metrics) == 1 else "the set's metric"},
    )
