"""vLLM's KV planning on plain numbers: pages, blocks of a request, groups of layers, and the pool they draw from.

Read from ``v1/kv_cache_interface.py`` and ``v1/core/kv_cache_planning.py`` (``kv_cache_utils.py`` up to 0.31) of the
releases that ``versions.py`` names. All sizes are bytes on one tensor-parallel rank; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvplan.engines.vllm.versions import Rules
from kvplan.num import ceildiv

__all__ = [
    "Group",
    "Limits",
    "PagedSpec",
    "Refused",
    "blocks",
    "bytes_per_block",
    "group_layers",
    "longest_length",
    "mergeable",
    "need",
    "project",
    "split",
]


class Refused(Exception):
    """Layers that a release cannot plan together; the message says what it would take."""


class PagedSpec(NamedTuple):
    """The cache of one layer, as vLLM describes it: what a block of it holds and when blocks are freed."""

    kind: str  # full | latent | window | chunk | state | cross
    block: int  # tokens; 0 of a state that stands for a whole request: max_model_len
    token: int = 0  # bytes of one token; 0 of a state
    state: int = 0  # bytes of a state, which no token adds to
    shape: tuple[object, ...] = ()  # heads, dims and format: layers merge where these are equal too
    limit: int = 0  # of a window or chunk
    retained: int = 0  # tokens below a window that stay for drafts of several modules
    was: tuple[str, int] | None = None  # the window or chunk of a layer that is kept like full attention
    held: int = 0  # blocks of a state per request; 0: one per block of tokens, and ``more``
    more: int = 0
    padded: int = 0  # bytes of the page where it is padded

    @property
    def bare(self) -> int:
        """Bytes of a block without padding."""
        return self.state if self.kind == "state" else self.block * self.token

    @property
    def page(self) -> int:
        """Bytes of a block."""
        return self.padded or self.bare


class Limits(NamedTuple):
    """What bounds the blocks of one request."""

    in_flight: int  # tokens scheduled and not yet settled
    dcp: int = 1  # ranks that a sequence's full-attention blocks are split over (decode context parallelism)
    encoder_tokens: int = 0


class Group(NamedTuple):
    """Layers that share one block table: (position, spec) of each. A block of the group is a page of every one."""

    layers: tuple[tuple[int, PagedSpec], ...]
    blocks_like: tuple[PagedSpec, ...]  # the specs that say how many blocks a request takes, kept where layers are not

    @property
    def page(self) -> int:
        """Bytes of one block of all its layers."""
        return sum(spec.page for _, spec in self.layers)


def blocks(spec: PagedSpec, length: int, limits: Limits) -> int:
    """Blocks one request of ``length`` tokens may hold in one layer.

    A window keeps limit - 1 computed tokens and those in flight, and may start inside a block: one block more.
    """
    if spec.kind == "state" and spec.held:
        return spec.held
    tokens = {
        "window": min(spec.limit - 1 + spec.retained + limits.in_flight, length),
        "chunk": min(spec.limit + limits.in_flight, length),
        "state": length,
        "cross": limits.encoder_tokens,
    }.get(spec.kind, -(-length // limits.dcp))
    return -(-tokens // spec.block) + {"window": 1, "state": spec.more}.get(spec.kind, 0)


def need(groups: Sequence[Group], length: int, limits: Limits) -> int:
    """Blocks one request of ``length`` tokens may hold in all groups together."""
    return sum(max(blocks(spec, length, limits) for spec in group.blocks_like) for group in groups)


def bytes_per_block(groups: Sequence[Group]) -> int:
    """Bytes of one block of the pool: groups take turns in the same bytes, so the largest of them says."""
    return max((group.page for group in groups), default=0)


def project(groups: Sequence[Group], positions: Callable[[int], bool]) -> list[Group]:
    """The groups with the layers of one pipeline stage alone; a request takes as many blocks of each as before."""
    return [group._replace(layers=tuple(pair for pair in group.layers if positions(pair[0]))) for group in groups]


def longest_length(fits: Callable[[int], bool], most: int) -> int:
    """The largest length up to ``most`` that fits, 0 where not even one token does: vLLM's own binary search."""
    if not fits(1):
        return 0
    low, high, found = 1, most, 1
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            found, low = middle, middle + 1
        else:
            high = middle - 1
    return found


def group_layers(specs: Sequence[PagedSpec], rules: Rules, hybrid: bool) -> list[Group]:
    """Splits layers into groups whose blocks are of one size. Raises Refused where that release does."""
    layers = list(enumerate(specs))
    if not hybrid:
        layers = _promoted(layers)
    if not layers:
        return []
    if mergeable([spec for _, spec in layers]) or _uniform(layers, rules):
        return [_group(layers)]
    if not hybrid and rules.hybrid != "never":
        raise Refused("false for disable_hybrid_kv_cache_manager: these layers make no single type")
    try:
        unified = _unified(layers, rules)
    except Refused:
        fallback = _latent_beside_windows(layers, rules)
        if fallback is None:
            raise
        return [_group(fallback)]
    return split(unified, rules.factor)


