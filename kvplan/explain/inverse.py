"""The inverse forms: the largest batch and context in closed form, regime by regime, checked by planning again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from kvplan.costs import Held
from kvplan.errors import InvalidInput
from kvplan.explain.stages import need, stage_words, tightest
from kvplan.explain.text import Block, bracketed, sentence, tex_number
from kvplan.num import ceil_to
from kvplan.planner import Answer, activation_peak, away_millionths
from kvplan.report import Report
from kvplan.stages import Stage
from kvplan.units import LARGEST_COUNT

__all__ = ["INVERSES", "Piece", "Regime", "regimes"]


class Piece(NamedTuple):
    """From ``start`` tokens (exclusive) on, some bytes of a sequence are constant + slope x tokens."""

    start: int
    constant: Fraction
    slope: Fraction


class Regime(NamedTuple):
    """Between two knees: bytes of one sequence on the GPU are constant + slope x tokens, whole groups and bytes aside."""

    low: int  # exclusive
    high: int | None  # inclusive
    constant: Fraction
    slope: Fraction


def regimes(a: Answer, stage: Stage) -> list[Regime]:
    """The pieces of a stage's bytes per sequence as a function of context; tokens in whole blocks where it is paged.

    Empty where an engine holds parts of a growth that is its own.
    """
    share = Fraction(10**6 - away_millionths(a.spec), 10**6)
    lean, storage = stage.lean, a.settings.engine.prefill_storage
    parts = [[Piece(0, lean.constant * share, Fraction(0))]]
    for limit, size in lean.entries:
        pieces = [Piece(0, Fraction(0), size * share)]
        if limit:
            full = ceil_to(limit, lean.page)
            # a view of a window keeps the whole tensor alive right after a one-shot prefill
            behind = (-limit * size, size) if storage else (0, 0)
            pieces.append(Piece(full, full * size * share + behind[0], Fraction(behind[1])))
        parts.append(pieces)
    for held in lean.others:
        found = _pieces(held, lean.page)
        if found is None:
            return []
        parts.append([Piece(start, constant * share, slope * share) for start, constant, slope in found])
    knees = sorted({piece.start for pieces in parts for piece in pieces})
    merged: list[Regime] = []
    for low, high in zip(knees, [*knees[1:], None], strict=True):
        here = [max(piece for piece in pieces if piece.start <= low) for pieces in parts]
        constant = sum((piece.constant for piece in here), Fraction(0))
        slope = sum((piece.slope for piece in here), Fraction(0))
        if merged and merged[-1][2:] == (constant, slope):
            merged[-1] = merged[-1]._replace(high=high)
        else:
            merged.append(Regime(low, high, constant, slope))
    return merged


def _pieces(held: Held, page: int) -> list[Piece] | None:
    """Bytes of a group of parts with groups, a residual window or odd bits; None for a growth that nobody knows here."""
    kind, limit, _ = held.growth
    size, plain = (Fraction(held.layers * bits, 8) for bits in (held.bits, held.residual_bits))
    none = Fraction(0)
    if kind == "remainder":  # at most: a buffer that fills and empties again
        return [Piece(0, (limit - 1) * size, none)]
    if kind == "last_group":
        return [Piece(0, none, none), Piece(limit - 1, limit * size, none)]
    if kind not in ("full", "compress", "landmark", "window", "chunk", "budget", "window_transformers"):
        return None
    per_token = {"compress": Fraction(1, limit or 1), "landmark": 1 + Fraction(1, limit or 1)}.get(kind, Fraction(1))
    cap = None
    if kind not in ("full", "compress", "landmark"):
        cap = ceil_to(limit - 1 if kind == "window_transformers" else limit, page)
    pieces = [Piece(0, none, (plain if held.residual else size) * per_token)]
    kept = min(held.residual, cap) if cap is not None else held.residual
    if held.residual and kept != cap:
        start = int(held.residual / per_token)
        pieces.append(Piece(start // page * page, kept * (plain - size), size * per_token))
    if cap is not None:
        pieces.append(Piece(cap, kept * plain + (cap - kept) * size if held.residual else cap * size, none))
    return sorted({piece.start: piece for piece in pieces}.values())


def _needs_gpu(report: Report) -> None:
    if report.capacity is None:
        raise InvalidInput("gpu", None, "a GPU (--gpu) or memory (--memory): without one nothing binds")


def _unbounded(what: str, grows: bool) -> tuple[str, str]:
    if grows:
        return sentence(f"even {LARGEST_COUNT:,} fit, and kvplan counts no further: unbounded")
    return sentence(f"nothing grows with the {what}: unbounded")


def _by_rule(report: Report, name: str, answer: int | None, unit: str) -> Block:
    """An engine with rules of its own has no closed form: what its rules say on both sides of the answer."""
    engine = report.engine
    lines = [sentence(f"by the rules of {engine['name']} {engine['version']}: the largest {name} that it admits")]
    lines += [sentence(f"{fact} = {value}") for fact, value in engine["facts"].items()]
    if answer is None:
        return Block(f"max_{name}", "unbounded", (), (*lines, _unbounded(name, False)))
    lines += [_check(report, name, m) for m in ((answer, answer + 1) if answer else (1,))]
    return Block(f"max_{name}", f"{answer:,} {unit}", (), tuple(lines))


def _max_batch(report: Report) -> Block:
    _needs_gpu(report)
    if report.answer.served and report.capacity:
        return _by_rule(report, "batch", report.capacity.max_batch, "sequences")
    a, c = report.answer, report.capacity
    assert c is not None
    s, n = a.settings, c.max_batch
    sequences = (n or 0) // s.dp
    # the stage that one sequence more per replica does not fit into
    i = tightest(a, s.context, sequences + 1)
    stage = a.stages[i]
    per = need(a, stage, s.context)
    # activations are the larger of two lines in the batch: taken from the answer to the next batch, where both are known
    flat = activation_peak(a.spec, s, s.context, sequences)
    growth = activation_peak(a.spec, s, s.context, sequences + 1) - flat
    flat -= growth * sequences
    lines = [
        (
            "max batch = dp × ⌊(usable − weights − runtime − activations) / (bytes + activations per sequence)⌋",
            r"n_{\max} &= dp \left\lfloor \frac{U - W - R - A}{K + a} \right\rfloor",
        )
    ]
    if len(a.stages) > 1:
        lines.append(sentence(f"binding: {stage_words(a, i)}"))
    if n is None:
        lines.append(_unbounded("batch", per + growth > 0))
        return Block("max_batch", "unbounded", (), tuple(lines))
    amounts = (c.usable_bytes, stage.weights, s.runtime_bytes, flat)
    left = amounts[0] - sum(amounts[1:])
    value = s.dp * max(left // (per + growth), 0)
    shown = " − ".join(bracketed(x) for x in amounts)
    floor = f"⌊({shown}) / ({per:,} + {growth:,})⌋"
    tex = (
        rf"&= {s.dp} \left\lfloor \frac{{{shown.replace('−', '-').replace(',', '')}}}{{{per} + {growth}}} \right\rfloor"
        rf" = {value}"
    )
    if left < 0:
        lines.append(
            (f"          = {s.dp} × {floor} < 0: not even one sequence fits", tex.rpartition(" = ")[0] + " < 0")
        )
    else:
        lines.append((f"          = {s.dp} × {floor} = {value:,}", tex))
    lines.append(sentence(f"activations (estimated) as around batch {n:,}; {s.context:,} tokens per sequence"))
    if value != n:
        lines.append(sentence(f"activations change their rule on the way: {n:,} is the answer"))
    lines += [_check(report, "batch", m) for m in ((n, n + 1) if n else (1,))]
    return Block("max_batch", f"{n:,} sequences", (), tuple(lines))


def _max_context(report: Report) -> Block:
    _needs_gpu(report)
    if report.answer.served and report.capacity:
        return _by_rule(report, "context", report.capacity.max_context, "tokens")
    a, c = report.answer, report.capacity
    assert c is not None
    s, answer = a.settings, c.max_context
    sequences, page, at = s.rank_sequences, s.page, s.context if answer is None else answer
    # the stage that one token more does not fit into
    i = tightest(a, at + 1, sequences)
    stage = a.stages[i]
    # activations are the larger of two lines in the context: taken from the answer to the next token, as both are known
    flat = activation_peak(a.spec, s, at, sequences)
    per_token = activation_peak(a.spec, s, at + 1, sequences) - flat
    flat -= per_token * at
    room = c.usable_bytes - stage.weights - s.runtime_bytes - flat
    block_word = "block × " if page > 1 else ""  # the slope is then that of a whole block
    lines = [
        (
            f"max context = {block_word}⌊(room − sequences × constant) / (sequences × slope + activations per token)⌋",
            r"S_{\max} &= \left\lfloor \frac{\text{room} - B\,c}{B\,s + a} \right\rfloor",
        ),
        sentence(
            f"room = usable − weights − runtime − activations = {room:,} bytes; sequences per replica = {sequences:,}"
        ),
    ]
    if len(a.stages) > 1:
        lines.append(sentence(f"binding: {stage_words(a, i)}"))
    if away_millionths(a.spec):
        lines.append(sentence(f"constant and slope are the {10**6 - away_millionths(a.spec):,} millionths on the GPU"))
    pieces = regimes(a, stage)
    lines += _regime_lines(pieces, answer, room, sequences, page, per_token)
    if not pieces:
        lines.append(
            sentence(f"engine {s.engine.name} holds parts by rules of its own: the answer is found by bisection")
        )
    if answer is None:
        grows = not pieces or sequences * pieces[-1].slope + per_token > 0
        lines.append(_unbounded("context", grows))
        return Block("max_context", "unbounded", (), tuple(lines))
    lines += [_check(report, "context", m) for m in ((answer, answer + 1) if answer else (1,))]
    return Block("max_context", f"{answer:,} tokens", (), tuple(lines))


def _regime_lines(
    found: list[Regime], answer: int | None, room: int, sequences: int, page: int, per_token: int
) -> Iterator[tuple[str, str]]:
    """One line per regime: its closed form, and whether the answer lies there.

    A closed form knows nothing of what is rounded up to whole groups, blocks and bytes: where that moves the answer,
    the line says so and names the answer that was found by planning again.
    """
    block = f"{page:,} × " if page > 1 else ""
    marked = False
    for r in found:
        where = f"S > {r.low:,}" if r.high is None else f"{r.low:,} < S ≤ {r.high:,}"
        tex_where = f"S > {r.low}" if r.high is None else rf"{r.low} < S \le {r.high}"
        rate, left = (sequences * r.slope + per_token) * page, room - sequences * r.constant
        if rate == 0:
            fits = "any S fits" if left >= 0 else "no S fits"
            yield sentence(f"{where}: {bracketed(r.constant)} bytes per sequence and no growth: {fits}")
            continue
        value = page * (left // rate) if left > 0 else 0
        if page > 1 and per_token and left > 0:
            # activations grow by the token, caches by the block: a part of the next block may still fit
            cached = sequences * r.slope * (value + page)
            opened = (left - cached) // per_token
            if opened > value:
                yield sentence(
                    f"next block open: ⌊({bracketed(left)} − {bracketed(cached)}) / {per_token:,}⌋ = {opened:,}"
                )
                value = opened
        mark = ""
        if answer is not None and not marked:
            if value == answer >= r.low and (r.high is None or answer <= r.high):
                mark = " ← the answer"
            elif r.low < answer < (r.high or answer + 1):
                mark = f"; whole groups, blocks and bytes make it {answer:,} ← the answer"
            marked = bool(mark)
        if not mark and answer is not None:
            mark = (
                " (all of it fits: the next one goes on)" if r.high and r.high <= answer else " (outside: not reached)"
            )
        form = f"({room:,} − {sequences:,} × {bracketed(r.constant)}) / {bracketed(rate)}"
        tex = rf"{room} - {sequences} \cdot {tex_number(r.constant)}"
        tex = rf"\left\lfloor \frac{{{tex}}}{{{tex_number(rate)}}} \right\rfloor"
        floor = f"⌊{form}⌋"
        if left <= 0:
            floor, tex = f"max({floor}, 0)", rf"\max\left({tex}, 0\right)"
        yield (
            f"{where}: {block}{floor} = {value:,}{mark}",
            rf"{tex_where}: \quad &{page if page > 1 else ''} {tex} = {value}",
        )
    if found and answer is not None and not marked:
        yield sentence(f"between two regimes: {answer:,} ← the answer")


def _check(report: Report, name: str, value: int) -> tuple[str, str]:
    fits = report.again(**{name: value}).fits
    return sentence(f"planned again with {name} {value:,}: {'fits' if fits else 'does not fit'}")


INVERSES: dict[str | None, Callable[[Report], Block]] = {"max_batch": _max_batch, "max_context": _max_context}
