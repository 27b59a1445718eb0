"""Formulas with the numbers put in, and the inverse ones regime by regime. A view: it looks at formulas, none lives here.

A formula runs on ints, arrays and symbols; here it runs on numbers that remember their names, so that what is printed
is the formula as it is written. ``symbolic`` gives SymPy's view of the same function (extra ``explain``).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple, cast

from kvplan import formulas
from kvplan.cache import Read
from kvplan.checkpoint import rank_shares, sized_weights
from kvplan.costs import (
    ENTRIES,
    Held,
    Term,
    entries,
    entry_bits,
    held_bytes,
    kept_keys,
    kept_pairs,
    read_entries,
    seen_keys,
    seen_pairs,
)
from kvplan.errors import InvalidInput, MissingExtra, UnknownName
from kvplan.formats import Format
from kvplan.num import ceil_to, ceildiv, minimum
from kvplan.planner import Answer, Stage, activation_peak, away_millionths, mlp_width, on_gpu
from kvplan.report import Report
from kvplan.roofline import peak_flops
from kvplan.settings import PREFILL_CHUNK, RUNTIME_SOURCE
from kvplan.specs import Growth, Part, Sparse
from kvplan.units import LARGEST_COUNT
from kvplan.weights import tower_bits

__all__ = ["Named", "explain", "scheme_text", "show", "symbolic"]


class Named:
    """A number that remembers how it came about: as text and as LaTeX, in symbols and in numbers."""

    def __init__(self, value: int, symbol: str, number: str, latex: str, latex_number: str, weight: int = 3) -> None:
        self.value, self.symbol, self.number = value, symbol, number
        self.latex, self.latex_number = latex, latex_number
        self.weight = weight  # 1 sum, 2 product, 3 atom: decides where brackets go

    @classmethod
    def of(cls, name: str, value: int) -> Named:
        """A named number."""
        word = name.replace("_", " ")
        digits = f"{value:,}"
        return cls(value, word, digits, rf"\text{{{word}}}", digits.replace(",", r"\,"))

    def _binary(self, other: Any, sign: str, latex: str, value: int, weight: int, *, swapped: bool) -> Named:
        right = other if isinstance(other, Named) else _plain(other)
        a, b = (right, self) if swapped else (self, right)

        def put(x: str, item: Named, strict: bool, brackets: tuple[str, str]) -> str:
            needs = item.weight < weight or (strict and item.weight == weight and sign == "−")
            return f"{brackets[0]}{x}{brackets[1]}" if needs else x

        text, tex = ("(", ")"), (r"\left(", r"\right)")
        return Named(
            value,
            f"{put(a.symbol, a, False, text)} {sign} {put(b.symbol, b, True, text)}",
            f"{put(a.number, a, False, text)} {sign} {put(b.number, b, True, text)}",
            f"{put(a.latex, a, False, tex)} {latex} {put(b.latex, b, True, tex)}",
            f"{put(a.latex_number, a, False, tex)} {latex} {put(b.latex_number, b, True, tex)}",
            weight,
        )

    def __add__(self, other: Any) -> Named:
        return self._binary(other, "+", "+", self.value + _value(other), 1, swapped=False)

    def __radd__(self, other: Any) -> Named:
        return self._binary(other, "+", "+", self.value + _value(other), 1, swapped=True)

    def __sub__(self, other: Any) -> Named:
        return self._binary(other, "−", "-", self.value - _value(other), 1, swapped=False)

    def __rsub__(self, other: Any) -> Named:
        return self._binary(other, "−", "-", _value(other) - self.value, 1, swapped=True)

    def __mul__(self, other: Any) -> Named:
        return self._binary(other, "×", r"\cdot", self.value * _value(other), 2, swapped=False)

    def __rmul__(self, other: Any) -> Named:
        return self._binary(other, "×", r"\cdot", self.value * _value(other), 2, swapped=True)

    def __divmod__(self, other: Any) -> tuple[Named, Named]:
        right = other if isinstance(other, Named) else _plain(other)
        whole, rest = divmod(self.value, right.value)

        def text(a: str, b: str) -> str:
            return f"⌊{a} / {b}⌋"

        def tex(a: str, b: str) -> str:
            return rf"\left\lfloor \frac{{{a}}}{{{b}}} \right\rfloor"

        names, numbers = (self.symbol, right.symbol), (self.number, right.number)
        latex, latex_numbers = (self.latex, right.latex), (self.latex_number, right.latex_number)
        return (
            Named(whole, text(*names), text(*numbers), tex(*latex), tex(*latex_numbers)),
            Named(
                rest,
                " mod ".join(names),
                " mod ".join(numbers),
                r" \bmod ".join(latex),
                r" \bmod ".join(latex_numbers),
                1,
            ),
        )

    def __lt__(self, other: Any) -> bool:
        return self.value < _value(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > _value(other)

    def __bool__(self) -> bool:
        return self.value != 0

    def function(self, name: str, a: Any, b: Any) -> Named:
        """min, max or ceildiv of two numbers, at least one of them named."""
        x, y = (item if isinstance(item, Named) else _plain(item) for item in (a, b))
        if name == "ceildiv":
            value = -(-x.value // y.value)

            def tex(top: str, bottom: str) -> str:
                return rf"\left\lceil \frac{{{top}}}{{{bottom}}} \right\rceil"

            def text(top: Named, bottom: Named, number: bool) -> str:
                parts = []
                for item in (top, bottom):
                    t = item.number if number else item.symbol
                    parts.append(t if item.weight == 3 else f"({t})")
                return f"⌈{parts[0]} / {parts[1]}⌉"

            return Named(
                value, text(x, y, False), text(x, y, True), tex(x.latex, y.latex), tex(x.latex_number, y.latex_number)
            )
        value = min(x.value, y.value) if name == "min" else max(x.value, y.value)
        return Named(
            value,
            f"{name}({x.symbol}, {y.symbol})",
            f"{name}({x.number}, {y.number})",
            rf"\{name}\left({x.latex}, {y.latex}\right)",
            rf"\{name}\left({x.latex_number}, {y.latex_number}\right)",
        )


def _plain(value: int) -> Named:
    return Named(value, f"{value:,}", f"{value:,}", f"{value}", f"{value:,}".replace(",", r"\,"))


def _value(other: Any) -> int:
    return int(other.value if isinstance(other, Named) else other)


class Step(NamedTuple):
    """One formula applied: its name, sentence, and result with its history."""

    name: str
    sentence: str
    result: Named


def show(formula: Callable[..., Any], **numbers: int) -> Step:
    """A formula of ``formulas.py`` with numbers put in, by the names of its own parameters."""
    named = [Named.of(name, numbers[name]) for name in inspect.signature(formula).parameters]
    result = formula(*named)
    if not isinstance(result, Named):
        result = _plain(result)
    return Step(formula.__name__, (formula.__doc__ or "").split("\n")[0], result)


def symbolic(name: str) -> Any:
    """A formula as a SymPy expression over its own parameters; raises MissingExtra without SymPy, UnknownName."""
    try:
        import sympy
    except ImportError:
        raise MissingExtra("symbolic formulas", "explain") from None
    known = {n: f for n, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__}
    if name not in known:
        raise UnknownName("formula", name, known)
    symbols = [sympy.Symbol(p, integer=True, positive=True) for p in inspect.signature(known[name]).parameters]
    return known[name](*symbols)


class Block(NamedTuple):
    """One term explained: heading, steps with lines between them, and closing lines; a line is (text, LaTeX)."""

    path: str
    total: str
    steps: tuple[Step | tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...] = ()
    result: int | float | None = None  # what the steps add up to


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
    return "\n".join(_latex(block) if latex else _text(block) for block in blocks)


def _unknown(term: str, paths: list[str]) -> UnknownName:
    """The error for a term that is not there: nearest ones among paths and their beginnings, else what there is."""
    words = [path.split("/") for path in paths]
    beginnings = {"/".join(parts[:n]) for parts in words for n in range(1, len(parts))}
    error = UnknownName("term", term, {*paths, *beginnings, *map(str, INVERSES)})
    if not error.nearest:
        error.hint = f"among them {', '.join(dict.fromkeys([parts[0] for parts in words] + list(map(str, INVERSES))))}"
    return error


def scheme_text(text: str) -> str:
    """The documentation of every member of a chain: formula, consequences and source, as its docstring says them.

    Arguments are not looked at: ``cla`` will do for ``cla:2``. Raises UnknownName for a member that is not there.

    >>> print(scheme_text("mqa").splitlines()[0])
    mqa  one KV head for all query heads
    """
    from kvplan.schemes import SCHEMES

    blocks = []
    for item in text.lower().split("+"):
        name = item.strip().partition(":")[0]
        found = SCHEMES.get(name)
        if found is None:
            raise UnknownName("scheme", name, SCHEMES)
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


def _scheme_block(report: Report, scheme: str) -> Block:
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
    return Block(f"scheme/{scheme}", kept, (), tuple(_sentence(line) for line in lines))


def _text(block: Block) -> str:
    lines = [f"{block.path} = {block.total}"]
    said = set()
    for step in block.steps:
        if not isinstance(step, Step):
            lines.append(f"  {step[0]}")
            continue
        lines.append(f"  {step.name} = {step.result.symbol}")
        value = f"{step.result.value:,}"
        shown = value if step.result.number == value else f"{step.result.number} = {value}"
        if step.result.symbol != shown:
            lines.append(f"  {' ' * len(step.name)} = {shown}")
        if step.sentence not in said:
            lines.append(f"    {step.sentence}")
            said.add(step.sentence)
    lines += [f"  {text}" for text, _ in block.lines]
    return "\n".join(lines) + "\n"


def _latex(block: Block) -> str:
    rows = []
    for step in block.steps:
        if not isinstance(step, Step):
            rows.append(step[1])
            continue
        name = _escaped(step.name)
        value = f"{step.result.value:,}".replace(",", r"\,")
        rows.append(rf"\mathrm{{{name}}} &= {step.result.latex} = {step.result.latex_number} = {value}")
    rows += [tex for _, tex in block.lines]
    body = " \\\\\n".join(rows)
    return f"% {block.path} = {block.total}\n\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


# --- forward ---------------------------------------------------------------------------------------------------------

# What a block is made of: a formula applied, a line of (text, LaTeX), or an amount that its total adds up.
Made = Step | tuple[str, str] | int | float


def _blocks(report: Report) -> Iterator[Block]:
    scheme = dict(report.answer.settings.inputs)["scheme"]
    if scheme:
        yield _scheme_block(report, scheme)
    yield from ledger(report)
    if report.capacity:
        yield _pool_block(report)


def ledger(report: Report) -> Iterator[Block]:
    """One block for every term of the ledger, in its order; a term that nothing here knows shows its own words."""
    a = report.answer
    s = a.settings
    fullest = max(a.stages, key=lambda stage: stage.lean.at(s.context))
    whole = iter([_kv(held, a, 1, s.batch, 1) for held in a.held])
    ranks = iter([_kv(held, a, s.tp, s.rank_sequences, s.page) for held in fullest.held])
    for term in report.terms:
        if term.path.startswith("kv/"):
            made = next(whole)
        elif term.path.startswith("per_gpu/kv/"):
            made = next(ranks)
        else:
            first, _, rest = term.path.partition("/")
            builder = BUILDERS.get(term.path) or BUILDERS.get(first)
            made = builder(a, rest) if builder else iter((_sentence(f"{term.formula}; {term.source}"), term.value))
        yield _block(term, made)


def _block(term: Term, made: Iterable[Made]) -> Block:
    """The parts of a block, and the line that adds its amounts up."""
    shown: list[Step | tuple[str, str]] = []
    amounts: list[int | float] = []
    for item in made:
        if isinstance(item, (int, float)):
            amounts.append(item)
        else:
            shown.append(item)
    total = sum(amounts)
    end = f"= {_digits(total)} {term.unit}"
    closed = shown and not isinstance(shown[-1], Step) and shown[-1][0].endswith(end)
    if len(amounts) > 1 or not closed:
        some = [_digits(amount) for amount in amounts]
        summed = " + ".join(some) if len(some) <= ADDED else f"the {len(some)} amounts above"
        shown.append(_sentence(f"total = {summed} {end}" if len(some) > 1 else f"total {end}"))
    return Block(term.path, f"{_digits(term.value)} {term.unit}", tuple(shown), (), total)


ADDED = 6  # amounts written out where a block adds them up


def _digits(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}"


def _times(one: int, unit: str, *factors: tuple[int, str]) -> Iterator[Made]:
    """An amount multiplied: the line that says by what, and the product."""
    total = one
    for n, _ in factors:
        total *= n
    words = [_counted(n, what) for n, what in factors]
    tex = " ".join(rf"\times \text{{{_escaped(word)}}}" for word in words)
    yield f"{' '.join(f'× {word}' for word in words)} = {total:,} {unit}", f"&{tex} = {_spaced(total)}"
    yield total


def _spaced(n: int) -> str:
    return f"{n:,}".replace(",", r"\,")


def _escaped(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)


def _sentence(text: str) -> tuple[str, str]:
    return text, rf"&\text{{{_escaped(text)}}}"


# What LaTeX reads as more than a letter inside text, and letters that a text font may lack.
TEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "~": r"\~{}",
    "×": r"$\times$",
    "→": r"$\to$",
    "←": r"$\gets$",
    "−": "$-$",
    "≤": r"$\le$",
    "≈": r"$\approx$",
    "⌊": r"$\lfloor$",
    "⌋": r"$\rfloor$",
}


# --- caches


def _entries(growth: Growth, tokens: int, encoder_tokens: int) -> Iterator[Made]:
    """How many entries are held: the formula of the growth's kind."""
    if growth.kind == "full":
        yield show(formulas.entries_full, tokens=tokens)
    elif growth.kind == "encoder":
        yield _sentence(f"entries = {encoder_tokens:,}, one per encoder token")
    elif growth.kind == "constant":
        yield _sentence(f"entries = {growth.limit:,}, whatever the context")
    else:
        formula = ENTRIES[growth.kind]
        limit = list(inspect.signature(formula).parameters)[1]
        yield show(formula, tokens=tokens, **{limit: growth.limit})


