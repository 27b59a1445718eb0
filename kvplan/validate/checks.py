"""One configuration run for real: first that its cache is right, then how much memory it took and how much it multiplied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from kvplan.api import described, plan, shared
from kvplan.costs import Formats as Resolved
from kvplan.costs import held_bytes
from kvplan.planner import Answer
from kvplan.specs import Attention, ModelSpec, Recurrent
from kvplan.validate.allocator import Allocator, Cuda, Phase, cuda_blocks, cuda_segments
from kvplan.validate.cases import Case
from kvplan.validate.measure import multiplied, storage_bytes, tallied
from kvplan.validate.recompute import recompute
from kvplan.validate.records import Row
from kvplan.validate.transformer import Formats, Transformer

__all__ = ["DTYPES", "TOLERANCE", "built", "check", "part_bytes", "proof", "reserved", "spec_of"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NUMBERS = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "vocab",
    "window",
    "experts",
    "active_experts",
    "tied",
)

# Largest relative difference of logits between cached decode and the definition. Both sum in other orders; a dtype's
# rounding, a code of a quantised cache that falls the other way, or an entry that a budget chose instead, is all that may
# differ. A wrong window, head or layer is off by more than 1e-2 in fp32 (tests/validate/test_faults.py plants them).
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
LOOSE = {"fp32": 2e-2, "fp16": 5e-2, "bf16": 1.5e-1}  # quantised caches and budgets


def spec_of(asked: dict[str, Any]) -> ModelSpec:
    """The spec that a plan is about, its scheme applied."""
    numbers = {name: asked[name] for name in NUMBERS if asked.get(name) is not None}
    spec = described(asked.get("model"), {} if asked.get("model") is not None else numbers)
    return shared(spec, asked["scheme"]) if asked.get("scheme") else spec


class Built(NamedTuple):
    """A model ready to run, and the answer whose numbers it is held against."""

    model: Transformer
    spec: ModelSpec
    formats: Resolved
    answer: Callable[[int], Answer]  # of a context


def built(case: Case, device: str, **how: Any) -> Built:
    """The small transformer of a case. Raises Unsupported where it cannot run the plan."""
    spec = spec_of(case.plan)

    def answer(context: int) -> Answer:
        return plan(**case.plan, context=context, attention_flops="full").answer

    f = answer(case.context).settings.formats
    names = Formats(f.key.name, f.value.name, f.latent.name)
    reserve = case.context + case.steps if case.reserve else 0
    model = Transformer(spec, names, DTYPES[f.compute.name], device, reserve=reserve, **how)
    return Built(model, spec, f, answer)


def check(
    case: Case,
    device: str = "cpu",
    *,
    change: Callable[[Transformer], None] | None = None,
    memory: Allocator | None = None,
) -> list[Row]:
    """The rows of one configuration; where its logits are wrong, that row alone. ``change`` plants a fault.

    With ``memory``, an allocator that is watching, its counters are held against the prediction; on CUDA always.
    """
    if memory is None and device == "cuda":
        memory = Cuda()
    made = built(case, device)
    model = made.model
    if change is not None:
        change(model)
    tokens = _tokens(case, made.spec.vocab, device)
    rows = []
    if not case.proved:
        rows.append(_proof(case, made, tokens))
        if rows[0].verdict == "failed":
            return rows
    found, sizes = _bytes(case, made, tokens, memory)
    rows += found + _flops(case, made, tokens)
    if memory is not None:
        del made, model, tokens
        rows.append(_segments(case, sizes, memory))
    return rows


def proof(case: Case, device: str) -> Row:
    """Whether the logits of a configuration are right: all that ``check`` says of a cache before it is measured."""
    made = built(case, device)
    return _proof(case, made, _tokens(case, made.spec.vocab, device))


def _proof(case: Case, made: Built, tokens: torch.Tensor) -> Row:
    limit = (LOOSE if loose(case) else TOLERANCE)[case.plan["dtype"]]
    error = _error(case, made, tokens)
    note = "relative difference of cached decode's logits from the definition's"
    # NaN is no match
    return _row(case, case.context, "correct", limit, error, "within" if error <= limit else "failed", note)


def _tokens(case: Case, vocab: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(case.name) + case.context)
    size = (int(case.plan["batch"]), case.context + case.steps)
    return torch.randint(0, vocab, size, generator=generator).to(device)


def _row(
    case: Case, context: int, quantity: str, predicted: Any, measured: Any, verdict: str = "", note: str = ""
) -> Row:
    asked = {**case.plan, "context": context}
    if quantity.startswith("flops"):
        asked["attention_flops"] = "full"
    return Row(
        case.name,
        asked,
        quantity,
        predicted,
        measured,
        verdict or ("exact" if predicted == measured else "wrong"),
        note,
    )


def loose(case: Case) -> bool:
    """Whether a rounding may grow: a code of a quantised entry falls the other way, a budget chooses another entry."""
    scheme = f"{case.plan.get('scheme') or ''}+{case.plan.get('kv_dtype') or ''}"
    return any(word in scheme for word in ("int", "kivi", "q8", "q4", "fp8", "budget", "pyramid"))


def _error(case: Case, made: Built, tokens: torch.Tensor) -> float:
    """Logits after the prompt and after every step, against the whole prefix run anew."""
    model = made.model
    wanted = recompute(model, tokens, case.context, sequential=case.sequential)[:, case.context - 1 :].float()
    got = [model.prefill(tokens[:, : case.context], sequential=case.sequential)]
    got += [model.step(tokens[:, case.context + i]) for i in range(case.steps)]
    difference = torch.stack(got, 1).float() - wanted
    return float((difference.norm() / wanted.norm()).item())


class Sizes(NamedTuple):
    """Bytes of the tensors that a cache consists of at a context, as predicted and as they are."""

    context: int
    predicted: list[int]
    held: list[int]


def _bytes(case: Case, made: Built, tokens: torch.Tensor, memory: Allocator | None) -> tuple[list[Row], Sizes]:
    """Storages after the prompt and after every step; the allocator's own count of what the prompt left."""
    model = made.model
    whole = case.context + case.steps

    def prompt() -> None:
        model.prefill(tokens[:, : case.context], sequential=case.sequential)

    left, phase = 0, None
    if memory is None:
        model.forget()
        left = tallied(prompt)
    else:
        prompt()  # once before: matrix products bring workspaces along, which stay in the allocator
        model.forget()
        before = memory.phase()
        prompt()
        phase = memory.phase().since(before)
    rows = []
    predicted = made.answer(whole if case.reserve else case.context)
    at = whole if case.reserve else case.context
    rows.append(_row(case, at, "kv.bytes_per_gpu", predicted.bytes_per_gpu, storage_bytes(model.cache_tensors())))
    if made.spec.offload.cpu:
        rows.append(_row(case, at, "kv.bytes_host", predicted.host_bytes, storage_bytes(model.host_tensors())))
    bookkeeping = [store.victim for store in model.stores.values() if store.victim is not None]
    if phase is None:
        # victims are numbers of entries, not entries
        held = left - storage_bytes(bookkeeping)
        rows.append(_row(case, at, "allocator tally", predicted.bytes_per_gpu + predicted.host_bytes, held))
    else:
        # without a GPU both places of an offloaded cache are the host's memory
        beside = [*bookkeeping, *(model.host_tensors() if made.model.device == "cpu" else [])]
        rows += _counters(case, made, phase, predicted, at, beside)
    for i in range(case.steps):
        model.step(tokens[:, case.context + i])
        at = whole if case.reserve else case.context + i + 1
        predicted = made.answer(at)
        row = _row(case, at, "kv.bytes_per_gpu", predicted.bytes_per_gpu, storage_bytes(model.cache_tensors()))
        if row.verdict == "wrong" or i == case.steps - 1:
            rows.append(row)
    kept = [size for t in model.cache_tensors() if (size := t.untyped_storage().nbytes())]
    return rows, Sizes(at, [size for size in part_bytes(predicted, at) if size], kept)


