"""Which layers lie on which GPU: pipeline stages, and what the fullest tensor-parallel rank of each one holds."""

from itertools import pairwise
from typing import NamedTuple

from kvplan.checkpoint import rank_weight_bytes, weights_known
from kvplan.costs import Held, held_bytes, hold, profile
from kvplan.errors import InvalidInput
from kvplan.num import Num, ceil_to, maximum, minimum
from kvplan.settings import Settings
from kvplan.specs import ModelSpec

__all__ = ["Lean", "Stage", "pipeline", "stage_ranges"]

KEPT = 256  # per spec: a search asks for every number of tensor-parallel ranks and of stages on one GPU after another


class Lean(NamedTuple):
    """The held parts folded for speed: bytes of one sequence at S tokens without a ledger. Same numbers, tested."""

    constant: int
    entries: tuple[tuple[int, int], ...]  # (limit or 0 for none, bytes per entry)
    others: tuple[Held, ...]
    encoder: int
    page: int

    def at(self, tokens: Num) -> Num:
        """Bytes of one sequence after ``tokens``."""
        total: Num = self.constant
        for limit, size in self.entries:
            n = minimum(tokens, limit) if limit else tokens
            if self.page > 1:
                n = ceil_to(n, self.page)
            total = total + n * size
        for held in self.others:
            total = total + held_bytes(held, tokens, self.encoder, self.page)
        return total

    @property
    def constant_only(self) -> bool:
        """Whether nothing here grows with the context."""
        return not self.entries and all(h.is_state for h in self.others)

    def storage(self, tokens: Num) -> Num:
        """Bytes that windows keep alive behind their views after a one-shot prefill of ``tokens``."""
        return sum(maximum(tokens - limit, 0) * size for limit, size in self.entries if limit)

    def guess(self, room: int) -> int:
        """A context near the largest that fits into ``room`` bytes, from the slope past every window."""
        slope = sum(size for limit, size in self.entries if not limit)
        flat = self.constant + sum(limit * size for limit, size in self.entries if limit)
        if slope and room > flat:
            return (room - flat) // slope
        total = sum(size for _, size in self.entries)
        return max((room - self.constant) // total, 1) if total else 1


class Stage(NamedTuple):
    """One pipeline stage as its fullest tensor-parallel rank sees it."""

    layers: range
    weights: int
    held: tuple[Held, ...]
    lean: Lean


def _lean(held: tuple[Held, ...], encoder: int, page: int) -> Lean:
    constant = 0
    entries: dict[int, int] = {}
    others = []
    for h in held:
        kind, limit = h.growth.kind, h.growth.limit
        whole = h.bits % 8 == 0 and not h.residual
        if kind in ("constant", "encoder"):
            constant += held_bytes(h, 1, encoder, page)
        elif whole and kind == "full":
            entries[0] = entries.get(0, 0) + h.layers * h.bits // 8
        elif whole and (kind in ("window", "chunk") or (kind == "window_transformers" and limit > 1)):
            cap = limit - 1 if kind == "window_transformers" else limit
            entries[cap] = entries.get(cap, 0) + h.layers * h.bits // 8
        else:
            others.append(h)
    return Lean(constant, tuple(entries.items()), tuple(others), encoder, page)


def pipeline(spec: ModelSpec, settings: Settings) -> tuple[Stage, ...]:
    """The pipeline's stages as the fullest tensor-parallel rank sees them; remembered on the spec."""
    s = settings
    memo: dict[object, tuple[Stage, ...]] = spec.__dict__.setdefault("_pipelines", {})
    key = (s.formats, s.quantization, s.engine, s.tp, s.pp, s.encoder_context, s.page)
    if key not in memo:
        if len(memo) > KEPT:
            memo.clear()
        plan = profile(spec, s.engine.parts_of).plan
        known = weights_known(spec, s.formats.compute.name, s.quantization)
        stages = []
        cuts = stage_ranges(spec, s.pp)
        for i, layers in enumerate(cuts):
            held = hold(plan, s.formats, s.tp, layers if s.pp > 1 else None)
            size = 0
            if known:
                size = rank_weight_bytes(
                    spec, s.formats.compute.name, s.quantization, s.tp, layers, i == 0, i == len(cuts) - 1
                )
            stages.append(Stage(layers, size, held, _lean(held, s.encoder_context, s.page)))
        memo[key] = tuple(stages)
    return memo[key]


def stage_ranges(spec: ModelSpec, pp: int) -> list[range]:
    """Contiguous layers per pipeline stage, as even as sharing allows: layers that share KV share a stage.

    Raises InvalidInput where the sharing leaves fewer places to cut than ``pp`` needs.
    """
    count = len(spec.layers)
    if pp == 1:
        return [range(count)]
    spans = []
    for i, layer in enumerate(spec.layers):
        for mixer in layer.mixers:
            target = getattr(mixer, "reads", None)
            if target is not None and target != i:
                spans.append((min(i, target), max(i, target)))
    free = [cut for cut in range(1, count) if not any(low < cut <= high for low, high in spans)]
    if len(free) < pp - 1:
        raise InvalidInput("pp", pp, f"at most {len(free) + 1} stages: layers that share KV must share a stage")
    cuts, start = [0], 0
    for stage in range(1, pp):
        ideal = stage * count / pp
        usable = free[start : len(free) - (pp - 1 - stage)]
        cut = min(usable, key=lambda c: abs(c - ideal))
        start = free.index(cut) + 1
        cuts.append(cut)
    cuts.append(count)
    return [range(a, b) for a, b in pairwise(cuts)]
