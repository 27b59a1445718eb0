"""Ways of keeping the cache as points: what is resident against what a decode step reads."""

from __future__ import annotations

from typing import Any

from kvplan.comparison import Comparison
from kvplan.figures.chart import PLAIN, Chart, Look, chart, escape, size_ticks
from kvplan.units import format_ratio

__all__ = ["front", "schemes"]


def front(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The staircase through Pareto points, both axes the lower the better: what lies on its right and above is beaten.

    >>> front([(4.0, 1.0), (1.0, 3.0)])
    ([1.0, 4.0, 4.0], [3.0, 3.0, 1.0])
    """
    x: list[float] = []
    y: list[float] = []
    for a, b in sorted(set(points)):
        if x:
            x.append(a)
            y.append(y[-1])
        x.append(a)
        y.append(b)
    return x, y


def schemes(comparison: Comparison, look: Look = PLAIN) -> Chart:
    """Residence against traffic of every row of a comparison, on logarithmic axes, with the Pareto front.

    Below the diagonal line lies what reads more than it keeps (layers that share), above it what reads a part of what it
    keeps. Bytes of the whole batch. Rows: those of ``Comparison.to_dict``, with their labels.
    """
    rows = [{"label": comparison._label(row), **row._asdict()} for row in comparison.rows]
    shown = [row for row in rows if row["kv_bytes"] and row["bytes_read_per_step"]]
    theme = look.theme
    values = [row[key] for row in shown for key in ("kv_bytes", "bytes_read_per_step")]
    low, high = min(values, default=1), max(values, default=2)
    reads = [row["bytes_read_per_step"] for row in shown]
    keeps = [row["kv_bytes"] for row in shown]
    across = size_ticks(min(reads, default=1) / 1.5, max(reads, default=2) * 1.5, look, most=5)
    up = size_ticks(min(keeps, default=1) / 1.5, max(keeps, default=2) * 1.5, look)
    steps = front([(row["bytes_read_per_step"], row["kv_bytes"]) for row in shown if row["pareto"]])
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "name": "reads what it keeps", "x": [low / 8, high * 8], "y": [low / 8, high * 8],
            "line": {"color": theme.dim, "width": 1, "dash": "dot"}, "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "lines", "name": "Pareto", "x": steps[0], "y": steps[1],
            "line": {"color": theme.dim, "width": 2}, "hoverinfo": "skip",
        },
    ]  # fmt: skip
    if len(steps[0]) < 2:  # one point beats all: there is no line to draw
        traces.pop()
    for i, row in enumerate(shown):
        said = [
            f"<b>{escape(row['label'])}</b>",
            f"keeps {look.exact(row['kv_bytes'])}",
            f"reads {look.exact(row['bytes_read_per_step'])} per step",
        ]
        if row["kv_ratio"] is not None and row["read_ratio"] is not None:
            said.append(f"KV × {format_ratio(row['kv_ratio'])}, read × {format_ratio(row['read_ratio'])}")
        if row["pareto"]:
            said.append("no other row keeps and reads as little or less")
        edge = {"color": theme.ink, "width": 2} if row["pareto"] else {"color": theme.ground, "width": 0.5}
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": escape(row["label"]),
                "x": [row["bytes_read_per_step"]], "y": [row["kv_bytes"]], "marker": look.marker(i, size=13, line=edge),
                "hovertemplate": "<br>".join(said).replace("%{", "%&#123;") + "<extra></extra>",
            }
        )  # fmt: skip
    s = comparison.reports[0].answer.settings
    return chart(
        "schemes",
        f"What is kept against what is read · {comparison.reports[0].answer.spec.name}",
        rows,
        traces,
        look,
        subtitle=f"{s.batch:,} × {s.context:,} tokens; edged points are Pareto: no other keeps and reads as little or less",
        plot_height=320,
        xaxis={"title": "read per decode step", **across},
        yaxis={"title": "resident KV cache", **up},
    )
