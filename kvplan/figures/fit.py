"""What fits: context by batch with its boundary, and a table of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Any

from kvplan.errors import InvalidInput
from kvplan.figures.asked import again, distinct, labels, most_context, powers, subject
from kvplan.figures.chart import FONT, PLAIN, SMALL, Chart, Look, chart, escape, folded, short_count
from kvplan.report import Report
from kvplan.units import format_count

__all__ = ["TIGHT", "capacity", "gpus"]

CELL = 24  # pixels
MOST = 11  # cells along an axis
TIGHT = 0.1  # fits, and less than this share of what the engine may use is free
EMPTIEST, FULLEST = "#DCEBF5", "#0072B2"  # of cells that fit
NIGHT = "#1D3A4D", "#2F6F9F"


def capacity(
    reports: Sequence[Report],
    contexts: tuple[int, int] | None = None,
    batches: tuple[int, int] = (1, 256),
    look: Look = PLAIN,
) -> Chart:
    """How full the GPU is by context and batch, one panel per report, and the boundary of what fits.

    A cell is one plan: memory taken over what the engine may use, in per cent; a cross does not fit. The line is ``max_batch`` at
    each context. Reports need a GPU. Rows: label, context, batch, bytes, usable_bytes, fits, max_batch.
    """
    if any(report.capacity is None for report in reports):
        raise InvalidInput("gpu", None, "a GPU or --memory (what fits is asked of one), and known weights")
    names = labels(reports)
    ends = contexts or (1024, max(most_context(reports), 2048))
    across, up = thinned(powers(*ends)), thinned(powers(*batches))
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    notes = []
    gap = 30 if len(reports) > 1 else 0
    height = (CELL * len(up) + gap) * len(reports)
    theme = look.theme
    wide_cells = (look.columns - 90) / len(across) >= 30
    x, y = [log2(n) for n in across], [log2(n) for n in up]
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        suffix = "" if i == 0 else str(i + 1)
        shares: list[list[float | None]] = []
        words: list[list[str]] = []
        hover: list[list[str]] = []
        limits: list[int | None] = []
        for batch in up:
            shares.append([])
            words.append([])
            hover.append([])
            for context in across:
                r = again(report, context=context, batch=batch)
                c = r.capacity
                assert c is not None
                used = sum(size for _, size in r.memory())
                share = 100 * used / c.usable_bytes if c.usable_bytes else 100.0
                shares[-1].append(share if c.fits else None)
                words[-1].append(f"{share:.0f}" if c.fits and wide_cells else "")
                said = f"{look.exact(used)} of {look.size(c.usable_bytes)}"
                hover[-1].append(
                    f"{context:,} tokens × {batch:,}<br>{said}<br>{'fits' if c.fits else f'does not fit ({c.binding})'}"
                )
                rows.append(
                    {
                        "label": name, "context": context, "batch": batch, "bytes": used, "usable_bytes": c.usable_bytes,
                        "fits": c.fits, "max_batch": c.max_batch,
                    }
                )  # fmt: skip
        for context in across:
            c = again(report, context=context, batch=up[0]).capacity
            limits.append(c.max_batch if c else None)
        scale = NIGHT if look.dark else (EMPTIEST, FULLEST)
        traces.append(
            {
                "type": "heatmap", "x": x, "y": y, "z": shares, "zmin": 0, "zmax": 100, "showscale": False, "xgap": 1, "ygap": 1,
                "colorscale": [[0, scale[0]], [1, scale[1]]], "text": words, "texttemplate": "%{text}",
                "textfont": {"size": 10, **({"color": look.theme.ink} if look.dark else {})},
                "customdata": hover, "hovertemplate": "%{customdata}<extra></extra>",
                "hoverongaps": True, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "name": escape(name), "showlegend": False,
            }
        )  # fmt: skip
        none = [(a, b) for b, line in zip(y, shares, strict=True) for a, s in zip(x, line, strict=True) if s is None]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": [a for a, _ in none], "y": [b for _, b in none],
                "marker": {"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": theme.bad}},
                "name": "does not fit", "showlegend": i == 0, "hoverinfo": "skip",
                "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
            }
        )  # fmt: skip
        edge = [(a, n) for a, n in zip(x, limits, strict=True) if n]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": [a for a, _ in edge], "y": [log2(n) for _, n in edge],
                "line": {"color": theme.ink, "width": 2}, "marker": {"color": theme.ink, "size": 5},
                "name": "largest batch that fits", "showlegend": i == 0,
                "text": [f"{short_count(n)} tokens: at most {m:,}" for n, m in zip(across, limits, strict=True) if m],
                "hovertemplate": "%{text}<extra></extra>", "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
            }
        )  # fmt: skip
        top = 1 - i / len(reports)
        domain = [top - 1 / len(reports), top - gap / height]
        last = i == len(reports) - 1
        axes[f"xaxis{suffix}"] = {
            "anchor": f"y{suffix}", "tickmode": "array", "tickvals": _some(x), "showgrid": False,
            "ticktext": [short_count(n) for n in _some(across)], "range": _around(x), "showticklabels": last,
            **({"title": "context, tokens per sequence"} if last else {}),
        }  # fmt: skip
        axes[f"yaxis{suffix}"] = {
            "anchor": f"x{suffix}", "domain": domain, "tickmode": "array", "tickvals": _some(y), "showgrid": False,
            "ticktext": [f"{n:,}" for n in _some(up)], "range": _around(y), "title": "sequences",
        }  # fmt: skip
        if gap:
            notes.append(
                {
                    "text": f"<b>{escape(name)}</b>", "x": 0, "xref": "paper", "xanchor": "left", "y": domain[1], "yref": "paper",
                    "yanchor": "bottom", "showarrow": False, "font": {"size": SMALL},
                }
            )  # fmt: skip
    where = distinct(_place(report, look) for report in reports)
    return chart(
        "capacity",
        f"What fits by context and batch · {subject(reports)}",
        rows,
        traces,
        look,
        subtitle="per cent of the memory that the engine may use" + (f"; {where[0]}" if len(where) == 1 else ""),
        plot_height=height,
        annotations=notes,
        **axes,
    )


def thinned(values: list[int]) -> list[int]:
    """At most MOST values, both ends kept."""
    if len(values) <= MOST:
        return values
    step = (len(values) - 1) / (MOST - 1)
    return [values[round(i * step)] for i in range(MOST)]


def _some(values: Sequence[Any], most: int = 6) -> list[Any]:
    step = max(-(-len(values) // most), 1)
    return list(values)[::step]


def _around(values: list[float]) -> list[float]:
    """A range that holds whole cells: half of the way to the next one beyond both ends."""
    if len(values) == 1:
        return [values[0] - 0.5, values[0] + 0.5]
    return [values[0] - (values[1] - values[0]) / 2, values[-1] + (values[-1] - values[-2]) / 2]


def _place(report: Report, look: Look) -> str:
    s = report.answer.settings
    name = s.gpu.label if s.gpu else f"{look.size(s.memory_bytes or 0)} of memory"
    ranks = s.tp * s.pp * s.dp
    return f"{ranks} × {name}" if ranks > 1 else name


def gpus(reports: Sequence[Report], look: Look = PLAIN) -> Chart:
    """A table of GPUs, one report each: fits, tight or not, said by sign, word and colour; what is free and what would fit.

    ``tight`` fits with less than a tenth of what the engine may use to spare. What fits comes first, the smallest memory on
    top. Rows: gpu, verdict, memory_bytes, free_bytes (negative: too much), max_batch, max_context, binding.
    """
    rows: list[dict[str, Any]] = []
    for report in reports:
        c, s = report.capacity, report.answer.settings
        if c is None:
            continue
        free = c.usable_bytes - sum(size for _, size in report.memory())
        verdict = "no" if not c.fits else "tight" if free < TIGHT * c.usable_bytes else "fits"
        rows.append(
            {
                "gpu": s.gpu.name if s.gpu else None, "label": _place(report, look), "verdict": verdict,
                "memory_bytes": c.memory_bytes, "free_bytes": free, "max_batch": c.max_batch, "max_context": c.max_context,
                "binding": c.binding,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (row["verdict"] == "no", row["memory_bytes"], row["label"]))
    theme = look.theme
    marks = {"fits": "✔ fits", "tight": "● tight", "no": "✘ no"}
    # black on each of the three reads at 4.5 to 1 and more
    fills = {"fits": "#7FCFB8", "tight": "#F2C75C", "no": "#EFA27A"}
    narrow = look.columns < 600
    shares = [2.6, 1.5, 2.0, 1.2, 1.7]
    room = look.columns - 24
    label_width = room * shares[0] / sum(shares) - 14
    lines = [folded(str(row["label"]), int(label_width), SMALL) for row in rows]
    cells = [
        ["<br>".join(escape(line) for line in each) for each in lines],
        [marks[row["verdict"]] for row in rows],
        [f"{'−' if row['free_bytes'] < 0 else ''}{look.size(abs(row['free_bytes']))}" for row in rows],
        [_limit(row["max_batch"]) for row in rows],
        [_limit(row["max_context"]) for row in rows],
    ]
    tall = max((len(each) for each in lines), default=1)
    cell = 8 + (SMALL + 8) * tall
    header = (
        ["GPU", "fits", "free", "max<br>batch", "max<br>context"]
        if narrow
        else ["GPU", "fits", "free", "max batch", "max context"]
    )
    trace = {
        "type": "table", "columnwidth": shares,
        "header": {
            "values": [f"<b>{text}</b>" for text in header], "align": ["left", "left", "right", "right", "right"],
            "fill": {"color": theme.grid}, "line": {"color": theme.ground}, "height": 46 if narrow else 24,
            "font": {"size": SMALL, "color": theme.ink},
        },
        "cells": {
            "values": cells, "align": ["left", "left", "right", "right", "right"], "height": cell,
            "line": {"color": theme.grid},
            "fill": {"color": [theme.ground, [fills[row["verdict"]] for row in rows], theme.ground, theme.ground, theme.ground]},
            "font": {"size": SMALL, "color": [theme.ink, "#111111", theme.ink, theme.ink, theme.ink]},
        },
    }  # fmt: skip
    s = reports[0].answer.settings
    return chart(
        "gpus",
        f"GPUs for {subject(reports)}",
        rows,
        [trace],
        look,
        subtitle=f"{s.batch:,} × {format_count(s.context)} tokens, engine {s.engine.name}; tight: under {TIGHT:.0%} free",
        plot_height=(46 if narrow else 24) + cell * len(rows) + FONT,
        below=4,
        left=12,
        right=12,
    )


def _limit(n: int | None) -> str:
    return "unbounded" if n is None else format_count(n)
