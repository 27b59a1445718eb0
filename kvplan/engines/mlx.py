"""MLX-LM 0.32.2: caches that grow by steps of 256 slots while a prompt is fed in chunks, read from ``models/cache.py``.

What a cache holds depends on how it came to be, so this module replays the history that ``generate.py`` makes: the prompt
less its last token in chunks of ``prefill_step_size``, the last token alone, then ``max_tokens`` new tokens one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kvplan.costs import entry_bits
from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import Shape, floor_heads, plain, shapes, state_bytes, states
from kvplan.errors import InvalidInput

__all__ = ["ENGINE", "STEP", "Held", "chunked", "grow", "history", "quantized_bytes", "rotate"]

STEP = 256
PREFILL = 2048
QUANTIZED_START = 5000
KEEP = 4
SOURCE = "mlx-lm 0.32.2, models/cache.py"
# Classes of mlx-lm whose make_cache builds a rotating cache for sliding layers; all others keep every token.
ROTATES = frozenset(
    {
        *(
            "afmoe",
            "baichuan_m1",
            "cohere2",
            "exaone4",
            "exaone_moe",
            "gemma3",
            "gemma3_text",
            "gemma3n",
            "gemma3n_text",
        ),
        *("gemma4", "gemma4_text", "gpt_oss", "iquestloopcoder", "laguna", "mellum", "mimo_v2_flash", "ministral3"),
        *("mistral3", "muse_glimmer", "olmo3", "plamo3", "recurrent_gemma", "spark2_5", "step3p5"),
    }
)
# Classes with a make_cache of their own besides: they never ask max_kv_size. Mistral runs as a Llama.
OWN = ROTATES | {
    *("afm7", "deepseek_v32", "glm_moe_dsa", "iquestcoder", "llama", "llama4", "llama4_text", "longcat_flash"),
    *("minimax_m3_vl", "mistral", "nanbeige", "nemotron-nas", "xverse"),
}
# Classes that cache every head's expanded key and value in place of the latent.
EXPANDS = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})


class Held(NamedTuple):
    """One cache after some updates: tokens seen, slots allocated, and the next slot it writes."""

    offset: int = 0
    slots: int = 0
    cursor: int = 0

    @property
    def empty(self) -> bool:
        """Whether it was never written."""
        return not self.slots


def grow(held: Held, tokens: int) -> Held:
    """``KVCache`` and ``QuantizedKVCache`` after one update of ``tokens``: what does not fit adds whole steps.

    An offset that is no multiple of the step is cut to first, so growth in the middle of a step loses its rest.
    """
    offset, slots = held.offset, held.slots
    if not slots or offset + tokens > slots:
        kept = 0 if not slots else offset if offset % STEP else slots
        slots = kept + -(-tokens // STEP) * STEP
    return Held(offset + tokens, slots, offset + tokens)


def rotate(held: Held, tokens: int, window: int, keep: int = 0) -> Held:
    """``RotatingKVCache`` after one update: several tokens are appended to at most window - 1, one is written in place."""
    offset, slots, index = held
    if tokens != 1:
        if not slots:
            return Held(tokens, tokens, tokens)
        used = slots if index == slots or index < offset else index
        # a cut shorter than what follows `keep` removes exactly the surplus, a longer one leaves `keep`
        cut = max(used - window + 1, 0)
        rest = used if not cut else min(keep, used) + max(used - cut - keep, 0)
        return Held(offset + tokens, rest + tokens, rest + tokens)
    if not slots or (offset >= slots and slots < window):
        index = offset
        slots += min(STEP, window - offset)
    if slots > window:
        slots, index = window, window
    if index == window:
        index = keep
    return Held(offset + 1, slots, index + 1)


def chunked(held: Held, tokens: int, chunk: int) -> Held:
    """``ChunkedKVCache`` after one forward pass: the front is cut to a chunk, then it grows; ``cursor`` counts what is valid."""
    offset, slots, valid = held
    if slots and valid > chunk:
        slots = valid = chunk
    grown = grow(Held(valid, slots, valid), tokens)
    return Held(offset + tokens, grown.slots, grown.offset)


Update = Callable[[Held, int], Held]


def _repeat(update: Update, held: Held, tokens: int, times: int, bound: int) -> Held:
    """``times`` updates of ``tokens`` each.

    What a growing cache does next recurs with its offset modulo the step; a bounded one comes to rest, and only its
    offset goes on.
    """
    seen: dict[tuple[int, ...], tuple[int, Held]] = {}
    for done in range(times):
        key = (held.slots, held.cursor) if bound else (held.offset % STEP, held.slots - held.offset)
        if held.slots and key in seen:
            start, before = seen[key]
            jumps, rest = divmod(times - done, done - start)
            held = Held(*(now + jumps * (now - then) for now, then in zip(held, before, strict=True)))
            for _ in range(rest):
                held = update(held, tokens)
            return held
        seen[key] = (done, held)
        held = update(held, tokens)
    return held


def _prefilled(path: str, held: Held, tokens: int, times: int, bound: int, keep: int) -> Held:
    """A bounded cache after so many passes, without stepping through a bound that a file may state at will."""
    update = _update(path, bound, keep)
    held, done = _uncut(path, held, tokens, times, bound)
    if path == "kv/chunk" or tokens > 1:
        return _repeat(update, held, tokens, times - done, bound)
    while done < times and (held.slots != bound or held.cursor < keep):
        held, done = update(held, 1), done + 1
    round_, left = bound - keep, times - done  # one slot after another, from the first that is not kept
    if round_ < 1 or not left:
        return _repeat(update, held, 1, left, bound)
    return Held(held.offset + left, held.slots, keep + (held.cursor - keep + left - 1) % round_ + 1)


def _uncut(path: str, held: Held, tokens: int, times: int, bound: int) -> tuple[Held, int]:
    """As many of ``times`` updates of a bounded cache as leave it whole, and how many those are.

    Until its bound is reached it grows: a file may state a window that millions of passes do not fill.
    """
    done = min(times, max((bound - held.cursor) // tokens - 1, 0))
    if not done or held.offset != held.cursor or (path != "kv/chunk" and tokens > 1 and held.slots != held.offset):
        return held, 0
    end = held.offset + done * tokens
    if path == "kv/chunk":
        grown = _repeat(grow, held, tokens, done, 0)
        return Held(end, grown.slots, end), done
    return Held(end, end if tokens > 1 else min(max(_fill(held.slots, end), held.slots), bound), end), done


def _decode(path: str, held: Held, tokens: int, bound: int, keep: int) -> Held:
    """New tokens one by one: what the last of them leaves. Of ``cursor`` nothing is said, since nothing follows."""
    if not tokens:
        return held
    end = held.offset + tokens
    if path == "kv/chunk":
        before = min(tokens, max(bound + 1 - held.cursor, 0))  # until the front is cut at every pass
        if tokens > before:
            return Held(end, grow(Held(bound, bound), 1).slots, bound + 1)
        return Held(end, _fill(held.slots, held.cursor + tokens), held.cursor + tokens)
    if not bound:
        return Held(end, _fill(held.slots, end), end)
    held = rotate(held, 1, bound, keep)
    return held._replace(offset=end, slots=min(max(_fill(held.slots, end), held.slots), max(bound, held.slots)))


def _fill(slots: int, tokens: int) -> int:
    """Slots once ``tokens`` are held, growing by a step whenever all are taken."""
    return slots + -(-max(tokens - slots, 0) // STEP) * STEP


def history(
    path: str, prompt: int, new: int, chunk: int, bound: int = 0, keep: int = 0, start: int = 0
) -> tuple[list[tuple[int, Held]], Held]:
    """The cache at the moments of a prompt that may be its fullest, each with the tokens held before it; and now.

    They are the pass that reaches ``start`` tokens, where quantising begins, the last full chunk, the last chunk, and the
    last token of the prompt.
    """
    update, held, moments = _update(path, bound, keep), Held(), []
    full, rest = divmod(prompt - 1, chunk)
    first = min(max(-(-start // chunk), 1), full)
    for passes in (first, full - first):
        if passes:
            held = (
                _prefilled(path, held, chunk, passes, bound, keep) if bound else _repeat(update, held, chunk, passes, 0)
            )
        moments.append((max(held.offset - chunk, 0), held))
    for tokens in (rest, 1):
        before = held.offset
        if tokens:
            held = update(held, tokens)
        moments.append((before, held))
    return moments, _decode(path, held, new, bound, keep)


def quantized_bytes(dim: int, bits: int, group: int, scale_bytes: int) -> int:
    """Bytes of one head's key or value: packed words, and a scale and a bias per group in the type of the keys."""
    return dim * bits // 32 * 4 + 2 * (dim // group) * scale_bytes


