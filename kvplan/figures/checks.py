"""Predictions beside what others printed or measured: points on a diagonal where they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.figures.chart import PLAIN, Chart, Look, chart, escape, size_ticks
from kvplan.figures.roofline import _decades
from kvplan.figures.schemes import front
from kvplan.reproduce import OUTCOMES, Quality, Row

__all__ = ["measured", "published", "quality"]

# The lines of a record that are no predictions but tests of the run itself.
NO_PREDICTION = frozenset({"correct"})


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
            marker |= {"color": theme.bad, "symbol": "x", "size": 11}
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
    """What runs measured against what kvplan predicts, by quantity; equal pairs are one point that counts them.

    ``records`` are those that ``kvplan validate --record`` writes (``kvplan.validate.records.read``). Rows: case, quantity,
    predicted, measured, ratio, verdict, note, device.
    """
    rows: list[dict[str, Any]] = []
    points: dict[str, dict[tuple[float, float], list[dict[str, Any]]]] = {}
    for record in records:
        device = record.get("device_name") or record.get("device") or ""
        for row in record["rows"]:
            if row["quantity"] in NO_PREDICTION:
                continue
            kept = {
                key: row.get(key) for key in ("case", "quantity", "predicted", "measured", "ratio", "verdict", "note")
            }
            rows.append({**kept, "device": device})
            if not (row["predicted"] and row["measured"] and row["predicted"] > 0 and row["measured"] > 0):
                continue
            group = row["verdict"] if row["verdict"] in ("wrong", "failed") else row["quantity"]
            pair = (float(row["predicted"]), float(row["measured"]))
            points.setdefault(group, {}).setdefault(pair, []).append(row)
    groups = {
        group: [
            {
                "x": pair[0], "y": pair[1], "count": len(found),
                "said": f"{escape(str(found[0]['case']))}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
                + f"<br>{escape(found[0]['quantity'])}: predicted {found[0]['predicted']:,}<br>measured {found[0]['measured']:,}"
                + f"<br>{escape(found[0]['verdict'])}",
            }
            for pair, found in pairs.items()
        ]
        for group, pairs in points.items()
    }  # fmt: skip
    exact = sum(row["verdict"] == "exact" for row in rows)
    devices = ", ".join(dict.fromkeys(str(row["device"]) for row in rows))
    return _scatter(
        "measured",
        "Measured against predicted",
        f"{len(rows):,} numbers, {exact:,} equal to the last digit; {devices}",
        rows,
        groups,
        ("predicted by kvplan", "measured"),
        frozenset({"wrong", "failed"}),
        look,
    )


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
