"""Which GPUs hold a demand: one row per GPU, storage format and engine, with the fewest GPUs that do, and why others do not.

Every row is an ordinary plan that fits. What is skipped is skipped by a bound that no plan can break: weights that alone
exceed a GPU's memory, and more GPUs than an answer that was found already. A demand in requests per second becomes a
number of sequences by Little's law, with the time bounds of the very GPUs that are asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from kvplan.catalog import Gpu, find_gpu, gpu_names
from kvplan.checkpoint import weights_known
from kvplan.engines import find_engine
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.formats import find_format
from kvplan.planner import answer, batches, bounds
from kvplan.report import Report
from kvplan.roofline import Bound, peak_flops
from kvplan.settings import Settings
from kvplan.solver import largest
from kvplan.specs import ModelSpec
from kvplan.stages import pipeline
from kvplan.text import Ours, markdown, shell, to_csv, to_json
from kvplan.units import LARGEST_COUNT, format_bytes, format_count, format_parameters, format_seconds, parse_count
from kvplan.version import __version__

__all__ = ["ORDERS", "Demand", "Failure", "Fit", "Question", "Row", "fitted", "read_demand"]

# Ranks that share one box with a fast link; more are asked for with --tp.
TENSOR_PARALLEL = (1, 2, 4, 8)
MAX_GPUS = 64
# Of one replica: more than anybody runs. And of a question: a row for each GPU, engine and format.
MAX_STAGES = 64
MOST_ROWS = 4096
# What is asked of a model alone leaves out what is meant for an engine.
NO_ENGINE: dict[str, Any] = {"engine_version": None, "block_size": None}
SHOWN = 15
PUBLISHED = "as published"
# More sequences at once than any engine schedules, and more replicas than anybody runs.
UNBOUNDED = 2**16
# What is tried where nobody names formats: as published, then an 8-bit cache, then 8-bit matrices too.
DEFAULT_FORMATS = ((None, None), ("fp8", None), ("fp8", "fp8"))


class Demand(NamedTuple):
    """What is to be served. ``context`` is tokens of a sequence at its longest, ``batch`` sequences at once.

    Where ``request_rate`` (requests per second) is given, ``batch`` is 0: it follows from the rate on each GPU.
    """

    context: int
    batch: int
    input_len: int
    output_len: int
    request_rate: float

    @property
    def words(self) -> str:
        """The demand on one line."""
        if self.request_rate:
            lengths = f"{format_count(self.input_len)} + {format_count(self.output_len)} tokens"
            return f"{self.request_rate:g} requests/s of {lengths}"
        return f"{format_count(self.batch)} × {format_count(self.context)} tokens"


class Row(NamedTuple):
    """A deployment that holds the demand. Bytes are of the fullest GPU, times are lower bounds, dollars are list prices.

    ``gpus`` is tp × pp × dp. ``sequences`` are held at once: asked for, or by Little's law. ``latency_s`` and
    ``first_token_s`` are given for a demand in requests per second.
    """

    gpu: str
    label: str
    engine: str
    kv_dtype: str
    weight_dtype: str  # "as published" unless a format was asked for
    gpus: int
    tp: int
    pp: int
    dp: int
    sequences: int
    memory_bytes: int
    usable_bytes: int
    weights_bytes: int
    kv_bytes: int
    overhead_bytes: int
    free_bytes: int
    headroom: float  # free share of what the engine may use
    prefill_s: float | None
    decode_step_s: float | None
    tokens_per_s: float | None
    usd_per_hour: float | None
    latency_s: float | None
    first_token_s: float | None
    flags: dict[str, Any]  # keywords of kvplan.plan that give this deployment

    @property
    def command(self) -> str:
        """The flags of ``kvplan plan`` that give the same numbers."""
        words: list[str] = []
        for name, value in self.flags.items():
            if name == "engine_options":
                for option, given in value.items():
                    words += ["--engine-option", f"{option}={given}"]
            else:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shell(words)


class Failure(NamedTuple):
    """A GPU that does not hold the demand, and what stops it at the most that was tried. Bytes are of the fullest GPU.

    ``binding`` is the term that binds: weights, kv/..., activations/peak, engine/..., ``rate`` where the GPUs are too
    slow for the requests, ``refused`` where the engine or the format cannot be asked of this GPU.
    """

    gpu: str
    engine: str
    kv_dtype: str
    weight_dtype: str
    tp: int
    pp: int
    dp: int
    binding: str
    binding_bytes: int | None
    needed_bytes: int | None
    usable_bytes: int | None
    gpus_needed: int | None  # where more GPUs than allowed would do
    why: str

    @property
    def missing(self) -> float:
        """How far off it is: needed over allowed, 1 and up; infinite where it cannot be asked."""
        if self.needed_bytes and self.usable_bytes:
            return max(self.needed_bytes / self.usable_bytes, 1.0)
        return math.inf


ORDERS: dict[str, tuple[str, Callable[[Row], tuple[Any, ...]]]] = {
    "gpus": ("fewest GPUs", lambda r: (r.gpus, r.gpus * r.memory_bytes)),
    "headroom": ("most memory free", lambda r: (-r.headroom, r.gpus)),
    "price": ("lowest price", lambda r: (r.usd_per_hour is None, r.usd_per_hour or 0.0, r.gpus)),
    "tokens_per_s": ("highest bound of tokens/s", lambda r: (-(r.tokens_per_s or 0.0), r.gpus)),
}


# Columns by the order that they show, and those that a narrow terminal leaves out, the first one first.
COLUMNS = {"gpus": "GPUs", "headroom": "free", "price": "$/h", "tokens_per_s": "tok/s ≤"}
NARROW = ("tok/s ≤", "free", "latency ≥", "$/h")


class Way(NamedTuple):
    """One engine and one pair of formats; None is as published."""

    engine: str
    kv_dtype: str | None
    weight_dtype: str | None
    shown: str  # resolved format of the cache

    @property
    def flags(self) -> dict[str, Any]:
        """Keywords of a plan."""
        given = {"engine": self.engine, "kv_dtype": self.kv_dtype, "weight_dtype": self.weight_dtype}
        return {name: value for name, value in given.items() if value not in (None, "ideal")}

    @property
    def matrices(self) -> str:
        """How weights are stored, in words."""
        return self.weight_dtype or PUBLISHED


class Fit(NamedTuple):
    """The answer: deployments in order, what does not hold the demand, and what to know beside."""

    demand: Demand
    order: str
    max_gpus: int
    model: dict[str, Any]
    asked: dict[str, Any]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what was asked, every deployment in order, every failure with its binding term."""
        return {
            "schema": 1,
            "kvplan_version": __version__,
            "inputs": {**self.asked, **self.demand._asdict(), "by": self.order, "max_gpus": self.max_gpus},
            "model": self.model,
            "rows": [row._asdict() for row in self.rows],
            "failures": [failure._asdict() for failure in self.failures],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return to_json(self.to_dict())

    def to_csv(self) -> str:
        """One line per deployment under a header; exact numbers, nothing where there is no answer."""
        names = [name for name in Row._fields if name != "flags"]
        return to_csv(
            [(*names, "command"), *((*(getattr(row, n) for n in names), Ours(row.command)) for row in self.rows)]
        )

    def to_markdown(self, top: int = SHOWN) -> str:
        """The best deployments as a Markdown table, why other GPUs do not do, and the notes."""
        lines = [f"# {markdown(self.headline())}", "", f"**{markdown(self.verdict())}**", ""]
        for cells in (self._cells(top), self._failing(_some(top))):
            if len(cells) > 1:
                lines += [f"| {' | '.join(cells[0])} |", f"|---|{'---:|' * (len(cells[0]) - 1)}"]
                lines += [f"| {' | '.join(map(markdown, row))} |" for row in cells[1:]]
                lines.append("")
        return "\n".join([*lines, *(f"- {markdown(note)}" for note in self._remarks(top))]) + "\n"

    def to_text(self, width: int = 80, color: bool = False, top: int = SHOWN) -> str:
        """The best ``top`` deployments and the nearest failures as tables for a terminal of ``width`` columns."""
        from kvplan.render import bullets, heading, spanned, table

        parts = [heading(self.headline(), width, color) + heading(self.verdict(), width, color)]
        if self.rows:
            cells = self._cells(top)
            # on a narrow terminal, what was not asked for makes room
            for name in (name for name in NARROW if COLUMNS[self.order] != name):
                columns = list(zip(*cells, strict=True))
                if spanned([max(map(len, column)) for column in columns]) > width:
                    cells = [list(row) for row in zip(*(c for c in columns if c[0] != name), strict=True)]
            header, *rows = [tuple(row) for row in cells]
            parts.append(table("", header, rows, width, color, right=True))
            model = self.asked.get("model")
            words = shell(["kvplan", "plan", *([model] if model else [])])
            parts.append(heading(f"{words} {self.rows[0].command}", width, color))
        header, *rows = [tuple(row) for row in self._failing(_some(top))]
        if rows:
            parts.append(table("GPUs that do not do, the nearest first", header, rows, width, color))
        parts.append(bullets(self._remarks(top), width, color))
        return "\n".join(parts)

    def headline(self) -> str:
        """Model and demand on one line."""
        size = format_parameters(self.model["parameters"])
        return f"{self.model['name']} · {size} parameters · {self.demand.words}"

    def verdict(self) -> str:
        """How many GPUs do, and the first of the order."""
        kinds = {row.gpu for row in self.rows} | {failure.gpu for failure in self.failures}
        if not self.rows:
            return f"none of {len(kinds)} kinds of GPU do, up to {self.max_gpus} of a kind"
        best = self.rows[0]
        done = len({row.gpu for row in self.rows})
        count = f"{best.gpus} × {best.label}" if best.gpus > 1 else best.label
        way = f"{best.kv_dtype} cache, weights {best.weight_dtype}, {best.engine}"
        return f"{done} of {len(kinds)} kinds of GPU do; {ORDERS[self.order][0]}: {count} ({way})"

    def lacking(self) -> list[Failure]:
        """Per GPU that no row uses, its nearest failure; the nearest GPU first."""
        done = {row.gpu for row in self.rows}
        nearest: dict[str, Failure] = {}
        for failure in self.failures:
            if failure.gpu not in done:
                known = nearest.get(failure.gpu)
                if known is None or (failure.gpus_needed or math.inf, failure.missing) < (
                    known.gpus_needed or math.inf,
                    known.missing,
                ):
                    nearest[failure.gpu] = failure
        return sorted(nearest.values(), key=lambda f: (f.gpus_needed or math.inf, f.missing, f.gpu))

    def _remarks(self, top: int) -> Iterator[str]:
        more = len(self.rows) - top
        if more > 0:
            yield f"{more} further rows: --top {len(self.rows)}, --json, --csv."
        less = len(self.lacking()) - _some(top)
        if less > 0:
            yield f"{less} further GPUs do not do: --top {3 * len(self.lacking())}, --json."
        yield from self.notes

    def _cells(self, top: int) -> list[list[str]]:
        """Header and rows as text; columns without an answer are left out."""
        timed = any(row.latency_s is not None for row in self.rows)
        header = ["GPU", "GPUs", "tp·pp·dp", "cache", "weights", "free", "tok/s ≤", "$/h"]
        header += ["held", "latency ≥"] if timed else []
        header += ["engine"] if len({row.engine for row in self.rows}) > 1 else []
        rows = []
        for row in self.rows[:top]:
            cells = [
                row.gpu,
                str(row.gpus),
                f"{row.tp}·{row.pp}·{row.dp}",
                row.kv_dtype,
                _short(row.weight_dtype),
                f"{row.headroom * 100:.0f}%",
                "n/a" if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}",
                "n/a" if row.usd_per_hour is None else f"{row.usd_per_hour:,.2f}",
            ]
            if timed:
                cells += [format_count(row.sequences), format_seconds(row.latency_s or 0.0)]
            rows.append(cells + ([row.engine.split()[0]] if "engine" in header else []))
        return [header, *rows]

    def _failing(self, top: int) -> list[list[str]]:
        rows = [[f.gpu, f.binding, f"{f.kv_dtype}, {_short(f.weight_dtype)}", f.why] for f in self.lacking()[:top]]
        return [["GPU", "binds", "cache, weights", "at the most that was tried"], *rows]


