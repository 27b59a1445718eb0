"""Stage 1: the device. What estimates rest on, kept in the record as measured facts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kvplan.catalog import Gpu, find_gpu
from kvplan.errors import KvplanError
from kvplan.settings import RUNTIME_BYTES, RUNTIME_DEFAULT
from kvplan.validate.allocator import Allocator
from kvplan.validate.checks import DTYPES
from kvplan.validate.gpu.task import Bench, Task, fact
from kvplan.validate.gpu.worker import ALLOCATOR
from kvplan.validate.measure import Ceilings, seconds
from kvplan.validate.records import NEAR, Row
from kvplan.validate.timing import ceilings_dtype

__all__ = ["ceilings", "tasks"]

MIB = 2**20
# By a driver of a small card, at most: 480 MiB of an H100 (tests/records), 447 of a T4 and 238 of an RTX 3080 by
# torch's totals in public logs.
KEPT = 640 * MIB


def tasks(device: str) -> list[Task]:
    """Total memory, a process's own share of it, and rates."""
    worst = 60.0 if device == "cuda" else 20.0
    return [
        Task("device", "memory", memory, {}, 35.0 if device == "cuda" else 10.0),
        Task("device", "a process's own share", share, {}, worst),
        Task("device", "rates", rates, {}, worst),
    ]


def preset_of(name: str) -> Gpu | None:
    """The preset of what a driver calls a device ("NVIDIA H100 80GB HBM3"), by its aliases; None where there is none."""
    try:
        return find_gpu(name.lower().removeprefix("nvidia ").replace(" ", "-"))
    except KvplanError:
        return None


def _preset(bench: Bench) -> Gpu | None:
    known = bench.facts.get("device/name")
    return preset_of(str(known["value"])) if known else None


def memory(bench: Bench) -> Iterator[Row]:
    """All bytes of memory: as the framework says, as the machine's own tool says, and as the preset says."""
    total = bench.allocator.free()[1]
    name, driver, tool = bench.allocator.said_by_driver()
    bench.facts["device/name"] = fact(name, "", "the driver's tool")
    bench.facts["device/driver"] = fact(driver, "", "the driver's tool")
    bench.facts["device/torch"] = fact(torch.__version__, "", "torch")
    bench.facts["device/cuda"] = fact(torch.version.cuda or "none", "", "torch")
    bench.facts["device/memory"] = fact(total, "bytes", "torch")
    note = f"{name}, driver {driver}"
    if not tool:
        yield Row(
            "memory", {}, "memory of the device", None, total, "reported", f"{note}: the driver's tool says nothing"
        )
        return
    bench.facts["device/memory, by the driver's tool"] = fact(tool, "bytes", "nvidia-smi, or /proc/meminfo on a CPU")
    bench.facts["device/kept by the driver"] = fact(tool - total, "bytes", "the difference of the two")
    # the tool prints whole MiB, and a driver keeps some for itself: never less than nothing
    kept = 0 <= tool - total // MIB * MIB <= max(tool // 50, KEPT)
    note = f"{note}: at most 2 % or 640 MiB kept"
    yield Row("memory", {}, "memory of the device", tool, total, "within" if kept else "wrong", note)
    found = preset_of(name)
    if found is not None:
        asked = {"model": "llama-3.1-8b", "gpu": found.name, "context": 1}
        equal = found.memory_bytes == tool
        verdict = "exact" if equal else "wrong" if found.memory_basis == "exact" else "reported"
        yield Row("memory", asked, "capacity.memory_bytes", found.memory_bytes, tool, verdict, f"preset {found.name}")


