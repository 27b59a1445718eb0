"""Engines with rules of their own: what their caches take, the pool they make of a GPU, and what fits into it.

``planner.py`` asks here instead of adding up parts where ``Engine.policy`` is set. The engine says how many bytes; here
it is asked once for the whole model (one GPU, one stage), and once per pipeline stage of a tensor-parallel rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kvplan.engines.policy import Budget, Case, Line, Policy, Pool, Room, Stated
from kvplan.errors import InvalidInput
from kvplan.settings import Settings
from kvplan.solver import largest
from kvplan.specs import ModelSpec
from kvplan.stages import Stage
from kvplan.units import LARGEST_COUNT

__all__ = ["Limits", "Served", "held_at_once", "near_batch", "serve"]


class Limits(NamedTuple):
    """What fits: counts of the whole deployment; None where nothing grows."""

    fits: bool
    max_batch: int | None
    max_context: int | None
    binding: str


class Served(NamedTuple):
    """What an engine makes of one question; bytes."""

    lines: tuple[Line, ...]  # the whole model and all sequences, as if on one GPU
    sequence: int  # the same for one sequence
    state: int  # of which recurrent and convolution state
    rank: tuple[Line, ...]  # on the fullest GPU
    per_gpu: int
    kept: tuple[Line, ...]  # what the engine keeps back on the GPU with the least room, weights apart
    weights: int | None  # on that GPU
    stated: Stated  # what needs no GPU
    pool: Pool | None  # None where it cannot be said without a GPU or without weights
    limits: Limits | None  # None without a GPU

    @property
    def total(self) -> int:
        """Bytes of all sequences of the batch."""
        return sum(line.size for line in self.lines)

    @property
    def host(self) -> int:
        """Of these, bytes in host memory."""
        return sum(line.size for line in self.lines if not line.on_gpu)


def serve(
    spec: ModelSpec, s: Settings, stages: tuple[Stage, ...], weights_known: bool, inverted: bool = True
) -> Served:
    """What the engine of the settings makes of them. Raises InvalidInput where its rules do not know the question.

    Where it is not ``inverted``, its limits say whether it fits, but not up to where.
    """
    policy = s.engine.policy
    assert policy is not None
    if max(spec.offload) > 0:
        raise InvalidInput("engine", s.engine.name, "ideal or transformers for a cache that a scheme puts off the GPU")
    alone = policy.caches(_case(spec, s, s.context, 1))
    lines = _all_replicas(policy, spec, s)
    cases = _cases(spec, s, stages, s.context, s.rank_sequences)
    ranks = [policy.caches(case) for case in cases]
    fullest = max(ranks, key=_size)
    rooms = _rooms(policy, s, stages, cases, weights_known)
    least = min(range(len(rooms)), key=lambda i: rooms[i].size or 0)
    sizes = _sizes(rooms)
    pool = policy.pool(cases, sizes) if sizes is not None else None
    stated = policy.states(cases) if policy.states else Stated()
    if weights_known and s.memory_bytes is not None and _weights(stages[least], rooms[least]) > s.memory_bytes:
        # it stops while it loads them, and never comes to speak of caches
        stated, pool = stated._replace(printed=()), pool._replace(printed=()) if pool is not None else None
    limits = None
    if sizes is not None and s.memory_bytes is not None and weights_known:
        limits = _limits(policy, spec, s, stages, cases, rooms, inverted)
    return Served(
        lines,
        sum(line.size for line in alone),
        sum(line.size for line in alone if line.state),
        fullest,
        _size(fullest),
        rooms[least].kept,
        _weights(stages[least], rooms[least]) if weights_known else None,
        stated,
        pool,
        limits,
    )


def _size(lines: tuple[Line, ...]) -> int:
    return sum(line.size for line in lines if line.on_gpu)


def _weights(stage: Stage, room: Room) -> int:
    return stage.weights if room.weights is None else room.weights


def _case(spec: ModelSpec, s: Settings, context: int, batch: int, tp: int = 1, layers: range | None = None) -> Case:
    return Case(
        spec,
        s.formats,
        context,
        batch,
        tp,
        1 if layers is None else s.pp,
        range(len(spec.layers)) if layers is None else layers,
        s.encoder_context,
        s.options,
        s.engine.version,
        s.memory_bytes,
        s.gpu.architecture if s.gpu else "",
        s.gpu.kind if s.gpu else "",
    )


def _cases(spec: ModelSpec, s: Settings, stages: tuple[Stage, ...], context: int, batch: int) -> tuple[Case, ...]:
    return tuple(_case(spec, s, context, batch, s.tp, stage.layers) for stage in stages)


def _all_replicas(policy: Policy, spec: ModelSpec, s: Settings) -> tuple[Line, ...]:
    """The caches of all data-parallel replicas: some hold one sequence more than the others."""
    share, more = divmod(s.batch, s.dp)
    held = [
        (count, policy.caches(_case(spec, s, s.context, n)))
        for count, n in ((more, share + 1), (s.dp - more, share))
        if count and n
    ]
    if len(held) == 1 and held[0][0] == 1:
        return held[0][1]
    total: dict[str, Line] = {}
    for count, lines in held:
        for line in lines:
            size = count * line.size + (total[line.path].size if line.path in total else 0)
            total[line.path] = line._replace(size=size)
    return tuple(total.values())


def _rooms(policy: Policy, s: Settings, stages: tuple[Stage, ...], cases: tuple[Case, ...], known: bool) -> list[Room]:
    return [
        policy.room(case, Budget(s.memory_bytes, stage.weights if known else None, s.utilization, s.runtime_bytes))
        for stage, case in zip(stages, cases, strict=True)
    ]


def _sizes(rooms: list[Room]) -> tuple[int, ...] | None:
    sizes = tuple(room.size for room in rooms if room.size is not None)
    return sizes if len(sizes) == len(rooms) else None


def held_at_once(spec: ModelSpec, s: Settings, stages: tuple[Stage, ...]) -> Callable[[int, int], bool]:
    """Whether the engine of the settings starts at so many tokens and holds so many sequences, over all replicas.

    The weights must be known. Raises InvalidInput where its rules do not know the question.
    """
    policy = s.engine.policy
    assert policy is not None
    few = _poorest(stages)

    def held(stages: tuple[Stage, ...], context: int, batch: int) -> bool:
        cases = _cases(spec, s, stages, context, -(-batch // s.dp))
        if policy.most is not None and cases[0].batch > policy.most(cases[0]):
            return False
        sizes = _sizes(_rooms(policy, s, stages, cases, True))
        return sizes is not None and min(sizes) >= 0 and policy.fits(cases, sizes)

    # what few stages do not hold, all of them do not: most questions end there
    return lambda context, batch: held(few, context, batch) and (few == stages or held(stages, context, batch))


def _poorest(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The first stage, which says what holds for all, and the one with the most weights."""
    if len(stages) <= 2:
        return stages
    return stages[0], max(stages[1:], key=lambda stage: stage.weights)


