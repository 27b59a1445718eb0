"""The owner map drawn: which layer reads whose KV, how far back it looks, and what each layer keeps."""

from __future__ import annotations

from typing import Any

from kvplan.cache import Read
from kvplan.costs import held_bytes, hold
from kvplan.figures.asked import subject
from kvplan.figures.chart import PLAIN, Chart, Look, chart, escape, linear_sizes, short_count
from kvplan.report import Report

__all__ = ["owners"]

# How far back a layer looks, by growth: marker and words.
LOOKS = {
    "full": ("circle", "every token"),
    "window": ("circle-open", "window"),
    "budget": ("circle-cross-open", "budget"),
    "chunk": ("diamond-open", "chunk"),
    "compress": ("triangle-up", "pooled tokens"),
    "landmark": ("triangle-down", "landmarks"),
    "constant": ("square-open", "state"),
    "encoder": ("star", "encoder"),
}
NAMED = 6  # shared caches that have names of their own in the legend


def _look_of(read: Read) -> str:
    return "constant" if not read.heads else read.growth.kind


def owners(report: Report, look: Look = PLAIN) -> Chart:
    """Which layer reads whose KV: readers above, caches below, a line for each read; under them, what each layer keeps.

    A cache that several layers read has a colour of its own, so have its readers; one that only its layer reads is
    grey. The marker says how far back a layer looks. Bytes are one sequence's at the report's context, as its engine's
    parts are kept (an engine with pools or pages of its own rounds them up). Rows: layer, reads (the owner), store, looks,
    limit, bytes (of what this layer keeps).
    """
    a = report.answer
    s, plan = a.settings, a.profile.plan
    readers: dict[int, set[int]] = {}
    for read in plan.reads:
        readers.setdefault(read.store, set()).add(read.layer)
    owner = [store.layer for store in plan.stores]
    shared = [i for i in range(len(plan.stores)) if readers.get(i, set()) - {owner[i]}]
    theme = look.theme
    # as blue is weights elsewhere, caches begin behind it; neighbours in a chain of pairs differ all the same
    colors = {store: look.color(n) for n, store in enumerate(shared)}
    kept = dict.fromkeys(range(len(a.spec.layers)), 0)
    by_store: dict[int, int] = {}
    for i, store in enumerate(plan.stores):
        alone = plan._replace(stores=(store,))
        by_store[i] = sum(held_bytes(held, s.context, s.encoder_context, s.page) for held in hold(alone, s.formats))
        kept[store.layer] += by_store[i]
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for read in plan.reads:
        store = plan.stores[read.store]
        first = (read.layer, read.store) not in seen
        seen.add((read.layer, read.store))
        rows.append(
            {
                "layer": read.layer, "reads": store.layer, "store": store.label, "looks": _look_of(read),
                "limit": read.growth.limit or None,
                "bytes": by_store[read.store] if store.layer == read.layer and first else 0,
            }
        )  # fmt: skip
    told = {row["layer"] for row in rows}
    for i, store in enumerate(plan.stores):
        if store.layer not in told or not readers.get(i, set()) & {store.layer}:
            rows.append(
                {
                    "layer": store.layer,
                    "reads": None,
                    "store": store.label,
                    "looks": None,
                    "limit": None,
                    "bytes": by_store[i],
                }
            )
    rows.sort(key=lambda row: row["layer"])
    traces = _lines(plan, readers, shared, colors, look)
    traces += _readers(plan, colors, look)
    traces.append(
        {
            "type": "scatter", "mode": "markers", "name": "keeps a cache", "x": owner, "y": [0.0] * len(owner),
            "marker": {
                "symbol": "square", "size": _size(len(kept), look), "color": [colors.get(i, theme.dim) for i in range(len(owner))]
            },
            "text": [_kept(store, by_store[i], len(readers.get(i, ())), look) for i, store in enumerate(plan.stores)],
            "hovertemplate": "%{text}<extra></extra>", "showlegend": False,
        }
    )  # fmt: skip
    traces.append(
        {
            "type": "bar", "x": owner, "y": [by_store[i] for i in range(len(owner))], "xaxis": "x2", "yaxis": "y2",
            "marker": {"color": [colors.get(i, theme.dim) for i in range(len(owner))], "line": {"width": 0}},
            "text": [_kept(store, by_store[i], len(readers.get(i, ())), look) for i, store in enumerate(plan.stores)],
            "textposition": "none", "hovertemplate": "%{text}<extra></extra>", "showlegend": False,
        }
    )  # fmt: skip
    layers = len(a.spec.layers)
    span = [-0.8, layers - 0.2]
    total = sum(by_store.values())
    highest = max(kept.values(), default=1) or 1
    storing = len({store.layer for store in plan.stores})
    return chart(
        "owners",
        f"Whose KV each layer reads · {subject([report])}",
        rows,
        traces,
        look,
        subtitle=f"{storing} of {layers} layers keep {look.size(total)} of one sequence of {s.context:,} tokens",
        plot_height=330,
        bargap=0.25,
        barmode="stack",
        xaxis={
            "range": span, "domain": [0, 1], "anchor": "y", "showticklabels": False, "showgrid": False, "ticks": "",
            "showline": False,
        },
        yaxis={
            "range": [-0.22, 1.22], "domain": [0.46, 1], "tickmode": "array", "tickvals": [0, 1], "ticktext": ["caches", "layers"],
            "showgrid": False, "showline": False, "ticks": "",
        },
        xaxis2={"range": span, "anchor": "y2", "title": "layer", "showgrid": False, "dtick": _tick(layers)},
        yaxis2={
            "domain": [0, 0.38], "title": "kept by a layer", "range": [0, highest * 1.08], "anchor": "x2",
            **linear_sizes(highest, look, most=3),
        },
    )  # fmt: skip


