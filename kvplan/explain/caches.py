"""Caches term by term: what is held, what a step reads of it, and what attention computes over it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, cast

from kvplan import formulas
from kvplan.cache import Read
from kvplan.costs import (
    ENTRIES,
    Held,
    entries,
    entry_bits,
    held_bytes,
    kept_keys,
    kept_pairs,
    read_entries,
    scored,
    seen_keys,
    seen_pairs,
)
from kvplan.explain.named import Named, Step, plain, show
from kvplan.explain.text import Made, counted, sentence, times
from kvplan.formats import Format
from kvplan.num import ceil_to
from kvplan.planner import Answer
from kvplan.specs import Growth, Part, Sparse

__all__ = ["attention", "kv", "rounding", "traffic"]

# --- held ------------------------------------------------------------------------------------------------------------


def _entries(growth: Growth, tokens: int, encoder_tokens: int) -> Iterator[Made]:
    """How many entries are held: the formula of the growth's kind."""
    if growth.kind == "full":
        yield show(formulas.entries_full, tokens=tokens)
    elif growth.kind == "encoder":
        yield sentence(f"entries = {encoder_tokens:,}, one per encoder token")
    elif growth.kind == "constant":
        yield sentence(f"entries = {growth.limit:,}, whatever the context")
    else:
        formula = ENTRIES[growth.kind]
        limit = list(inspect.signature(formula).parameters)[1]
        yield show(formula, tokens=tokens, **{limit: growth.limit})


def kv(held: Held, a: Answer, tp: int, sequences: int, page: int) -> Iterator[Made]:
    """One group of equal stored parts: entries, bits of one, bytes, times layers and sequences."""
    s = a.settings
    yield from _entries(held.growth, s.context, s.encoder_context)
    n = entries(held.growth, s.context, s.encoder_context)
    if page > 1 and not held.is_state:
        yield Step("blocks", "Whole blocks are allocated.", ceil_to(Named.of("entries", n), Named.of("block", page)))
        n = ceil_to(n, page)
    part, heads = _part(held, a, tp)
    if heads != part.heads:
        yield show(formulas.heads_per_rank, heads=part.heads, tp=tp)
    yield from _row(part, heads, s.formats.of(part))
    if held.residual:
        size = show(
            formulas.part_bytes_residual,
            entries=n,
            bits_per_entry=held.bits,
            residual=held.residual,
            residual_bits=held.residual_bits,
        )
    else:
        size = show(formulas.part_bytes, entries=n, bits_per_entry=held.bits)
    yield size
    yield from times(size.result.value, "bytes", (held.layers, "layer"), (sequences, "sequence"))


def _part(held: Held, a: Answer, tp: int) -> tuple[Part, int]:
    """The part that a group was made from, and its heads on one rank."""
    for store in a.profile.plan.stores:
        for part in store.parts:
            heads = formulas.heads_per_rank(part.heads, tp) if part.shard == "heads" and tp > 1 else part.heads
            alike = f"kv/{store.label}/{part.name}" == held.path and part.growth == held.growth
            if alike and entry_bits(heads, part.width, a.settings.formats.of(part)) == held.bits:
                return part, heads
    raise AssertionError(f"no part makes {held}")


def _row(part: Part, heads: int, stored: Format) -> Iterator[Made]:
    bits, per = stored.spread
    row = {"heads": heads, "width": part.width, "block": stored.block, "block_bits": stored.block_bits}
    if bits:
        yield show(formulas.row_bits_spread, **row, bits=bits, per=per)
    else:
        yield show(formulas.row_bits, **row)


def rounding(a: Answer, _: str) -> Iterator[Made]:
    """What paging adds to every group of parts."""
    s = a.settings
    for held in a.held:
        n = entries(held.growth, s.context, s.encoder_context)
        more = held_bytes(held, s.context, s.encoder_context, s.page) - held_bytes(held, s.context, s.encoder_context)
        if more:
            yield sentence(f"{held.path}: {n:,} → {ceil_to(n, s.page):,} entries, {more:,} bytes more in all layers")
            yield from times(more, "bytes", (s.batch, "sequence"))


