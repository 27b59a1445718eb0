"""One GPU's memory as a bar: weights, the cache store by store, what the engine keeps, what is free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvplan.costs import held_bytes
from kvplan.figures.asked import labels, subject
from kvplan.figures.chart import PATTERNS, PLAIN, SMALL, Chart, Look, chart, escape, folded, linear_sizes
from kvplan.planner import on_gpu
from kvplan.report import Report
from kvplan.stages import Stage

__all__ = ["cache_parts", "memory"]

BAR = 46  # pixels of one bar
# Which colour of the palette a kind of amount has; caches take the others in turn.
WEIGHTS, CACHES = 0, (4, 1, 3, 5, 2)


def cache_parts(report: Report) -> list[tuple[str, int]]:
    """The cache on the fullest GPU by store (``kv/global``, ``kv/state`` ...), bytes; their sum is the report's own.

    Where a scheme puts a share of the cache off the GPU, each store's share is what the sum so far leaves on it.
    """
    a = report.answer
    if a.served:
        found: dict[str, int] = {}
        for line in a.served.rank:
            name = "/".join(line.path.split("/")[:2])
            found[name] = found.get(name, 0) + line.size
        return list(found.items())
    s = a.settings

    def full(stage: Stage) -> int:
        # as Report.memory chooses the GPU that it shows
        storage = stage.lean.storage(s.context) if s.engine.prefill_storage else 0
        return stage.weights + s.rank_sequences * (on_gpu(a.spec, stage.lean.at(s.context)) + storage)

    whole: dict[str, int] = {}
    for held in max(a.stages, key=full).held:
        name = held.path.rsplit("/", 1)[0]
        whole[name] = whole.get(name, 0) + held_bytes(held, s.context, s.encoder_context, s.page)
    parts, before, total = [], 0, 0
    for name, size in whole.items():
        total += size
        here = on_gpu(a.spec, total)
        parts.append((name, s.rank_sequences * (here - before)))
        before = here
    return parts


def memory(reports: Sequence[Report], look: Look = PLAIN) -> Chart:
    """The memory of the fullest GPU of each report as one bar: weights, KV by store, overhead, free or too much.

    The amounts are those of ``Report.memory``; a line marks what the engine may use. Rows: label, part, bytes.
    """
    names = labels(reports)
    theme = look.theme
    rows: list[dict[str, Any]] = []
    stores: dict[str, int] = {}
    found: list[list[tuple[str, int]]] = []
    for name, report in zip(names, reports, strict=True):
        sizes = dict(report.memory())
        caches = cache_parts(report)
        parts = [("weights", sizes["weights"]), *caches, ("overhead (estimated)", sizes["overhead (estimated)"])]
        used = sum(sizes.values())
        c = report.capacity
        if c is not None:
            if c.usable_bytes >= used:
                parts.append(("free", c.usable_bytes - used))
            if c.memory_bytes > c.usable_bytes:
                parts.append(("left to others", c.memory_bytes - c.usable_bytes))
        elif report.answer.settings.memory_bytes is None:
            parts = [part for part in parts if not part[0].startswith("overhead")]
        for store, _ in caches:
            stores.setdefault(store, len(stores))
        found.append(parts)
        rows += [{"label": name, "part": part, "bytes": size} for part, size in parts]
        if c is not None and used > c.usable_bytes:
            rows.append({"label": name, "part": "too much", "bytes": used - c.usable_bytes})
    kinds = ["weights", *stores, "overhead (estimated)", "free", "left to others"]
    high = max([sum(size for _, size in parts) for parts in found] + [1])
    places = list(range(len(reports)))[::-1]  # the first on top
    traces = []
    single = len(reports) == 1
    for kind in kinds:
        sizes_of = [sum(size for part, size in parts if part == kind) for parts in found]
        if not any(sizes_of):
            continue
        traces.append(
            {
                "type": "bar", "orientation": "h", "name": escape(f"{kind} {look.size(sizes_of[0])}" if single else kind),
                "x": sizes_of, "y": places, "width": 0.56, "marker": _marker(kind, stores, look),
                "text": [look.exact(size) for size in sizes_of], "textposition": "none",
                "hovertemplate": f"{escape(kind)}<br>%{{text}}<extra></extra>",
            }
        )  # fmt: skip
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for place, name, report in zip(places, names, reports, strict=True):
        c = report.capacity
        if c is not None:
            shapes.append(
                {
                    "type": "line", "x0": c.usable_bytes, "x1": c.usable_bytes, "y0": place - 0.36, "y1": place + 0.36,
                    "line": {"color": theme.ink, "width": 2.5},
                }
            )  # fmt: skip
        # the report speaks GiB, and no picture mixes units
        words = report.verdict() if look.units == "GiB" else _short(report, look)
        said = words if single else f"{name}: {_short(report, look)}"
        mark = "" if report.fits is None else "✔ " if report.fits else "✘ "
        lines = folded(mark + said, look.columns - 40, SMALL)
        notes.append(
            {
                "x": 0, "xanchor": "left", "y": place + 0.32, "yanchor": "bottom", "showarrow": False, "align": "left",
                "text": "<br>".join(escape(line) for line in lines), "font": {"size": SMALL},
            }
        )  # fmt: skip
    room = max(len(note["text"].split("<br>")) for note in notes) * (SMALL + 4) + BAR
    return chart(
        "memory",
        f"Memory of {'one GPU' if _ranks(reports) == 1 else 'the fullest GPU'} · {subject(reports)}",
        rows,
        traces,
        look,
        plot_height=room * len(reports) + 12,
        left=16,
        right=32,  # half of the last tick's words
        barmode="stack",
        shapes=shapes,
        annotations=notes,
        xaxis={"title": "bytes on the GPU", "range": [0, high * 1.02], **linear_sizes(high, look)},
        yaxis={"visible": False, "range": [-0.36, len(reports) - 1 + 0.32 + (room - BAR + 6) / room]},
    )


def _ranks(reports: Sequence[Report]) -> int:
    return max(r.answer.settings.tp * r.answer.settings.pp * r.answer.settings.dp for r in reports)


def _short(report: Report, look: Look) -> str:
    c = report.capacity
    used = sum(size for _, size in report.memory())
    if c is None:
        return look.size(used)
    if used > c.usable_bytes:
        return f"{look.size(used - c.usable_bytes)} too much"
    return f"{look.size(c.usable_bytes - used)} free" if report.fits else f"does not start ({c.binding})"


def _marker(kind: str, stores: dict[str, int], look: Look) -> dict[str, Any]:
    """Colour and pattern of a part; what is free has an edge and no ground."""
    theme = look.theme
    edge = {"color": theme.dim, "width": 1}
    if kind == "free":
        return {"color": "rgba(0,0,0,0)", "line": edge}
    if kind == "left to others":
        return {"color": "rgba(0,0,0,0)", "line": edge, "pattern": _pattern("x", theme.dim, "rgba(0,0,0,0)")}
    if kind == "weights":
        return {"color": look.color(WEIGHTS), "line": {"color": theme.ground, "width": 1}}
    if kind not in stores:
        return {"line": edge, "pattern": _pattern(".", theme.ink, theme.grid)}
    i = stores[kind]
    color = look.color(CACHES[i % len(CACHES)])
    shape = PATTERNS[1 + i % (len(PATTERNS) - 1)]
    return {"line": {"color": theme.ground, "width": 1}, "pattern": _pattern(shape, theme.ground, color)}


def _pattern(shape: str, ink: str, ground: str) -> dict[str, Any]:
    return {"shape": shape, "fgcolor": ink, "bgcolor": ground, "size": 6, "solidity": 0.25}