def share(bench: Bench) -> Iterator[Row]:
    """Bytes that one process takes before its first tensor, and after its first matrix product and first attention."""
    taken = firsts(bench.allocator)
    outside = 0
    for step, what in (
        ("context", "before the first tensor"),
        ("matmul", "after the first matrix product"),
        ("attention", "after the first attention"),
    ):
        outside, workspace = taken[step]
        bench.facts[f"process/outside torch {what}"] = fact(outside, "bytes", "memory that the device lost")
        bench.facts[f"process/workspace {what}"] = fact(workspace, "bytes", "torch.cuda.memory_allocated less tensors")
    found = _preset(bench)
    if bench.device == "cpu":
        yield Row(
            "a process's own share", {}, "runtime/context", None, outside, "reported", "resident pages of a process"
        )
        return
    predicted = RUNTIME_BYTES.get(found.kind if found else "", RUNTIME_DEFAULT)
    near = predicted / NEAR <= outside <= predicted * NEAR
    asked = {"model": "llama-3.1-8b", "gpu": found.name, "context": 1} if found else {}
    note = "context and libraries, outside torch's allocator: an estimate, half to twice of it"
    yield Row(
        "a process's own share", asked, "runtime/context", predicted, outside, "within" if near else "wrong", note
    )


def firsts(allocator: Allocator) -> dict[str, tuple[int, int]]:
    """Step -> bytes outside torch's allocator and bytes of workspaces in it, of a process that takes these steps anew.

    Raises RuntimeError where that process ends before its last step: it said why on stderr.
    """
    command = [sys.executable, str(Path(__file__).with_name("firsts.py")), allocator.device]
    environ = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    before = allocator.taken_by(None)
    found: dict[str, tuple[int, int]] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            step, reserved, workspace = line.split()
            found[step] = (allocator.taken_by(child.pid) - before - int(reserved), int(workspace))
            child.stdin.write("\n")
            child.stdin.flush()
    if "attention" not in found:
        raise RuntimeError(f"the process that takes a first tensor ended with code {child.returncode}")
    return found


def ceilings(bench: Bench, *, again: bool = False) -> Ceilings:
    """The device's copy and matrix-product rates: the facts, or measured now; ``again`` where the device may have been busy."""
    name = ceilings_dtype(bench.device)
    paths = ("rate/copy", f"rate/matmul {name}")
    known = [bench.facts[path]["value"] for path in paths if path in bench.facts]
    kept = Ceilings(*known) if len(known) == len(paths) else None
    if kept is not None and not again:
        return kept
    made = Ceilings.measured(bench.device, DTYPES[name])
    made = made if kept is None else made.or_higher(kept)
    bench.facts[paths[0]] = fact(made.copy, "bytes/s", "the fastest of 15 large copies, read and written")
    bench.facts[paths[1]] = fact(made.matmul, "FLOP/s", "the fastest of 15 large matrix products")
    return made


def rates(bench: Bench) -> Iterator[Row]:
    """Copy bandwidth, read and written, and the rate of a matrix product in bf16 and, where there is one, in fp8."""
    made = ceilings(bench)
    found = _preset(bench)
    eight = _fp8(bench.device)
    if eight is not None:
        bench.facts["rate/matmul fp8"] = fact(eight, "FLOP/s", "the fastest of 15 large scaled products")
    measured = {"copy, bytes/s": made.copy, f"matmul {ceilings_dtype(bench.device)}, FLOP/s": made.matmul}
    for quantity, rate in (measured | ({"matmul fp8, FLOP/s": eight} if eight else {})).items():
        stated = _stated(found, quantity)
        # faster than the data sheet would refute it
        verdict = "wrong" if stated is not None and rate > stated else "reported"
        yield Row("rates", {}, quantity, stated, rate, verdict, f"stated by preset {found.name}" if found else "")


def _stated(found: Gpu | None, quantity: str) -> float | None:
    if found is None:
        return None
    if quantity.startswith("copy"):
        return float(found.bandwidth_bytes_per_s)
    rate = found.tflops.get(quantity.split()[1].rstrip(","))
    return rate * 1e12 if rate else None


def _fp8(device: str) -> float | None:
    """FLOP/s of a scaled product of two fp8 matrices; None where the device has none."""
    if device != "cuda" or torch.cuda.get_device_capability() < (8, 9):
        return None
    side = 8192
    one = torch.ones((), device=device)
    pairs: list[Any] = [
        tuple(torch.randn(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2)) for _ in range(3)
    ]

    def product(i: int) -> Any:
        a, b = pairs[i % 3]
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    try:
        return 2 * side**3 / seconds(product, device, of=min)
    except RuntimeError:  # a build of torch without the kernel
        return None