def _kv(held: Held, a: Answer, tp: int, sequences: int, page: int) -> Iterator[Made]:
    """One group of equal stored parts: entries, bits of one, bytes, times layers and sequences."""
    s = a.settings
    yield from _entries(held.growth, s.context, s.encoder_context)
    n = entries(held.growth, s.context, s.encoder_context)
    if page > 1 and not held.is_state:
        yield Step("blocks", "Whole blocks are allocated.", ceil_to(Named.of("entries", n), Named.of("block", page)))
        n = ceil_to(n, page)
    part, heads = _part(held, a, tp)
    if heads != part.heads:
        yield show(formulas.heads_per_rank, heads=part.heads, tp=tp)
    yield from _row(part, heads, s.formats.of(part))
    if held.residual:
        size = show(
            formulas.part_bytes_residual,
            entries=n,
            bits_per_entry=held.bits,
            residual=held.residual,
            residual_bits=held.residual_bits,
        )
    else:
        size = show(formulas.part_bytes, entries=n, bits_per_entry=held.bits)
    yield size
    yield from _times(size.result.value, "bytes", (held.layers, "layer"), (sequences, "sequence"))


def _part(held: Held, a: Answer, tp: int) -> tuple[Part, int]:
    """The part that a group was made from, and its heads on one rank."""
    for store in a.profile.plan.stores:
        for part in store.parts:
            heads = formulas.heads_per_rank(part.heads, tp) if part.shard == "heads" and tp > 1 else part.heads
            alike = f"kv/{store.label}/{part.name}" == held.path and part.growth == held.growth
            if alike and entry_bits(heads, part.width, a.settings.formats.of(part)) == held.bits:
                return part, heads
    raise AssertionError(f"no part makes {held}")


