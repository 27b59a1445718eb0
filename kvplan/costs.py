"""Ledgers: from a spec to named amounts of bytes and FLOPs. Formulas come from ``formulas.py``, facts from the spec.

What depends on the spec alone is computed once per spec (``profile``); what depends on context, batch and formats is
evaluated from grouped terms, so that an answer costs microseconds.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kvplan import formulas
from kvplan.cache import CachePlan, Read, build_plan, mixer_parts
from kvplan.errors import InvalidInput
from kvplan.formats import Format, find_format
from kvplan.num import Num, ceil_to, ceildiv, minimum
from kvplan.specs import Compressed, Growth, Layer, Mixer, ModelSpec, Part, Recurrent, Weight
from kvplan.weights import active_parameters, count_parameters, layer_weights, makes_logits, outer_weights

__all__ = [
    "Flops",
    "Formats",
    "Held",
    "Omission",
    "Profile",
    "ReadGroup",
    "Term",
    "decode_flops",
    "entries",
    "entry_bits",
    "held_bytes",
    "hold",
    "kept_keys",
    "kept_pairs",
    "prefill_flops",
    "profile",
    "read_bytes",
    "read_entries",
    "scored",
    "seen_keys",
    "seen_pairs",
]


class Term(NamedTuple):
    """One named amount. basis: exact (follows from facts) | estimated | measured."""

    path: str
    value: int | float
    unit: str
    basis: str
    formula: str
    source: str


class Omission(NamedTuple):
    """What was not counted, and why."""

    path: str
    why: str


class Formats(NamedTuple):
    """Resolved storage formats of one plan."""

    compute: Format
    key: Format
    value: Format
    latent: Format

    def of(self, part: Part) -> Format:
        """The format that stores this part."""
        if part.store_as == "key":
            return self.key
        if part.store_as == "value":
            return self.value
        if part.store_as == "latent":
            return self.latent
        return self.compute if part.store_as == "compute" else find_format(part.store_as)


# Which entries a growth holds; the key is Growth.kind. Engines may add kinds of their own.
ENTRIES: dict[str, Callable[[Num, Num], Num]] = {
    "full": lambda tokens, limit: formulas.entries_full(tokens),
    "window": formulas.entries_window,
    "window_transformers": formulas.entries_window_transformers,
    "chunk": formulas.entries_window,
    "compress": formulas.entries_compressed,
    "budget": formulas.entries_window,
    "landmark": formulas.entries_landmark,
    "remainder": formulas.entries_remainder,
    "last_group": formulas.entries_last_group,
    "constant": lambda tokens, limit: limit,
}
_STATE = ("constant", "remainder", "last_group")


def entries(growth: Growth, tokens: Num, encoder_tokens: Num) -> Num:
    """Entries a part of this growth holds after ``tokens`` (``encoder_tokens`` for cross-attention)."""
    if growth.kind == "encoder":
        return encoder_tokens
    return ENTRIES[growth.kind](tokens, growth.limit)


class Held(NamedTuple):
    """Equal stored parts of one sequence: one per layer that stores."""

    path: str
    layers: int
    growth: Growth
    bits: int  # of one entry
    residual: int
    residual_bits: int

    @property
    def is_state(self) -> bool:
        """Recurrent, convolution and compressor state: bytes that do not grow with context; a full window is none."""
        return self.growth.kind in _STATE


def hold(plan: CachePlan, formats: Formats, tp: int = 1, layers: range | None = None) -> tuple[Held, ...]:
    """The stored parts of a plan, equal ones grouped; with ``tp`` those of one tensor-parallel rank."""
    groups: Counter[Held] = Counter()
    for store in plan.stores:
        if layers is not None and store.layer not in layers:
            continue
        for part in store.parts:
            format_ = formats.of(part)
            heads = formulas.heads_per_rank(part.heads, tp) if part.shard == "heads" and tp > 1 else part.heads
            bits = entry_bits(heads, part.width, format_)
            residual_bits = heads * part.width * formats.compute.element_bits if format_.residual else 0
            path = f"kv/{store.label}/{part.name}"
            groups[Held(path, 0, part.growth, bits, format_.residual, residual_bits)] += 1
    return tuple(held._replace(layers=count) for held, count in groups.items())


def entry_bits(heads: int, width: int, format_: Format) -> int:
    """Bits of one entry of ``heads`` rows of ``width`` elements."""
    bits, per = format_.spread
    if bits:
        return int(formulas.row_bits_spread(heads, width, format_.block, format_.block_bits, bits, per))
    return int(formulas.row_bits(heads, width, format_.block, format_.block_bits))


def held_bytes(held: Held, tokens: Num, encoder_tokens: Num = 0, page: int = 1) -> Num:
    """Bytes of one group for one sequence; each part is rounded up once, entries to ``page`` where they grow."""
    n = entries(held.growth, tokens, encoder_tokens)
    if page > 1 and not held.is_state:
        n = ceil_to(n, page)
    if held.residual:
        return held.layers * formulas.part_bytes_residual(n, held.bits, held.residual, held.residual_bits)
    return held.layers * formulas.part_bytes(n, held.bits)


class ReadGroup(NamedTuple):
    """Layers that read alike: how many; ``parts`` are the parts of the store they read."""

    layers: int
    read: Read  # with layer and store set to 0
    parts: tuple[Part, ...]


class Work(NamedTuple):
    """What one token of a prompt makes the model do, attention's scores apart."""

    linear: int = 0  # weights multiplied, the logits matrix apart
    asking: int = 0  # weights multiplied besides, where there are encoder tokens
    mixing: int = 0  # FLOPs of convolutions and recurrences