def _some(top: int) -> int:
    """How many failures are shown beside so many rows."""
    return -(-top // 3)


def _short(matrices: str) -> str:
    """A format of weights for a column: as published is short."""
    return matrices.removeprefix("as ")


def read_demand(
    published: int | None,
    context: int | str | None = None,
    batch: int | str | None = None,
    input_len: int | str | None = None,
    output_len: int | str | None = None,
    request_rate: float | str | None = None,
) -> Demand:
    """The demand in checked numbers; ``published`` is the model's own longest context, None where it names none.

    Sequences at once (``batch``) of ``context`` tokens, or of ``input_len`` + ``output_len``; or requests per second of
    that length. Raises InvalidInput for a demand that contradicts itself or lacks a part.
    """
    lengths = (input_len, output_len)
    if (input_len is None) != (output_len is None):
        name = "output_len" if output_len is None else "input_len"
        raise InvalidInput(name, None, "both --input-len and --output-len, or neither")
    inputs = outputs = 0
    if input_len is not None and output_len is not None:
        inputs, outputs = parse_count(input_len, "input_len"), parse_count(output_len, "output_len")
        if inputs + outputs > LARGEST_COUNT:
            raise InvalidInput("input_len + output_len", inputs + outputs, "at most 2**48 tokens together")
        if context is not None and parse_count(context, "context") != inputs + outputs:
            raise InvalidInput("context", context, f"--input-len + --output-len ({inputs + outputs}), or left out")
        context = inputs + outputs
    if context is None:
        context = min(8192, published or 8192)
    tokens = parse_count(context, "context")
    if request_rate is None:
        return Demand(tokens, parse_count(1 if batch is None else batch, "batch"), inputs, outputs, 0.0)
    if None in lengths:
        raise InvalidInput("request_rate", request_rate, "only with --input-len and --output-len")
    if batch is not None:
        raise InvalidInput("batch", batch, "left out with --request-rate: Little's law gives it")
    try:
        rate = float(request_rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if isinstance(request_rate, bool) or not 0 < rate < 1e12:
        raise InvalidInput("request_rate", request_rate, "requests per second above 0 and below 10**12, e.g. 2.5")
    return Demand(tokens, 0, inputs, outputs, rate)


class Question(NamedTuple):
    """How a plan of the model is asked: the spec, its settings from keywords, and the ordinary plan from the same."""

    spec: ModelSpec
    settings: Callable[..., Settings]
    plan: Callable[..., Report]

    def answer(self, **flags: Any) -> Report:
        """A plan without its inversions: whether it fits, what it takes, and what binds if not."""
        return Report(answer(self.spec, self.settings(**flags), limits=False), self.plan)


class Search(NamedTuple):
    """One question: how to ask a plan, for what, and within which bounds."""

    question: Question
    demand: Demand
    tensor_parallel: tuple[int, ...]  # that the model's heads allow
    max_gpus: int
    always: dict[str, Any]  # keywords that every plan of this question has
    weights: dict[tuple[Way, int, int], int]  # on the fullest GPU: bytes
    paces: dict[tuple[str, Way, int, int], Pace]
    replicas: dict[tuple[Any, ...], Replica]  # by what of a GPU says what it holds, way, tp and pp


class Replica:
    """How many sequences one replica holds, asked as seldom as may be: what holds n holds fewer."""

    def __init__(self, fits: Callable[[int], bool], near: Callable[[], int]) -> None:
        self.fits = fits
        self.near = near  # a number near the most, where to look first
        self.held = 0  # the most that is known to be held
        self.too_many: float = math.inf  # the fewest that are known not to be

    def holds(self, sequences: int) -> bool:
        """Whether it holds so many at once."""
        if sequences <= self.held:
            return True
        if sequences >= self.too_many:
            return False
        if self.fits(sequences):
            self.held = sequences
            return True
        self.too_many = sequences
        return False

    def most(self) -> int | None:
        """The most that it holds; None where nothing binds."""
        if self.held + 1 != self.too_many:
            return largest(self.holds, self.near())
        return self.held


class Attempt(NamedTuple):
    """Replicas of tp × pp GPUs, and how many the demand needs."""

    tp: int
    pp: int
    dp: int | None  # None: more than would be fewest, or no number does

    @property
    def gpus(self) -> float:
        """GPUs of all replicas."""
        return self.tp * self.pp * self.dp if self.dp else math.inf


def fitted(
    question: Question,
    demand: Demand,
    *,
    gpus: Sequence[str] = (),
    engines: Sequence[str] = ("ideal",),
    formats: Sequence[tuple[str | None, str | None]] = DEFAULT_FORMATS,
    tensor_parallel: Sequence[int] = TENSOR_PARALLEL,
    max_gpus: int = MAX_GPUS,
    order: str = "gpus",
    always: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
) -> Fit:
    """The fit of a demand; ``formats`` are pairs of kv_dtype and weight_dtype.

    ``always`` is what ``question`` adds to the flags, so that rows can name all of them; ``asked`` is echoed.

    Raises UnknownName or InvalidInput for names and numbers that no GPU could answer, and what an engine says where it
    refuses the question on every GPU.
    """
    if not isinstance(order, str):
        raise InvalidInput("by", order, ", ".join(ORDERS))
    if order not in ORDERS:
        raise UnknownName("order", order, ORDERS)
    for field, names in zip(("kv_dtype", "weight_dtype"), zip(*formats, strict=True), strict=True):
        for name in names:
            if name not in (None, "auto") and not any(name in dict(find_engine(e).cache_names) for e in engines):
                find_format(name, field)
    devices, left_out = _devices(gpus)
    plain = question.answer(context=demand.context, **NO_ENGINE)
    if formats is DEFAULT_FORMATS and plain.answer.settings.quantization is not None:
        formats = [pair for pair in formats if pair[1] is None]  # few bits as published
    legal, illegal = _legal(question, sorted(set(tensor_parallel)))
    if not legal:
        assert illegal is not None
        raise illegal
    search = Search(question, demand, legal, max_gpus, always or {}, {}, {}, {})
    rows: list[Row] = []
    failures: list[Failure] = []
    refusals: list[KvplanError] = []
    asked_for = len(devices) * len(dict.fromkeys(engines)) * len(dict.fromkeys(formats))
    if asked_for > MOST_ROWS:
        rule = f"at most {MOST_ROWS:,} in one question: name fewer of them"
        raise InvalidInput("gpu × engine × format", f"{asked_for:,}", rule)
    for way in _ways(question, engines, formats, refusals):
        for gpu in devices:
            try:
                found = _one(search, gpu, way)
            except KvplanError as e:
                refusals.append(e)
                found = Failure(
                    gpu.name, way.engine, way.shown, way.matrices, 1, 1, 1, "refused", None, None, None, None, str(e)
                )
            if isinstance(found, Row):
                rows.append(found)
            else:
                failures.append(found)
    if not rows and all(failure.binding == "refused" for failure in failures):
        if refusals:
            raise refusals[0]
        raise InvalidInput("gpu", ", ".join(gpus), "at least one that can be read")
    # stable: equal rows keep the order in which engines and formats were named, GPUs by name
    rows.sort(key=ORDERS[order][1])
    return Fit(
        demand,
        order,
        max_gpus,
        plain.to_dict()["model"],
        {**(asked or {}), "tp": list(legal)},
        tuple(rows),
        tuple(failures),
        tuple(_notes(search, rows, failures, devices, left_out, plain.notes)),
    )


def _devices(names: Sequence[str]) -> tuple[list[Gpu], list[str]]:
    """The GPUs by name, once each; with none named all presets, and what was left out of those and why."""
    if names:
        found = {gpu.name: gpu for gpu in map(find_gpu, names)}
        return list(found.values()), []
    devices, left_out = [], []
    for name in gpu_names():
        try:
            devices.append(find_gpu(name))
        except KvplanError as e:  # a file of the user's own
            left_out.append(f"left out: {e}")
    return devices, left_out


def _legal(question: Question, wanted: Sequence[int]) -> tuple[tuple[int, ...], KvplanError | None]:
    """Of the tensor-parallel sizes, those that the model's heads divide by."""
    legal, refused = [], None
    for tp in wanted:
        try:
            question.settings(tp=tp, **NO_ENGINE)
        except InvalidInput as e:
            if e.field != "tp":
                raise
            refused = e
        else:
            legal.append(tp)
    return tuple(legal), refused


def _ways(
    question: Question,
    engines: Sequence[str],
    formats: Sequence[tuple[str | None, str | None]],
    refusals: list[KvplanError],
) -> Iterator[Way]:
    """Engine and formats, each pair once: naming the format that a checkpoint has anyhow is no second way."""
    seen = set()
    for engine in dict.fromkeys(engines):
        for kv, weight in formats:
            way = Way(engine, None if kv == "auto" else kv, None if weight == "auto" else weight, "")
            try:
                a = question.answer(**way.flags, context=16).answer
            except UnknownName:
                raise
            except KvplanError as e:  # this engine does not know the format; others may
                refusals.append(e)
                continue
            s = a.settings
            key = (engine, s.formats, a.weights.total if a.weights else None, dict(s.inputs)["kv_dtype"])
            if key not in seen:
                seen.add(key)
                yield way._replace(shown=dict(s.inputs)["kv_dtype"])


def _one(search: Search, gpu: Gpu, way: Way) -> Row | Failure:
    """The deployment of one GPU, format and engine with the fewest GPUs; of equal ones the one with the smallest replicas."""
    attempts = list(_attempts(search, gpu, way))
    best = sorted((a for a in attempts if a.gpus <= search.max_gpus), key=lambda a: (a.gpus, a.tp * a.pp))
    for attempt in best:
        # verified by a plan of the whole deployment: an engine's rules may be stricter than one replica lets see
        for dp in range(attempt.dp or 1, search.max_gpus // (attempt.tp * attempt.pp) + 1):
            row = _row(search, gpu, way, attempt.tp, attempt.pp, dp)
            if row is not None:
                return row
    return _failure(search, gpu, way, attempts)


def _attempts(search: Search, gpu: Gpu, way: Way) -> Iterator[Attempt]:
    """Replicas worth a plan: every tp that could still be the fewest GPUs; stages only where no tp is enough."""
    best: float = search.max_gpus + 1
    tried: list[int] = []
    refused: InvalidInput | None = None
    single = gpu.kind == "soc" and not gpu.link  # a system on a chip that no link joins to others
    for tp in search.tensor_parallel:
        if tp >= best or (tp > 1 and single):
            break
        try:
            attempt = Attempt(tp, 1, _replicas(search, gpu, way, tp, 1, (int(best) - 1) // tp))
        except InvalidInput as e:
            if e.field != "tp":
                raise
            refused = e  # by the engine: the model's heads allow it
            continue
        best, tried = min(best, attempt.gpus), [*tried, tp]
        yield attempt
    if not tried:
        tp = search.tensor_parallel[0]
        if refused is None and single and tp <= search.max_gpus:
            raise InvalidInput("tp", tp, "1 on a system on a chip that no link joins to others")
        raise refused or InvalidInput("tp", tp, f"at most max_gpus ({search.max_gpus})")
    if best <= search.max_gpus or single:
        return
    tp = tried[-1]
    for pp in range(2, min(len(search.question.spec.layers), search.max_gpus // tp, MAX_STAGES) + 1):
        if tp * pp >= best:
            break
        try:
            attempt = Attempt(tp, pp, _replicas(search, gpu, way, tp, pp, (int(best) - 1) // (tp * pp)))
        except InvalidInput as e:
            if e.field != "pp":  # layers that share KV leave no further place to cut
                raise
            break
        best = min(best, attempt.gpus)
        yield attempt


def _replicas(search: Search, gpu: Gpu, way: Way, tp: int, pp: int, most: int) -> int | None:
    """The fewest replicas of tp × pp GPUs that hold the demand, of at most ``most``; None where those do not."""
    demand = search.demand
    replica = _replica(search, gpu, way, tp, pp)
    if replica is None or most < 1:
        return None
    if demand.request_rate:
        pace = _pace(search, gpu, way, tp, pp)
        # whether one holds what is needed at least costs less than what it holds at most
        least = pace.least(demand.request_rate / most)
        if least is None or not replica.holds(least):
            return None
        each = replica.most()
        needed = pace.replicas(demand.request_rate, each) if each != 0 else None
        return needed if needed is not None and needed <= most else None
    most = min(most, demand.batch)
    if not replica.holds(-(-demand.batch // most)):
        return None
    if demand.batch > UNBOUNDED:
        # what one replica holds says how many are needed, however many sequences are asked for
        each = replica.most()
        return -(-demand.batch // each) if each else 1
    guess = min(-(-demand.batch // replica.near()), most)
    short = largest(lambda dp: dp < most and not replica.holds(-(-demand.batch // dp)), guess)
    return None if short is None else short + 1


def _replica(search: Search, gpu: Gpu, way: Way, tp: int, pp: int) -> Replica | None:
    """What one replica of tp × pp GPUs holds; None where its weights alone exceed a GPU."""
    key = (way, tp, pp)
    context = search.demand.context
    if key not in search.weights:
        search.weights[key] = _weights(search, way, tp, pp)
    # an engine with rules of its own may put weights elsewhere, others cannot
    if search.weights[key] >= gpu.memory_bytes and find_engine(way.engine).policy is None:
        return None
    # GPUs that differ by name and speed alone hold the same
    place = (gpu.memory_bytes, gpu.architecture, gpu.kind, gpu.vendor, key)
    if place not in search.replicas:
        settings = search.question.settings(context=context, gpu=gpu.name, tp=tp, pp=pp, **way.flags)
        search.replicas[place] = Replica(*batches(search.question.spec, settings))
    return search.replicas[place]


def _weights(search: Search, way: Way, tp: int, pp: int) -> int:
    """Bytes of weights on the fullest GPU. Raises InvalidInput where they are unknown, or the engine refuses the ranks."""
    question, context = search.question, search.demand.context
    s = question.settings(context=context, tp=tp, pp=pp, **way.flags)
    if not weights_known(question.spec, s.formats.compute.name, s.quantization):
        rule = "a format: the bytes of this checkpoint's weights are unknown"
        raise InvalidInput("weight_dtype", way.weight_dtype, rule)
    if pp == 1:  # whatever an engine says against the question, it says without stages
        answer(question.spec, s, limits=False)
    return max(stage.weights for stage in pipeline(question.spec, s))


def _sequences(search: Search, gpu: Gpu, way: Way, tp: int, pp: int, dp: int) -> int | None:
    """Sequences that the fullest of ``dp`` replicas holds at once; None where no number lets the requests pass."""
    demand = search.demand
    if not demand.request_rate:
        return -(-demand.batch // dp)
    return _pace(search, gpu, way, tp, pp).concurrency(demand.request_rate / dp)


class Pace(NamedTuple):
    """How fast one replica can be at best: Little's law over the bounds of a prefill and of a decode step."""

    prefill: float  # seconds of one prompt
    compute: float  # seconds of arithmetic that one request costs, whatever runs beside it
    steps: int  # decode steps of a request: its first token comes out of the prefill
    step: Callable[[int], float]  # seconds of one step of so many sequences, the mean of the first and the last
    stages: int  # that work at once, of as many sequences
    known: dict[int, float]  # latencies by sequences

    def latency(self, sequences: int) -> float:
        """Seconds from a request to its last token, with so many at once."""
        if sequences not in self.known:
            self.known[sequences] = self.prefill + (self.steps * self.step(sequences) if self.steps else 0.0)
        return self.known[sequences]

    def replicas(self, rate: float, each: int | None) -> int | None:
        """The fewest replicas of ``each`` sequences at most, None for any number, that so many requests per second take.

        More at once let more pass, so that full replicas say it. None where no number is enough.
        """
        n = min(each or UNBOUNDED, UNBOUNDED)
        latency = self.latency(n)

        def slow(replicas: int) -> bool:
            share = rate / replicas
            return share * self.compute > 1 or n < share * latency

        short = largest(slow, math.ceil(rate * max(latency / n, self.compute)))
        return None if short is None else short + 1

    def least(self, rate: float) -> int | None:
        """A number of sequences below which so many requests per second do not pass, near the fewest; None where none let.

        From below: latency is least where every stage has a sequence, and grows from there on.
        """
        if rate * self.compute > 1 or rate * self.latency(UNBOUNDED) > UNBOUNDED:
            return None
        n = 1
        for _ in range(3):
            n = max(n, math.ceil(rate * self.latency(max(n, self.stages)) * (1 - 1e-9)))
        return min(n, UNBOUNDED)

    def concurrency(self, rate: float) -> int | None:
        """The fewest sequences at once that let so many requests per second pass: n >= rate x latency(n).

        None where arithmetic alone takes longer, or reading the caches does, however many there are: the time of a step
        per sequence only falls, as they share the weights, so that more at once let more pass up to a limit.
        """
        if rate * self.compute > 1:
            return None
        # a guess from two points, as if latency grew evenly between and behind them
        first, slope = self.latency(1), (self.latency(257) - self.latency(1)) / 256
        if rate * first <= 1:
            return 1
        even = 1 - rate * slope
        guess = int(rate * (first - slope) / even) if even > 0 else UNBOUNDED
        if rate * self.latency(UNBOUNDED) > UNBOUNDED:
            return None
        short = largest(lambda n: n < rate * self.latency(n), min(max(guess, 1), UNBOUNDED))
        return None if short is None else short + 1


def _pace(search: Search, gpu: Gpu, way: Way, tp: int, pp: int) -> Pace:
    """The pace of one replica, found once. Raises InvalidInput where the preset states no rate."""
    key = (gpu.name, way, tp, pp)
    if key not in search.paces:
        search.paces[key] = _paced(search, gpu, way, tp, pp)
    return search.paces[key]


def _paced(search: Search, gpu: Gpu, way: Way, tp: int, pp: int) -> Pace:
    demand, question = search.demand, search.question
    s = question.settings(context=demand.input_len, gpu=gpu.name, tp=tp, pp=pp, **way.flags)
    prompt = bounds(question.spec, s)[0]()
    if prompt is None:
        raise InvalidInput("request_rate", demand.request_rate, f"no time bounds: {gpu.name} states no usable rate")
    ends = (demand.input_len, demand.input_len + demand.output_len - 1)

    def decodes(sequences: int) -> list[Bound]:
        found = [bounds(question.spec, s._replace(context=tokens, batch=sequences))[1]() for tokens in ends]
        return [bound for bound in found if bound]

    steps = demand.output_len - 1
    compute = _arithmetic(s, gpu, prompt)
    compute += steps * sum(_arithmetic(s, gpu, bound) for bound in decodes(1)) / 2
    return Pace(prompt.seconds, compute, steps, lambda n: sum(b.seconds for b in decodes(n)) / 2, pp, {})


def _arithmetic(s: Settings, gpu: Gpu, bound: Bound) -> float:
    """Seconds of a pass if memory were infinitely fast."""
    total = 0.0
    for item in bound.work:
        rate = peak_flops(gpu, item.column)
        total += item.flops / (rate[0] * s.compute_efficiency) if rate else 0.0
    return total


def _row(search: Search, gpu: Gpu, way: Way, tp: int, pp: int, dp: int) -> Row | None:
    """The row of one deployment; None where its plan does not fit."""
    demand = search.demand
    where = {"gpu": gpu.name, **{k: n for k, n in (("tp", tp), ("pp", pp), ("dp", dp)) if n > 1}, **way.flags}
    pace = _pace(search, gpu, way, tp, pp) if demand.request_rate else None
    each = _sequences(search, gpu, way, tp, pp, dp)
    if each is None:
        return None
    batch = demand.batch or each * dp
    flags = {"context": demand.context, "batch": batch, **where}
    report = search.question.answer(**flags)
    flags |= {name: value for name, value in search.always.items() if name != "engine_options"}
    options = search.always.get("engine_options", {}).get(way.engine)
    if options:
        flags["engine_options"] = options
    c, t = report.capacity, report.answer.times
    if c is None or not c.fits:
        return None
    weights, cache, overhead = (size for _, size in report.memory())
    free = c.usable_bytes - weights - cache - overhead
    engine = report.engine
    return Row(
        gpu.name,
        gpu.label,
        f"{engine['name']} {engine['version'] or ''}".strip(),
        way.shown,
        way.matrices,
        tp * pp * dp,
        tp,
        pp,
        dp,
        batch,
        c.memory_bytes,
        c.usable_bytes,
        weights,
        cache,
        overhead,
        free,
        free / c.usable_bytes if c.usable_bytes else 0.0,
        t.prefill.seconds if t else None,
        t.decode.seconds if t else None,
        t.tokens_per_s if t else None,
        gpu.price_usd_per_hour * tp * pp * dp if gpu.price_usd_per_hour is not None else None,
        pace.latency(each) if pace else None,
        pace.prefill if pace else None,
        flags,
    )


def _failure(search: Search, gpu: Gpu, way: Way, attempts: Sequence[Attempt]) -> Failure:
    """Why nothing that was tried holds the demand: the plan of the most GPUs that are allowed, and what binds there."""
    demand = search.demand
    nearest = _nearest(search, gpu, way, attempts)
    tp, pp, replicas = nearest
    dp = max(search.max_gpus // (tp * pp), 1)
    if replicas is None or demand.batch:
        dp = min(dp, demand.batch or 1)
    each = _sequences(search, gpu, way, tp, pp, dp)
    batch = demand.batch or (each or 1) * dp
    where = {"gpu": gpu.name, "tp": tp, "pp": pp, "dp": dp, **way.flags}
    report = search.question.answer(context=demand.context, batch=batch, **where)
    c = report.capacity
    assert c is not None
    parts = dict(report.memory())
    used = sum(parts.values())
    ranks = f"tp {tp}" + (f" × pp {pp}" if pp > 1 else "")
    binding, size = c.binding, _size(c.binding, parts)
    usable = format_bytes(c.usable_bytes)
    if replicas is None:
        more = f"not even {UNBOUNDED:,} replicas of {ranks} would do"
    else:
        more = f"{ranks} × dp {replicas} = {tp * pp * replicas} GPUs would do, {search.max_gpus} are allowed"
    replica = _replica(search, gpu, way, tp, pp)
    if each is None and (replicas is not None or (replica is not None and replica.holds(1))):
        pace = _pace(search, gpu, way, tp, pp)
        # in a time that no number of sequences shortens: of all bounds, arithmetic or the reading of caches
        binding, size = "rate/compute", None
        if demand.request_rate / dp * pace.compute <= 1:
            binding = "rate/memory"
        why = f"{more}; with dp {dp} a replica is slower than {demand.request_rate / dp:.3g} requests/s"
    elif replicas is not None:
        why = f"{more}; with dp {dp}, {format_bytes(used)} of {usable} per GPU"
    elif used <= c.usable_bytes:
        why = f"{ranks}: does not start, though {format_bytes(used)} of {usable} would be used"
    elif size and size > c.usable_bytes:
        why = f"{ranks}: {format_bytes(size)} of {usable} per GPU"
    else:
        why = f"{ranks}: {format_bytes(used)} of {usable} per GPU, {format_bytes(size or 0)} of them {binding}"
    return Failure(
        gpu.name,
        way.engine,
        way.shown,
        way.matrices,
        tp,
        pp,
        dp,
        binding,
        size,
        used,
        c.usable_bytes,
        tp * pp * replicas if replicas else None,
        why,
    )


def _nearest(search: Search, gpu: Gpu, way: Way, attempts: Sequence[Attempt]) -> Attempt:
    """Of the attempts the one that would take the fewest GPUs, whatever is allowed; of equal ones the largest replicas.

    Without a number of replicas where no number does. One question says of most attempts that they lose, and few win
    on the way: first come the smallest, best where an engine schedules only so many sequences, then the largest, which
    share the weights best, and then those between, each halving what is left.
    """
    nearest: Attempt | None = None
    ordered = sorted(attempts, key=lambda a: a.tp * a.pp)
    halving = sorted(range(1, len(ordered)), key=lambda i: int(f"{len(ordered) - 1 - i:016b}"[::-1], 2))
    for attempt in (ordered[0], *(ordered[i] for i in halving)):
        ranks = attempt.tp * attempt.pp
        most = search.demand.batch or UNBOUNDED
        if nearest is not None and nearest.dp:
            allowed = int(nearest.gpus) - (ranks < nearest.tp * nearest.pp)
            most = min(most, allowed // ranks)
        found = attempt._replace(dp=_replicas(search, gpu, way, attempt.tp, attempt.pp, most))
        if nearest is None or found.dp or (not nearest.dp and ranks > nearest.tp * nearest.pp):
            nearest = found
    assert nearest is not None
    return nearest


def _size(binding: str, parts: dict[str, int]) -> int | None:
    """Bytes of the part that a binding term belongs to."""
    weights, cache, overhead = parts.values()
    if binding == "weights":
        return weights
    return cache if binding.startswith("kv/") else overhead


def _notes(
    search: Search,
    rows: Sequence[Row],
    failures: Sequence[Failure],
    devices: Sequence[Gpu],
    left_out: Sequence[str],
    said: Sequence[str],
) -> Iterator[str]:
    tps = ", ".join(map(str, search.tensor_parallel))
    yield (
        f"Fewest GPUs of a kind, up to {search.max_gpus}, with tp of {tps} and as many replicas (dp) as the demand needs;"
        f" pipeline stages, at most {MAX_STAGES}, only where tensor parallelism is not enough; of equal numbers the"
        " smallest replicas."
    )
    if search.demand.request_rate:
        yield (
            "Sequences at once are requests/s × latency (Little's law), latency is the prefill's bound and one decode"
            " step's bound per further token. Times are lower bounds, so sequences and GPUs are lower bounds too."
        )
    if any(row.gpus > row.dp for row in rows):
        yield "Whether so many GPUs share one box or a link is not checked; communication is not in the times."
    for name in dict.fromkeys(row.engine.split()[0] for row in rows):
        yield from find_engine(name).ignores
    priced = {gpu.name: gpu for gpu in devices if gpu.price_usd_per_hour is not None}
    if any(row.gpu in priced for row in rows):
        day = min(gpu.checked for gpu in priced.values())
        yield f"Prices are list prices per GPU-hour, checked {day} or later; each preset names its source."
    refused: dict[str, int] = {}
    for failure in failures:
        if failure.binding == "refused":
            refused[failure.why] = refused.get(failure.why, 0) + 1
    for why, count in refused.items():
        yield f"refused {count} times: {why}"
    yield from left_out
    yield from said
