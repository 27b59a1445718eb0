"""One picture as data: rows, plotly's traces and layout as plain values, and the looks that all pictures share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil, log2, log10
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput, MissingExtra
from kvplan.text import to_csv, to_json
from kvplan.units import BINARY, DECIMAL, format_bytes

__all__ = [
    "EXTRA",
    "PLAIN",
    "Chart",
    "Look",
    "Theme",
    "chart",
    "context_ticks",
    "count_ticks",
    "short_count",
    "size_ticks",
]

EXTRA = "plot"
# No font is fetched: the first of these that a machine has.
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"
NARROW = 360  # pixels that every picture must be readable at: what a page of 400 leaves
FONT, SMALL, LINE = 12, 11, 17  # pixels: text, ticks and legends, a line of legend
LETTER = 0.6  # of the font's size: how wide a letter is at most on average

# Told apart without colour too: dashes and markers run through cycles of other lengths than the colours.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "x",
    "star",
    "triangle-down",
    "cross",
    "pentagon",
    "hexagon",
    "bowtie",
)
PATTERNS = ("", "/", "x", "\\", "-", "+", "|")


class Theme(NamedTuple):
    """Okabe and Ito's palette in an order that reads on the ground, and the neutral tones around it."""

    ground: str
    ink: str
    dim: str
    grid: str
    palette: tuple[str, ...]
    good: str
    warn: str
    bad: str


LIGHT = Theme(
    "#FFFFFF", "#1A1A1A", "#6B6B6B", "#E3E3E3",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1A1A1A"),
    "#009E73", "#E69F00", "#D55E00",
)  # fmt: skip
DARK = Theme(
    "#15181C", "#E8E8E8", "#A6A6A6", "#33383F",
    ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#E8E8E8"),
    "#009E73", "#E69F00", "#D55E00",
)  # fmt: skip


class Look(NamedTuple):
    """How a picture is shown. ``units``: GiB (2**30) or GB (10**9). ``width`` and ``height``: pixels.

    Without a width it is as wide as its place, and laid out so that 400 pixels are enough. ``heading``: whether the
    picture carries its title.
    """

    dark: bool = False
    units: str = "GiB"
    width: int | None = None
    height: int | None = None
    heading: bool = True

    @property
    def theme(self) -> Theme:
        """The colours."""
        return DARK if self.dark else LIGHT

    def size(self, n: int | float) -> str:
        """Bytes in these units."""
        return format_bytes(int(n), self.sizes)

    def exact(self, n: int) -> str:
        """Bytes in these units and to the byte."""
        return f"{self.size(n)} ({n:,} B)"

    @property
    def sizes(self) -> dict[str, int]:
        """The units' names and factors."""
        if self.units not in ("GiB", "GB"):
            raise InvalidInput("units", self.units, "GiB or GB")
        return BINARY if self.units == "GiB" else DECIMAL

    @property
    def columns(self) -> int:
        """Pixels that the layout can count on."""
        return self.width or NARROW

    def color(self, i: int) -> str:
        """The i-th colour."""
        return self.theme.palette[i % len(self.theme.palette)]

    def line(self, i: int, **more: Any) -> dict[str, Any]:
        """The i-th line: colour and dash."""
        return {"color": self.color(i), "dash": DASHES[i % len(DASHES)], "width": 2, **more}

    def marker(self, i: int, **more: Any) -> dict[str, Any]:
        """The i-th marker: colour and shape."""
        edge = {"color": self.theme.ground, "width": 0.5}
        return {"color": self.color(i), "symbol": MARKERS[i % len(MARKERS)], "size": 7, "line": edge, **more}


PLAIN = Look()


class Chart(NamedTuple):
    """A picture: its rows are the data (exact integers, no units), traces and layout are plotly's own words for it."""

    name: str
    title: str
    rows: tuple[dict[str, Any], ...]
    traces: tuple[dict[str, Any], ...]
    layout: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What plotly draws: ``data`` and ``layout``."""
        return {"data": list(self.traces), "layout": self.layout}

    def figure(self) -> Any:
        """The plotly Figure, checked by plotly. Raises MissingExtra where plotly is not installed."""
        try:
            from plotly.graph_objects import Figure
        except ModuleNotFoundError:
            raise MissingExtra("a figure", EXTRA) from None
        return Figure(self.to_dict())

    def to_json(self) -> str:
        """The rows as JSON text, with name and title."""
        whole = {"schema": 1, "figure": self.name, "title": self.title, "rows": list(self.rows)}
        return to_json(whole)

    def to_csv(self) -> str:
        """The rows as CSV text under a header; nothing where a row has no answer."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return to_csv([names, *([row.get(name, "") for name in names] for row in self.rows)])


