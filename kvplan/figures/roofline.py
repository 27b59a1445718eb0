"""Where prefill and decode lie under a GPU's roofline, and the time bounds that follow, by batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from typing import Any

from kvplan.errors import InvalidInput
from kvplan.figures.asked import again, labels, powers, subject
from kvplan.figures.chart import PLAIN, Chart, Look, chart, count_ticks, escape
from kvplan.report import Report
from kvplan.roofline import Bound, peak_flops
from kvplan.units import format_seconds, format_si

__all__ = ["bounds", "roofline"]

BATCHES = (1, 256)
PHASES = ("prefill", "decode")


def _times(report: Report, batch: int) -> tuple[Report, dict[str, Bound]]:
    at = again(report, batch=batch)
    times = at.answer.times
    if times is None:
        raise InvalidInput(
            "gpu", report.answer.settings.gpu_asked or None, "a GPU whose rates are known, and known weights"
        )
    return at, {"prefill": times.prefill, "decode": times.decode}


def _points(report: Report, name: str, batches: tuple[int, int]) -> list[dict[str, Any]]:
    """Per phase and batch: FLOPs and bytes of one rank, their ratio, the bound and the rate that it allows."""
    rows = []
    for batch in powers(*batches):
        at, found = _times(report, batch)
        for phase in PHASES:
            bound = found[phase]
            flops, moved = sum(item.flops for item in bound.work), sum(item.bytes for item in bound.work)
            rows.append(
                {
                    "label": name, "phase": phase, "batch": batch, "flops": flops, "bytes": moved,
                    "flops_per_byte": flops / moved if moved else None, "seconds": bound.seconds,
                    "flops_per_s": flops / bound.seconds if bound.seconds else None, "bound": bound.side, "fits": at.fits,
                }
            )  # fmt: skip
    return rows


def roofline(report: Report, batches: tuple[int, int] = BATCHES, look: Look = PLAIN) -> Chart:
    """Arithmetic intensity and the rate it allows, of prefill and decode by batch, under the GPU's roofline.

    FLOPs, bytes and seconds are those of the report's time bounds, of one rank; a point lies below the roof where its
    terms bind on different sides. Hollow points do not fit. Rows: phase, batch, flops, bytes, flops_per_byte, seconds,
    flops_per_s, bound (compute, memory or link), fits.
    """
    s = report.answer.settings
    rows = _points(report, labels([report])[0], batches)
    gpu = s.gpu
    assert gpu is not None
    bandwidth = gpu.bandwidth_bytes_per_s * s.bandwidth_efficiency
    columns = {item.column for bound in _times(report, batches[0])[1].values() for item in bound.work}
    peaks = {rate[1]: rate[0] * s.compute_efficiency for column in columns if (rate := peak_flops(gpu, column))}
    shown = [row for row in rows if row["flops_per_byte"] and row["flops_per_s"]]
    reached = [row["flops_per_byte"] for row in shown]
    ridge = max(peaks.values()) / bandwidth
    low, high = min([*reached, ridge / 4]) / 1.8, max([*reached, ridge * 4]) * 1.5
    theme = look.theme
    traces: list[dict[str, Any]] = []
    for n, (column, peak) in enumerate(sorted(peaks.items(), key=lambda item: -item[1])):
        corner = peak / bandwidth
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"roof, {column} {format_si(peak, 'FLOP/s')}",
                "x": [low, corner, high], "y": [low * bandwidth, peak, peak],
                "line": {"color": theme.ink, "width": 2, "dash": ("solid", "dash", "dot")[n % 3]},
                "text": [f"{format_si(bandwidth, 'B/s')}", f"ridge at {corner:,.0f} FLOP/B", format_si(peak, "FLOP/s")],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    for i, phase in enumerate(PHASES):
        mine = [row for row in shown if row["phase"] == phase]
        symbol = ("square", "circle")[i]
        color = look.color((1, 0)[i])
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers+text", "name": f"{phase} by batch",
                "x": [row["flops_per_byte"] for row in mine], "y": [row["flops_per_s"] for row in mine],
                "text": _few([str(row["batch"]) for row in mine], 4 if phase == "decode" else 2),
                "textposition": "bottom right" if phase == "decode" else "bottom center",
                "textfont": {"size": 10, "color": theme.ink},
                "line": {"color": color, "width": 1.5, "dash": ("dash", "solid")[i]},
                "marker": {
                    "color": color, "size": 8, "symbol": [symbol if row["fits"] is not False else f"{symbol}-open" for row in mine]
                },
                "customdata": [_said(row, look) for row in mine],
                "hovertemplate": f"{phase}, batch %{{customdata}}<extra></extra>",
            }
        )  # fmt: skip
    rates = [row["flops_per_s"] for row in shown] + [low * bandwidth]
    return chart(
        "roofline",
        f"Roofline · {subject([report])} on {gpu.label}",
        rows,
        traces,
        look,
        subtitle=f"{s.context:,} tokens; numbers are batches, hollow does not fit; upper bounds, never predictions",
        plot_height=320,
        xaxis={"title": "FLOPs per byte moved", **_decades(low, high, lambda v: f"{v:g}" if v < 1e4 else format_si(v, "").strip())},
        yaxis={
            "title": "FLOP/s at most", **_decades(min(rates) / 1.5, max(peaks.values()) * 1.8, lambda v: format_si(v, "FLOP/s"))
        },
    )  # fmt: skip


def _said(row: dict[str, Any], look: Look) -> str:
    return (
        f"{row['batch']:,}: {row['flops_per_byte']:,.2f} FLOP/B<br>{format_si(row['flops'], 'FLOP')}, {look.size(row['bytes'])}"
        f"<br>at least {format_seconds(row['seconds'])}, {row['bound']}-bound"
        + ("<br>does not fit" if row["fits"] is False else "")
    )


def _few(texts: list[str], most: int) -> list[str]:
    """Some of the labels, the ends among them; the others are left out so that none overlap."""
    if len(texts) <= most:
        return texts
    step = (len(texts) - 1) / (most - 1)
    kept = {round(i * step) for i in range(most)}
    return [text if i in kept else "" for i, text in enumerate(texts)]


def _decades(low: float, high: float, words: Any) -> dict[str, Any]:
    """A logarithmic axis with a tick at every power of ten, fewer where there are many."""
    first, last = ceil(log10(low)), int(log10(high))
    step = max(-(-(last - first + 1) // 6), 1)
    values = [10.0**p for p in range(first, last + 1, step)] or [low]
    return {
        "type": "log", "tickmode": "array", "tickvals": values, "ticktext": [words(v) for v in values],
        "range": [log10(low), log10(high)],
    }  # fmt: skip


def bounds(reports: Sequence[Report], batches: tuple[int, int] = BATCHES, look: Look = PLAIN) -> Chart:
    """Lower bounds of a prefill and of a decode step by batch, one pair of lines per report; the marker says what binds.

    Rows: label, phase, batch, seconds, bound (compute, memory or link), tokens_per_s (of decode, upper bound), fits.
    """
    names = labels(reports)
    sides = {"memory": "circle", "compute": "square", "link": "diamond"}
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    theme = look.theme
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        for row in _points(report, name, batches):
            rate = row["batch"] / row["seconds"] if row["phase"] == "decode" and row["seconds"] else None
            rows.append(
                {
                    **{key: row[key] for key in ("label", "phase", "batch", "seconds", "bound", "fits")},
                    "tokens_per_s": rate,
                }
            )
        for phase in PHASES:
            mine = [row for row in rows if row["label"] == name and row["phase"] == phase]
            color = look.color(i)
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers",
                    "name": escape(f"{name}, {phase}" if len(reports) > 1 else phase if phase == "prefill" else "decode step"),
                    "x": [row["batch"] for row in mine], "y": [row["seconds"] for row in mine],
                    "line": {"color": color if len(reports) > 1 else look.color(1 if phase == "prefill" else 0), "width": 2,
                             "dash": "dash" if phase == "prefill" else "solid"},
                    "marker": {
                        "size": 8, "symbol": [sides[r["bound"]] + ("" if r["fits"] is not False else "-open") for r in mine]
                    },
                    "text": [
                        f"{r['batch']:,}: at least {format_seconds(r['seconds'])}, {r['bound']}-bound"
                        + (f"<br>at most {r['tokens_per_s']:,.0f} tokens/s" if r["tokens_per_s"] else "")
                        + ("<br>does not fit" if r["fits"] is False else "")
                        for r in mine
                    ],
                    "hovertemplate": f"{escape(name)}, {phase}, batch %{{text}}<extra></extra>",
                }
            )  # fmt: skip
    traces += [
        {
            "type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": f"{side}-bound",
            "marker": {"symbol": sides[side], "size": 8, "color": theme.dim},
        }
        for side in sorted({row["bound"] for row in rows})
    ]  # fmt: skip
    seconds = [row["seconds"] for row in rows if row["seconds"]]
    s = reports[0].answer.settings
    return chart(
        "bounds",
        f"Time at least, by batch · {subject(reports)}",
        rows,
        traces,
        look,
        subtitle=f"{s.context:,} tokens on {s.gpu.label if s.gpu else ''}; hollow does not fit; bounds, never predictions",
        xaxis={"title": "sequences", **count_ticks(*batches)},
        yaxis={"title": "seconds at least", **_decades(min(seconds) / 1.5, max(seconds) * 1.5, format_seconds)},
    )
