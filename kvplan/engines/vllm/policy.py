"""What vLLM's V1 engine answers: blocks of the requests, the pool, what it logs, and whether it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from kvplan.engines.policy import Case, Cases, Line, Pool, Rooms, Stated
from kvplan.engines.vllm import v0
from kvplan.engines.vllm.layers import Aligned, batched_tokens, layers_of, limits_of, plain, sequences
from kvplan.engines.vllm.planning import (
    Group,
    Limits,
    PagedSpec,
    Refused,
    blocks,
    bytes_per_block,
    group_layers,
    longest_length,
    mergeable,
    need,
    project,
)
from kvplan.engines.vllm.versions import Rules, rules
from kvplan.errors import InvalidInput

__all__ = ["admits", "caches", "most", "pool", "states"]

GIB = 2**30
# Per spec: a search asks for one per stage of every number of stages up to 64 (2,080), each a few kilobytes.
KEPT_PLANS = 4096
DETAILS = "https://docs.vllm.ai/en/latest/configuration/conserving_memory/"
SOURCE = "vllm, v1/core/kv_cache_planning.py (kv_cache_utils.py up to 0.31) and v1/kv_cache_interface.py"


class Planned(NamedTuple):
    """The groups of one pipeline stage and what bounds a request in them."""

    rules: Rules
    aligned: Aligned
    groups: list[Group]  # of the whole model
    stage: list[Group]  # of which this stage holds these layers
    limits: Limits
    alike: list[list[tuple[str, PagedSpec, str, int]]]  # of each group here: label, spec, formula; how many layers
    ungrouped: Counter[PagedSpec]  # how many layers of this stage are alike, before grouping changed them
    counted: list[Group]  # that the start-up check counts, and bytes of one block to it
    counted_bytes: int
    block_bytes: int  # of one block on this stage
    divisor: int  # bytes that the room is divided by to get blocks

    def needed(self, length: int) -> int:
        """Bytes that the start-up check asks for one request of ``length`` tokens."""
        if self.rules.check == "layers":
            return sum(n * blocks(spec, length, self.limits) * spec.page for spec, n in self.ungrouped.items())
        return need(self.counted, length, self.limits) * self.counted_bytes


def plan_of(case: Case) -> Planned:
    """Groups the layers of the model as its release does, and takes those of this stage; remembered on the spec."""
    known = rules(case.version)
    asked = plain(case)
    alike = (asked.formats, asked.tp, asked.version, asked.architecture, tuple(sorted(asked.options.items())))
    plans: dict[object, Planned] = case.spec.__dict__.setdefault("_vllm_plans", {})
    key = (*alike, case.pp, case.layers)
    if key not in plans:
        if len(plans) >= KEPT_PLANS:
            plans.clear()
        plans[key] = _plan(case, known, *_grouped(case, asked, known, alike))
    return plans[key]._replace(limits=limits_of(case, known))


def _grouped(case: Case, asked: Case, known: Rules, alike: tuple[object, ...]) -> tuple[Aligned, list[Group]]:
    """The layers and their groups; where a release groups those of the whole model, every stage sees the same."""
    memo: dict[object, tuple[Aligned, list[Group]]] = case.spec.__dict__.setdefault("_vllm_groups", {})
    key = alike if known.global_groups else (*alike, case.layers)
    if key not in memo:
        if len(memo) >= KEPT_PLANS:
            memo.clear()
        aligned = layers_of(asked, known)
        memo[key] = aligned, _groups(case, known, aligned)
    return memo[key]


def _groups(case: Case, known: Rules, aligned: Aligned) -> list[Group]:
    chunked = any(served.spec.kind == "chunk" for served in aligned.layers)
    off = case.option("disable_hybrid_kv_cache_manager", chunked) or known.hybrid == "never"
    members: Sequence[int] = range(len(aligned.layers))
    if not known.global_groups:
        members = [i for i in members if aligned.layers[i].layer in case.layers]
    try:
        groups = group_layers([aligned.layers[i].spec for i in members], known, not off)
    except Refused as refusal:
        raise InvalidInput("engine_version", case.version, str(refusal)) from refusal
    # positions count the members; give them those of the model
    return [
        group._replace(layers=tuple((members[position], spec) for position, spec in group.layers)) for group in groups
    ]


def _plan(case: Case, known: Rules, aligned: Aligned, groups: list[Group]) -> Planned:
    here = [i for i, served in enumerate(aligned.layers) if served.layer in case.layers]
    stage = project(groups, lambda position: aligned.layers[position].layer in case.layers)
    ungrouped = Counter(aligned.layers[i].spec for i in here)
    checked = stage if known.stage_types else groups
    counted = checked[:1] if known.check == "first" else checked
    alike = []
    for group in stage:
        served = [(aligned.layers[position], spec) for position, spec in group.layers]
        counts = Counter((one.label, spec, one.formula) for one, spec in served)
        alike.append([(*kind, n) for kind, n in counts.items()])
    size = bytes_per_block(stage)
    # 0.11 to 0.16 left the layers of all stages in a group of several specs
    whole = not known.stage_types and len(groups) == 1 and not mergeable(groups[0].blocks_like)
    divisor = groups[0].page if whole else size
    return Planned(
        known,
        aligned,
        groups,
        stage,
        Limits(0),
        alike,
        ungrouped,
        counted,
        bytes_per_block(checked),
        size,
        divisor,
    )


def is_v0(case: Case) -> bool:
    """Whether the old engine runs: all there was before 0.8, and there with ``use_v1=false`` up to 0.10."""
    known = rules(case.version)
    asked = case.option("use_v1", known.v1)
    if asked and not known.v1:
        raise InvalidInput("engine_options use_v1", asked, f"false: vllm {case.version} has the V0 engine alone")
    if not asked and not known.v0:
        raise InvalidInput("engine_options use_v1", asked, f"true: vllm {case.version} has the V1 engine alone")
    return not asked


def caches(case: Case) -> tuple[Line, ...]:
    """The blocks that the requests may hold at once: what admission asks for them, in whole blocks of the pool.

    A group takes blocks of one size, whether its layers fill them or not: what they leave is group padding; what a
    page leaves around a state or a key is page padding.
    """
    if is_v0(case):
        return v0.caches(case, rules(case.version))
    planned = plan_of(case)
    found: dict[str, Line] = {}
    size = planned.block_bytes

    def add(path: str, amount: int, layers: int, formula: str, state: bool) -> None:
        if amount == 0 and path.startswith("engine/"):
            return
        known = found.get(path)
        if known is None:
            found[path] = Line(path, amount, layers, formula, SOURCE, state)
        elif formula in known.formula.split("; "):
            found[path] = known._replace(size=known.size + amount, layers=known.layers + layers)
        else:
            found[path] = known._replace(
                size=known.size + amount, layers=known.layers + layers, formula=f"{known.formula}; {formula}"
            )

    sequences = f"{case.batch} sequences × " if case.batch > 1 else ""
    for whole, group, kinds in zip(planned.groups, planned.stage, planned.alike, strict=True):
        count = need([whole], case.context, planned.limits)
        taken = case.batch * count
        state = all(spec.kind == "state" for spec in whole.blocks_like)
        for label, spec, formula, layers in kinds:
            each = f"{count:,} blocks × "
            unit = "" if spec.kind == "state" else f"{spec.block} tokens × "
            add(
                f"kv/{label}",
                layers * taken * spec.bare,
                layers,
                f"{sequences}per layer: {each}{unit}({formula})",
                spec.kind == "state",
            )
            add(
                "engine/page padding",
                layers * taken * (spec.page - spec.bare),
                layers,
                f"{sequences}per layer: {each}({spec.page:,} - {spec.bare:,}) bytes of a page",
                spec.kind == "state",
            )
        short = f"{sequences}{count:,} blocks × ({size:,} - {group.page:,}) bytes: a group without a full set of layers"
        add("engine/group padding", taken * (size - group.page), 0, short, state)
    return tuple(found.values())


def states(cases: Cases) -> Stated:
    """What follows from the flags: block sizes, groups, and what one request of max_model_len asks for."""
    case = cases[0]
    if is_v0(case):
        return v0.states(cases, rules(case.version))
    planned = [plan_of(case) for case in cases]
    first = planned[0]
    aligned = first.aligned
    dcp = case.option("decode_context_parallel_size", 1)
    if dcp > 1 and case.tp == 1:
        raise InvalidInput("engine_options decode_context_parallel_size", dcp, "1 without tensor parallelism")
    facts: list[tuple[str, int | float | str]] = [
        ("block_size", aligned.block),
        ("max_num_batched_tokens", batched_tokens(case, first.rules)),
        ("max_num_seqs", sequences(case, first.rules)),
        ("max_in_flight_tokens", first.limits.in_flight),
        ("kv_cache_groups", len(first.groups)),
        ("group_sizes", ",".join(str(len(group.layers)) for group in first.groups)),
        ("group_block_sizes", ",".join(str(group.blocks_like[0].block or case.context) for group in first.groups)),
        ("bytes_per_block", max(plan.block_bytes for plan in planned)),
        ("blocks_per_request", need(first.groups, case.context, first.limits)),
        ("needed_bytes", max(plan.needed(case.context) for plan in planned)),
    ]
    printed = []
    if aligned.state_bytes and aligned.attention:
        padding = 100 * (aligned.state_page - aligned.state_bytes) / aligned.state_bytes
        facts += [
            ("mamba_cache_mode", aligned.mode),
            ("mamba_page_size", aligned.state_bytes),
            ("mamba_page_size_padded", aligned.state_page),
            ("mamba_page_padding_percent", padding),
        ]
        if aligned.grown:
            printed.append(
                f"Setting attention block size to {aligned.block} tokens to ensure that attention page size is >= mamba page size."
            )
        if padding:
            printed.append(
                f"Padding mamba page size by {padding:.2f}% to ensure that mamba page size and attention page size are exactly equal."
            )
    printed += _padding_layers(first.groups)
    return Stated(tuple(facts), tuple(printed))


def _padding_layers(groups: list[Group]) -> list[str]:
    """The warnings about groups that are short of layers."""
    size = max((len(group.layers) for group in groups), default=0)
    buckets: dict[tuple[PagedSpec, ...], int] = {}
    for group in groups:
        buckets[group.blocks_like] = buckets.get(group.blocks_like, 0) + len(group.layers)
    return [
        f"Add {-count % size} padding layers, may waste at most {-count % size / count * 100:.2f}% KV cache memory"
        for count in buckets.values()
        if count % size and len(buckets) > 1
    ]


def num_blocks(planned: list[Planned], rooms: Rooms, override: int) -> int:
    """Blocks of the pool: what the room of the poorest stage holds, or what was asked for."""
    if override:
        return override
    held = [max(room, 0) // plan.divisor for plan, room in zip(planned, rooms, strict=True) if plan.divisor]
    return min(held, default=1)


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """num_gpu_blocks and what vLLM says of it; where one request does not fit, the error it stops with."""
    case = cases[0]
    if is_v0(case):
        return v0.pool(cases, rooms, rules(case.version))
    planned = [plan_of(case) for case in cases]
    first = planned[0]
    known = first.rules
    override = case.option("num_gpu_blocks_override", 0)
    count = num_blocks(planned, rooms, override)
    rooms = _effective(planned, rooms, override)
    request = need(first.groups, case.context, first.limits)
    size = max((count * plan.block_bytes for plan in planned), default=0)
    available = min(rooms)
    facts: list[tuple[str, int | float | str]] = [("num_gpu_blocks", count), ("available_kv_cache_memory", available)]
    measured = not override and not case.option("kv_cache_memory_bytes", 0)
    printed = [f"Available KV cache memory: {_gib(available, known)} GiB"] if measured else []
    if not first.groups or request == 0:
        return Pool(size, None, tuple(facts), tuple(printed))
    concurrency = count / request
    if known.concurrency == "tokens":
        concurrency = count * first.aligned.block / case.context
    if known.tokens == "concurrency":
        tokens = int(concurrency * case.context)
    else:
        shortest = min(group.blocks_like[0].block or case.context for group in first.groups)
        tokens = count // len(first.groups) * shortest * first.limits.dcp
    lengths = [_longest(plan, room, case.context) for plan, room in zip(planned, rooms, strict=True)]
    automatic = max(case.spec.max_context or case.context, case.context)
    facts += [
        ("kv_cache_size_tokens", tokens),
        ("max_concurrency", concurrency),
        ("estimated_max_model_len", min(lengths)),
    ]
    if case.spec.max_context:
        facts.append(
            ("auto_max_model_len", min(_longest(p, room, automatic) for p, room in zip(planned, rooms, strict=True)))
        )
    refused = [
        _refusal(plan, room, case.context, length)
        for plan, room, length in zip(planned, rooms, lengths, strict=True)
        if plan.needed(case.context) > _checked(plan, room)
    ]
    if refused:
        return Pool(size, tokens, tuple(facts), (*printed, refused[0]))
    held = f"GPU KV cache size: {tokens:,} tokens"
    at_once = f"Maximum concurrency for {case.context:,} tokens per request: {concurrency:.2f}x"
    printed += [f"{held}, {at_once}"] if known.one_line else [held, at_once]
    return Pool(size, tokens, tuple(facts), tuple(printed))


def _effective(planned: list[Planned], rooms: Rooms, override: int) -> Rooms:
    """The rooms that the checks see: what an asked number of blocks takes."""
    return tuple(override * plan.block_bytes for plan in planned) if override else rooms


def _checked(planned: Planned, room: int) -> int:
    """The room without the block that stands for none, which a pool never lends."""
    return room - planned.block_bytes if planned.rules.null_block else room


def _longest(planned: Planned, room: int, most: int) -> int:
    """estimated_max_model_len of one stage: the longest request that its room holds."""
    usable = _checked(planned, room)
    return longest_length(lambda length: planned.needed(length) <= usable, most)


def _refusal(planned: Planned, room: int, length: int, longest: int) -> str:
    """The error of the start-up check, in the words of the release."""
    known = planned.rules
    usable = _checked(planned, room)
    details = f" See {DETAILS} for more details." if known.details else ""
    if usable <= 0:
        host = " (this flag also controls CPU memory reservation on the CPU backend, despite its name)"
        return f"{v0.NO_MEMORY}{host if known.host_note else ''}.{details}"
    estimate = ""
    if longest > 0 and known.estimates:
        estimate = f" Based on the available memory, the estimated maximum model length is {longest}."
    host = " (which also controls CPU memory on the CPU backend)" if known.host_note else ""
    return (
        f"ValueError: To serve at least one request with the {known.models} max seq len ({length}), "
        f"({_gib(planned.needed(length), known)} {known.unit} KV cache is needed, which is larger than the available KV "
        f"cache memory ({_gib(usable, known)} {known.unit}).{estimate} Try increasing `gpu_memory_utilization`{host} "
        f"or decreasing `max_model_len` when initializing the engine.{details}"
    )


def _gib(size: int, known: Rules) -> str:
    """Bytes as a release prints them in GiB."""
    return f"{round(size / GIB, 2)}" if known.rounds else f"{size / GIB:.2f}"


def most(case: Case) -> int:
    """max_num_seqs: more sequences wait."""
    return sequences(case, rules(case.version))


def admits(cases: Cases, rooms: Rooms) -> bool:
    """Whether vLLM starts at this max_model_len and all sequences hold their blocks at once.

    One block of the pool stands for none and is never lent; more sequences than max_num_seqs wait.
    """
    case = cases[0]
    if is_v0(case):
        return v0.admits(cases, rooms, rules(case.version))
    planned = [plan_of(case) for case in cases]
    override = case.option("num_gpu_blocks_override", 0)
    count = num_blocks(planned, rooms, override)
    rooms = _effective(planned, rooms, override)
    starts = all(
        plan.needed(case.context) <= _checked(plan, room)
        for plan, room in zip(planned, rooms, strict=True)
        if plan.block_bytes
    )
    if not starts or case.batch > sequences(case, planned[0].rules):
        return False
    request = need(planned[0].groups, case.context, planned[0].limits)
    return not planned[0].groups or case.batch * request <= count - 1
