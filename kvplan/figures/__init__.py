"""Pictures of answers: every figure is a function of reports, comparisons or plain rows, and keeps the data it shows.

A figure is a ``Chart``: plain traces and a plain layout, as plotly names them, beside the rows that it was drawn from.
Numbers come from ``kvplan.plan`` and nowhere else; bytes stay exact integers, and only ticks and labels have units.
plotly is imported when a Chart becomes a plotly Figure or a file, never before.
"""

from kvplan.figures.asked import labels, parse_range, powers, sampled_contexts
from kvplan.figures.chart import Chart, Look
from kvplan.figures.checks import measured, published, quality
from kvplan.figures.curves import frontier, kv
from kvplan.figures.files import SUFFIXES, rendered, write
from kvplan.figures.fit import capacity, gpus
from kvplan.figures.memory import memory
from kvplan.figures.owners import owners
from kvplan.figures.roofline import bounds, roofline
from kvplan.figures.schemes import schemes

__all__ = [
    "SUFFIXES",
    "Chart",
    "Look",
    "bounds",
    "capacity",
    "frontier",
    "gpus",
    "kv",
    "labels",
    "measured",
    "memory",
    "owners",
    "parse_range",
    "powers",
    "published",
    "quality",
    "rendered",
    "roofline",
    "sampled_contexts",
    "schemes",
    "write",
]