def _segments(case: Case, sizes: Sizes, memory: Allocator) -> Row:
    """What the allocator reserves for tensors of a cache's sizes, once the model is gone and what it kept has gone back."""
    memory.give_back()
    before = memory.phase()
    again = [torch.empty(size, dtype=torch.uint8, device=memory.device) for size in sizes.held]
    phase = memory.phase().since(before)
    del again
    # a packed part is several tensors: their sum is what was predicted
    parts = sizes.predicted if len(sizes.predicted) == len(sizes.held) else sizes.held
    size, verdict, note = reserved(parts, phase.reserved, before.spare)
    return _row(case, sizes.context, "cuda reserved", size, phase.reserved, verdict, note)


def _counters(
    case: Case, made: Built, phase: Phase, predicted: Answer, at: int, other: list[torch.Tensor]
) -> list[Row]:
    """The caching allocator's counters: requested exactly, allocated after its rounding of each tensor to blocks.

    ``at`` is the context that ``predicted`` is of; ``other`` are tensors that lie beside the cache.
    """
    rows = [_row(case, at, "cuda requested", predicted.bytes_per_gpu, phase.requested - storage_bytes(other))]
    parts = [size for size in part_bytes(predicted, at) if size]
    held = [t.untyped_storage().nbytes() for t in made.model.cache_tensors()]
    beside = [t.untyped_storage().nbytes() for t in other]
    low, _ = cuda_blocks([*parts, *beside])
    # a packed part is several tensors, each rounded on its own; the rest of a free block may stay with a large one
    _, high = cuda_blocks([*held, *beside])
    high += 512 * max(len(held) - len(parts), 0)
    measured = phase.allocated
    verdict = "exact" if measured == low else "within" if low <= measured <= max(low, high) else "wrong"
    note = f"{len(held)} tensors, from {low:,} to {max(low, high):,} B in blocks"
    rows.append(_row(case, at, "cuda allocated", low, measured, verdict, note))
    rows.append(_row(case, at, "cuda peak", None, phase.peak, "reported"))
    return rows