class Profile(NamedTuple):
    """Everything that follows from a spec alone."""

    plan: CachePlan
    parameters: int
    active_parameters: int
    linear: int  # weights one new token multiplies in a decode step, logits matrix apart
    cross: int  # weights one encoder token multiplies
    mixing: int  # FLOPs per token of convolutions and recurrences
    logits: int  # weights of the logits matrix
    reads: tuple[ReadGroup, ...]
    parts_of: Callable[[Mixer], tuple[Part, ...]]
    asking: int = 0  # weights one token multiplies besides, where there are encoder tokens
    prompt: Work = Work()  # what every prompt token does, counted once per pass
    last: Work = Work()  # what a prompt's last token alone does


def profile(spec: ModelSpec, parts_of: Callable[[Mixer], tuple[Part, ...]] = mixer_parts) -> Profile:
    """The profile of a spec; remembered on it, because a spec never changes and hashing one costs more than a plan."""
    memo: dict[object, Profile] = spec.__dict__.setdefault("_profiles", {})
    if parts_of not in memo:
        memo[parts_of] = _profile(spec, parts_of)
    return memo[parts_of]


def _profile(spec: ModelSpec, parts_of: Callable[[Mixer], tuple[Part, ...]]) -> Profile:
    plan = build_plan(spec, parts_of)
    linear = cross = mixing = logits = asking = 0
    prompt, last = [0, 0, 0], [0, 0, 0]  # linear, asking, mixing
    plain = Layer()
    weights: list[tuple[Layer, Weight]] = [(plain, w) for w in outer_weights(spec)]
    for i, layer in enumerate(spec.layers):
        weights += [(layer, w) for w in layer_weights(spec, i)]
        mixed = layer.mix_flops + sum(m.mix_flops for m in layer.mixers if isinstance(m, (Recurrent, Compressed)))
        mixing += mixed
        if layer.prefill_last:
            last[2] += mixed
        else:
            prompt[2] += mixed * layer.prefill_passes
    for layer, w in weights:
        visited = (w.copies if w.visited is None else w.visited) * w.inputs * w.outputs
        # keys and values that others read are needed of every prompt token, even where the layer is left early
        side, times = (last, 1) if layer.prefill_last and not w.cached else (prompt, layer.prefill_passes)
        if makes_logits(w):
            logits += visited
        elif w.asks_encoder:
            asking += visited
            side[1] += visited * times
        elif w.kind == "linear":
            linear += visited * w.steps
            side[0] += visited * times
        elif w.kind == "cross":
            cross += visited
        elif w.kind == "conv":
            mixing += 2 * visited
            side[2] += 2 * visited * times
    if spec.has_head and spec.tied:
        logits += (spec.embed_dim or spec.hidden) * spec.vocab
    groups: Counter[tuple[Read, tuple[Part, ...]]] = Counter()
    for read in plan.reads:
        parts = tuple(p for p in plan.stores[read.store].parts if not read.own or p.name in read.own)
        groups[read._replace(layer=0, store=0), parts] += 1
    reads = tuple(ReadGroup(count, read, parts) for (read, parts), count in groups.items())
    return Profile(
        plan,
        count_parameters(spec),
        active_parameters(spec),
        linear,
        cross,
        mixing,
        logits,
        reads,
        parts_of,
        asking,
        Work(*prompt),
        Work(*last),
    )


