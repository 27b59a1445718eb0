"""Formulas with the numbers put in, and the inverse ones regime by regime. A view: it looks at formulas, none lives here.

A formula runs on ints, arrays and symbols; here it runs on numbers that remember their names, so that what is printed
is the formula as it is written. ``symbolic`` gives SymPy's view of the same function (extra ``explain``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kvplan import formulas
from kvplan.cache import Read
from kvplan.costs import Held, entries
from kvplan.errors import InvalidInput, MissingExtra, UnknownName
from kvplan.formats import ALIASES, FORMATS, find_format
from kvplan.planner import Answer, Stage, activation_peak, on_gpu
from kvplan.report import Report
from kvplan.settings import PREFILL_CHUNK
from kvplan.specs import Growth

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
    """One term explained: heading, steps, and closing lines."""

    path: str
    total: str
    steps: tuple[Step, ...]
    lines: tuple[tuple[str, str], ...] = ()  # (text, latex)


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
                paths = [block.path for block in _blocks(report)]
                raise UnknownName("term", term, [*paths, *map(str, INVERSES)])
    return "\n".join(_latex(block) if latex else _text(block) for block in blocks)


def scheme_text(text: str) -> str:
    """The documentation of every member of a chain: formula, consequences and source, as its docstring says them.

    Arguments are not looked at: ``cla`` will do for ``cla:2``. Raises UnknownName for a member that is not there.

    >>> print(scheme_text("mqa").splitlines()[0])
    mqa  one KV head for all query heads
    """
    from kvplan.schemes import SCHEMES

    blocks = []
    for name in _members(text):
        found = SCHEMES.get(name)
        if found is None:
            # a storage format is a scheme on the bits axis, under its own name
            stored = find_format(name, "scheme")
            lines = [f"{name}  {stored.bits_per_element:g} bits per element", "", f"Source: {stored.source}."]
        else:
            lines = [f"{found.notation}  {found.summary}", f"axis: {', '.join(sorted(found.axes))}", ""]
            lines += documented(found.change)
            if not any(line.startswith("Source:") for line in lines):
                lines.append(f"Source: {found.source}.")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _members(text: str) -> list[str]:
    """Names in a chain; raises UnknownName for one that is neither a scheme nor a storage format."""
    from kvplan.schemes import SCHEMES

    names = [item.strip().partition(":")[0] for item in text.lower().split("+")]
    for name in names:
        if name not in SCHEMES and name not in FORMATS and name not in ALIASES:
            raise UnknownName("scheme", name, SCHEMES)
    return names


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
    for step in block.steps:
        lines.append(f"  {step.name} = {step.result.symbol}")
        value = f"{step.result.value:,}"
        shown = value if step.result.number == value else f"{step.result.number} = {value}"
        lines.append(f"  {' ' * len(step.name)} = {shown}")
        lines.append(f"    {step.sentence}")
    lines += [f"  {text}" for text, _ in block.lines]
    return "\n".join(lines) + "\n"


def _latex(block: Block) -> str:
    rows = []
    for step in block.steps:
        name = step.name.replace("_", r"\_")
        value = f"{step.result.value:,}".replace(",", r"\,")
        rows.append(rf"\mathrm{{{name}}} &= {step.result.latex} = {step.result.latex_number} = {value}")
    rows += [tex for _, tex in block.lines]
    body = " \\\\\n".join(rows)
    return f"% {block.path} = {block.total}\n\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


# --- forward ---------------------------------------------------------------------------------------------------------

PAIRS = {
    "full": lambda g, n: show(formulas.pairs_causal, tokens=n),
    "window": lambda g, n: show(formulas.pairs_window, tokens=n, window=g.limit),
    "chunk": lambda g, n: show(formulas.pairs_chunk, tokens=n, chunk=g.limit),
    "compress": lambda g, n: show(formulas.pairs_compressed, tokens=n, ratio=g.limit),
}
KEYS: dict[str, Callable[[Growth, int], Step]] = {
    "window": lambda g, n: show(formulas.entries_window, tokens=n + 1, window=g.limit),
    "budget": lambda g, n: show(formulas.entries_window, tokens=n + 1, window=g.limit),
    "chunk": lambda g, n: show(formulas.keys_chunk, tokens=n, chunk=g.limit),
    "landmark": lambda g, n: show(formulas.entries_landmark, tokens=n + 1, block=g.limit),
    "compress": lambda g, n: show(formulas.entries_compressed, tokens=n + 1, ratio=g.limit),
}


def _blocks(report: Report) -> Iterator[Block]:
    a = report.answer
    s, p = a.settings, a.profile
    scheme = dict(s.inputs)["scheme"]
    if scheme:
        yield _scheme_block(report, scheme)
    if a.weights:
        for category, size in a.weights.by_category.items():
            yield Block(
                f"weights/{category}", f"{size:,} bytes", (), (_sentence(f"sum over tensors; {a.weights.source}"),)
            )
    for held in a.held:
        yield _kv_block(held, a)
    yield Block(
        "traffic/kv",
        f"{a.bytes_read_per_step:,} bytes",
        (),
        (_sentence("sum over reads: the new token attends to S + 1 entries, min(S + 1, W) under a window"),),
    )
    tokens = s.batch * s.context
    for name, flops, rows in (("prefill", a.prefill, tokens), ("decode", a.decode, s.batch)):
        yield Block(f"flops/{name}/linear", f"{flops.linear:,} FLOPs", _linear_steps(a, name, rows))
        steps: list[Step] = []
        for group in p.reads:
            r = group.read
            if not r.heads:
                continue
            early = name == "prefill" and r.prefill_last and not s.all_logits
            if name == "prefill" and not early:
                pairs = show(formulas.pairs_square, tokens=s.context) if s.full_attention else _pairs(r, s.context)
                dims = (r.score_dim, r.value_dim)
            else:
                pairs = _keys(r, s.context - 1 if early else s.context)
                dims = (r.decode_score_dim, r.decode_value_dim)
            one = show(
                formulas.attention_flops, pairs=pairs.result.value, heads=r.heads, score_dim=dims[0], value_dim=dims[1]
            )
            steps += [pairs, one]
        note = f"summed over {_counted(sum(g.layers for g in p.reads), 'read')} and {_counted(s.batch, 'sequence')}"
        again = [g for g in p.reads if g.read.prefill_passes > 1]
        if name == "prefill" and again:
            note += f"; {_counted(sum(g.layers for g in again), 'read')} of them {again[0].read.prefill_passes} times"
        yield Block(f"flops/{name}/attention", f"{flops.attention:,} FLOPs", tuple(steps), (_sentence(note),))
        count = tokens if s.all_logits and name == "prefill" else s.batch
        logits = show(formulas.linear_flops, tokens=count, parameters=p.logits)
        yield Block(f"flops/{name}/logits", f"{flops.logits:,} FLOPs", (logits,))
    if report.capacity:
        yield _pool_block(report)


def _linear_steps(a: Answer, name: str, rows: int) -> tuple[Step, ...]:
    """Matmuls of a pass; a prompt may meet some weights several times (LCKV), others with its last token only (YOCO)."""
    p = a.profile
    if name == "decode":
        return (show(formulas.linear_flops, tokens=rows, parameters=p.linear),)
    last = p.last.linear
    if a.settings.all_logits:
        return (show(formulas.linear_flops, tokens=rows, parameters=p.prompt.linear + last),)
    every = show(formulas.linear_flops, tokens=rows, parameters=p.prompt.linear)
    return (every, show(formulas.linear_flops, tokens=a.settings.batch, parameters=last)) if last else (every,)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _pairs(read: Read, tokens: int) -> Step:
    growth, sparse = read.prompt or read.growth, read.sparse
    if growth.kind == "full" and sparse is not None and sparse.prefill:
        if sparse.stride:
            return show(formulas.pairs_sparse, tokens=tokens, fixed=sparse.fixed, stride=sparse.stride)
        return show(formulas.pairs_window, tokens=tokens, window=sparse.fixed)
    return PAIRS.get(growth.kind, PAIRS["full"])(growth, tokens)


def _keys(read: Read, tokens: int) -> Step:
    growth, sparse = read.growth, read.sparse
    if growth.kind in KEYS:
        step = KEYS[growth.kind](growth, tokens)
    else:
        step = show(formulas.entries_full, tokens=tokens + 1)
    if sparse is not None and sparse.stride:
        return show(formulas.keys_sparse, keys=step.result.value, fixed=sparse.fixed, stride=sparse.stride)
    kept = sparse.fixed if sparse is not None else read.top_k
    return step if kept is None else show(formulas.entries_window, tokens=step.result.value, window=kept)


def _sentence(text: str) -> tuple[str, str]:
    escaped = "".join(TEX.get(letter, letter) for letter in text)
    return text, rf"&\text{{{escaped}}}"


# What LaTeX reads as more than a letter inside text.
TEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "~": r"\~{}",
    "×": r"$\times$",
    "→": r"$\to$",
}


ENTRY_STEPS: dict[str, Callable[[Growth, int], Step]] = {
    "full": lambda g, n: show(formulas.entries_full, tokens=n),
    "window": lambda g, n: show(formulas.entries_window, tokens=n, window=g.limit),
    "chunk": lambda g, n: show(formulas.entries_window, tokens=n, window=g.limit),
    "window_transformers": lambda g, n: show(formulas.entries_window_transformers, tokens=n, window=g.limit),
    "compress": lambda g, n: show(formulas.entries_compressed, tokens=n, ratio=g.limit),
    "budget": lambda g, n: show(formulas.entries_window, tokens=n, window=g.limit),
    "landmark": lambda g, n: show(formulas.entries_landmark, tokens=n, block=g.limit),
}


def _kv_block(held: Held, a: Answer) -> Block:
    s = a.settings
    n = entries(held.growth, s.context, s.encoder_context)
    steps = []
    if held.growth.kind in ENTRY_STEPS:
        steps.append(ENTRY_STEPS[held.growth.kind](held.growth, s.context))
    part = next(
        part
        for store in a.profile.plan.stores
        for part in store.parts
        if f"kv/{store.label}/{part.name}" == held.path and part.growth == held.growth
    )
    stored = s.formats.of(part)
    steps.append(
        show(formulas.row_bits, heads=part.heads, width=part.width, block=stored.block, block_bits=stored.block_bits)
    )
    if held.residual:
        steps.append(
            show(
                formulas.part_bytes_residual,
                entries=n,
                bits_per_entry=held.bits,
                residual=held.residual,
                residual_bits=held.residual_bits,
            )
        )
    else:
        steps.append(show(formulas.part_bytes, entries=n, bits_per_entry=held.bits))
    total = steps[-1].result.value * held.layers * s.batch
    layers, sequences = _counted(held.layers, "layer"), _counted(s.batch, "sequence")
    line = f"× {layers} × {sequences} = {total:,} bytes"
    tex = rf"&\times \text{{{layers}}} \times \text{{{sequences}}} = {total:,}".replace(",", r"\,")
    return Block(f"{held.path} ({layers})", f"{total:,} bytes", tuple(steps), ((line, tex),))


def _pool_block(report: Report) -> Block:
    a, c = report.answer, report.capacity
    assert c is not None
    stage = _tightest(a)
    step = show(
        formulas.kv_pool,
        memory=c.memory_bytes,
        reserved=c.memory_bytes - c.usable_bytes,
        weights=stage.weights,
        activations=a.activations,
        runtime=a.settings.runtime_bytes,
    )
    return Block("capacity/kv_pool", f"{c.kv_pool_bytes:,} bytes", (step,))


# --- inverse ---------------------------------------------------------------------------------------------------------


class Regime(NamedTuple):
    """Between two knees every window below is full: bytes of one sequence are constant + slope x tokens."""

    low: int  # exclusive
    high: int | None  # inclusive
    constant: int
    slope: int


def regimes(stage: Stage, storage: bool) -> list[Regime]:
    """The pieces of a stage's bytes per sequence as a function of context."""
    limits = sorted(limit for limit, _ in stage.lean.entries if limit)
    found, low = [], 0
    for high in [*limits, None]:
        if high == low:
            continue
        constant, slope = stage.lean.constant, 0
        for limit, size in stage.lean.entries:
            if limit and limit <= low and not storage:
                constant += limit * size
            else:
                slope += size
        found.append(Regime(low, high, constant, slope))
        low = high or low
    return found


