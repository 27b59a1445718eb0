"""Lines over the context: what the cache takes, and how many sequences fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvplan.figures.asked import again, distinct, labels, most_context, sampled_contexts, subject, windows
from kvplan.figures.chart import PLAIN, Chart, Look, chart, context_ticks, count_ticks, escape, short_count, size_ticks
from kvplan.report import Report

__all__ = ["frontier", "kv"]

LEAST = 1024  # tokens where an axis of contexts begins unless somebody says
MARKED_WINDOWS = 4


def _ends(reports: Sequence[Report], contexts: tuple[int, int] | None) -> tuple[int, int]:
    if contexts is not None:
        return contexts
    high = max(most_context(reports), 2 * LEAST)
    return min([LEAST, *(max(limit // 4, 1) for report in reports for limit in windows(report))]), high


def _setup(report: Report) -> tuple[str, str, int, int, int, int | None]:
    s = report.answer.settings
    return s.engine.name, s.gpu.label if s.gpu else "", s.tp, s.pp, s.dp, s.memory_bytes


def _knees(
    reports: Sequence[Report], ends: tuple[int, int], look: Look
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Thin lines where windows are full, named above the plot; none where there are too many to tell apart."""
    found = [w for w in distinct(w for report in reports for w in windows(report)) if ends[0] < w < ends[1]]
    if len(found) > MARKED_WINDOWS:
        return [], []
    from math import log10

    theme = look.theme
    line = {"color": theme.dim, "width": 1, "dash": "dot"}
    shapes = [
        {"type": "line", "x0": w, "x1": w, "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}
        for w in found
    ]
    notes = [
        {
            "x": log10(w), "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "text": f"window {short_count(w)}",
            "font": {"size": 10, "color": theme.dim},
        }
        for w in found
    ]  # fmt: skip
    return shapes, notes


def kv(reports: Sequence[Report], contexts: tuple[int, int] | None = None, look: Look = PLAIN) -> Chart:
    """Bytes of the cache on the fullest GPU against the context: one line per report, the room for it beside them.

    Asked at powers of two within ``contexts`` (tokens) and around every window, so that a line bends where it does. With a
    GPU, a dotted line is the room that weights and overhead leave, and a cross on each line the largest context that fits.
    Rows: label, context, kv_bytes_per_gpu, kv_bytes, kv_pool_bytes, fits.
    """
    names = labels(reports)
    ends = _ends(reports, contexts)
    points = sampled_contexts(reports, *ends)
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    dotted: list[dict[str, Any]] = []
    rooms: dict[tuple[Any, ...], list[int]] = {}
    setups = len({_setup(report) for report in reports})
    values: list[int] = []
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        answers = [again(report, context=n) for n in points]
        sizes = [r.kv["bytes_per_gpu"] for r in answers]
        values += [size for size in sizes if size]
        rows += [
            {
                "label": name, "context": n, "kv_bytes_per_gpu": size, "kv_bytes": r.kv["bytes"],
                "kv_pool_bytes": r.capacity.kv_pool_bytes if r.capacity else None, "fits": r.fits,
            }
            for n, size, r in zip(points, sizes, answers, strict=True)
        ]  # fmt: skip
        own = set(windows(report))
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": escape(name), "x": points, "y": [s or None for s in sizes],
                "line": look.line(i), "marker": look.marker(i, size=[10 if n in own else 5 for n in points]),
                "text": [f"{n:,} tokens<br>{look.exact(s)}" for n, s in zip(points, sizes, strict=True)],
                "hovertemplate": f"{escape(name)}<br>%{{text}}<extra></extra>",
            }
        )  # fmt: skip
        pools = [r.capacity.kv_pool_bytes if r.capacity else 0 for r in answers]
        first = rooms.setdefault(_setup(report), pools)
        common = first is pools and setups == 1
        if any(pools) and (first is pools or _apart(pools, first)):
            values += [size for size in pools if size]
            dotted.append(_room(report, "" if common else name, points, pools, look, i))
        limit = report.capacity.max_context if report.capacity else None
        if limit and ends[0] <= limit <= ends[1]:
            size = again(report, context=limit).kv["bytes_per_gpu"]
            rows.append({"label": name, "context": limit, "kv_bytes_per_gpu": size, "fits": True, "largest": True})
            values.append(size)
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "x": [limit], "y": [size], "showlegend": False,
                    "marker": {"symbol": "x-thin", "size": 11, "line": {"width": 3, "color": look.color(i)}},
                    "text": [f"largest that fits: {limit:,} tokens<br>{look.exact(size)}"],
                    "hovertemplate": f"{escape(name)}<br>%{{text}}<extra></extra>",
                }
            )  # fmt: skip
    shapes, notes = _knees(reports, ends, look)
    several = any(r.answer.settings.tp * r.answer.settings.pp * r.answer.settings.dp > 1 for r in reports)
    batch = reports[0].answer.settings.batch
    per = " per GPU" if several else ""
    return chart(
        "kv",
        f"KV cache{per} against context · {subject(reports)}",
        rows,
        [*traces, *dotted],
        look,
        subtitle=f"{batch:,} sequence{'s' if batch > 1 else ''}"
        + ("; dotted: room for it, ×: largest context that fits" if dotted else ""),
        above=16 if notes else 0,
        xaxis={"title": "context, tokens per sequence", **context_ticks(*ends)},
        yaxis={"title": f"KV cache{per}", **size_ticks(min(values, default=1), max(values, default=2), look)},
        shapes=shapes,
        annotations=notes,
    )


