"""Formulas with the numbers put in, and the inverse ones regime by regime. A view: it looks at formulas, none lives here.

A formula runs on ints, arrays and symbols; here it runs on numbers that remember their names, so that what is printed
is the formula as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.errors import UnknownName
from kvplan.explain.change import scheme_block, scheme_text
from kvplan.explain.forward import ledger, pool_block
from kvplan.explain.inverse import INVERSES
from kvplan.explain.named import Named, show, symbolic
from kvplan.explain.text import Block, as_latex, as_text
from kvplan.report import Report
from kvplan.text import LONGEST, printable

__all__ = ["Named", "explain", "ledger", "scheme_text", "show", "symbolic"]


def explain(report: Report, term: str | None = None, *, latex: bool = False) -> str:
    """The terms whose path contains ``term`` (all without one), or the inverse form of ``max_batch`` or ``max_context``.

    Raises UnknownName for a term that is not there, InvalidInput for an inverse without a GPU.
    """
    if term in INVERSES:
        blocks = [INVERSES[term](report)]
    else:
        blocks = list(_blocks(report))
        if term:
            wanted = term.lower()
            blocks = [block for block in blocks if wanted in block.path.lower()]
            if not blocks:
                raise _unknown(term, [block.path for block in _blocks(report)])
    drawn = "\n".join(as_latex(block) if latex else as_text(block) for block in blocks)
    return "\n".join(printable(line, 10 * LONGEST) for line in drawn.split("\n"))


def _unknown(term: str, paths: list[str]) -> UnknownName:
    """The error for a term that is not there: nearest ones among paths and their beginnings, else what there is."""
    words = [path.split("/") for path in paths]
    beginnings = {"/".join(parts[:n]) for parts in words for n in range(1, len(parts))}
    error = UnknownName("term", term, {*paths, *beginnings, *map(str, INVERSES)})
    if not error.nearest:
        error.hint = f"among them {', '.join(dict.fromkeys([parts[0] for parts in words] + list(map(str, INVERSES))))}"
    return error


def _blocks(report: Report) -> Iterator[Block]:
    scheme = dict(report.answer.settings.inputs)["scheme"]
    if scheme:
        yield scheme_block(report, scheme)
    yield from ledger(report)
    if report.capacity:
        yield pool_block(report)