def _tightest(a: Answer) -> Stage:
    s = a.settings

    def left(stage: Stage) -> int:
        return -stage.weights - s.rank_sequences * stage.lean.at(s.context)

    return min(a.stages, key=left)


def _needs_gpu(report: Report) -> None:
    if report.capacity is None:
        raise InvalidInput("gpu", None, "a GPU (--gpu) or memory (--memory): without one nothing binds")


def _max_batch(report: Report) -> Block:
    _needs_gpu(report)
    a, c = report.answer, report.capacity
    assert c is not None
    s, stage = a.settings, _tightest(a)
    per = stage.lean.at(s.context) + (stage.lean.storage(s.context) if s.engine.prefill_storage else 0)
    n = c.max_batch
    lines = [
        (
            "max batch = dp × ⌊(usable − weights − runtime − activations) / (bytes + activations per sequence)⌋",
            r"n_{\max} &= dp \left\lfloor \frac{U - W - R - A}{K + a} \right\rfloor",
        )
    ]
    if n is None or per == 0:
        lines.append(_sentence("nothing grows with the batch: unbounded"))
        return Block("max_batch", "unbounded", (), tuple(lines))
    sequences = max(-(-n // s.dp), 1)
    # activations are made of two lines in the batch, one of the tokens at once and one of the sampled logits; which
    # one holds may change between n and n + 1, so the line is taken on the side that contains its own solution
    for low in (sequences, max(sequences - 1, 1)):
        flat = activation_peak(a.spec, s, s.context, low)
        growth = activation_peak(a.spec, s, s.context, low + 1) - flat
        flat -= growth * low
        amounts = (c.usable_bytes, stage.weights, s.runtime_bytes, flat)
        value = s.dp * max((c.usable_bytes - stage.weights - s.runtime_bytes - flat) // (per + growth), 0)
        if value == n:
            break
    lines.append(
        (
            f"          = {s.dp} × ⌊({' − '.join(f'{x:,}' for x in amounts)}) / ({per:,} + {growth:,})⌋ = {value:,}",
            rf"&= {s.dp} \left\lfloor \frac{{{' - '.join(map(str, amounts))}}}{{{per} + {growth}}} \right\rfloor = {value}",
        )
    )
    lines.append(_sentence(f"activations (estimated) as around batch {n:,}; {s.context:,} tokens per sequence"))
    lines += [_check(report, "batch", m) for m in ((n, n + 1) if n else (1,))]
    return Block("max_batch", f"{n:,} sequences", (), tuple(lines))


def _max_context(report: Report) -> Block:
    _needs_gpu(report)
    a, c = report.answer, report.capacity
    assert c is not None
    s, stage = a.settings, _tightest(a)
    storage, sequences = s.engine.prefill_storage, s.rank_sequences
    answer = c.max_context
    at = answer or 1
    flat = activation_peak(a.spec, s, at, sequences)
    per_token = 0
    if at * sequences <= PREFILL_CHUNK or s.engine.one_shot_prefill:
        per_token = activation_peak(a.spec, s, at + 1, sequences) - flat
        flat -= per_token * at
    room = c.usable_bytes - stage.weights - s.runtime_bytes - flat
    page = s.page
    block = f"{page:,} × " if page > 1 else ""
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
    for r in regimes(stage, storage):
        where = f"S > {r.low:,}" if r.high is None else f"{r.low:,} < S ≤ {r.high:,}"
        tex_where = f"S > {r.low}" if r.high is None else rf"{r.low} < S \le {r.high}"
        rate = (sequences * r.slope + per_token) * page
        left = room - sequences * r.constant
        if rate == 0:
            lines.append(_sentence(f"{where}: {r.constant:,} bytes per sequence, no growth: unbounded if they fit"))
            continue
        value = page * (left // rate) if left > 0 else 0
        if page > 1 and per_token and left > 0:
            # activations grow by the token, caches by the block: a part of the next block may still fit
            opened = (left - sequences * r.slope * (value + page)) // per_token
            if opened > value:
                lines.append(
                    _sentence(
                        f"next block open: ⌊({left:,} − {sequences * r.slope * (value + page):,}) / {per_token:,}⌋ = {opened:,}"
                    )
                )
                value = opened
        inside = value > r.low and (r.high is None or value <= r.high)
        mark = " ← the answer" if inside and value == answer else "" if inside else " (outside: not in force)"
        lines.append(
            (
                f"{where}: {block}⌊({room:,} − {sequences:,} × {r.constant:,}) / {rate:,}⌋ = {value:,}{mark}",
                rf"{tex_where}: \quad &{page if page > 1 else ''}"
                rf" \left\lfloor \frac{{{room} - {sequences} \cdot {r.constant}}}{{{rate}}} \right\rfloor = {value}",
            )
        )
    if stage.lean.others:
        lines.append(_sentence("some parts grow in steps (groups, residual windows): the answer is found by bisection"))
    if answer is None:
        lines.append(_sentence("nothing grows with the context: unbounded"))
        return Block("max_context", "unbounded", (), tuple(lines))
    lines += [_check(report, "context", m) for m in ((answer, answer + 1) if answer else (1,))]
    return Block("max_context", f"{answer:,} tokens", (), tuple(lines))


def _check(report: Report, name: str, value: int) -> tuple[str, str]:
    fits = report.again(**{name: value}).fits
    return _sentence(f"planned again with {name} {value:,}: {'fits' if fits else 'does not fit'}")


INVERSES: dict[str | None, Callable[[Report], Block]] = {"max_batch": _max_batch, "max_context": _max_context}
