"""The main question: one model, one way of serving it, one answer. Numbers only; ``ledger.py`` and ``report.py`` give them words."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from kvplan import formulas
from kvplan.checkpoint import WeightBytes, weight_bytes, weights_known
from kvplan.costs import Flops, Held, Profile, decode_flops, held_bytes, hold, prefill_flops, profile, read_bytes
from kvplan.engines import Engine, Prompt
from kvplan.num import Num, ceildiv, maximum, minimum
from kvplan.roofline import Bound, Transfer, Work, bound
from kvplan.settings import PREFILL_CHUNK, Settings
from kvplan.solver import largest
from kvplan.specs import Dense, ModelSpec, MoE
from kvplan.stages import Lean, Stage, pipeline

if TYPE_CHECKING:
    from kvplan.serving import Served

__all__ = ["Answer", "Capacity", "Times", "answer", "batches", "bounds"]


class Capacity(NamedTuple):
    """What fits on the given GPUs. Bytes are of the fullest GPU; batch, context and tokens of the whole deployment."""

    fits: bool
    memory_bytes: int
    usable_bytes: int
    kv_pool_bytes: int
    kv_tokens: int | None
    max_batch: int | None
    max_context: int | None
    binding: str


class Times(NamedTuple):
    """Lower bounds of one prefill and one decode step, and the upper bound of tokens/s that follows."""

    prefill: Bound
    decode: Bound
    tokens_per_s: float


class _Numbers(NamedTuple):
    spec: ModelSpec
    settings: Settings
    profile: Profile
    held: tuple[Held, ...]
    stages: tuple[Stage, ...]
    weights: WeightBytes | None
    bytes_per_token: int
    bytes_per_token_marginal: int
    bytes_per_sequence: int
    state_bytes_per_sequence: int
    bytes_per_gpu: int
    bytes_read_per_step: int
    prefill: Flops
    decode: Flops
    activations: int
    storage: int  # prefill storage of the fullest rank
    capacity: Capacity | None
    host_bytes: int  # of all sequences, in host memory
    disk_bytes: int
    link_bytes: int  # over the link to the host at every decode step
    served: "Served | None" = None  # of an engine with rules of its own


class Answer(_Numbers):
    """Every number of one plan; the ledger's terms are views of the same parts."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of all sequences of the batch."""
        return self.served.total if self.served else self.bytes_per_sequence * self.settings.batch

    @property
    def weights_per_gpu(self) -> int | None:
        """Bytes of weights on the fullest GPU."""
        if self.served:
            return self.served.weights
        return max(stage.weights for stage in self.stages) if self.weights else None

    @cached_property
    def times(self) -> Times | None:
        """Time bounds, where a GPU with stated rates was given."""
        return _times(self)


def mlp_width(spec: ModelSpec) -> int:
    """The widest MLP that one token runs through: a dense one, or its active and shared experts together."""
    widths = [0]
    for layer in spec.layers:
        for mlp in layer.mlps:
            if isinstance(mlp, Dense):
                widths.append(mlp.width)
            elif isinstance(mlp, MoE):
                widths.append(mlp.active * mlp.width + mlp.shared_width)
    return max(widths)


