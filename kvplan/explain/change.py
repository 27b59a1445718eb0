"""What a scheme changes: amounts before and after it, beside what its documentation says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kvplan.explain.text import Block, sentence
from kvplan.planner import on_gpu
from kvplan.report import Report

__all__ = ["documented", "scheme_block", "scheme_text"]


def scheme_text(text: str) -> str:
    """The documentation of every member of a chain: formula, consequences and source, as its docstring says them.

    Arguments are not looked at: ``cla`` will do for ``cla:2``. Raises UnknownName for a member that is not there,
    InvalidInput for two on one axis.

    >>> print(scheme_text("mqa").splitlines()[0])
    mqa  one KV head for all query heads
    """
    from kvplan.schemes import parse

    blocks = []
    for found, _ in parse(text):
        lines = [f"{found.notation}  {found.summary}", f"axis: {', '.join(sorted(found.axes))}", ""]
        lines += documented(found.change)
        if found.source.split()[-1] not in " ".join(lines):  # mostly the arXiv number
            lines.append(f"Source: {found.source}.")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def documented(function: Callable[..., Any]) -> list[str]:
    """A docstring's lines without its examples and without blank lines around."""
    lines = []
    for line in (inspect.getdoc(function) or "").splitlines():
        if line.startswith(">>>"):
            break
        lines.append(line)
    return "\n".join(lines).strip().splitlines()


def scheme_block(report: Report, scheme: str) -> Block:
    """What the scheme changes: five quantities before and after, then what its documentation says."""
    before, after = report.again(scheme=None).answer, report.answer
    quantities = {
        "resident bytes per sequence": (before.bytes_per_sequence, after.bytes_per_sequence),
        "of which on the GPU": (0, 0),
        "bytes read per decode step": (before.bytes_read_per_step, after.bytes_read_per_step),
        "bytes over the link per step": (before.link_bytes, after.link_bytes),
        "FLOPs of the prefill": (before.prefill.total, after.prefill.total),
        "FLOPs of a decode step": (before.decode.total, after.decode.total),
        "parameters": (before.profile.parameters, after.profile.parameters),
    }
    if after.link_bytes:
        quantities["of which on the GPU"] = (before.bytes_per_sequence, on_gpu(after.spec, after.bytes_per_sequence))
    shown = {name: pair for name, pair in quantities.items() if any(pair)}
    name_width = max(map(len, shown))
    widths = [max(len(f"{pair[i]:,}") for pair in shown.values()) for i in (0, 1)]
    lines = []
    for name, (old, new) in shown.items():
        times = f"× {new / old:.4g}" if old else "new"
        lines.append(f"{name:<{name_width}}  {old:>{widths[0]},} → {new:>{widths[1]},}  {times}")
    lines += [line for line in scheme_text(scheme).splitlines() if line]
    kept = f"{before.bytes_per_sequence:,} → {after.bytes_per_sequence:,} bytes per sequence"
    return Block(f"scheme/{scheme}", kept, (), tuple(sentence(line) for line in lines))