# --- traffic ---------------------------------------------------------------------------------------------------------


def read_bytes(group: ReadGroup, formats: Formats, tokens: Num, encoder_tokens: Num = 0, tp: int = 1) -> Num:
    """Bytes that one decode step of one sequence reads through one group of equal reads (on one of ``tp`` ranks).

    The new token attends to the entries cached and to its own: S + 1, or min(S + 1, W) under a window. An indexer
    makes the layer read at most ``top_k`` entries of the main parts, but all of its own keys.
    """
    total: Num = 0
    read = group.read
    for part in group.parts:
        seen = read_entries(read, part, tokens, encoder_tokens)
        format_ = formats.of(part)
        heads = formulas.heads_per_rank(part.heads, tp) if part.shard == "heads" and tp > 1 else part.heads
        bits = entry_bits(heads, part.width, format_)
        if format_.residual:
            plain = heads * part.width * formats.compute.element_bits
            total += formulas.part_bytes_residual(seen, bits, format_.residual, plain)
        else:
            total += formulas.part_bytes(seen, bits)
    return group.layers * total


def read_entries(read: Read, part: Part, tokens: Num, encoder_tokens: Num) -> Num:
    """Entries of one part that the next query reads after ``tokens`` cached."""
    if part.growth.kind in _STATE:
        return entries(part.growth, tokens, encoder_tokens)
    if part.name == "index":
        growth = part.growth if part.growth.kind == "compress" else read.growth
        return seen_keys(growth, tokens, encoder_tokens) if read.index_heads else 0
    if part.growth.kind == "compress" and read.growth.kind != "compress":
        return entries(part.growth, tokens + 1, encoder_tokens)
    return kept_keys(read, tokens, encoder_tokens)


def seen_keys(growth: Growth, tokens: Num, encoder_tokens: Num) -> Num:
    """Keys the next query looks at after ``tokens`` cached."""
    if growth.kind == "encoder":
        return encoder_tokens
    if growth.kind in ("window", "budget"):
        return formulas.entries_window(tokens + 1, growth.limit)
    if growth.kind == "chunk":
        return formulas.keys_chunk(tokens, growth.limit)
    if growth.kind == "landmark":
        return formulas.entries_landmark(tokens + 1, growth.limit)
    if growth.kind == "compress":
        return formulas.entries_compressed(tokens + 1, growth.limit)
    return tokens + 1


def scored(read: Read, growth: Growth) -> Growth:
    """What an indexer scores of what the mask allows: every key, or the complete blocks where it pools them."""
    return Growth("compress", read.index_block) if read.index_pooled else growth