def near_batch(spec: ModelSpec, s: Settings, stages: tuple[Stage, ...]) -> int:
    """A batch near the largest, as if bytes grew in a line from those of the settings' batch."""
    policy = s.engine.policy
    assert policy is not None
    few = _poorest(stages)
    cases = _cases(spec, s, few, s.context, s.rank_sequences)
    sizes = _sizes(_rooms(policy, s, few, cases, True))
    return 1 if sizes is None else _near(policy, s, cases, sizes)


def _near(policy: Policy, s: Settings, cases: tuple[Case, ...], sizes: tuple[int, ...]) -> int:
    held = [_size(policy.caches(case)) for case in cases]
    batches = [room * case.batch // size for case, room, size in zip(cases, sizes, held, strict=True) if size]
    if policy.most is not None:
        batches.append(policy.most(cases[0]))
    return max(min(batches, default=s.batch) * s.dp, 1)


def _limits(
    policy: Policy,
    spec: ModelSpec,
    s: Settings,
    stages: tuple[Stage, ...],
    now: tuple[Case, ...],
    rooms: list[Room],
    inverted: bool,
) -> Limits:
    fits = held_at_once(spec, s, stages)
    sizes = _sizes(rooms)
    assert sizes is not None
    if not inverted:
        held = fits(s.context, s.batch)
        return Limits(held, None, None, "" if held else _binding(policy, s, stages, now, rooms, 0))

    def context_fits(context: int) -> bool:
        try:
            return fits(context, s.batch)
        except InvalidInput:  # this length it answers, a longer one it refuses
            return False

    batch_guess, context_guess = _guesses(policy, spec, s, stages, now, sizes)
    max_batch = largest(lambda batch: fits(s.context, batch), batch_guess)
    max_context = largest(context_fits, context_guess)
    return Limits(fits(s.context, s.batch), max_batch, max_context, _binding(policy, s, stages, now, rooms, max_batch))


def _guesses(
    policy: Policy,
    spec: ModelSpec,
    s: Settings,
    stages: tuple[Stage, ...],
    now: tuple[Case, ...],
    sizes: tuple[int, ...],
) -> tuple[int, int]:
    """A batch and a context near the largest, as if bytes grew in lines: every question to an engine costs.

    The line of contexts is drawn twice, the second time from where the first one ends: past windows and padding.
    """
    context = s.context
    for _ in range(2):
        near = _cases(spec, s, stages, context, s.rank_sequences)
        far = _cases(spec, s, stages, 2 * context, s.rank_sequences)
        lengths = []
        for case, double, room in zip(near, far, sizes, strict=True):
            try:
                size, more = _size(policy.caches(case)), _size(policy.caches(double))
            except InvalidInput:  # a length that the engine refuses
                continue
            if more > size:
                lengths.append(context + (room - size) * context // (more - size))
        context = min(max(min(lengths, default=context), 1), LARGEST_COUNT // 2)
    return _near(policy, s, now, sizes), context


def _binding(
    policy: Policy,
    s: Settings,
    stages: tuple[Stage, ...],
    cases: tuple[Case, ...],
    rooms: list[Room],
    batch: int | None,
) -> str:
    """What stops growth: weights where they leave nothing, the engine's own limit of sequences, else the largest cache."""
    least = min(range(len(rooms)), key=lambda i: rooms[i].size or 0)
    room = rooms[least]
    if room.size is None or room.size <= 0:
        kept = max(room.kept, key=lambda line: line.size, default=None)
        return "weights" if kept is None or _weights(stages[least], room) >= kept.size else kept.path
    if batch is None:
        return "unbounded"
    if policy.most is not None and s.rank_sequences > policy.most(cases[least]):
        return "engine/sequences"
    amounts: Counter[str] = Counter()
    for line in policy.caches(cases[least]):
        if line.on_gpu:
            amounts[line.path] += line.size
    return max(amounts, key=lambda path: amounts[path], default="unbounded")
