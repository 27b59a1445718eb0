"""Bytes of the weights as a checkpoint stores them: by category for the ledger, by pipeline stage and rank for a GPU."""

from collections.abc import Iterator
from typing import NamedTuple

from kvplan.formats import find_format
from kvplan.num import ceildiv, maximum
from kvplan.specs import ModelSpec, Quantization, Tower, Weight
from kvplan.weights import makes_logits, named_layer_weights, outer_weights, stored_bits, tower_bits

__all__ = [
    "WeightBytes", "rank_shares", "rank_weight_bytes", "sized_weights", "tower_bytes", "weight_bytes", "weights_known",
]  # fmt: skip


class WeightBytes(NamedTuple):
    """Bytes of the whole model's weights."""

    by_category: dict[str, int]  # attention, mlp, experts, embeddings ...; towers by name
    total: int
    streamed: int  # read by a decode step whatever the batch: all but tables, towers, routed experts, cross-attention
    asking: int  # read besides where there are encoder tokens
    logits: int  # of the logits matrix, part of streamed
    expert: tuple[tuple[int, int, int], ...]  # (experts, visited per token, bytes of all) per group of routed experts
    basis: str  # exact | estimated
    source: str


class Placed(NamedTuple):
    """One tensor with its place: the layer (None outside), the category and the full module path."""

    layer: int | None
    category: str
    path: str
    weight: Weight


def weights_known(spec: ModelSpec, dtype: str, quantization: Quantization | None) -> bool:
    """Whether the bytes of the weights can be said; False for an unknown ``quant_method`` without headers."""
    return _as_on_disk(spec, dtype, quantization) or quantization is None or quantization.known


def _as_on_disk(spec: ModelSpec, dtype: str, quantization: Quantization | None) -> bool:
    """Whether the question is about the weights as they lie on disk, whose exact bytes were read from headers."""
    return spec.weight_bytes is not None and dtype == spec.dtype and quantization == spec.quantization


def placed_weights(spec: ModelSpec) -> Iterator[Placed]:
    """Every tensor of a checkpoint once, tied ones too (the first use), with its category."""
    seen: set[str] = set()
    for item in _all_uses(spec):
        if item.weight.visited == 0:
            continue
        if item.weight.tie:
            if item.weight.tie in seen:
                continue
            seen.add(item.weight.tie)
        yield item


def _all_uses(spec: ModelSpec) -> Iterator[Placed]:
    for w in outer_weights(spec):
        category = {"lookup": "embeddings", "vector": "norms and others"}.get(w.kind, "logits")
        if category == "logits" and not makes_logits(w):
            category = "norms and others"
        yield Placed(None, category, w.module, w)
    for i in range(len(spec.layers)):
        for category, w in named_layer_weights(spec, i):
            name = "experts" if w.visited is not None else "norms and others" if w.kind == "vector" else category
            yield Placed(i, name, f"{spec.prefix}.{i}.{w.module}", w)


UNSAID = "the storage of an unknown quantisation has no size"


