"""The named suites: ``ci`` everywhere, ``full`` with boundaries and times, ``lckv`` the paper's experiment, ``parallel`` ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from kvplan.errors import Unsupported
from kvplan.validate.boundary import boundary
from kvplan.validate.cases import Case, ci_cases
from kvplan.validate.checks import DTYPES
from kvplan.validate.measure import Ceilings
from kvplan.validate.parallel import run_parallel
from kvplan.validate.records import Record, Row, said
from kvplan.validate.suite import run_cases
from kvplan.validate.timing import bounds, timed

__all__ = ["SUITES", "lckv_table", "run_suite"]

MIB = 2**20
# Llama 2 7B's shape; and a toy on which a CPU goes through the same motions.
LLAMA_7B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "ffn": 11008, "vocab": 32000}
TOY = {"layers": 8, "hidden": 64, "heads": 8, "kv_heads": 8, "head_dim": 16, "ffn": 128, "vocab": 257}
SIZES: dict[str, dict[str, Any]] = {
    "cuda": {"shape": LLAMA_7B, "dtype": "bf16", "context": 2048, "long": 16384, "budget": None, "window": 1024},
    "cpu": {"shape": TOY, "dtype": "fp32", "context": 1024, "long": 2048, "budget": 160 * MIB, "window": 256},
}
# LCKV's experiment: the same shape, KV shared in seven ways. mlkv's counts are KV layers and heads in each.
LCKV = ("mha", "gqa:8", "mqa", "cla:2", "mlkv:layers=8,heads=8", "lckv:w=2", "yoco:window={window}")
TOY_LCKV = ("mha", "gqa:2", "mqa", "cla:2", "mlkv:layers=4,heads=2", "lckv:w=2", "yoco:window={window}")


def _asked(device: str, scheme: str, **changes: Any) -> dict[str, Any]:
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
            rows = run_parallel(processes, device)
            record.add(
                [
                    *rows,
                    Row(
                        f"{processes} ranks", {}, "run", None, len({r.case for r in rows}), "reported", "configurations"
                    ),
                ]
            )


def lckv(record: Record, device: str, jobs: int) -> None:
    """Largest batch and tokens per second of one shape under seven ways of sharing, random weights, one run."""
    ceilings = _ceilings(record, device)
    for scheme in LCKV if device == "cuda" else TOY_LCKV:
        asked = _asked(device, scheme)
        _searched(record, asked, device, "batch", ceilings)


def full(record: Record, device: str, jobs: int) -> None:
    """``ci`` and ``parallel`` on this device, larger caches, where memory ends, and seconds beside their bounds."""
    ci(record, device, jobs)
    large = [
        Case(_asked(device, scheme, layers=4, batch=2) | {"context": None}, SIZES[device]["context"] // 4 + 5, 2)
        for scheme in (
            "mha",
            "gqa:2",
            "cla:2",
            "window:128@1:1",
            "lckv:w=2",
            "mla:latent=512,rope=64",
            "int4:g=32",
            "fp8",
        )
    ]
    run_cases(
        [case._replace(plan={k: v for k, v in case.plan.items() if k != "context"}) for case in large],
        record,
        device,
        jobs,
    )
    parallel(record, device, jobs)
    _device_overhead(record, device)
    ceilings = _ceilings(record, device)
    lckv(record, device, jobs)
    for scheme in ("mha", "gqa:8", "cla:2", "lckv:w=2"):
        _searched(record, _asked(device, scheme), device, "context", ceilings)
    for scheme in ("mha", "gqa:8", "mqa", "cla:2", "lckv:w=2", "window:{window}", "mla:latent=512,rope=64"):
        for batch, context in ((1, "context"), (8, "context"), (1, "long")):
            asked = _asked(device, scheme, batch=batch, context=SIZES[device][context])
            _timed(record, asked, device, ceilings, prompt=context == "context" and batch == 1)


def _searched(record: Record, asked: dict[str, Any], device: str, axis: str, ceilings: Ceilings) -> None:
    key = f"largest {axis}: {asked['layers']}x{asked['hidden']} {asked['scheme'] or 'mha'} {asked['dtype']} at"
    if any(row.case.startswith(key) for row in record.rows):
        return
    said(f"{key} …")
    try:
        found = boundary(asked, device, axis, SIZES[device]["budget"])
    except Unsupported as e:
        record.add([Row(f"{key} ?", asked, f"max {axis}", None, None, "skipped", str(e))])
        return
    rows = [found.row, *found.rows]
    if found.largest is not None and found.largest.step:
        rate = int(found.at["batch"]) / found.largest.step
        limit = bounds(found.at, ceilings).tokens_per_s
        note = "upper bound at the measured ceilings"
        verdict = "reported" if rate <= limit else "wrong"
        rows.append(Row(found.row.case, found.at, "tokens per second", round(limit, 1), round(rate, 1), verdict, note))
    record.add(rows)


def _timed(record: Record, asked: dict[str, Any], device: str, ceilings: Ceilings, *, prompt: bool) -> None:
    name = f"{asked['scheme'] or 'mha'} b{asked['batch']} S{asked['context']}"
    if name in record.notes.setdefault("timed", []):
        return
    said(f"seconds: {name} …")
    try:
        record.rows += timed(asked, device, ceilings, prompt=prompt)
    except (torch.OutOfMemoryError, Unsupported) as e:
        record.rows.append(Row(f"time: {name}", asked, "seconds", None, None, "skipped", str(e).splitlines()[0][:200]))
    record.notes["timed"].append(name)
    record.save()


def _ceilings(record: Record, device: str) -> Ceilings:
    """Measured once per record, and kept in it."""
    if "ceilings" not in record.notes:
        made = Ceilings.measured(device, DTYPES[SIZES[device]["dtype"]])
        record.notes["ceilings"] = {
            "copy_bytes_per_s": made.copy,
            f"matmul_{SIZES[device]['dtype']}_flop_per_s": made.matmul,
        }
        record.save()
    return Ceilings(*record.notes["ceilings"].values())


# A process that makes a CUDA context says what is free, waits for a line, then multiplies and says what that took.
_CONTEXT = """
import torch
free, total = torch.cuda.mem_get_info()
print(free, total, flush=True)
input()
before, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
a = torch.randn(512, 512, device="cuda", dtype=torch.bfloat16)
b = a @ a
torch.cuda.synchronize()
held = torch.cuda.memory_allocated() - 2 * a.numel() * 2
outside = before - torch.cuda.mem_get_info()[0] - (torch.cuda.memory_reserved() - reserved)
print(held, outside, flush=True)
"""


def _device_overhead(record: Record, device: str) -> None:
    """What a process takes of a GPU before any tensor: the context, and what the first matrix product brings along."""
    if device != "cuda" or "overhead" in record.notes:
        return

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _CONTEXT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    first = start()
    assert first.stdout is not None
    free_before = int(first.stdout.readline().split()[0])
    second = start()  # what is free falls by the second one's context, whatever else is on the device
    assert second.stdout is not None
    free_after = int(second.stdout.readline().split()[0])
    held, outside = map(int, second.communicate("\n")[0].split()[:2])
    first.communicate("\n")
    record.notes["overhead"] = {
        "context_bytes": free_before - free_after,
        "workspace_bytes": held,
        "library_bytes": outside,
    }
    record.save()


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
        batch, rate = each.get("max batch"), each.get("tokens per second")
        if batch is None or batch.measured is None:
            continue
        speed = float(rate.measured or 0) if rate else 0.0
        base = base or speed
        scheme = batch.plan.get("scheme") or "mha"
        bound = f"{rate.predicted:,.0f}" if rate and rate.predicted else ""
        relative = f"{speed / base:.2f}" if base else ""
        lines.append(
            f"  {scheme:<24} {batch.measured:>10,} {batch.predicted:>10,} {speed:>10,.0f} {relative:>8} {bound:>10}"
        )
    return "\n".join(lines) + "\n"


SUITES: dict[str, Callable[[Record, str, int], None]] = {"ci": ci, "full": full, "lckv": lckv, "parallel": parallel}


def run_suite(name: str, record: Record, device: str, jobs: int) -> None:
    """Runs a suite into a record; what a record already holds is not run again."""
    SUITES[name](record, device, jobs)