def _row(part: Part, heads: int, stored: Format) -> Iterator[Made]:
    bits, per = stored.spread
    row = {"heads": heads, "width": part.width, "block": stored.block, "block_bits": stored.block_bits}
    if bits:
        yield show(formulas.row_bits_spread, **row, bits=bits, per=per)
    else:
        yield show(formulas.row_bits, **row)


def _rounding(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    for held in a.held:
        n = entries(held.growth, s.context, s.encoder_context)
        more = held_bytes(held, s.context, s.encoder_context, s.page) - held_bytes(held, s.context, s.encoder_context)
        if more:
            yield _sentence(f"{held.path}: {n:,} → {ceil_to(n, s.page):,} entries, {more:,} bytes more in all layers")
            yield from _times(more, "bytes", (s.batch, "sequence"))


# --- reads: traffic and attention


def _named(read: Read) -> Any:
    """The read with its numbers named, so that formulas show the names; costs takes it like any other."""

    def name(growth: Any) -> Any:
        known = growth is not None and growth.kind in LIMITS
        return growth._replace(limit=Named.of(LIMITS[growth.kind], growth.limit)) if known else growth

    changes: dict[str, Any] = {"growth": name(read.growth), "prompt": name(read.prompt)}
    if read.top_k is not None:
        changes["top_k"] = Named.of("top_k", read.top_k)
    if read.sparse is not None:
        stride = Named.of("stride", read.sparse.stride) if read.sparse.stride else 0
        changes["sparse"] = Sparse(cast("int", Named.of("fixed", read.sparse.fixed)), cast("int", stride))
    return read._replace(**changes)


LIMITS = {"window": "window", "chunk": "chunk", "compress": "ratio", "landmark": "block", "budget": "budget"}
LOOKS = {
    "full": "every token",
    "window": "the last {:,} tokens",
    "chunk": "chunks of {:,} tokens",
    "compress": "one entry per {:,} tokens",
    "budget": "a budget of {:,} tokens",
    "landmark": "every token and the landmark of every {:,}",
    "encoder": "the encoder's tokens",
    "constant": "a state",
}


def _looks(layers: int, read: Read) -> tuple[str, str]:
    """One group of equal reads in words."""
    text = f"{_counted(layers, 'layer')}: {LOOKS.get(read.growth.kind, read.growth.kind).format(read.growth.limit)}"
    if read.top_k is not None:
        text += f", the best {read.top_k:,} of them"
        if read.index_heads:
            text += f" by an indexer of {read.index_heads:,} heads of {read.index_dim:,}"
    elif read.sparse is not None:
        more = f" and one in {read.sparse.stride:,}" if read.sparse.stride else ""
        text += f", at most {read.sparse.fixed:,}{more} of them"
    return _sentence(text)


def _step(name: str, sentence: str, result: Any) -> Step:
    return Step(name, sentence, result if isinstance(result, Named) else _plain(result))


def _traffic(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    tokens: Any = Named.of("tokens", s.context)
    encoder: Any = Named.of("encoder_tokens", s.encoder_context)
    for group in a.profile.reads:
        if not group.parts:
            continue
        yield (
            _looks(group.layers, group.read)
            if group.read.heads
            else _sentence(f"{_counted(group.layers, 'layer')}: a state")
        )
        before = ""
        for part in group.parts:
            growth = part.growth
            if growth.kind in LIMITS:
                growth = growth._replace(limit=cast("int", Named.of(LIMITS[growth.kind], growth.limit)))
            seen = _step(
                "entries",
                "Entries that the next token reads, its own included.",
                read_entries(_named(group.read), part._replace(growth=growth), tokens, encoder),
            )
            if seen.result.symbol != before:
                yield seen
                before = seen.result.symbol
            stored, n = s.formats.of(part), seen.result.value
            bits = entry_bits(part.heads, part.width, stored)
            if stored.residual:
                size = show(
                    formulas.part_bytes_residual,
                    entries=n,
                    bits_per_entry=bits,
                    residual=stored.residual,
                    residual_bits=part.heads * part.width * s.formats.compute.element_bits,
                )
            else:
                size = show(formulas.part_bytes, entries=n, bits_per_entry=bits)
            yield size._replace(name=part.name)
            yield from _times(size.result.value, "bytes", (group.layers, "layer"), (s.batch, "sequence"))


def _attention(a: Answer, name: str) -> Iterator[Made]:
    """Scores and weighted sums of a pass: per group of reads the pairs, the FLOPs of one layer, and how often."""
    s, p = a.settings, a.profile
    prefill = name == "prefill"
    early = prefill and not s.all_logits  # layers that a prompt leaves early see its last token alone
    if prefill:
        mixed = ((p.prompt.mixing, s.context, "token"), (p.last.mixing, 1 if early else s.context, "last token"))
    else:
        mixed = ((p.mixing, 1, "new token"), (0, 1, ""))
    for flops, positions, what in mixed:
        if flops:
            yield _sentence(f"convolutions, recurrences and mixing without weights: {flops:,} FLOPs per token")
            yield from _times(flops, "FLOPs", (positions, what), (s.batch, "sequence"))
    for group in p.reads:
        r = group.read
        if not r.heads:
            continue
        yield _looks(group.layers, r)
        often = [(group.layers, "layer"), (s.batch, "sequence")]
        if prefill and r.prefill_passes > 1:
            often.append((r.prefill_passes, "pass"))
        if not prefill or (r.prefill_last and early):
            if prefill:
                yield _sentence("the prompt's last token alone runs through them")
            yield from _queries(r, s.context - 1 if prefill else s.context, s.encoder_context, often)
        else:
            yield from _prompt(a, r, often)


def _queries(read: Read, cached: int, encoder_tokens: int, often: list[tuple[int, str]]) -> Iterator[Made]:
    """One new token after ``cached`` ones."""
    named, tokens = _named(read), cast("Any", Named.of("tokens", cached))
    encoder: Any = Named.of("encoder_tokens", encoder_tokens)
    seen = _step(
        "keys", "Keys that the new token may see, its own among them.", seen_keys(named.growth, tokens, encoder)
    )
    yield seen
    if read.top_k is not None and read.index_heads:
        yield from _scores(seen.result.value, read, often)
    kept = _step("kept", "Keys that it attends to.", kept_keys(named, tokens, encoder))
    if kept.result.symbol != seen.result.symbol:
        yield kept
    yield from _attends(kept.result.value, read.heads, read.decode_score_dim, read.decode_value_dim, often)


def _prompt(a: Answer, read: Read, often: list[tuple[int, str]]) -> Iterator[Made]:
    """All tokens of a prompt at once."""
    s = a.settings
    named, tokens = _named(read), cast("Any", Named.of("tokens", s.context))
    encoder: Any = Named.of("encoder_tokens", s.encoder_context)
    pairs = seen_pairs(named.prompt or named.growth, tokens, encoder, s.full_attention)
    seen = _step("pairs", "Pairs of a query and a key that are computed.", pairs)
    yield seen
    if read.top_k is not None and read.index_heads:
        yield from _scores(seen.result.value, read, often)
    sparse = read.top_k is not None or (read.sparse is not None and read.sparse.prefill)
    n = seen.result.value
    if sparse and not s.full_attention:
        kept = _step("kept", "Pairs that attention computes of them.", kept_pairs(named, tokens))
        yield kept
        n = kept.result.value
    yield from _attends(n, read.heads, read.score_dim, read.value_dim, often)


def _scores(pairs: int, read: Read, often: list[tuple[int, str]]) -> Iterator[Made]:
    step = _step(
        "scores",
        "The indexer's scores: 2 FLOPs per multiply-add, over every pair.",
        2
        * Named.of("pairs", pairs)
        * Named.of("index_heads", read.index_heads)
        * Named.of("index_dim", read.index_dim),
    )
    yield step
    yield from _times(step.result.value, "FLOPs", *often)


def _attends(pairs: int, heads: int, score_dim: int, value_dim: int, often: list[tuple[int, str]]) -> Iterator[Made]:
    step = show(formulas.attention_flops, pairs=pairs, heads=heads, score_dim=score_dim, value_dim=value_dim)
    yield step
    yield from _times(step.result.value, "FLOPs", *often)


# --- weights: bytes and matmuls


def _flops(a: Answer, rest: str) -> Iterator[Made]:
    name, _, what = rest.partition("/")
    s, p = a.settings, a.profile
    if what == "attention":
        yield from _attention(a, name)
    elif what == "logits":
        rows = s.batch * (s.context if s.all_logits and name == "prefill" else 1)
        yield from _matmul("the logits matrix", rows, p.logits)
    else:
        encoder = s.encoder_context
        if name == "decode":
            yield from _matmul("new tokens", s.batch, p.linear + (p.asking if encoder else 0))
            return
        early = 1 if not s.all_logits else s.context
        for who, work, positions in (("prompt tokens", p.prompt, s.context), ("last tokens", p.last, early)):
            weights = work.linear + (work.asking if encoder else 0)
            if weights:
                yield from _matmul(who, s.batch * positions, weights)
        if p.cross and encoder:
            yield from _matmul("encoder tokens, for keys and values of cross-attention", s.batch * encoder, p.cross)


def _matmul(who: str, tokens: int, parameters: int) -> Iterator[Made]:
    step = show(formulas.linear_flops, tokens=tokens, parameters=parameters)
    yield _sentence(who)
    yield step
    yield step.result.value


BIGGEST = 8  # kinds of tensors written out per category


def _weights(a: Answer, category: str) -> Iterator[Made]:
    """The biggest tensors of one category: how many, their shape, their bits; the others in one line."""
    w = a.weights
    assert w is not None
    s, spec = a.settings, a.spec
    dtype, quantization = s.formats.compute.name, s.quantization
    alike: Counter[tuple[str, int, int, int, bool, int]] = Counter()
    for item, size in sized_weights(spec, dtype, quantization):
        if item.category == category:
            t = item.weight
            alike[t.module, t.inputs, t.outputs, t.copies, t.bias, size] += 1
    ordered = sorted(alike.items(), key=lambda pair: -pair[0][-1] * pair[1])
    for (module, inputs, outputs, copies, bias, size), count in ordered[:BIGGEST]:
        elements = copies * (inputs * outputs + (outputs if bias else 0))
        shape = f"{inputs:,} × {outputs:,}" if inputs > 1 else f"{outputs:,}"
        if bias:
            shape = f"({shape} + {outputs:,} of bias)"
        average = f"{8 * size / elements:.6g}" if elements else "0"
        about = "" if elements and float(average) * elements == 8 * size else "≈ "
        many = "".join(f"{n:,} × " for n in (count, copies) if n > 1)
        yield _sentence(f"{module}: {many}{shape} × {about}{average} bits = {count * size:,} bytes")
        yield count * size
    rest = ordered[BIGGEST:]
    if rest:
        size = sum(item[-1] * count for item, count in rest)
        yield _sentence(f"{_counted(sum(count for _, count in rest), 'smaller tensor')} = {size:,} bytes")
        yield size
    for tower in spec.towers:
        if tower.name == category:
            size = ceildiv(tower_bits(tower, dtype, quantization), 8)
            yield _sentence(f"{tower.name}: {tower.parameters:,} parameters beside the decoder = {size:,} bytes")
            yield size
    shapes = sum(size for name, size in w.by_category.items() if name != BEYOND)
    if category == BEYOND:
        yield _sentence(f"the files hold {w.total:,} bytes, shapes and formats give {shapes:,} ({w.source})")
        yield w.total - shapes


BEYOND = "file beyond shapes"


def _rank_weights(a: Answer, _: str) -> Iterator[Made]:
    """The heaviest stage's rank by category, and what headers of real files add to the shapes."""
    s, last = a.settings, len(a.stages) - 1
    i = max(range(last + 1), key=lambda i: a.stages[i].weights)
    stage = a.stages[i]
    where = _stage_words(a, i)
    yield _sentence(f"{where + ': ' if where else ''}matrices / {s.tp}, norms, routers and latents whole")
    dtype, format_ = s.formats.compute.name, s.quantization
    shares = rank_shares(a.spec, dtype, format_, s.tp, stage.layers, i == 0, i == last)
    for category, size in shares.items():
        yield _sentence(f"{category} = {size:,} bytes")
        yield size
    more = stage.weights - sum(shares.values())
    if more:
        yield _sentence(f"the files' total, in proportion to the shapes: {more:,} bytes on top")
        yield more


# --- memory and time


def _memory(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    yield _sentence(f"as the driver exposes it: {s.gpu.memory_source}" if s.gpu else "as --memory says")
    yield s.memory_bytes or 0


def _reserve(a: Answer, _: str) -> Iterator[Made]:
    memory, share = a.settings.memory_bytes or 0, round(a.settings.utilization * 10**6)
    usable = memory * share // 10**6
    yield _sentence(f"usable = ⌊{memory:,} × {share:,} / 1,000,000⌋ = {usable:,} bytes")
    yield _sentence(f"{memory:,} − {usable:,} = {memory - usable:,} bytes")
    yield memory - usable


def _storage(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    i = max(range(len(a.stages)), key=lambda i: a.stages[i].lean.storage(s.context))
    if len(a.stages) > 1:
        yield _sentence(_stage_words(a, i))
    for limit, size in a.stages[i].lean.entries:
        if limit and s.context > limit:
            step = show(formulas.prefill_storage_bytes, tokens=s.context, kept=limit, bits_per_entry=8 * size)
            yield step
            yield from _times(step.result.value, "bytes", (s.rank_sequences, "sequence"))


def _activations(a: Answer, _: str) -> Iterator[Made]:
    s, spec = a.settings, a.spec
    tokens, sequences = s.context, s.rank_sequences
    at_once = Named.of("tokens", tokens) * Named.of("sequences", sequences)
    words = "The whole prompts run at once."
    if not s.engine.one_shot_prefill:
        at_once = minimum(at_once, Named.of("chunk", PREFILL_CHUNK))
        words = "Prompts are fed in chunks."
    yield Step("tokens at once", words, at_once)
    width = ceildiv(Named.of("MLP width", mlp_width(spec)), Named.of("tp", s.tp))
    if s.tp > 1:
        yield Step("width", "Of the widest MLP that one token runs through, on one rank.", width)
    element = s.formats.compute.element_bits // 8
    layer = show(
        formulas.activation_bytes, tokens=at_once.value, hidden=spec.hidden, width=width.value, element=element
    )
    yield layer
    largest = layer.result.value
    if spec.has_head:
        rows = at_once.value if s.all_logits else sequences
        logits = show(formulas.logits_bytes, rows=rows, vocab=spec.vocab, element=element)
        yield logits
        largest = max(largest, logits.result.value)
        yield _sentence(f"max({layer.result.value:,}, {logits.result.value:,}) = {largest:,} bytes")
    yield largest


def _runtime(a: Answer, _: str) -> Iterator[Made]:
    yield _sentence(f"context and kernels, outside the allocator: {RUNTIME_SOURCE}")
    yield a.settings.runtime_bytes


def _time(a: Answer, rest: str) -> Iterator[Made]:
    """max(FLOPs / peak, bytes / bandwidth) of one term of a pass, or bytes over a link."""
    name, _, path = rest.partition("/")
    s = a.settings
    assert a.times is not None
    assert s.gpu is not None
    found = a.times.prefill if name == "prefill" else a.times.decode
    for transfer in found.transfers:
        if transfer.path == path:
            seconds = transfer.bytes / transfer.bytes_per_s
            yield _sentence(f"{transfer.bytes:,.0f} bytes / {transfer.bytes_per_s:.6g} bytes/s = {seconds:.6g} s")
            yield seconds
    for work in found.work:
        rate = peak_flops(s.gpu, work.column)
        if work.path == path and rate is not None:
            compute = work.flops / (rate[0] * s.compute_efficiency)
            memory = work.bytes / (s.gpu.bandwidth_bytes_per_s * s.bandwidth_efficiency)
            peak = f"({rate[0]:.6g} {rate[1]} FLOP/s × {s.compute_efficiency:g})"
            speed = f"({s.gpu.bandwidth_bytes_per_s:.6g} bytes/s × {s.bandwidth_efficiency:g})"
            yield _sentence(f"compute: {work.flops:.6g} FLOPs / {peak} = {compute:.6g} s")
            yield _sentence(f"memory: {work.bytes:.6g} bytes / {speed} = {memory:.6g} s")
            side = "compute" if compute >= memory else "memory"
            yield _sentence(f"{side}-bound: max({compute:.6g}, {memory:.6g}) = {max(compute, memory):.6g} s")
            yield max(compute, memory)


def _place(a: Answer, where: str) -> Iterator[Made]:
    """What lies off the GPU: host memory and disk share what the GPU's part leaves."""
    yield from _left_over(a, a.kv_bytes, "caches")
    off = round(a.spec.offload.disk * 10**6)
    away = away_millionths(a.spec)
    rest = a.kv_bytes - on_gpu(a.spec, a.kv_bytes)
    disk = rest * off // away
    yield _sentence(f"on disk ⌊{rest:,} × {off:,} / {away:,}⌋ = {disk:,} bytes")
    if where == "disk":
        yield disk
    else:
        yield _sentence(f"{rest:,} − {disk:,} = {rest - disk:,} bytes")
        yield rest - disk


def _link(a: Answer, _: str) -> Iterator[Made]:
    yield from _left_over(a, a.bytes_read_per_step, "reads")
    yield a.bytes_read_per_step - on_gpu(a.spec, a.bytes_read_per_step)


def _left_over(a: Answer, size: int, what: str) -> Iterator[Made]:
    yield show(formulas.gpu_share, size=size, away=away_millionths(a.spec))
    kept = on_gpu(a.spec, size)
    yield _sentence(f"{what} off the GPU: {size:,} − {kept:,} = {size - kept:,} bytes")


# By the path of a term, or by its first word; what a builder gets is the answer and the rest of the path.
BUILDERS: dict[str, Callable[[Answer, str], Iterator[Made]]] = {
    "weights": _weights,
    "per_gpu/weights": _rank_weights,
    "engine/block rounding": _rounding,
    "traffic/kv": _traffic,
    "traffic/link": _link,
    "place": _place,
    "flops": _flops,
    "gpu/memory": _memory,
    "engine/reserve": _reserve,
    "engine/prefill_storage": _storage,
    "activations/peak": _activations,
    "runtime/context": _runtime,
    "time": _time,
}


def _pool_block(report: Report) -> Block:
    a, c = report.answer, report.capacity
    assert c is not None
    i = _tightest(a, a.settings.context, a.settings.rank_sequences)
    step = show(
        formulas.kv_pool,
        memory=c.memory_bytes,
        reserved=c.memory_bytes - c.usable_bytes,
        weights=a.stages[i].weights,
        activations=a.activations,
        runtime=a.settings.runtime_bytes,
    )
    lines = [_sentence(_stage_words(a, i))] if len(a.stages) > 1 else []
    if step.result.value < 0:
        lines.append(_sentence("less than nothing is left: total = 0 bytes"))
    return Block("capacity/kv_pool", f"{c.kv_pool_bytes:,} bytes", (step,), tuple(lines), max(step.result.value, 0))


# --- inverse ---------------------------------------------------------------------------------------------------------


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
    kind, limit = held.growth
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


def _need(a: Answer, stage: Stage, tokens: int) -> int:
    """Bytes of one sequence of ``tokens`` on the GPU, what windows keep alive behind them included."""
    storage = stage.lean.storage(tokens) if a.settings.engine.prefill_storage else 0
    return on_gpu(a.spec, stage.lean.at(tokens)) + storage


def _tightest(a: Answer, tokens: int, sequences: int) -> int:
    """The pipeline stage that has the least room left at so many tokens and sequences per replica."""
    left = [-stage.weights - sequences * _need(a, stage, tokens) for stage in a.stages]
    return left.index(min(left))


def _stage_words(a: Answer, i: int) -> str:
    """Which stage of the pipeline, where there are several."""
    if len(a.stages) == 1:
        return ""
    layers = a.stages[i].layers
    return f"pipeline stage {i + 1} of {len(a.stages)} (layers {layers.start:,} to {layers.stop - 1:,})"


def _needs_gpu(report: Report) -> None:
    if report.capacity is None:
        raise InvalidInput("gpu", None, "a GPU (--gpu) or memory (--memory): without one nothing binds")


def _unbounded(what: str, grows: bool) -> tuple[str, str]:
    if grows:
        return _sentence(f"even {LARGEST_COUNT:,} fit, and kvplan counts no further: unbounded")
    return _sentence(f"nothing grows with the {what}: unbounded")


def _max_batch(report: Report) -> Block:
    _needs_gpu(report)
    a, c = report.answer, report.capacity
    assert c is not None
    s, n = a.settings, c.max_batch
    sequences = (n or 0) // s.dp
    # the stage that one sequence more per replica does not fit into
    i = _tightest(a, s.context, sequences + 1)
    stage = a.stages[i]
    per = _need(a, stage, s.context)
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
        lines.append(_sentence(f"binding: {_stage_words(a, i)}"))
    if n is None:
        lines.append(_unbounded("batch", per + growth > 0))
        return Block("max_batch", "unbounded", (), tuple(lines))
    amounts = (c.usable_bytes, stage.weights, s.runtime_bytes, flat)
    left = amounts[0] - sum(amounts[1:])
    value = s.dp * max(left // (per + growth), 0)
    shown = " − ".join(_bracketed(x) for x in amounts)
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
    lines.append(_sentence(f"activations (estimated) as around batch {n:,}; {s.context:,} tokens per sequence"))
    if value != n:
        lines.append(_sentence(f"activations change their rule on the way: {n:,} is the answer"))
    lines += [_check(report, "batch", m) for m in ((n, n + 1) if n else (1,))]
    return Block("max_batch", f"{n:,} sequences", (), tuple(lines))


def _bracketed(n: Fraction | int) -> str:
    """A number as it stands in a sum: fractions and negative numbers in brackets."""
    exact = Fraction(n)
    text = f"{exact.numerator:,}" if exact.denominator == 1 else f"{exact.numerator:,}/{exact.denominator:,}"
    return text if exact.denominator == 1 and exact >= 0 else f"({text})"


def _max_context(report: Report) -> Block:
    _needs_gpu(report)
    a, c = report.answer, report.capacity
    assert c is not None
    s, answer = a.settings, c.max_context
    sequences, page, at = s.rank_sequences, s.page, s.context if answer is None else answer
    # the stage that one token more does not fit into
    i = _tightest(a, at + 1, sequences)
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
        _sentence(
            f"room = usable − weights − runtime − activations = {room:,} bytes; sequences per replica = {sequences:,}"
        ),
    ]
    if len(a.stages) > 1:
        lines.append(_sentence(f"binding: {_stage_words(a, i)}"))
    if away_millionths(a.spec):
        lines.append(_sentence(f"constant and slope are the {10**6 - away_millionths(a.spec):,} millionths on the GPU"))
    pieces = regimes(a, stage)
    lines += _regime_lines(pieces, answer, room, sequences, page, per_token)
    if not pieces:
        lines.append(
            _sentence(f"engine {s.engine.name} holds parts by rules of its own: the answer is found by bisection")
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
            yield _sentence(f"{where}: {_bracketed(r.constant)} bytes per sequence and no growth: {fits}")
            continue
        value = page * (left // rate) if left > 0 else 0
        if page > 1 and per_token and left > 0:
            # activations grow by the token, caches by the block: a part of the next block may still fit
            cached = sequences * r.slope * (value + page)
            opened = (left - cached) // per_token
            if opened > value:
                yield _sentence(
                    f"next block open: ⌊({_bracketed(left)} − {_bracketed(cached)}) / {per_token:,}⌋ = {opened:,}"
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
        form = f"({room:,} − {sequences:,} × {_bracketed(r.constant)}) / {_bracketed(rate)}"
        tex = rf"{room} - {sequences} \cdot {_tex_number(r.constant)}"
        tex = rf"\left\lfloor \frac{{{tex}}}{{{_tex_number(rate)}}} \right\rfloor"
        floor = f"⌊{form}⌋"
        if left <= 0:
            floor, tex = f"max({floor}, 0)", rf"\max\left({tex}, 0\right)"
        yield (
            f"{where}: {block}{floor} = {value:,}{mark}",
            rf"{tex_where}: \quad &{page if page > 1 else ''} {tex} = {value}",
        )
    if found and answer is not None and not marked:
        yield _sentence(f"between two regimes: {answer:,} ← the answer")


def _tex_number(n: Fraction) -> str:
    return f"{n}" if n.denominator == 1 and n >= 0 else rf"\left({n}\right)"


def _check(report: Report, name: str, value: int) -> tuple[str, str]:
    fits = report.again(**{name: value}).fits
    return _sentence(f"planned again with {name} {value:,}: {'fits' if fits else 'does not fit'}")


INVERSES: dict[str | None, Callable[[Report], Block]] = {"max_batch": _max_batch, "max_context": _max_context}