def kept_keys(read: Read, tokens: Num, encoder_tokens: Num) -> Num:
    """Of the keys the next query looks at, those that an indexer or a sparse pattern leaves it."""
    keys = seen_keys(read.growth, tokens, encoder_tokens)
    if read.sparse is not None:
        if read.sparse.stride:
            return formulas.keys_sparse(keys, read.sparse.fixed, read.sparse.stride)
        return formulas.entries_window(keys, read.sparse.fixed)
    if read.top_k is None:
        return keys
    if read.growth.kind in ("full", "window", "budget") and read.index_block > 1:
        return formulas.entries_window(keys, formulas.keys_blocks(tokens, read.top_k, read.index_block))
    return formulas.entries_window(keys, read.top_k)


# --- FLOPs -----------------------------------------------------------------------------------------------------------


class Flops(NamedTuple):
    """FLOPs of a pass over the whole batch; a multiply-add is 2."""

    linear: int
    attention: int
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.logits


def seen_pairs(growth: Growth, tokens: Num, encoder_tokens: Num, full: bool) -> Num:
    """Pairs of a prompt's queries with the keys that the mask allows, or with all of them where ``full``."""
    if growth.kind == "encoder":
        return tokens * encoder_tokens
    if growth.kind == "compress":
        return (
            tokens * formulas.entries_compressed(tokens, growth.limit)
            if full
            else formulas.pairs_compressed(tokens, growth.limit)
        )
    if growth.kind == "landmark":
        # a query sees the landmarks of complete blocks beside the tokens
        marks = tokens * (formulas.entries_landmark(tokens, growth.limit) - tokens)
        if full:
            return formulas.pairs_square(tokens) + marks
        return formulas.pairs_causal(tokens) + formulas.pairs_compressed(tokens, growth.limit)
    if full:
        return formulas.pairs_square(tokens)
    if growth.kind == "window":
        return formulas.pairs_window(tokens, growth.limit)
    if growth.kind == "chunk":
        return formulas.pairs_chunk(tokens, growth.limit)
    return formulas.pairs_causal(tokens)


def kept_pairs(read: Read, tokens: Num) -> Num:
    """Of the pairs that the mask allows, those that an indexer or a sparse pattern leaves a prompt's queries."""
    growth, sparse = read.prompt or read.growth, read.sparse
    if growth.kind == "full" and sparse is None and read.index_block > 1:
        return formulas.pairs_blocks(tokens, read.top_k, read.index_block)
    if growth.kind == "window" and sparse is None and read.index_block > 1:
        return formulas.pairs_blocks_window(tokens, read.top_k, read.index_block, growth.limit)
    fixed = (read.top_k or 0) if sparse is None else sparse.fixed
    stride = 0 if sparse is None else sparse.stride

    def ramp(keys: Num) -> Num:  # kept by queries that see 1, 2 ... keys
        return formulas.pairs_sparse(keys, fixed, stride) if stride else formulas.pairs_window(keys, fixed)

    def kept(keys: Num) -> Num:
        return formulas.keys_sparse(keys, fixed, stride) if stride else formulas.entries_window(keys, fixed)

    if growth.kind == "window":
        head = minimum(tokens, growth.limit)
        return ramp(head) + (tokens - head) * kept(head)
    if growth.kind == "chunk":
        whole = ceildiv(tokens - growth.limit + 1, growth.limit)
        return whole * ramp(growth.limit) + ramp(tokens - growth.limit * whole)
    if growth.kind == "compress" and sparse is None:
        return formulas.pairs_compressed_topk(tokens, growth.limit, fixed)
    if growth.kind == "compress":
        # every count of complete groups stands for `limit` tokens, the last one until the next group closes
        whole = ceildiv(tokens - growth.limit + 1, growth.limit)
        return growth.limit * ramp(whole - 1) + (tokens - growth.limit * whole + 1) * kept(whole)
    return ramp(tokens)


