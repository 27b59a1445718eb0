"""Time bounds: per term max(FLOPs / peak, bytes / bandwidth). No kernel is faster; real ones are slower."""

from typing import NamedTuple

from kvplan.catalog import Gpu
from kvplan.num import Num

__all__ = ["Bound", "Transfer", "Work", "bound", "peak_flops", "sides"]


class Work(NamedTuple):
    """One term of a pass on one rank: FLOPs, bytes moved, and the rate column that multiplies it."""

    path: str
    flops: float
    bytes: float
    column: str  # bf16, fp8 ...


class Transfer(NamedTuple):
    """Bytes that come over a link beside the GPU's own work, at best while it computes."""

    path: str
    bytes: float
    bytes_per_s: float


class Bound(NamedTuple):
    """A lower bound of a pass: seconds, which side binds most of it, and each term's (path, seconds, side)."""

    seconds: float
    side: str  # compute | memory | link
    terms: tuple[tuple[str, float, str], ...]
    work: tuple[Work, ...]  # what the terms were made from
    transfers: tuple[Transfer, ...]


# Where a GPU has no rate for a format, kernels convert to the next one here.
FALLBACK = {"fp4": "fp8", "fp8": "bf16", "int8": "bf16", "bf16": "fp16", "fp16": "bf16", "fp32": "bf16"}


def peak_flops(gpu: Gpu, column: str) -> tuple[float, str] | None:
    """Dense FLOP/s of a format and the column used; None where the preset states no usable rate."""
    tried: set[str] = set()
    while column and column not in tried:
        if column in gpu.tflops:
            return gpu.tflops[column] * 1e12, column
        tried.add(column)
        column = FALLBACK.get(column, "")
    return (gpu.tflops["fp32"] * 1e12, "fp32") if "fp32" in gpu.tflops else None


def sides(gpu: Gpu, item: Work, compute_efficiency: float, bandwidth_efficiency: float) -> tuple[Num, Num] | None:
    """Seconds that the FLOPs of one term take, and its bytes; None where the GPU has no stated rate."""
    rate = peak_flops(gpu, item.column)
    if rate is None:
        return None
    return item.flops / (rate[0] * compute_efficiency), item.bytes / (gpu.bandwidth_bytes_per_s * bandwidth_efficiency)


def bound(
    gpu: Gpu,
    work: tuple[Work, ...],
    compute_efficiency: float,
    bandwidth_efficiency: float,
    transfers: tuple[Transfer, ...] = (),
) -> Bound | None:
    """The sum over terms of max(FLOPs / peak, bytes / bandwidth), or a transfer where that takes longer.

    None where the GPU has no stated rate.
    """
    terms: list[tuple[str, float, str]] = []
    spent = {"compute": 0.0, "memory": 0.0}
    for item in work:
        both = sides(gpu, item, compute_efficiency, bandwidth_efficiency)
        if both is None:
            return None
        side = "compute" if both[0] >= both[1] else "memory"
        seconds = max(both)
        spent[side] += seconds
        terms.append((item.path, seconds, side))
    total = spent["compute"] + spent["memory"]
    name = "compute" if spent["compute"] > spent["memory"] else "memory"
    for transfer in transfers:
        seconds = transfer.bytes / transfer.bytes_per_s
        terms.append((transfer.path, seconds, "link"))
        if seconds > total:
            total, name = seconds, "link"
    return Bound(total, name, tuple(terms), work, transfers)