def sized_weights(spec: ModelSpec, dtype: str, quantization: Quantization | None) -> list[tuple[Placed, int]]:
    """Every tensor with its bytes; remembered on the spec, which never changes.

    Where nobody knows how the weights are stored but headers say what they take, each has its share by its shape.
    """
    memo: dict[object, list[tuple[Placed, int]]] = spec.__dict__.setdefault("_sized", {})
    key = (dtype, quantization)
    if key not in memo:
        sizes: dict[int, int] = {}  # without rules a tensor's size does not hang on its path, and layers share tensors
        placed = list(placed_weights(spec))
        if quantization is not None and not quantization.known:
            assert spec.weight_bytes is not None, UNSAID
            whole = _shapes(spec, dtype)
            memo[key] = [(i, size * spec.weight_bytes // whole) for i, size in sized_weights(spec, dtype, None)]
        elif quantization is None or not quantization.rules:
            for item in placed:
                if id(item.weight) not in sizes:
                    sizes[id(item.weight)] = ceildiv(stored_bits(item.weight, item.path, dtype, quantization), 8)
            memo[key] = [(item, sizes[id(item.weight)]) for item in placed]
        else:
            memo[key] = [
                (item, ceildiv(stored_bits(item.weight, item.path, dtype, quantization), 8)) for item in placed
            ]
    return memo[key]


def tower_bytes(tower: Tower, spec: ModelSpec, dtype: str, quantization: Quantization | None) -> int:
    """Bytes of a tower, by its share of the files where nobody knows how they are stored."""
    if quantization is not None and not quantization.known:
        assert spec.weight_bytes is not None, UNSAID
        return int(ceildiv(tower_bits(tower, dtype, None), 8) * spec.weight_bytes // _shapes(spec, dtype))
    return int(ceildiv(tower_bits(tower, dtype, quantization), 8))


def _shapes(spec: ModelSpec, dtype: str) -> int:
    """What all weights would take in ``dtype``."""
    whole = sum(size for _, size in sized_weights(spec, dtype, None))
    return max(whole + sum(tower_bytes(tower, spec, dtype, None) for tower in spec.towers), 1)


def weight_bytes(spec: ModelSpec, dtype: str, quantization: Quantization | None) -> WeightBytes:
    """Bytes of all weights; exact from headers where the spec carries them, else from shapes and formats.

    ``dtype`` stores what no quantisation touches. The shapes give the categories; where headers give another total,
    the difference is a category of its own, so that the sum is what the files hold.
    """
    categories: dict[str, int] = {}
    experts: dict[tuple[int, int], int] = {}
    streamed = logits = asking = 0
    for item, size in sized_weights(spec, dtype, quantization):
        categories[item.category] = categories.get(item.category, 0) + size
        w = item.weight
        if w.visited is not None:
            experts[w.copies, w.visited] = experts.get((w.copies, w.visited), 0) + size
        elif w.asks_encoder:
            asking += size
        elif w.kind not in ("lookup", "cross"):  # a cross projection runs once per sequence, not per step
            streamed += size
        if makes_logits(w):
            logits += size
    for tower in spec.towers:
        categories[tower.name] = categories.get(tower.name, 0) + tower_bytes(tower, spec, dtype, quantization)
    if spec.tied and spec.has_head:
        table = ceildiv((spec.embed_dim or spec.hidden) * spec.vocab * find_format(dtype).element_bits, 8)
        logits += table
        streamed += table
    total = sum(categories.values())
    basis, source = "exact", f"shapes x {quantization.method if quantization else dtype}"
    if spec.weight_bytes is None and spec.weight_source:
        basis, source = "estimated", spec.weight_source
    if spec.weight_bytes is not None and _as_on_disk(spec, dtype, quantization):
        if spec.weight_bytes != total:
            categories["files less shapes"] = spec.weight_bytes - total
        total, source = spec.weight_bytes, spec.weight_source
        if quantization is not None and not quantization.known:
            basis, source = "estimated", f"{source}, shared out by shapes"
    routed = tuple((copies, visited, size) for (copies, visited), size in experts.items())
    return WeightBytes(categories, total, streamed, asking, logits, routed, basis, source)


def rank_weight_bytes(
    spec: ModelSpec, dtype: str, quantization: Quantization | None, tp: int, layers: range, first: bool, last: bool
) -> int:
    """Bytes of weights on one tensor-parallel rank of the pipeline stage that holds ``layers``.

    Matrices split over ranks, K and V projections like the KV heads (replicated when tp exceeds them), norms, routers
    and latents are on every rank. The token table lies on the first stage, the logits matrix on the last (a tied one
    on both). Towers lie on the first stage, whole.
    """
    on_disk = spec.weight_bytes if _as_on_disk(spec, dtype, quantization) else None
    if on_disk is not None and tp == 1 and first and last:
        return on_disk
    total = sum(rank_shares(spec, dtype, quantization, tp, layers, first, last).values())
    if on_disk is not None:
        # headers say the whole exactly; a rank's part of it is taken in proportion to the shapes
        whole = sum(size for _, size in sized_weights(spec, dtype, quantization))
        whole += sum(tower_bytes(tower, spec, dtype, quantization) for tower in spec.towers)
        total = int(ceildiv(total * on_disk, max(whole, 1)))
    return total


def rank_shares(
    spec: ModelSpec, dtype: str, quantization: Quantization | None, tp: int, layers: range, first: bool, last: bool
) -> dict[str, int]:
    """Bytes by category of one rank of a stage, as shapes and formats give them."""
    shares: dict[str, int] = {}
    for item, size in sized_weights(spec, dtype, quantization):
        if item.layer is not None:
            mine = item.layer in layers
        elif item.category == "embeddings":
            mine = first or (last and spec.tied and item.weight.module == "embed_tokens")
        else:
            mine = last
        if mine:
            shares[item.category] = shares.get(item.category, 0) + _share(size, item.weight.shard, tp)
    for tower in spec.towers if first else ():
        shares[tower.name] = shares.get(tower.name, 0) + tower_bytes(tower, spec, dtype, quantization)
    return shares


def _share(size: int, shard: str, tp: int) -> int:
    if tp == 1 or shard == "none":
        return size
    if shard.startswith("kv") and len(shard) > 2:
        heads = int(shard[2:])
        return int(ceildiv(size * maximum(ceildiv(heads, tp), 1), heads))
    return int(ceildiv(size, tp))
