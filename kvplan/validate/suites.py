"""The named suites: ``ci`` everywhere, ``full`` with boundaries and times, ``lckv`` the paper's experiment, ``parallel`` ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.errors import KvplanError, Unsupported
from kvplan.text import printable
from kvplan.validate.allocator import Cuda
from kvplan.validate.boundary import Boundary, boundary
from kvplan.validate.cases import WIDE, Case, ci_cases
from kvplan.validate.checks import DTYPES
from kvplan.validate.gpu.device import firsts
from kvplan.validate.measure import Ceilings, out_of_memory
from kvplan.validate.parallel import run_parallel
from kvplan.validate.records import Record, Row, said
from kvplan.validate.suite import first_line, give_back, run_cases
from kvplan.validate.timing import bounds, ceilings_dtype, timed

__all__ = ["LCKV", "RATE", "SUITES", "TIMED", "TOY_LCKV", "asked_of", "lckv_table", "rated", "run_suite"]

MIB = 2**20
RATE = "tokens per second"
# Llama 2 7B's shape; and a toy on which a CPU goes through the same motions.
LLAMA_7B = {"layers": 32, **WIDE}
TOY = {"layers": 8, "hidden": 64, "heads": 8, "kv_heads": 8, "head_dim": 16, "ffn": 128, "vocab": 257}
SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "shape": LLAMA_7B,
        "dtype": ceilings_dtype("cuda"),
        "context": 2048,
        "long": 16384,
        "budget": None,
        "window": 1024,
    },
    "cpu": {
        "shape": TOY,
        "dtype": ceilings_dtype("cpu"),
        "context": 1024,
        "long": 2048,
        "budget": 160 * MIB,
        "window": 256,
    },
}
# LCKV's experiment: the same shape, KV shared in seven ways. mlkv's counts are KV layers and heads in each.
LCKV = ("mha", "gqa:8", "mqa", "cla:2", "mlkv:layers=8,heads=8", "lckv:w=2", "yoco:window={window}")
TOY_LCKV = ("mha", "gqa:2", "mqa", "cla:2", "mlkv:layers=4,heads=2", "lckv:w=2", "yoco:window={window}")

LARGE = (
    "mha", "gqa:2", "cla:2", "window:128@1:1", "lckv:w=2", "mla:latent=512,rope=64", "int4:g=32", "fp8",
)  # fmt: skip
TIMED = ("mha", "gqa:8", "mqa", "cla:2", "lckv:w=2", "window:{window}", "mla:latent=512,rope=64")


def asked_of(device: str, scheme: str, **changes: Any) -> dict[str, Any]:
    """The plan of a scheme at the size of a device."""
    size = SIZES[device]
    scheme = scheme.format(window=size["window"])
    base = {**size["shape"], "scheme": None if scheme == "mha" else scheme, "dtype": size["dtype"]}
    return {**base, "batch": 1, "context": size["context"], **changes}


def ci(record: Record, device: str, jobs: int) -> None:
    """Every scheme at a small shape: right logits, exact bytes, equal FLOPs."""
    run_cases(ci_cases(), record, device, jobs)


def parallel(record: Record, device: str, jobs: int) -> None:
    """Tensor and pipeline parallel with 2 and 4 processes."""
    for processes in (2, 4):
        if not record.done(f"{processes} ranks"):
            said(f"{processes} ranks …")
            try:
                rows = run_parallel(processes, device)
            except Unsupported as e:
                record.add([Row(f"{processes} ranks", {}, "run", None, None, "failed", str(e))])
                continue
            ran = len({row.case for row in rows if row.verdict != "skipped"})
            record.add([*rows, Row(f"{processes} ranks", {}, "run", None, ran, "reported", "configurations")])


def lckv(record: Record, device: str, jobs: int) -> None:
    """Largest batch and tokens per second of one shape under seven ways of sharing, random weights, one run."""
    _device_overhead(record, device)
    for scheme in LCKV if device == "cuda" else TOY_LCKV:
        _searched(record, asked_of(device, scheme), device, "batch")


def full(record: Record, device: str, jobs: int) -> None:
    """``ci`` and ``parallel`` on this device, larger caches, where memory ends, and seconds beside their bounds."""
    ci(record, device, jobs)
    large = []
    for scheme in LARGE:
        asked = asked_of(device, scheme, layers=4, batch=2)
        large.append(Case(asked, asked.pop("context") // 4 + 5, 2))
    run_cases(large, record, device, jobs)
    parallel(record, device, jobs)
    lckv(record, device, jobs)
    for scheme in ("mha", "gqa:8", "cla:2", "lckv:w=2"):
        _searched(record, asked_of(device, scheme), device, "context")
    for scheme in TIMED:
        for batch, context in ((1, "context"), (8, "context"), (1, "long")):
            asked = asked_of(device, scheme, batch=batch, context=SIZES[device][context])
            _timed(record, asked, device, prompt=context == "context" and batch == 1)


def _searched(record: Record, asked: dict[str, Any], device: str, axis: str) -> None:
    key = f"largest {axis}: {asked['layers']}x{asked['hidden']} {asked['scheme'] or 'mha'} {asked['dtype']} at"
    if any(row.case.startswith(key) for row in record.rows):
        return
    said(f"{key} …")
    ceilings = _ceilings(record, device)
    give_back(device)  # the processes of the search need all of the device
    try:
        found = boundary(asked, device, axis, SIZES[device]["budget"])
    except KvplanError as e:
        record.add([Row(f"{key} ?", asked, f"max {axis}", None, None, "skipped", str(e))])
        return
    rows = rated(found, ceilings)
    if any(row.verdict == "wrong" and row.quantity == RATE for row in rows):
        rows = rated(found, _ceilings(record, device, again=True))
    record.add(rows)


def rated(found: Boundary, ceilings: Ceilings) -> list[Row]:
    """The rows of a search, and tokens per second at its end beside the bound at the ceilings that were measured."""
    rows = [found.row, *found.rows]
    if found.largest is not None and found.largest.step:
        rate = int(found.at["batch"]) / found.largest.step
        limit = bounds(found.at, ceilings).tokens_per_s
        verdict = "reported" if rate <= limit else "wrong"
        note = "upper bound at the measured ceilings"
        rows.append(Row(found.row.case, found.at, RATE, round(limit, 1), round(rate, 1), verdict, note))
    return rows


def _timed(record: Record, asked: dict[str, Any], device: str, *, prompt: bool) -> None:
    name = f"{asked['scheme'] or 'mha'} b{asked['batch']} S{asked['context']}"
    if name in record.notes.setdefault("timed", []):
        return
    said(f"seconds: {name} …")
    give_back(device)
    try:
        rows = timed(asked, device, _ceilings(record, device), prompt=prompt)
        if any(row.verdict == "wrong" for row in rows):
            rows = timed(asked, device, _ceilings(record, device, again=True), prompt=prompt)
    except Exception as e:
        if not (isinstance(e, KvplanError) or out_of_memory(e)):
            raise
        rows = [Row(f"time: {name}", asked, "seconds", None, None, "skipped", first_line(e))]
    record.notes["timed"].append(name)
    record.add(rows)


def _ceilings(record: Record, device: str, *, again: bool = False) -> Ceilings:
    """Measured once per record and kept in it; ``again`` where one was beaten: the machine was busy, or a bound is wrong."""
    dtype = SIZES[device]["dtype"]
    names = ("copy_bytes_per_s", f"matmul_{dtype}_flop_per_s")
    known = record.notes.get("ceilings")
    kept = Ceilings(*(known[name] for name in names)) if known else None
    if kept is not None and not again:
        return kept
    made = Ceilings.measured(device, DTYPES[dtype])
    made = made if kept is None else made.or_higher(kept)
    record.notes["ceilings"] = dict(zip(names, made, strict=True))
    record.save()
    return made


def _device_overhead(record: Record, device: str) -> None:
    """What a process takes of a GPU before any tensor: the context, and what the first matrix product brings along."""
    if device != "cuda" or "overhead" in record.notes:
        return

    said("a process's own share of the device …")
    give_back(device)
    try:
        record.notes["overhead"] = _context()
    except (OSError, ValueError, RuntimeError) as e:
        record.add([Row("overhead of a process", {}, "run", None, None, "failed", first_line(e))])
    record.save()


def _context() -> dict[str, int]:
    """Bytes of a CUDA context, of the workspace that torch holds after one matrix product, and of what libraries take."""
    taken = firsts(Cuda())
    context, (outside, workspace) = taken["context"][0], taken["matmul"]
    return {"context_bytes": context, "workspace_bytes": workspace, "library_bytes": outside - context}


def lckv_table(rows: list[Row]) -> str:
    """Largest batch and tokens per second side by side; empty where the record holds no such search."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.case.startswith("largest batch"):
            found.setdefault(row.case, {})[row.quantity] = row
    if not found:
        return ""
    lines = [f"  {'scheme':<24} {'max batch':>10} {'predicted':>10} {'tokens/s':>10} {'× first':>8} {'bound':>10}"]
    base = 0.0
    for each in found.values():
        batch, rate = each.get("max batch"), each.get(RATE)
        if batch is None or batch.measured is None or batch.predicted is None:
            continue
        speed = float(rate.measured or 0) if rate else 0.0
        base = base or speed
        scheme = printable(str(batch.plan.get("scheme") or "mha"))
        bound = f"{rate.predicted:,.0f}" if rate and rate.predicted else ""
        relative = f"{speed / base:.2f}" if base else ""
        lines.append(
            f"  {scheme:<24} {batch.measured:>10,} {batch.predicted:>10,} {speed:>10,.0f} {relative:>8} {bound:>10}"
        )
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


SUITES: dict[str, Callable[[Record, str, int], None]] = {"ci": ci, "full": full, "lckv": lckv, "parallel": parallel}


def run_suite(name: str, record: Record, device: str, jobs: int) -> None:
    """Runs a suite into a record; what a record already holds is not run again."""
    SUITES[name](record, device, jobs)