# --- reads: traffic and attention --------------------------------------------------------------------------------------


def _named(read: Read) -> Any:
    """The read with its numbers named, so that formulas show the names; costs takes it like any other."""

    def name(growth: Any) -> Any:
        known = growth is not None and growth.kind in LIMITS
        return growth._replace(limit=Named.of(LIMITS[growth.kind], growth.limit)) if known else growth

    changes: dict[str, Any] = {"growth": name(read.growth), "prompt": name(read.prompt)}
    if read.top_k is not None:
        changes["top_k"] = Named.of("top_k", read.top_k)
    if read.sparse is not None:
        stride = Named.of("stride", read.sparse.stride) if read.sparse.stride else 0
        changes["sparse"] = Sparse(cast("int", Named.of("fixed", read.sparse.fixed)), cast("int", stride))
    return read._replace(**changes)


LIMITS = {"window": "window", "chunk": "chunk", "compress": "ratio", "landmark": "block", "budget": "budget"}
LOOKS = {
    "full": "every token",
    "window": "the last {:,} tokens",
    "chunk": "chunks of {:,} tokens",
    "compress": "one entry per {:,} tokens",
    "budget": "a budget of {:,} tokens",
    "landmark": "every token and the landmark of every {:,}",
    "encoder": "the encoder's tokens",
    "constant": "a state",
}


BLOCKS = "Complete blocks of keys, each of which is scored once."


def _looks(layers: int, read: Read) -> tuple[str, str]:
    """One group of equal reads in words."""
    text = f"{counted(layers, 'layer')}: {LOOKS.get(read.growth.kind, read.growth.kind).format(read.growth.limit)}"
    if read.top_k is not None:
        text += f", the best {read.top_k:,} of them"
        if read.index_heads:
            text += f" by an indexer of {read.index_heads:,} heads of {read.index_dim:,}"
    elif read.sparse is not None:
        more = f" and one in {read.sparse.stride:,}" if read.sparse.stride else ""
        text += f", at most {read.sparse.fixed:,}{more} of them"
    return sentence(text)


def _step(name: str, sentence: str, result: Any) -> Step:
    return Step(name, sentence, result if isinstance(result, Named) else plain(result))


def traffic(a: Answer, _: str) -> Iterator[Made]:
    """Bytes that a decode step reads of every part."""
    s = a.settings
    tokens: Any = Named.of("tokens", s.context)
    encoder: Any = Named.of("encoder_tokens", s.encoder_context)
    for group in a.profile.reads:
        if not group.parts:
            continue
        yield (
            _looks(group.layers, group.read)
            if group.read.heads
            else sentence(f"{counted(group.layers, 'layer')}: a state")
        )
        before = ""
        for part in group.parts:
            growth = part.growth
            if growth.kind in LIMITS:
                growth = growth._replace(limit=cast("int", Named.of(LIMITS[growth.kind], growth.limit)))
            seen = _step(
                "entries",
                "Entries that the next token reads, its own included.",
                read_entries(_named(group.read), part._replace(growth=growth), tokens, encoder),
            )
            if seen.result.symbol != before:
                yield seen
                before = seen.result.symbol
            stored, n = s.formats.of(part), seen.result.value
            bits = entry_bits(part.heads, part.width, stored)
            if stored.residual:
                size = show(
                    formulas.part_bytes_residual,
                    entries=n,
                    bits_per_entry=bits,
                    residual=stored.residual,
                    residual_bits=part.heads * part.width * s.formats.compute.element_bits,
                )
            else:
                size = show(formulas.part_bytes, entries=n, bits_per_entry=bits)
            yield size._replace(name=part.name)
            yield from times(size.result.value, "bytes", (group.layers, "layer"), (s.batch, "sequence"))


