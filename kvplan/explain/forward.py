"""Every term of the ledger as a block that ends in the term's own value: one builder per path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from kvplan import formulas
from kvplan.checkpoint import rank_shares, sized_weights, tower_bytes
from kvplan.costs import Term
from kvplan.explain.caches import attention, kv, rounding, traffic
from kvplan.explain.named import Named, Step, show
from kvplan.explain.stages import stage_words, tightest
from kvplan.explain.text import Block, Made, counted, digits, sentence, times
from kvplan.num import ceildiv, minimum
from kvplan.planner import Answer, away_millionths, mlp_width, on_gpu, transients
from kvplan.report import Report
from kvplan.roofline import peak_flops
from kvplan.settings import PREFILL_CHUNK, RUNTIME_SOURCE

__all__ = ["ledger", "pool_block"]


def ledger(report: Report) -> Iterator[Block]:
    """One block for every term of the ledger, in its order; a term that nothing here knows shows its own words."""
    a = report.answer
    s = a.settings
    fullest = max(a.stages, key=lambda stage: stage.lean.at(s.context))
    whole = iter([kv(held, a, 1, s.batch, 1) for held in a.held])
    ranks = iter([kv(held, a, s.tp, s.rank_sequences, s.page) for held in fullest.held])
    kept = {line.path for line in a.served.kept} if a.served else set()
    made: Iterable[Made]
    for term in report.terms:
        first, _, rest = term.path.removeprefix("per_gpu/").partition("/")
        if a.served and (first in ("kv", "engine") or term.path in kept) and term.path != "engine/reserve":
            made = iter((sentence(f"{term.formula}; {term.source}"), term.value))
        elif term.path.startswith("kv/"):
            made = next(whole)
        elif term.path.startswith("per_gpu/kv/"):
            made = next(ranks)
        else:
            first, _, rest = term.path.partition("/")
            builder = BUILDERS.get(term.path) or BUILDERS.get(first)
            made = builder(a, rest) if builder else iter((sentence(f"{term.formula}; {term.source}"), term.value))
        yield _block(term, made)


def _block(term: Term, made: Iterable[Made]) -> Block:
    """The parts of a block, and the line that adds its amounts up."""
    shown: list[Step | tuple[str, str]] = []
    amounts: list[int | float] = []
    for item in made:
        if isinstance(item, (int, float)):
            amounts.append(item)
        else:
            shown.append(item)
    total = sum(amounts)
    end = f"= {digits(total)} {term.unit}"
    closed = shown and not isinstance(shown[-1], Step) and shown[-1][0].endswith(end)
    if len(amounts) > 1 or not closed:
        some = [digits(amount) for amount in amounts]
        summed = " + ".join(some) if len(some) <= ADDED else f"the {len(some)} amounts above"
        shown.append(sentence(f"total = {summed} {end}" if len(some) > 1 else f"total {end}"))
    return Block(term.path, f"{digits(term.value)} {term.unit}", tuple(shown), (), total)


ADDED = 6  # amounts written out where a block adds them up


# --- weights: bytes and matmuls ---------------------------------------------------------------------------------------


def _flops(a: Answer, rest: str) -> Iterator[Made]:
    name, _, what = rest.partition("/")
    s, p = a.settings, a.profile
    if what == "attention":
        yield from attention(a, name)
    elif what == "logits":
        rows = s.batch * (s.context if s.all_logits and name == "prefill" else 1)
        yield from _matmul("the logits matrix", rows, p.logits)
    else:
        encoder = s.encoder_context
        if name == "decode":
            yield from _matmul("new tokens", s.batch, p.linear + (p.asking if encoder else 0))
            return
        early = 1 if not s.all_logits else s.context
        for who, work, positions in (("prompt tokens", p.prompt, s.context), ("last tokens", p.last, early)):
            weights = work.linear + (work.asking if encoder else 0)
            if weights:
                yield from _matmul(who, s.batch * positions, weights)
        if p.cross and encoder:
            yield from _matmul("encoder tokens, for keys and values of cross-attention", s.batch * encoder, p.cross)


def _matmul(who: str, tokens: int, parameters: int) -> Iterator[Made]:
    step = show(formulas.linear_flops, tokens=tokens, parameters=parameters)
    yield sentence(who)
    yield step
    yield step.result.value


BIGGEST = 8  # kinds of tensors written out per category


def _weights(a: Answer, category: str) -> Iterator[Made]:
    """The biggest tensors of one category: how many, their shape, their bits; the others in one line."""
    w = a.weights
    assert w is not None
    s, spec = a.settings, a.spec
    dtype, quantization = s.formats.compute.name, s.quantization
    alike: Counter[tuple[str, int, int, int, bool, int]] = Counter()
    for item, size in sized_weights(spec, dtype, quantization):
        if item.category == category:
            t = item.weight
            alike[t.module, t.inputs, t.outputs, t.copies, t.bias, size] += 1
    ordered = sorted(alike.items(), key=lambda pair: -pair[0][-1] * pair[1])
    for (module, inputs, outputs, copies, bias, size), count in ordered[:BIGGEST]:
        elements = copies * (inputs * outputs + (outputs if bias else 0))
        shape = f"{inputs:,} × {outputs:,}" if inputs > 1 else f"{outputs:,}"
        if bias:
            shape = f"({shape} + {outputs:,} of bias)"
        average = f"{8 * size / elements:.6g}" if elements else "0"
        about = "" if elements and float(average) * elements == 8 * size else "≈ "
        many = "".join(f"{n:,} × " for n in (count, copies) if n > 1)
        yield sentence(f"{module}: {many}{shape} × {about}{average} bits = {count * size:,} bytes")
        yield count * size
    rest = ordered[BIGGEST:]
    if rest:
        size = sum(item[-1] * count for item, count in rest)
        yield sentence(f"{counted(sum(count for _, count in rest), 'smaller tensor')} = {size:,} bytes")
        yield size
    for tower in spec.towers:
        if tower.name == category:
            size = tower_bytes(tower, spec, dtype, quantization)
            yield sentence(f"{tower.name}: {tower.parameters:,} parameters beside the decoder = {size:,} bytes")
            yield size
    shapes = sum(size for name, size in w.by_category.items() if name != BEYOND)
    if category == BEYOND:
        yield sentence(f"the files hold {w.total:,} bytes, shapes and formats give {shapes:,} ({w.source})")
        yield w.total - shapes


BEYOND = "file beyond shapes"


def _rank_weights(a: Answer, _: str) -> Iterator[Made]:
    """The heaviest stage's rank by category, and what headers of real files add to the shapes."""
    s, last = a.settings, len(a.stages) - 1
    i = max(range(last + 1), key=lambda i: a.stages[i].weights)
    stage = a.stages[i]
    where = stage_words(a, i)
    yield sentence(f"{where + ': ' if where else ''}matrices / {s.tp}, norms, routers and latents whole")
    dtype, format_ = s.formats.compute.name, s.quantization
    shares = rank_shares(a.spec, dtype, format_, s.tp, stage.layers, i == 0, i == last)
    for category, size in shares.items():
        yield sentence(f"{category} = {size:,} bytes")
        yield size
    more = stage.weights - sum(shares.values())
    if more:
        yield sentence(f"the files' total, in proportion to the shapes: {more:,} bytes on top")
        yield more