Kind = tuple[str, int, int, tuple[int, ...]]  # path, bound, first tokens kept, heads and widths of keys and values


class Cache(NamedTuple):
    """Equal layers: how many, what kind of cache, slots at the moments that matter, and bytes per slot."""

    path: str
    layers: int
    formula: str
    peak: tuple[tuple[int, Held], ...]  # with the tokens held before
    now: Held
    bits: int  # of one slot
    quantized: int  # bytes of one slot once it is quantised; 0: it never is


def _caches(case: Case) -> list[Cache]:
    format_ = plain(case, "mlx", "kv_bits quantises its cache")
    new, chunk = case.option("max_tokens", 0), case.option("prefill_step_size", PREFILL)
    bits, group = int(case.option("kv_bits", 0)), int(case.option("kv_group_size", 64))
    start = case.option("quantized_kv_start", QUANTIZED_START)
    held = case.context + new
    found = []
    for (path, bound, keep, widths), layers in _grouped(case).items():
        peak, now = history(path, case.context, new, chunk, bound, keep, start)
        slot = sum(entry_bits(heads, width, format_) for heads, width in _pairs(widths))
        quantized = 0
        if bits and path != "kv/chunk":
            if path == "kv/local" or bound:
                if held >= start:
                    raise InvalidInput(
                        "engine_options kv_bits",
                        bits,
                        "nothing with rotating caches: RotatingKVCache cannot be quantised",
                    )
            elif path in ("kv/latent", "kv/index"):
                if held >= start and path == "kv/latent":
                    raise InvalidInput("engine_options kv_bits", bits, "nothing with latents: MLA reads plain arrays")
            elif held >= start:
                quantized = sum(
                    heads * quantized_bytes(_divides(width, bits, group), bits, group, format_.element_bits // 8)
                    for heads, width in _pairs(widths)
                )
        found.append(Cache(path, layers, _formula(path, bound), tuple(peak), now, slot, quantized))
    return found


def _grouped(case: Case) -> dict[Kind, int]:
    """How many caches of each kind this stage has; remembered on the spec, since a capacity asks it hundreds of times."""
    memo: dict[object, dict[Kind, int]] = case.spec.__dict__.setdefault("_mlx", {})
    known = (case.layers.start, case.layers.stop, case.tp, case.option("max_kv_size", 0))
    if known not in memo:
        if len(memo) > 64:
            memo.clear()
        counts: Counter[Kind] = Counter()
        for shape in shapes(case, "mlx"):
            if shape.reads is None:  # the class builds no cache for a layer that reads another's
                counts.update(_kinds(case, shape))
        memo[known] = counts
    return memo[known]


def _divides(width: int, bits: int, group: int) -> int:
    if width % group:
        raise InvalidInput("engine_options kv_group_size", group, f"a divisor of the head dim {width}")
    return width


def _pairs(widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return zip(widths[::2], widths[1::2], strict=True)


def _kinds(case: Case, shape: Shape) -> Iterator[Kind]:
    """Path, bound, kept first tokens, and (heads, width) of keys and values, for each cache that the layer has."""
    heads = floor_heads(shape.heads, case.tp)
    spec = case.spec
    unlimited = not case.option("max_kv_size", 0)
    rotates = spec.model_type in ROTATES or spec.model_type == "numbers"
    if shape.kind == "latent":
        if spec.model_type in EXPANDS:
            n, key, value = shape.wide
            n = floor_heads(n, case.tp)
            yield "kv/global", 0, 0, (n, key, n, value)
        else:
            yield "kv/latent", 0, 0, (1, shape.key, 1, shape.value)
        if shape.index_dim:
            # the class hands its one key over as key and as value, and the cache keeps both
            yield "kv/index", 0, 0, (1, shape.index_dim, 1, shape.index_dim)
        return
    if shape.kind == "cross":
        raise InvalidInput("engine", "mlx", "a model without cross-attention: mlx-lm 0.32.2 has no class with it")
    widths = (heads, shape.key, heads, shape.value)
    if shape.kind == "local" and rotates:
        yield "kv/local", shape.reach, 0, widths
    elif shape.kind == "chunk":
        yield "kv/chunk", shape.reach, 0, widths
    elif unlimited or _own_cache(case):
        yield "kv/global", 0, 0, widths
    else:
        yield "kv/global", case.option("max_kv_size", 0), KEEP, widths


def _own_cache(case: Case) -> bool:
    """Whether the class builds its own caches, so that max_kv_size is not asked."""
    return case.spec.model_type in OWN or bool(states(case._replace(layers=range(len(case.spec.layers)))))


def _update(path: str, bound: int, keep: int) -> Update:
    if path == "kv/chunk":
        return lambda held, tokens: chunked(held, tokens, bound)
    if bound:
        return lambda held, tokens: rotate(held, tokens, bound, keep)
    return grow


def _formula(path: str, bound: int) -> str:
    if path == "kv/chunk":
        return f"slots of ChunkedKVCache({bound}): cut to a chunk before each pass, grown by steps of {STEP}"
    if bound:
        return f"slots of RotatingKVCache({bound}): prompts append to at most {bound - 1}, new tokens overwrite"
    return f"slots of KVCache: steps of {STEP}, cut to the offset where growth starts inside one"


def _slot_bytes(cache: Cache, slots: int) -> int:
    return slots * cache.quantized if cache.quantized else -(-slots * cache.bits // 8)


def caches(case: Case) -> tuple[Line, ...]:
    """Bytes of the cache objects after the prompt of ``context`` tokens and ``max_tokens`` new ones, for every sequence."""
    lines: dict[str, Line] = {}
    for cache in _caches(case):
        size = case.batch * cache.layers * _slot_bytes(cache, cache.now.slots)
        formula = f"{cache.formula}; {cache.now.slots} slots" + (", quantised" if cache.quantized else "")
        before = lines.get(cache.path)
        if before is not None:
            size, layers = size + before.size, cache.layers + before.layers
            lines[cache.path] = before._replace(size=size, layers=layers, formula=f"{before.formula}; {formula}")
        else:
            lines[cache.path] = Line(cache.path, size, cache.layers, formula, SOURCE)
    state = _state(case)
    return (*lines.values(), *((state,) if state is not None else ()))


def _state(case: Case) -> Line | None:
    if not states(case):
        return None
    columns, rest = state_bytes(case, case.formats.compute, None)
    layers = len({layer for layer, _ in states(case)})
    formula = "ArraysCache: kernel - 1 columns in the model's type, states in the type that the class gives them"
    return Line("kv/state", case.batch * (columns + rest), layers, formula, SOURCE, state=True)


def _peak(case: Case) -> int:
    """Bytes at the fullest moment of the prompt. A cache that is being quantised exists twice in the pass that does it."""
    start = case.option("quantized_kv_start", QUANTIZED_START)
    sums = [0] * 4
    for cache in _caches(case):
        for i, (before, held) in enumerate(cache.peak):
            plain_size, packed = -(-held.slots * cache.bits // 8), held.slots * cache.quantized
            if not packed or held.offset < start:
                packed = 0
            elif start and before >= start:
                plain_size = 0
            sums[i] += case.batch * cache.layers * (plain_size + packed)
    state = _state(case)
    return max(sums) + (state.size if state is not None else 0)


def _stated(cases: Cases) -> Stated:
    fullest = max(cases, key=lambda case: sum(line.size for line in caches(case)))
    slots: dict[str, int] = {}
    for cache in _caches(fullest):
        kind = cache.path.removeprefix("kv/")
        slots[f"{kind}_slots"] = cache.now.slots
        slots[f"{kind}_prefill_slots"] = max(held.slots for _, held in cache.peak)
    return Stated(
        (
            ("prompt_tokens", fullest.context),
            ("generation_tokens", fullest.option("max_tokens", 0)),
            ("nbytes", sum(line.size for line in caches(fullest))),
            ("prefill_peak_bytes", _peak(fullest)),
            *slots.items(),
        )
    )


def room(case: Case, budget: Budget) -> Room:
    """Unified memory less weights and context: MLX sets no pool apart, and its wired limit changes no size."""
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None)
    usable = round(budget.memory_bytes * budget.utilization)
    text = "Metal context and kernels, an estimate (half to twice of it)"
    kept = Line("engine/runtime", budget.runtime_bytes, 0, text, "kvplan/settings.py", basis="estimated")
    return Room(usable - budget.weights - budget.runtime_bytes, (kept,))


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """The caches themselves: nothing is set apart beforehand."""
    return Pool(max(sum(line.size for line in caches(case)) for case in cases), None)


def _admits(cases: Cases, rooms: Rooms) -> bool:
    """The prompt must fit at its fullest moment too, when sliding layers hold a chunk beside their window."""
    needs = (max(sum(line.size for line in caches(case)), _peak(case)) for case in cases)
    return all(need <= size for need, size in zip(needs, rooms, strict=True))


ENGINE = Engine(
    name="mlx",
    version="0.32.2",
    summary="caches grown by steps of 256 slots as a prompt is fed in chunks of 2048; rotating caches on sliding layers",
    utilization=1.0,
    source=SOURCE,
    options=(
        Option("max_tokens", "count", "new tokens generated after the prompt (default 0: right after it)", least=0),
        Option("prefill_step_size", "count", "prompt tokens per pass (2048)"),
        Option("max_kv_size", "count", "slots of a rotating cache for models that build none of their own", least=8),
        Option("kv_bits", "word", "bits of quantised keys and values", words=("2", "3", "4", "5", "6", "8")),
        Option("kv_group_size", "word", "elements that share a scale and a bias (64)", words=("32", "64", "128")),
        Option("quantized_kv_start", "count", "tokens from which kv_bits holds (5000)", least=0),
    ),
    ignores=(
        "Windows of model classes that build no rotating cache (Gemma 2, Mistral, Phi-3 ...): every token stays.",
        "max_kv_size where the class builds its own caches (Llama, Gemma 3, gpt-oss, hybrids).",
        "kv_bits until quantized_kv_start tokens are held, and for recurrent, chunked and indexer caches always.",
        "What schemes drop, pool or factor: every head's key and value is kept.",
    ),
    policy=Policy(caches=caches, room=room, pool=pool, admits=_admits, states=_stated),
    versions=("0.32.2",),
    runs_on=("Apple", "NVIDIA"),  # Metal, and the CUDA backend of mlx[cuda]
)


def at(version: str) -> Engine:
    """The rules of a version. Raises InvalidInput for one that is not held here."""
    if not ENGINE.version.startswith(version):
        raise InvalidInput("engine_version", version, f"{ENGINE.version} (the version whose rules kvplan holds)")
    return ENGINE