def attention(a: Answer, name: str) -> Iterator[Made]:
    """Scores and weighted sums of a pass: per group of reads the pairs, the FLOPs of one layer, and how often."""
    s, p = a.settings, a.profile
    prefill = name == "prefill"
    early = prefill and not s.all_logits  # layers that a prompt leaves early see its last token alone
    if prefill:
        mixed = ((p.prompt.mixing, s.context, "token"), (p.last.mixing, 1 if early else s.context, "last token"))
    else:
        mixed = ((p.mixing, 1, "new token"), (0, 1, ""))
    for flops, positions, what in mixed:
        if flops:
            yield sentence(f"convolutions, recurrences and mixing without weights: {flops:,} FLOPs per token")
            yield from times(flops, "FLOPs", (positions, what), (s.batch, "sequence"))
    for group in p.reads:
        r = group.read
        if not r.heads:
            continue
        yield _looks(group.layers, r)
        often = [(group.layers, "layer"), (s.batch, "sequence")]
        if prefill and r.prefill_passes > 1:
            often.append((r.prefill_passes, "pass"))
        if not prefill or (r.prefill_last and early):
            if prefill:
                yield sentence("the prompt's last token alone runs through them")
            yield from _queries(r, s.context - 1 if prefill else s.context, s.encoder_context, often)
        else:
            yield from _prompt(a, r, often)


def _queries(read: Read, cached: int, encoder_tokens: int, often: list[tuple[int, str]]) -> Iterator[Made]:
    """One new token after ``cached`` ones."""
    named, tokens = _named(read), cast("Any", Named.of("tokens", cached))
    encoder: Any = Named.of("encoder_tokens", encoder_tokens)
    seen = _step(
        "keys", "Keys that the new token may see, its own among them.", seen_keys(named.growth, tokens, encoder)
    )
    yield seen
    if read.top_k is not None and read.index_heads:
        blocks = _step("blocks", BLOCKS, seen_keys(scored(named, named.growth), tokens, encoder))
        if read.index_pooled:
            yield blocks
        yield from _scores(blocks.result.value, read, often)
    kept = _step("kept", "Keys that it attends to.", kept_keys(named, tokens, encoder))
    if kept.result.symbol != seen.result.symbol:
        yield kept
    yield from _attends(kept.result.value, read.heads, read.decode_score_dim, read.decode_value_dim, often)


def _prompt(a: Answer, read: Read, often: list[tuple[int, str]]) -> Iterator[Made]:
    """All tokens of a prompt at once."""
    s = a.settings
    named, tokens = _named(read), cast("Any", Named.of("tokens", s.context))
    encoder: Any = Named.of("encoder_tokens", s.encoder_context)
    pairs = seen_pairs(named.prompt or named.growth, tokens, encoder, s.full_attention)
    seen = _step("pairs", "Pairs of a query and a key that are computed.", pairs)
    yield seen
    if read.top_k is not None and read.index_heads:
        growth = scored(named, named.prompt or named.growth)
        blocks = _step("blocks", BLOCKS, seen_pairs(growth, tokens, encoder, s.full_attention))
        if read.index_pooled:
            yield blocks
        yield from _scores(blocks.result.value, read, often)
    sparse = read.top_k is not None or (read.sparse is not None and read.sparse.prefill)
    n = seen.result.value
    if sparse and not s.full_attention:
        kept = _step("kept", "Pairs that attention computes of them.", kept_pairs(named, tokens))
        yield kept
        n = kept.result.value
    yield from _attends(n, read.heads, read.score_dim, read.value_dim, often)


def _scores(pairs: int, read: Read, often: list[tuple[int, str]]) -> Iterator[Made]:
    step = _step(
        "scores",
        "The indexer's scores: 2 FLOPs per multiply-add, over every pair.",
        2
        * Named.of("pairs", pairs)
        * Named.of("index_heads", read.index_heads)
        * Named.of("index_dim", read.index_dim),
    )
    yield step
    yield from times(step.result.value, "FLOPs", *often)


def _attends(pairs: int, heads: int, score_dim: int, value_dim: int, often: list[tuple[int, str]]) -> Iterator[Made]:
    step = show(formulas.attention_flops, pairs=pairs, heads=heads, score_dim=score_dim, value_dim=value_dim)
    yield step
    yield from times(step.result.value, "FLOPs", *often)