# --- memory and time --------------------------------------------------------------------------------------------------


def _memory(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    yield sentence(f"as the driver exposes it: {s.gpu.memory_source}" if s.gpu else "as --memory says")
    yield s.memory_bytes or 0


def _reserve(a: Answer, _: str) -> Iterator[Made]:
    memory, share = a.settings.memory_bytes or 0, round(a.settings.utilization * 10**6)
    usable = memory * share // 10**6
    yield sentence(f"usable = ⌊{memory:,} × {share:,} / 1,000,000⌋ = {usable:,} bytes")
    yield sentence(f"{memory:,} − {usable:,} = {memory - usable:,} bytes")
    yield memory - usable


def _storage(a: Answer, _: str) -> Iterator[Made]:
    s = a.settings
    i = max(range(len(a.stages)), key=lambda i: a.stages[i].lean.storage(s.context))
    if len(a.stages) > 1:
        yield sentence(stage_words(a, i))
    for limit, size in a.stages[i].lean.entries:
        if limit and s.context > limit:
            step = show(formulas.prefill_storage_bytes, tokens=s.context, kept=limit, bits_per_entry=8 * size)
            yield step
            yield from times(step.result.value, "bytes", (s.rank_sequences, "sequence"))


def _activations(a: Answer, _: str) -> Iterator[Made]:
    s, spec = a.settings, a.spec
    tokens, sequences = s.context, s.rank_sequences
    held = transients(spec, s)
    at_once = Named.of("tokens", tokens) * Named.of("sequences", sequences)
    if s.engine.prompt is not None:
        sizes = []
        for name, per_token, per_pair in held.layers:
            yield sentence(f"{name}: {per_token:,} bytes per token, {per_pair:,} per pair of tokens")
            step = show(
                formulas.prompt_bytes, tokens=tokens, sequences=sequences, per_token=per_token, per_pair=per_pair
            )
            yield step
            sizes.append(step.result.value)
        largest = max(sizes, default=0)
        if held.masks:
            masks = show(formulas.masks_bytes, tokens=tokens, masks=held.masks, element=held.mask_element)
            yield masks
            largest += masks.result.value
            yield sentence(f"{largest:,} bytes: the largest layer and the masks")
    else:
        at_once = minimum(at_once, Named.of("chunk", PREFILL_CHUNK))
        yield Step("tokens at once", "Prompts are fed in chunks.", at_once)
        width = ceildiv(Named.of("MLP width", mlp_width(spec)), Named.of("tp", s.tp))
        if s.tp > 1:
            yield Step("width", "Of the widest MLP that one token runs through, on one rank.", width)
        element = s.formats.compute.element_bits // 8
        layer = show(
            formulas.activation_bytes, tokens=at_once.value, hidden=spec.hidden, width=width.value, element=element
        )
        yield layer
        largest = layer.result.value
    if spec.has_head:
        rows = at_once.value if s.all_logits or held.all_logits else sequences
        logits = show(formulas.logits_bytes, rows=rows, vocab=spec.vocab, each=held.logit)
        yield logits
        yield sentence(f"max({largest:,}, {logits.result.value:,}) = {max(largest, logits.result.value):,} bytes")
        largest = max(largest, logits.result.value)
    yield largest


def _runtime(a: Answer, _: str) -> Iterator[Made]:
    yield sentence(f"context and kernels, outside the allocator: {RUNTIME_SOURCE}")
    yield a.settings.runtime_bytes


def _time(a: Answer, rest: str) -> Iterator[Made]:
    """max(FLOPs / peak, bytes / bandwidth) of one term of a pass, or bytes over a link."""
    name, _, path = rest.partition("/")
    s = a.settings
    assert a.times is not None
    assert s.gpu is not None
    found = a.times.prefill if name == "prefill" else a.times.decode
    for transfer in found.transfers:
        if transfer.path == path:
            seconds = transfer.bytes / transfer.bytes_per_s
            yield sentence(f"{transfer.bytes:,.0f} bytes / {transfer.bytes_per_s:.6g} bytes/s = {seconds:.6g} s")
            yield seconds
    for work in found.work:
        rate = peak_flops(s.gpu, work.column)
        if work.path == path and rate is not None:
            compute = work.flops / (rate[0] * s.compute_efficiency)
            memory = work.bytes / (s.gpu.bandwidth_bytes_per_s * s.bandwidth_efficiency)
            peak = f"({rate[0]:.6g} {rate[1]} FLOP/s × {s.compute_efficiency:g})"
            speed = f"({s.gpu.bandwidth_bytes_per_s:.6g} bytes/s × {s.bandwidth_efficiency:g})"
            yield sentence(f"compute: {work.flops:.6g} FLOPs / {peak} = {compute:.6g} s")
            yield sentence(f"memory: {work.bytes:.6g} bytes / {speed} = {memory:.6g} s")
            side = "compute" if compute >= memory else "memory"
            yield sentence(f"{side}-bound: max({compute:.6g}, {memory:.6g}) = {max(compute, memory):.6g} s")
            yield max(compute, memory)


def _place(a: Answer, where: str) -> Iterator[Made]:
    """What lies off the GPU: host memory and disk share what the GPU's part leaves."""
    yield from _left_over(a, a.kv_bytes, "caches")
    off = round(a.spec.offload.disk * 10**6)
    away = away_millionths(a.spec)
    rest = a.kv_bytes - on_gpu(a.spec, a.kv_bytes)
    disk = rest * off // away
    yield sentence(f"on disk ⌊{rest:,} × {off:,} / {away:,}⌋ = {disk:,} bytes")
    if where == "disk":
        yield disk
    else:
        yield sentence(f"{rest:,} − {disk:,} = {rest - disk:,} bytes")
        yield rest - disk


def _link(a: Answer, _: str) -> Iterator[Made]:
    yield from _left_over(a, a.bytes_read_per_step, "reads")
    yield a.bytes_read_per_step - on_gpu(a.spec, a.bytes_read_per_step)


def _left_over(a: Answer, size: int, what: str) -> Iterator[Made]:
    yield show(formulas.gpu_share, size=size, away=away_millionths(a.spec))
    kept = on_gpu(a.spec, size)
    yield sentence(f"{what} off the GPU: {size:,} − {kept:,} = {size - kept:,} bytes")


# By the path of a term, or by its first word; what a builder gets is the answer and the rest of the path.
BUILDERS: dict[str, Callable[[Answer, str], Iterator[Made]]] = {
    "weights": _weights,
    "per_gpu/weights": _rank_weights,
    "engine/block rounding": rounding,
    "traffic/kv": traffic,
    "traffic/link": _link,
    "place": _place,
    "flops": _flops,
    "gpu/memory": _memory,
    "engine/reserve": _reserve,
    "engine/prefill_storage": _storage,
    "activations/peak": _activations,
    "runtime/context": _runtime,
    "time": _time,
}


def pool_block(report: Report) -> Block:
    """What is left for caches on the stage that has the least room."""
    a, c = report.answer, report.capacity
    assert c is not None
    if a.served:
        said = [sentence(f"{name} = {value}") for name, value in report.engine["facts"].items()]
        return Block("capacity/kv_pool", f"{c.kv_pool_bytes:,} bytes", (), tuple(said), c.kv_pool_bytes)
    i = tightest(a, a.settings.context, a.settings.rank_sequences)
    step = show(
        formulas.kv_pool,
        memory=c.memory_bytes,
        reserved=c.memory_bytes - c.usable_bytes,
        weights=a.stages[i].weights,
        activations=a.activations,
        runtime=a.settings.runtime_bytes,
    )
    lines = [sentence(stage_words(a, i))] if len(a.stages) > 1 else []
    if step.result.value < 0:
        lines.append(sentence("less than nothing is left: total = 0 bytes"))
    return Block("capacity/kv_pool", f"{c.kv_pool_bytes:,} bytes", (step,), tuple(lines), max(step.result.value, 0))