# --- the layout that all share ---------------------------------------------------------------------------------------


def chart(
    name: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    traces: Sequence[dict[str, Any]],
    look: Look,
    *,
    plot_height: int = 300,
    below: int = 52,
    left: int = 0,
    right: int = 14,
    subtitle: str = "",
    **layout: Any,
) -> Chart:
    """A Chart with the shared look: title above, legend below, margins that follow from how much text there is.

    ``plot_height``, ``below`` (room for the x axis), ``left`` (0: what the words beside the y axes need) and ``right``
    are pixels; ``layout`` is plotly's, axes without their looks.
    """
    theme = look.theme
    axes = {
        key: value for key, value in layout.items() if key.startswith(("xaxis", "yaxis")) and isinstance(value, dict)
    }
    left = left or 12 + max((_beside(axis) for key, axis in axes.items() if key.startswith("yaxis")), default=0)
    heading = folded(title, look.columns - 24, FONT + 2) if look.heading else []
    under = folded(subtitle, look.columns - 24, SMALL) if look.heading and subtitle else []
    top = 12 + (FONT + 8) * len(heading) + (SMALL + 6) * len(under) + int(layout.pop("above", 0))
    traces = [_named(trace, look) for trace in traces]
    legend = [str(trace["name"]) for trace in traces if trace.get("showlegend", True) and trace.get("name")]
    rows_of_legend = _legend_rows(legend, look.columns - left - right) if legend else 0
    bottom = below + (LINE + 2) * rows_of_legend + (8 if legend else 0)
    height = look.height or top + plot_height + bottom
    inner = max(height - top - bottom, 60)
    shared: dict[str, Any] = {
        "template": {},  # plotly's own template is 10 times the size of a figure, and its colours are not these
        "font": {"family": FONTS, "size": FONT, "color": theme.ink},
        "paper_bgcolor": theme.ground,
        "plot_bgcolor": theme.ground,
        # plotly would widen margins for a legend as wide as the picture until nothing is left of the plot
        "margin": {"l": left, "r": right, "t": top, "b": bottom, "pad": 0, "autoexpand": False},
        "height": height,
        "hoverlabel": {
            "bgcolor": theme.ground, "bordercolor": theme.dim, "align": "left",
            "font": {"family": FONTS, "size": SMALL, "color": theme.ink},
        },
        "hovermode": "closest",
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "yanchor": "top", "y": -below / inner, "traceorder": "normal",
            "font": {"size": SMALL}, "bgcolor": "rgba(0,0,0,0)", "itemwidth": 34, "tracegroupgap": 4,
        },
        "showlegend": bool(legend),
    }  # fmt: skip
    if look.width:
        shared["width"] = look.width
    else:
        shared["autosize"] = True
    for key, value in layout.items():
        shared[key] = _axis(look, value) if key in axes else value
    lines = [*(f"<b>{escape(line)}</b>" for line in heading), *(_small(line, theme) for line in under)]
    if lines:  # not plotly's own title, which stands too high where it has several lines
        words = {
            "text": "<br>".join(lines), "x": 0, "xref": "paper", "xanchor": "left", "xshift": 12 - left, "align": "left",
            "y": 1, "yref": "paper", "yanchor": "top", "yshift": top - 4, "showarrow": False,
            "font": {"size": FONT + 2, "color": theme.ink},
        }  # fmt: skip
        shared["annotations"] = [words, *shared.get("annotations", [])]
    return Chart(name, title, tuple(rows), tuple(traces), shared)


def _beside(axis: dict[str, Any]) -> int:
    """Pixels that the words beside an upright axis take."""
    if axis.get("visible") is False:
        return 0
    texts = axis.get("ticktext", ["00000"])
    return int(max((wide(str(text), SMALL) for text in texts), default=0)) + 8 + (24 if axis.get("title") else 0)


def _named(trace: dict[str, Any], look: Look) -> dict[str, Any]:
    """A trace whose name in the legend is no wider than the picture."""
    name = trace.get("name")
    if not name or not trace.get("showlegend", True) or wide(name, SMALL) <= look.columns - 130:
        return trace
    lines: list[str] = []
    for piece in re.findall(r"[^\s+,_]*[\s+,_]?", name):  # a chain of schemes breaks behind its marks
        if lines and wide(lines[-1] + piece, SMALL) <= look.columns - 130:
            lines[-1] += piece
        elif piece:
            lines.append(piece)
    return {**trace, "name": "<br>".join(line.strip() for line in lines)}


def _small(line: str, theme: Theme) -> str:
    return f"<span style='font-size:{SMALL}px;color:{theme.dim}'>{escape(line)}</span>"