def _tick(layers: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 1024) if layers / step <= 10)


def _size(layers: int, look: Look) -> float:
    """Pixels of a marker: neighbours do not touch at the width that the layout counts on."""
    return max(min((look.columns - 90) / max(layers, 1) * 0.8, 11), 4)


def _kept(store: Any, size: int, count: int, look: Look) -> str:
    by = f"read by {count} layer{'s' if count != 1 else ''}"
    return f"layer {store.layer}: {store.label} cache, {by}<br>keeps {look.exact(size)}"


def _lines(
    plan: Any, readers: dict[int, set[int]], shared: list[int], colors: dict[int, str], look: Look
) -> list[dict[str, Any]]:
    """One trace for the lines of each named cache, one for those of every colour of the others, one for layers alone."""
    theme = look.theme
    groups: dict[tuple[str, str], list[int]] = {}
    for i, store in enumerate(plan.stores):
        if i not in colors:
            groups.setdefault((theme.dim, "own cache, read by no other layer"), []).append(i)
        elif len(shared) <= NAMED:
            count = len(readers[i])
            own = "" if store.layer in readers[i] else ", not by itself"
            groups.setdefault(
                (colors[i], f"layer {store.layer}'s {store.label} cache, read by {count}{own}"), []
            ).append(i)
        else:
            groups.setdefault((colors[i], ""), []).append(i)
    traces = []
    for (color, name), members in groups.items():
        x: list[float | None] = []
        y: list[float | None] = []
        for i in members:
            for layer in sorted(readers.get(i, ())):
                x += [layer, plan.stores[i].layer, None]
                y += [1.0, 0.0, None]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": x, "y": y, "name": escape(name), "showlegend": bool(name),
                "line": {"color": color, "width": 1.5 if color == theme.dim else 1.8}, "hoverinfo": "skip",
            }
        )  # fmt: skip
    if len(shared) > NAMED:
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": [None], "y": [None], "line": {"color": look.color(0), "width": 2},
                "name": f"{len(shared)} caches that several layers read, colours by turns",
            }
        )  # fmt: skip
    return traces


def _readers(plan: Any, colors: dict[int, str], look: Look) -> list[dict[str, Any]]:
    """The layers, one trace per way of looking back (and limit, of which the legend names each)."""
    theme = look.theme
    kinds: dict[tuple[str, int], list[Read]] = {}
    for read in plan.reads:
        kind = _look_of(read)
        kinds.setdefault((kind, read.growth.limit if kind != "constant" else 0), []).append(read)
    many = len(kinds) > NAMED
    size = _size(1 + max((read.layer for read in plan.reads), default=0), look)
    traces = []
    told: set[str] = set()
    for (kind, limit), found in kinds.items():
        symbol, words = LOOKS.get(kind, ("hexagon", kind))
        name = words if many or not limit else f"{words} {short_count(limit)}"
        points = [read.layer for read in found]
        edge = [colors.get(read.store, theme.dim) for read in found]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": points, "y": [1.0] * len(points), "showlegend": False,
                "marker": {"symbol": symbol, "size": size, "color": edge, "line": {"width": 1.6, "color": edge}},
                "text": [f"layer {r.layer} reads layer {plan.stores[r.store].layer}<br>looks at: {name}" for r in found],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
        if name not in told:
            told.add(name)
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": f"looks at {escape(name)}",
                    "marker": {"symbol": symbol, "size": 9, "color": theme.ink, "line": {"width": 1.6, "color": theme.ink}},
                }
            )  # fmt: skip
    return traces