def reserved(sizes: list[int], measured: int, spare: int) -> tuple[int, str, str]:
    """Bytes of the segments that caches of these sizes fill, the verdict on what was reserved for them, and why.

    One segment of each size may be broken up otherwise; where ``spare`` bytes are free beside what was there before, as
    many may be taken of them, and one shared.
    """
    made = cuda_segments(sizes)
    predicted = sum(each * count for each, count in made.items())
    low, high = predicted - (spare + sum(made) if spare else 0), predicted + sum(made)
    verdict = "exact" if predicted == measured else "within" if low <= measured <= high else "wrong"
    return predicted, verdict, f"within one segment of each size, less {spare:,} B that are free beside what is there"


def part_bytes(answer: Answer, context: int) -> list[int]:
    """Predicted bytes of each stored part of each layer on the device, the whole batch: one tensor each where plain."""
    near = 1 - answer.spec.offload.cpu
    sizes: list[int] = []
    for held in answer.held:
        each = held_bytes(held._replace(layers=1), context) * answer.settings.batch
        sizes += [round(each * near)] * held.layers
    return sizes


def _flops(case: Case, made: Built, tokens: torch.Tensor) -> list[Row]:
    """Matrix products of the prompt and of one step, against the ledger with full attention and the last logits."""
    if case.sequential:
        return []
    model = made.model
    prompt = multiplied(lambda: model.prefill(tokens[:, : case.context]))
    step = multiplied(lambda: model.step(tokens[:, case.context])) if case.steps else None
    now = made.answer(case.context)
    rows = []
    for name, ledger, counted in (("prefill", now.prefill, prompt), ("decode", now.decode, step)):
        if counted is None:
            continue
        if counted.uncounted:
            note = f"FlopCounterMode cannot count {', '.join(counted.uncounted)}"
            rows.append(_row(case, case.context, f"flops.{name}.total", ledger.total, counted.flops, "failed", note))
        elif estimated(made.spec):
            note = "the ledger's recurrence is an estimate: decay and normaliser are elementwise"
            rows.append(_row(case, case.context, f"flops.{name}.total", ledger.total, counted.flops, "reported", note))
        else:
            rows.append(_row(case, case.context, f"flops.{name}.total", ledger.total, counted.flops))
    return rows


def estimated(spec: ModelSpec) -> bool:
    """Whether the ledger itself calls a mixer's FLOPs an estimate that matrix products do not make up."""
    return any(
        (isinstance(m, Recurrent) and m.kind != "linear_attention") or (isinstance(m, Attention) and m.extra_parts)
        for layer in spec.layers
        for m in layer.mixers
    )