def _group(layers: Sequence[tuple[int, PagedSpec]]) -> Group:
    return Group(tuple(layers), tuple(dict.fromkeys(spec for _, spec in layers)))


def mergeable(specs: Sequence[PagedSpec]) -> bool:
    """Whether layers are alike but for the window that a full-attention cache does not honour."""
    plain = {spec._replace(was=None) if spec.kind == "full" else spec for spec in specs}
    windows = {spec.was for spec in specs if spec.was is not None}
    return len(plain) == 1 and len(windows) <= 1


def _uniform(layers: Sequence[tuple[int, PagedSpec]], rules: Rules) -> bool:
    """Whether all layers always need the same blocks, whatever their pages weigh."""
    if not rules.uniform_type:
        return False
    specs = [spec for _, spec in layers]
    first = specs[0]
    if len({spec.block for spec in specs}) > 1:
        return False
    if first.kind in ("full", "latent"):
        return all(spec.kind in ("full", "latent") for spec in specs)
    if first.kind == "state":
        return all(
            spec.kind == "state" and (spec.page, spec.held, spec.more) == (first.page, first.held, first.more)
            for spec in specs
        )
    return all((spec.kind, spec.limit) == (first.kind, first.limit) for spec in specs)


def _promoted(layers: list[tuple[int, PagedSpec]]) -> list[tuple[int, PagedSpec]]:
    """Without the hybrid manager, windows and chunks are kept like full attention beside layers that are full."""
    kinds = {spec.kind for _, spec in layers}
    if len(kinds) <= 1 and len({spec.limit for _, spec in layers}) <= 1:
        return layers
    full = {spec.block for _, spec in layers if spec.kind in ("full", "latent")}
    if kinds - {"full", "latent", "window", "chunk"} or not full:
        raise Refused("false for disable_hybrid_kv_cache_manager: these layers cannot all be kept like full attention")
    block = full.pop() if len(full) == 1 else 0

    def promote(spec: PagedSpec) -> PagedSpec:
        if spec.kind not in ("window", "chunk"):
            return spec
        return spec._replace(
            kind="full", block=block or spec.block, limit=0, retained=0, was=(spec.kind, spec.limit), padded=0
        )

    return [(position, promote(spec)) for position, spec in layers]


def _unified(layers: list[tuple[int, PagedSpec]], rules: Rules) -> list[tuple[int, PagedSpec]]:
    """One page size for all: longer blocks where the largest page is a multiple, padding where that is allowed."""
    largest = max(spec.page for _, spec in layers)
    if all(spec.page == largest for _, spec in layers):
        return layers
    if rules.hybrid != "unify":
        raise Refused("0.12.0 or later, where layers have pages of different sizes")

    def unify(spec: PagedSpec) -> PagedSpec:
        if spec.page == largest:
            return spec
        if spec.kind == "state":
            if rules.pads_state:
                return spec._replace(padded=largest)
        elif largest % spec.page == 0:
            return spec._replace(block=spec.block * (largest // spec.page), padded=0)
        elif spec.kind != "latent" and rules.pads_attention:
            return spec._replace(padded=largest)
        later = {"latent": "a model whose latent pages divide the largest", "state": "0.24.0 or later"}
        raise Refused(f"{later.get(spec.kind, '0.29.0 or later')}, where pages of {spec.page} and {largest} bytes meet")

    return [(position, unify(spec)) for position, spec in layers]


def _latent_beside_windows(layers: list[tuple[int, PagedSpec]], rules: Rules) -> list[tuple[int, PagedSpec]] | None:
    """A latent cannot be padded: windows beside it are then kept like full attention."""
    kinds = {spec.kind for _, spec in layers}
    if not rules.pads_attention or "chunk" in kinds or not {"latent", "window"} <= kinds:
        return None
    try:
        promoted = _promoted(layers)
    except Refused:
        return None
    return promoted if _uniform(promoted, rules) else None


def split(layers: Sequence[tuple[int, PagedSpec]], factor: tuple[int, int] = (3, 2)) -> list[Group]:
    """Groups of equally many layers, one kind each; a group that is short of layers wastes their pages.

    The smallest bucket of like layers sets the size of all groups, the largest where it is below ``factor`` of that.
    Layers of a bucket go to its groups in turn, so that every pipeline stage has a share of each.
    """
    buckets: list[list[tuple[int, PagedSpec]]] = []
    first_of: dict[PagedSpec, list[tuple[int, PagedSpec]]] = {}
    order = dict.fromkeys(spec for _, spec in layers)
    for spec in order:
        for bucket in buckets:
            if spec.kind == "full" and mergeable([*(known for _, known in bucket), spec]):
                first_of[spec] = bucket
                break
        else:
            first_of[spec] = []
            buckets.append(first_of[spec])
        first_of[spec].extend(pair for pair in layers if pair[1] == spec)
    smallest, largest = min(map(len, buckets)), max(map(len, buckets))
    size = largest if largest * factor[1] < smallest * factor[0] else smallest
    groups = []
    for bucket in buckets:
        count = ceildiv(len(bucket), size)
        groups += [_group(bucket[i::count]) for i in range(count)]
    return groups