def _axis(look: Look, axis: dict[str, Any]) -> dict[str, Any]:
    theme = look.theme
    title = axis.pop("title", None)
    shared: dict[str, Any] = {
        "gridcolor": theme.grid, "linecolor": theme.dim, "zeroline": False, "showline": True, "ticks": "outside",
        "tickcolor": theme.dim, "ticklen": 4, "tickfont": {"size": SMALL}, "tickangle": 0,
    }  # fmt: skip
    if title:
        shared["title"] = {"text": title, "font": {"size": SMALL + 1}, "standoff": 8}
    return {**shared, **axis}


def _legend_rows(names: Sequence[str], width: int) -> int:
    """Lines that plotly gives a horizontal legend: columns as wide as the widest entry, or one line where all fit."""
    pieces = [name.split("<br>") for name in names]
    if any(len(lines) > 1 for lines in pieces):
        return sum(map(len, pieces))
    sizes = [52 + wide(name, SMALL) for name in names]
    if sum(sizes) <= width:
        return 1
    return ceil(len(sizes) / max(int(width // max(sizes)), 1))


def wide(text: str, size: int) -> float:
    """Pixels that a line of text is wide, at most."""
    return len(text) * size * LETTER


def folded(text: str, width: int, size: int) -> list[str]:
    """A text in lines of ``width`` pixels, broken at blanks."""
    lines: list[str] = []
    for word in text.split():
        if lines and wide(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def escape(text: str) -> str:
    """Text that plotly draws as it stands: it reads a little HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- ticks -----------------------------------------------------------------------------------------------------------


def short_count(n: int) -> str:
    """Tokens as people write them: 8k is 8192; a number that is no multiple of 1024 stays as it is.

    >>> [short_count(n) for n in (512, 8192, 1048576, 1025)]
    ['512', '8k', '1M', '1,025']
    """
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if n >= size and n % size == 0:
            return f"{n // size:,}{unit}"
    return f"{n:,}"


def _every(low: float, high: float, most: int) -> int:
    """Steps of one power between ticks, so that there are no more than ``most``."""
    return max(ceil((high - low) / most), 1)


def _log_range(low: float, high: float, room: float = 0.03) -> list[float]:
    a, b = log10(low), log10(high)
    pad = max((b - a) * room, 0.02)
    return [a - pad, b + pad]


def context_ticks(low: int, high: int, most: int = 6) -> dict[str, Any]:
    """A logarithmic axis of contexts with ticks at powers of two."""
    first, last = ceil(log2(low)), int(log2(high))
    step = _every(first, last, most)
    values = [2**p for p in range(first, last + 1) if (last - p) % step == 0] or [low]
    return {
        "type": "log", "tickmode": "array", "tickvals": values, "ticktext": [short_count(v) for v in values],
        "range": _log_range(low, high),
    }  # fmt: skip


def size_ticks(low: float, high: float, look: Look, most: int = 7) -> dict[str, Any]:
    """A logarithmic axis of bytes with ticks at powers of two (GiB) or ten (GB)."""
    binary = look.units == "GiB"
    low, high = max(low, 1), max(high, 2)
    low = low / 1.5 if low == high else low
    power = log2 if binary else log10
    first, last = int(power(low)), ceil(power(high))
    step = _every(first, last, most)
    base = 2 if binary else 10
    values = [base**p for p in range(first, last + 1) if p % step == 0] or [base**first]
    return {
        "type": "log", "tickmode": "array", "tickvals": values, "ticktext": [look.size(v) for v in values],
        "range": _log_range(low, high),
    }  # fmt: skip


def linear_sizes(high: float, look: Look, most: int = 5) -> dict[str, Any]:
    """A linear axis of bytes from 0 with ticks at round numbers of one unit."""
    unit, factor = "B", 1
    for name, size in look.sizes.items():
        if high >= size:
            unit, factor = name, size
    step = 1.0
    while high / factor / step > most:
        step *= 2.5 if str(step).lstrip("0.")[:1] == "2" else 2
    count = int(high / factor / step) + 1
    return {
        "tickmode": "array", "tickvals": [i * step * factor for i in range(count + 1)],
        "ticktext": [f"{i * step:g} {unit}" if i else "0" for i in range(count + 1)],
    }  # fmt: skip


def count_ticks(low: int, high: int, most: int = 6) -> dict[str, Any]:
    """A logarithmic axis of sequences with ticks at powers of two."""
    first, last = int(log2(max(low, 1))), ceil(log2(max(high, 2)))
    step = _every(first, last, most)
    values = [2**p for p in range(first, last + 1) if (p - first) % step == 0]
    return {
        "type": "log", "tickmode": "array", "tickvals": values, "ticktext": [f"{v:,}" for v in values],
        "range": _log_range(max(low, 1), max(high, 2)),
    }  # fmt: skip