def prefill_flops(
    p: Profile, tokens: Num, batch: Num, *, full: bool, all_logits: bool, encoder_tokens: Num = 0
) -> Flops:
    """FLOPs of one prefill of ``batch`` prompts of ``tokens``; MLA is expanded, as prefill kernels run it."""
    # a prompt whose every position needs logits cannot leave early
    early = not all_logits
    linear = formulas.linear_flops(batch * encoder_tokens, p.cross)
    attention: Num = 0
    for work, positions in ((p.prompt, tokens), (p.last, 1 if early else tokens)):
        linear += formulas.linear_flops(batch * positions, work.linear + (work.asking if encoder_tokens else 0))
        attention += batch * positions * work.mixing
    for group in p.reads:
        r = group.read
        if not r.heads:
            continue
        times = group.layers * batch * r.prefill_passes
        if r.prefill_last and early:
            attention += times * _step_flops(r, tokens - 1, encoder_tokens)
            continue
        pairs = seen_pairs(r.prompt or r.growth, tokens, encoder_tokens, full)
        if r.top_k is not None:
            # the indexer scores every pair, attention visits what it keeps of them
            scores = seen_pairs(scored(r, r.prompt or r.growth), tokens, encoder_tokens, full)
            attention += times * 2 * scores * r.index_heads * r.index_dim
            pairs = pairs if full else kept_pairs(r, tokens)
        elif r.sparse is not None and r.sparse.prefill and not full:
            pairs = kept_pairs(r, tokens)
        attention += times * formulas.attention_flops(pairs, r.heads, r.score_dim, r.value_dim)
    logits = formulas.linear_flops(batch * (tokens if all_logits else 1), p.logits)
    return Flops(linear, attention, logits)


def decode_flops(p: Profile, tokens: Num, batch: Num, *, encoder_tokens: Num = 0) -> Flops:
    """FLOPs of one decode step: one new token per sequence after ``tokens`` cached; MLA is absorbed."""
    linear = formulas.linear_flops(batch, p.linear + (p.asking if encoder_tokens else 0))
    attention = batch * p.mixing
    for group in p.reads:
        if group.read.heads:
            attention += group.layers * batch * _step_flops(group.read, tokens, encoder_tokens)
    return Flops(linear, attention, formulas.linear_flops(batch, p.logits))


def _step_flops(read: Read, tokens: Num, encoder_tokens: Num) -> Num:
    """Scores and weighted sum of one new token after ``tokens`` cached, an indexer's scores included."""
    scores: Num = 0
    if read.top_k is not None:
        keys = seen_keys(scored(read, read.growth), tokens, encoder_tokens)
        scores = 2 * keys * read.index_heads * read.index_dim
    keys = kept_keys(read, tokens, encoder_tokens)
    return scores + formulas.attention_flops(keys, read.heads, read.decode_score_dim, read.decode_value_dim)


def resolve_formats(spec: ModelSpec, dtype: str | None, kv_dtype: str | None, k: str | None, v: str | None) -> Formats:
    """The formats of a plan: ``dtype`` for activations and state, ``kv_dtype`` for K, V and latents."""
    compute = find_format(spec.dtype if dtype in (None, "auto") else dtype, "dtype")
    if compute.name not in ("fp32", "fp16", "bf16"):
        raise InvalidInput("dtype", dtype, "bf16, fp16 or fp32 (the cache has --kv-dtype)")
    stated = spec.kv_dtype if kv_dtype is None or kv_dtype == "auto" else kv_dtype
    both = compute if stated is None else find_format(stated, "kv_dtype")
    if kv_dtype is None:
        k, v = k or spec.cache_type_k, v or spec.cache_type_v
    key = both if k is None else find_format(k, "cache_type_k")
    value = both if v is None else find_format(v, "cache_type_v")
    # a latent is cached where others cache keys: what is said of K holds for it (llama.cpp reads V out of K's cache)
    return Formats(compute, key, value, both if k is None else key)