def transients(spec: ModelSpec, settings: Settings) -> Prompt:
    """What a prompt holds at once, by the rule of the engine; without one, of kernels that make no copies."""
    element = settings.formats.compute.element_bits // 8
    memo: dict[tuple[str, int, int], Prompt] = spec.__dict__.setdefault("_prompts", {})
    key = (settings.engine.name, element, settings.tp)
    if key not in memo:
        if settings.engine.prompt is not None:
            memo[key] = settings.engine.prompt(spec, element, settings.tp)
        else:
            width = -(-mlp_width(spec) // settings.tp)
            one = ("widest layer", formulas.activation_bytes(1, spec.hidden, width, element), 0)
            # logits are sampled in float32
            memo[key] = Prompt((one,), logit=element + 4)
    return memo[key]


def activation_peak(spec: ModelSpec, settings: Settings, tokens: Num, sequences: Num) -> Num:
    """Estimated transient bytes on one GPU: the widest layer over the tokens that run at once, or the sampled logits."""
    held = transients(spec, settings)
    at_once = tokens * sequences
    if settings.engine.prompt is not None:
        sizes = [formulas.prompt_bytes(tokens, sequences, each, pair) for _, each, pair in held.layers]
    else:
        at_once = minimum(at_once, PREFILL_CHUNK)
        sizes = [at_once * each for _, each, _ in held.layers]
    layer = sizes[0] if sizes else 0
    for size in sizes[1:]:
        layer = maximum(layer, size)
    if held.masks:
        layer = layer + formulas.masks_bytes(tokens, held.masks, held.mask_element)
    rows = at_once if settings.all_logits or held.all_logits else sequences
    sampled = formulas.logits_bytes(rows, spec.vocab, held.logit) if spec.has_head else 0
    return maximum(layer, sampled)


def answer(spec: ModelSpec, settings: Settings, *, limits: bool = True) -> Answer:
    """Every number of one plan; without ``limits`` whether it fits and what binds if not, but not up to where.

    The two inversions cost an engine with rules of its own more than all other numbers together.
    """
    s = settings
    p = profile(spec, s.engine.parts_of)
    held = whole_model(spec, s.engine, p, s)
    per_token, marginal, sequence, state = per_sequence(held, s)
    stages = pipeline(spec, s)
    sequences = s.rank_sequences
    read = sum(read_bytes(group, s.formats, s.context, s.encoder_context) for group in p.reads)
    known = weights_known(spec, s.formats.compute.name, s.quantization)
    weights = weights_of(spec, s) if known else None
    storage = 0
    if s.engine.prefill_storage:
        storage = sequences * max(stage.lean.storage(s.context) for stage in stages)
    served, capacity, per_gpu = None, None, 0
    if s.engine.policy is None:
        per_gpu = sequences * max(on_gpu(spec, stage.lean.at(s.context)) for stage in stages)
        if weights is not None and s.memory_bytes is not None:
            capacity = _capacity(spec, s, stages, limits)
    else:
        # imported when asked for: an engine without rules of its own needs none of it
        from kvplan.serving import serve

        served = serve(spec, s, stages, known, limits)
        sequence, state, per_gpu = served.sequence, served.state, served.per_gpu
        capacity = _served_capacity(s, served)
    return Answer(
        spec,
        s,
        p,
        held,
        stages,
        weights,
        per_token,
        marginal,
        sequence,
        state,
        per_gpu,
        read * s.batch,
        _prefill(p, s),
        _decode(p, s),
        activation_peak(spec, s, s.context, sequences),
        storage,
        capacity,
        *(_away(spec, sequence * s.batch, read * s.batch) if served is None else (served.host, 0, 0)),
        served,
    )


def batches(spec: ModelSpec, s: Settings) -> tuple[Callable[[int], bool], Callable[[], int]]:
    """Whether so many sequences of ``s.context`` tokens fit, over all replicas, and a number near the largest that do.

    The first is what ``answer`` says of each number. Nothing else is worked out, so that a search may ask often. Without
    a GPU, or where the weights are unknown, none fits. Raises InvalidInput, also later, where the rules of the engine do
    not know the question.
    """
    if s.memory_bytes is None or not weights_known(spec, s.formats.compute.name, s.quantization):
        return lambda batch: False, lambda: 1
    stages = pipeline(spec, s)
    if s.engine.policy is not None:
        from kvplan.serving import held_at_once, near_batch

        return partial(held_at_once(spec, s, stages), s.context), partial(near_batch, spec, s, stages)
    # most stages are alike
    now = list(
        dict.fromkeys((room, sequence_bytes(spec, s, lean, s.context)) for room, lean in _stage_rooms(s, stages))
    )
    tightest = min((room // need for room, need in now if need), default=1)
    return partial(_fit_beside, spec, s, now), lambda: max(tightest, 1) * s.dp


def _served_capacity(s: Settings, served: "Served") -> Capacity | None:
    if served.limits is None or served.pool is None:
        return None
    fits, max_batch, max_context, binding = served.limits
    tokens = served.pool.tokens
    return Capacity(
        fits,
        s.memory_bytes or 0,
        usable_bytes(s),
        served.pool.size,
        tokens * s.dp if tokens is not None else None,
        max_batch,
        max_context,
        binding,
    )


def on_gpu(spec: ModelSpec, size: int) -> int:
    """Of a cache's bytes, those that stay on the GPU."""
    away = away_millionths(spec)
    return int(formulas.gpu_share(size, away)) if away else size


def away_millionths(spec: ModelSpec) -> int:
    """The share of the cache that lies off the GPU, in millionths, so that it is exact."""
    return round((spec.offload.cpu + spec.offload.disk) * 10**6)


def _away(spec: ModelSpec, size: int, read: int) -> tuple[int, int, int]:
    """Bytes in host memory and on disk, and bytes over the link per step; what is not on the GPU is somewhere."""
    away = away_millionths(spec)
    if not away:
        return 0, 0, 0
    rest = size - on_gpu(spec, size)
    disk = rest * round(spec.offload.disk * 10**6) // away
    return rest - disk, disk, read - on_gpu(spec, read)


def whole_model(spec: ModelSpec, engine: Engine, p: Profile, s: Settings) -> tuple[Held, ...]:
    """What one sequence holds in the whole model, as if on one GPU; remembered on the spec."""
    memo: dict[object, tuple[Held, ...]] = spec.__dict__.setdefault("_held", {})
    key = (engine.name, engine.version, s.formats)
    if key not in memo:
        if len(memo) > 64:
            memo.clear()
        memo[key] = hold(p.plan, s.formats)
    return memo[key]


def weights_of(spec: ModelSpec, s: Settings) -> WeightBytes:
    """Bytes of the weights of the whole model; remembered on the spec. They must be known."""
    memo: dict[object, WeightBytes] = spec.__dict__.setdefault("_weight_bytes", {})
    key = (s.formats.compute.name, s.quantization)
    if key not in memo:
        if len(memo) > 64:
            memo.clear()
        memo[key] = weight_bytes(spec, s.formats.compute.name, s.quantization)
    return memo[key]


def per_sequence(held: tuple[Held, ...], s: Settings) -> tuple[int, int, int, int]:
    """Bytes per token below every window, at this context, per sequence, and of state; one sequence, whole model."""
    slope_bits = sequence = state = marginal = pooled_bits = 0  # pooled: an entry per group, spread over its tokens
    for h in held:
        size = held_bytes(h, s.context, s.encoder_context, s.page)
        sequence += size
        if h.is_state:
            state += size
        elif h.growth.kind != "encoder":
            per_entry = h.residual_bits if h.residual else h.bits
            if h.growth.kind in ("compress", "landmark"):
                pooled_bits += ceildiv(h.layers * per_entry, h.growth.limit)
            if h.growth.kind == "landmark":
                pooled_bits += h.layers * per_entry
            if h.growth.kind in ("compress", "landmark"):
                continue
            slope_bits += h.layers * per_entry
            exact = size if s.page == 1 else held_bytes(h, s.context, s.encoder_context)
            marginal += held_bytes(h, s.context + 1, s.encoder_context) - exact
    return ceildiv(slope_bits + pooled_bits, 8), marginal + ceildiv(pooled_bits, 8), sequence, state


def usable_bytes(s: Settings) -> int:
    """Bytes of one GPU that the engine may use; the share is taken in millionths, so that it is exact."""
    return (s.memory_bytes or 0) * round(s.utilization * 10**6) // 10**6


def sequence_bytes(spec: ModelSpec, s: Settings, lean: Lean, tokens: Num) -> Num:
    """What one sequence takes on one GPU of a stage: its cache there, and what the engine keeps alive behind it."""
    size = on_gpu(spec, lean.at(tokens))
    return size + lean.storage(tokens) if s.engine.prefill_storage else size


def _stage_rooms(s: Settings, stages: tuple[Stage, ...]) -> list[tuple[int, Lean]]:
    """What each stage has beside weights and runtime, in bytes of one GPU, and what its caches are."""
    usable = usable_bytes(s)
    return [(usable - stage.weights - s.runtime_bytes, stage.lean) for stage in stages]


def _fit_beside(spec: ModelSpec, s: Settings, now: list[tuple[int, Num]], batch: int) -> bool:
    """Whether every stage has room for so many sequences; ``now`` are room and bytes of one sequence on each."""
    sequences = -(-batch // s.dp)
    activations = activation_peak(spec, s, s.context, sequences)
    return all(sequences * need + activations <= room for room, need in now)


def _capacity(spec: ModelSpec, s: Settings, stages: tuple[Stage, ...], limits: bool) -> Capacity:
    usable = usable_bytes(s)
    rooms = _stage_rooms(s, stages)
    away = away_millionths(spec)
    now = [(room, sequence_bytes(spec, s, lean, s.context)) for room, lean in rooms]
    batch_fits = partial(_fit_beside, spec, s, now)

    sequences = s.rank_sequences

    def context_fits(tokens: int) -> bool:
        activations = activation_peak(spec, s, tokens, sequences)
        return all(sequences * sequence_bytes(spec, s, lean, tokens) + activations <= room for room, lean in rooms)

    activations = activation_peak(spec, s, s.context, sequences)
    tightest = min(range(len(now)), key=lambda i: now[i][0] - sequences * now[i][1])
    room, need = now[tightest]
    if not limits:
        fits = batch_fits(s.batch)
        binding = "" if fits else _binding(spec, s, stages[tightest], room, need, activations, 0, 0)
        return Capacity(fits, s.memory_bytes or 0, usable, max(room - activations, 0), None, None, None, binding)
    guess_batch = max((room - activations) // need, 1) * s.dp if need else 1
    per_sequence = (room - activations) // sequences
    guess_context = stages[tightest].lean.guess(
        per_sequence * 10**6 // (10**6 - away) if away < 10**6 else per_sequence
    )
    wiggle = max((2 * h.growth.limit for h in stages[tightest].lean.others if h.growth.kind in WIGGLES), default=0)
    max_batch = largest(batch_fits, guess_batch)
    max_context = largest(context_fits, guess_context, wiggle=wiggle)
    pool = max(room - activations, 0)
    grows = any(not lean.constant_only for _, lean in rooms)
    tokens = pool * s.context // need * s.dp if need and grows else None
    return Capacity(
        batch_fits(s.batch),
        s.memory_bytes or 0,
        usable,
        pool,
        tokens,
        max_batch,
        max_context,
        _binding(spec, s, stages[tightest], room, need, activations, max_batch, max_context),
    )


# Growth kinds whose bytes may fall as tokens are added: buffers that fill, are folded away, and start again.
WIGGLES = frozenset({"remainder"})


def _binding(
    spec: ModelSpec,
    s: Settings,
    stage: Stage,
    room: int,
    need: int,
    activations: int,
    max_batch: int | None,
    max_context: int | None,
) -> str:
    """The term that stops growth: weights where they leave nothing, else the largest of what grows."""
    if room <= 0:
        return "weights" if stage.weights >= s.runtime_bytes else "runtime/context"
    if max_batch is None or max_context is None:
        return "unbounded"
    amounts = growing(spec, s, stage, activations)
    return max(amounts, key=lambda path: amounts[path])


def growing(spec: ModelSpec, s: Settings, stage: Stage, activations: Num) -> dict[str, Num]:
    """Bytes on one GPU of a stage of everything that grows, by path."""
    amounts = {"activations/peak": activations}
    for h in stage.held:
        store = h.path.rsplit("/", 1)[0]
        size = s.rank_sequences * on_gpu(spec, held_bytes(h, s.context, s.encoder_context, s.page))
        amounts[store] = amounts.get(store, 0) + size
    if s.engine.prefill_storage:
        amounts["engine/prefill_storage"] = s.rank_sequences * stage.lean.storage(s.context)
    return amounts


def rank_work(
    s: Settings, w: WeightBytes, flops: Flops, share: Num, tokens: Num, cache: Num, overlap: Num
) -> tuple[Work, Work, Work]:
    """The work of one rank in a pass of ``tokens``: matrices of layers, attention, logits.

    ``flops`` are of all replicas, of which this one has ``share``; ``cache`` are the bytes it reads or writes over all
    ``overlap`` stages that run at once.
    """
    compute = s.formats.compute.name
    column = compute
    if s.quantization is not None and s.quantization.format:
        from kvplan.formats import FORMATS

        known = FORMATS.get(s.quantization.format)
        column = (known.compute if known else "") or compute
    touched = w.streamed - w.logits + (w.asking if s.encoder_context else 0)
    touched += sum(size * formulas.experts_touched(n, n * (1 - k / n) ** tokens) / n for n, k, size in w.expert)
    ranks = s.tp * overlap
    return (
        Work("linear", flops.linear * share / ranks, touched / ranks, column),
        Work("attention", flops.attention * share / ranks, cache / overlap, compute),
        Work("logits", flops.logits * share / ranks, w.logits / ranks, compute),
    )


def _times(a: Answer) -> Times | None:
    """Bounds from the work of one replica: matrices over tp ranks, and stages that overlap as well as they can."""
    if a.weights is None:
        return None
    prefill = _pass(a.spec, a.settings, a.weights, a.prefill, a.settings.context, _written(a.stages, a.settings))
    decode = _pass(a.spec, a.settings, a.weights, a.decode, 1, _read(a.profile, a.settings))
    if prefill is None or decode is None:
        return None
    return Times(prefill, decode, a.settings.batch / decode.seconds)


def bounds(spec: ModelSpec, s: Settings) -> tuple[Callable[[], Bound | None], Callable[[], Bound | None]]:
    """The bounds of a prefill and of a decode step that ``answer`` states, each worked out when it is asked for."""
    p = profile(spec, s.engine.parts_of)
    if not weights_known(spec, s.formats.compute.name, s.quantization):
        return lambda: None, lambda: None
    weights = weights_of(spec, s)
    return (
        lambda: _pass(spec, s, weights, _prefill(p, s), s.context, _written(pipeline(spec, s), s)),
        lambda: _pass(spec, s, weights, _decode(p, s), 1, _read(p, s)),
    )


def _prefill(p: Profile, s: Settings) -> Flops:
    full, rows = s.full_attention, s.all_logits
    return prefill_flops(p, s.context, s.batch, full=full, all_logits=rows, encoder_tokens=s.encoder_context)


def _decode(p: Profile, s: Settings) -> Flops:
    return decode_flops(p, s.context, s.batch, encoder_tokens=s.encoder_context)


def _written(stages: tuple[Stage, ...], s: Settings) -> Num:
    """Bytes of caches that the prefill of one sequence writes, on one rank of every stage."""
    return sum(stage.lean.at(s.context) for stage in stages)


def _read(p: Profile, s: Settings) -> int:
    """Bytes of caches that a decode step of one sequence reads, on one rank of every stage."""
    return sum(read_bytes(group, s.formats, s.context, s.encoder_context, s.tp) for group in p.reads)


def _pass(spec: ModelSpec, s: Settings, w: WeightBytes, flops: Flops, tokens: int, cache: Num) -> Bound | None:
    """The bound of one pass over ``tokens`` of each sequence, of which each moves ``cache`` bytes.

    A pipeline of pp stages fed with as many micro-batches is at best pp times as fast as one stage after another; one
    sequence has nothing to overlap its decode steps with.
    """
    if s.gpu is None:
        return None
    sequences = s.rank_sequences
    at_once, moved = sequences * tokens, sequences * cache
    overlap = min(s.pp, at_once)
    off = spec.offload
    shares = (("host link", off.cpu + off.disk, s.host_bandwidth), ("disk", off.disk, s.disk_bandwidth))
    transfers = tuple(Transfer(name, moved * part / overlap, rate) for name, part, rate in shares if part)
    items = rank_work(s, w, flops, sequences / s.batch, at_once, moved, overlap)
    return bound(s.gpu, items, s.compute_efficiency, s.bandwidth_efficiency, transfers)
