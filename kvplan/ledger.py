"""The ledger of an answer: its terms with formula and source, what it leaves out, and its notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvplan.costs import Held, Omission, Term, entries, held_bytes
from kvplan.planner import Answer
from kvplan.settings import RUNTIME_SOURCE
from kvplan.specs import Attention, Recurrent
from kvplan.text import shorten
from kvplan.units import format_count

if TYPE_CHECKING:
    from kvplan.engines.policy import Line

__all__ = ["notes", "omitted", "terms"]


def terms(a: Answer) -> Iterator[Term]:
    """Every number of the answer, one by one: bytes, FLOPs and seconds, each with its formula and source."""
    s = a.settings
    if a.weights:
        for category, size in a.weights.by_category.items():
            yield Term(f"weights/{category}", size, "bytes", a.weights.basis, "sum over tensors", a.weights.source)
    if a.served:
        for line in a.served.lines:
            yield Term(_layered(line), line.size, "bytes", line.basis, line.formula, line.source)
    rounding = 0
    for held in () if a.served else a.held:
        plain = held_bytes(held, s.context, s.encoder_context)
        rounding += held_bytes(held, s.context, s.encoder_context, s.page) - plain
        yield Term(
            f"{held.path} ({held.layers} layer{'s' if held.layers > 1 else ''})",
            plain * s.batch,
            "bytes",
            "exact",
            _kv_formula(held, a),
            s.formats.key.source if held.residual else "kvplan/formulas.py: entries, row_bits, part_bytes",
        )
    if rounding:
        yield Term(
            "engine/block rounding",
            rounding * s.batch,
            "bytes",
            "exact",
            f"entries rounded up to blocks of {s.page}",
            "--block-size",
        )
    yield Term(
        "traffic/kv",
        a.bytes_read_per_step,
        "bytes",
        "exact",
        "sum over reads, the new token's own entry included",
        "kvplan/costs.py: read_bytes",
    )
    if a.link_bytes:
        away = "bytes x the share that offload names"
        for path, value in (("place/host", a.host_bytes), ("place/disk", a.disk_bytes), ("traffic/link", a.link_bytes)):
            yield Term(path, value, "bytes", "exact", away, "arXiv 2303.06865")
    mask = "S x S" if s.full_attention else "pairs the masks allow"
    for name, flops in (("prefill", a.prefill), ("decode", a.decode)):
        pairs = mask if name == "prefill" else "S + 1 keys, min(S + 1, W) under a window"
        yield Term(
            f"flops/{name}/linear",
            flops.linear,
            "FLOPs",
            "exact",
            "2 x tokens x weights multiplied",
            "arXiv 2001.08361",
        )
        basis = "estimated" if a.profile.mixing else "exact"
        yield Term(
            f"flops/{name}/attention",
            flops.attention,
            "FLOPs",
            basis,
            f"2 x pairs x heads x (score + value dims); {pairs}",
            "kvplan/formulas.py: attention_flops",
        )
        rows = "all positions" if s.all_logits and name == "prefill" else "last position"
        yield Term(
            f"flops/{name}/logits",
            flops.logits,
            "FLOPs",
            "exact",
            f"2 x rows x width x vocabulary; {rows}",
            "kvplan/formulas.py: linear_flops",
        )
    if s.tp * s.pp * s.dp > 1:
        yield from _rank_terms(a)
    if s.memory_bytes is not None:
        yield from _memory_terms(a)
    if a.times:
        for name, bound in (("prefill", a.times.prefill), ("decode", a.times.decode)):
            for path, seconds, side in bound.terms:
                yield Term(
                    f"time/{name}/{path}",
                    seconds,
                    "s",
                    "estimated",
                    f"max(FLOPs / peak, bytes / bandwidth), {side}-bound",
                    s.gpu.tflops_source if s.gpu else "",
                )


def _layered(line: Line) -> str:
    """The path of a line with the layers that it stands for."""
    if not line.layers:
        return line.path
    return f"{line.path} ({line.layers} layer{'s' if line.layers > 1 else ''})"


def _rank_terms(a: Answer) -> Iterator[Term]:
    """What the fullest GPU holds of weights and caches, where there are several; paths say that they are per GPU."""
    s = a.settings
    heaviest = max(a.stages, key=lambda stage: stage.weights)
    if a.weights:
        rule = "its layers, matrices / tp, norms and latents whole"
        yield Term("per_gpu/weights", heaviest.weights, "bytes", a.weights.basis, rule, a.weights.source)
    if a.served:
        for line in a.served.rank:
            yield Term(f"per_gpu/{_layered(line)}", line.size, "bytes", line.basis, line.formula, line.source)
        return
    fullest = max(a.stages, key=lambda stage: stage.lean.at(s.context))
    for held in fullest.held:
        size = s.rank_sequences * held_bytes(held, s.context, s.encoder_context, s.page)
        path = f"per_gpu/{held.path} ({held.layers} layer{'s' if held.layers > 1 else ''})"
        rule = f"{s.rank_sequences} sequences, max(ceil(heads / tp), 1) heads"
        yield Term(path, size, "bytes", "exact", rule, "kvplan/formulas.py: heads_per_rank")


def _memory_terms(a: Answer) -> Iterator[Term]:
    s = a.settings
    source = f"{s.gpu.memory_source}" if s.gpu else "--memory"
    memory = s.memory_bytes or 0
    basis = s.gpu.memory_basis if s.gpu else "exact"
    yield Term("gpu/memory", memory, "bytes", basis, "as the driver exposes it", source)
    if a.capacity:
        kept = memory - a.capacity.usable_bytes
        yield Term(
            "engine/reserve", kept, "bytes", "exact", f"memory x (1 - {s.utilization:g})", "--gpu-memory-utilization"
        )
    if a.served:
        for line in a.served.kept:
            yield Term(line.path, line.size, "bytes", line.basis, line.formula, line.source)
        return
    if s.engine.prefill_storage:
        yield Term(
            "engine/prefill_storage",
            a.storage,
            "bytes",
            "exact",
            "full-length tensors behind windowed views after a one-shot prefill",
            s.engine.source,
        )
    layer, source = "tokens x (2 hidden + 3 MLP width) x bytes", "kvplan/formulas.py: activation_bytes, logits_bytes"
    tokens = "at most 8,192 tokens at once"
    if s.engine.prompt is not None:
        layer = "tokens x bytes per token + pairs of tokens x bytes per pair, of the widest layer, and masks"
        tokens = "all prompt tokens; half to twice of it"
        source = f"kvplan/formulas.py: prompt_bytes, masks_bytes, logits_bytes; {s.engine.source}"
    yield Term(
        "activations/peak",
        a.activations,
        "bytes",
        "estimated",
        f"max({layer}, logits); {tokens}",
        source,
    )
    yield Term(
        "runtime/context",
        s.runtime_bytes,
        "bytes",
        "estimated",
        "CUDA context and kernels, outside the allocator",
        RUNTIME_SOURCE,
    )


def _kv_formula(held: Held, a: Answer) -> str:
    s = a.settings
    n = entries(held.growth, s.context, s.encoder_context)
    count = "" if s.batch == 1 else f"{s.batch} x "
    if held.residual:
        kept = min(n, held.residual)
        return f"{count}{held.layers} x ceil(({n - kept:,} x {held.bits} + {kept:,} x {held.residual_bits}) bits / 8)"
    return f"{count}{held.layers} x ceil({n:,} entries x {held.bits:,} bits / 8)"


def omitted(a: Answer) -> Iterator[Omission]:
    """What the numbers leave out, each with the reason."""
    s, spec = a.settings, a.spec
    if a.weights is None:
        q = spec.quantization
        why = (q.why if q else "") or f"quant_method {shorten(q.method if q else '?')} is not known"
        yield Omission("weights", f"{why}; give --weight-dtype, or a folder with safetensors")
        if s.memory_bytes is not None:
            yield Omission("capacity", "the bytes of the weights are unknown")
    crosses = any(isinstance(m, Attention) and m.cross for layer in spec.layers for m in layer.mixers)
    if crosses and s.encoder_context == 0:
        yield Omission("kv/cross", "no --encoder-context given: the caches of cross-attention hold nothing")
    if s.memory_bytes is not None and s.engine.prompt is not None and not a.served:
        if crosses:
            yield Omission(
                "activations/cross", "scores of prompt tokens and encoder tokens, and the encoder's own tensors"
            )
        mixers = {m for layer in spec.layers for m in layer.mixers if isinstance(m, Recurrent)}
        unread = sorted({m.kind for m in mixers if m.state and not m.scan_bytes})
        if unread:
            yield Omission(
                "activations/scan", f"what a scan of {', '.join(unread)} holds: the class was not read for it"
            )
    if spec.towers:
        names = ", ".join(tower.name for tower in spec.towers)
        yield Omission("flops/towers", f"{names}: weights are counted, their own FLOPs and activations are not")
    if s.memory_bytes is not None:
        yield Omission("memory/fragmentation", "the allocator's rounding and fragmentation")
    if a.link_bytes:
        yield Omission("place/capacity", "whether host memory and disk hold their shares is not checked")
        yield Omission("place/buffers", "working buffers on the GPU for what streams over the link")
    if a.times and s.tp * s.pp > 1:
        yield Omission("time/communication", "collectives and pipeline transfers between GPUs")
    if a.times:
        yield Omission(
            "time/overheads", "kernel launches, norms, sampling and scheduling: times are bounds, not predictions"
        )


def notes(a: Answer) -> Iterator[str]:
    """What a reader should know about how the input was read, in sentences."""
    s = a.settings
    yield from a.spec.notes
    if a.spec.max_context and s.context > a.spec.max_context:
        yield f"context {format_count(s.context)} is above the model's own limit of {format_count(a.spec.max_context)} tokens"
    if s.gpu:
        if s.gpu_asked != s.gpu.name:
            yield f"GPU {s.gpu_asked} means {s.gpu.name} ({s.gpu.label})"
        if s.gpu.memory_basis != "exact":
            yield f"memory of {s.gpu.name} is estimated: {s.gpu.memory_source}"
        if a.times is None and a.weights is not None:
            yield f"no time bounds: the preset of {s.gpu.name} states no rate for {s.formats.compute.name}"
    if dict(s.inputs)["kv_dtype"].startswith("k=") and "latent" in {
        p.store_as for st in a.profile.plan.stores for p in st.parts
    }:
        yield "latents are stored in K's format; the format of V has no effect on them"
    asked = a.spec.cache_type_k or a.spec.cache_type_v
    if asked and asked not in (s.formats.key.name, s.formats.value.name):
        yield f"the flags' cache format {dict(s.inputs)['kv_dtype']} replaces the scheme's {asked}"
    if dict(s.inputs)["scheme"] and s.engine.name != "ideal":
        yield (
            f"engine {s.engine.name} has no cache made for {dict(s.inputs)['scheme']!r}: these are the bytes that its rules"
            " would give the tensors of a class under that scheme"
        )
    if s.engine.ignores:
        yield f"{s.engine.name} does not honour: {'; '.join(s.engine.ignores)}"