def _apart(pools: Sequence[int], first: Sequence[int]) -> bool:
    """Whether a room is another one to the eye: more than 2 % off somewhere (a scheme changes weights too)."""
    return any(50 * abs(mine - other) > max(mine, other) for mine, other in zip(pools, first, strict=True))


def _room(report: Report, name: str, points: Sequence[int], pools: Sequence[int], look: Look, i: int) -> dict[str, Any]:
    """The line of what a GPU leaves for the cache; where it is one report's own, in that report's colour."""
    s = report.answer.settings
    place = s.gpu.label if s.gpu else look.size(s.memory_bytes or 0)
    words = f"room on {place}" + (f", {name}" if name else "")
    line = {"color": look.color(i), "width": 1.5} if name else {"color": look.theme.dim, "width": 3}
    return {
        "type": "scatter", "mode": "lines", "name": escape(words), "x": list(points), "y": [size or None for size in pools],
        "line": {**line, "dash": "dot"}, "showlegend": not name,
        "text": [look.exact(size) for size in pools],
        "hovertemplate": f"{escape(words)}<br>%{{x:,}} tokens<br>%{{text}}<extra></extra>",
    }  # fmt: skip


def frontier(reports: Sequence[Report], contexts: tuple[int, int] | None = None, look: Look = PLAIN) -> Chart:
    """The largest batch that fits against the context, one line per report; below a line everything fits.

    ``max_batch`` of ``kvplan.plan`` at powers of two, around windows, and at the largest context of one sequence. Reports
    without a GPU have no line. Rows: label, context, max_batch (0: not even one; None: nothing binds), binding.
    """
    names = labels(reports)
    ends = _ends(reports, contexts)
    points = sampled_contexts(reports, *ends)
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    most = 1
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        if report.capacity is None:
            continue
        last = again(report, batch=1).capacity
        mine = sorted({*points, *([last.max_context] if last and last.max_context else [])})
        mine = [n for n in mine if ends[0] <= n <= ends[1]]
        found = [again(report, context=n).capacity for n in mine]
        limits = [c.max_batch if c else None for c in found]
        most = max([most, *(limit for limit in limits if limit)])
        rows += [
            {"label": name, "context": n, "max_batch": c.max_batch if c else None, "binding": c.binding if c else None}
            for n, c in zip(mine, found, strict=True)
        ]
        own = set(windows(report))
        shown = [(n, limit) for n, limit in zip(mine, limits, strict=True) if limit]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": escape(name),
                "x": [n for n, _ in shown], "y": [limit for _, limit in shown],
                "line": look.line(i), "marker": look.marker(i, size=[10 if n in own else 5 for n, _ in shown]),
                "hovertemplate": f"{escape(name)}<br>%{{x:,}} tokens<br>at most %{{y:,}} sequences<extra></extra>",
            }
        )  # fmt: skip
    shapes, notes = _knees(reports, ends, look)
    where = distinct(_setup(report)[1] for report in reports)
    return chart(
        "frontier",
        f"Largest batch against context · {subject(reports)}",
        rows,
        traces,
        look,
        subtitle="on and below a line it fits" + (f"; {where[0]}" if len(where) == 1 and where[0] else ""),
        above=16 if notes else 0,
        xaxis={"title": "context, tokens per sequence", **context_ticks(*ends)},
        yaxis={"title": "sequences that fit", **count_ticks(1, most)},
        shapes=shapes,
        annotations=notes,
    )
