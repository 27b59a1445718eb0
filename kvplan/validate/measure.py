"""What was really allocated and really multiplied: storages, allocator tallies, counted matmuls, and seconds.

Nothing here knows what should come out. ``cuda_bytes`` and ``cuda_segments`` repeat the rounding of torch's caching
allocator (c10/cuda/CUDACachingAllocator.cpp), so that a prediction in bytes can be held against its counters.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

__all__ = [
    "CudaPhase",
    "Multiplied",
    "cuda_blocks",
    "cuda_bytes",
    "cuda_segments",
    "multiplied",
    "out_of_memory",
    "seconds",
    "storage_bytes",
    "tallied",
]

Tensors = Iterable[torch.Tensor]


def storage_bytes(tensors: Tensors) -> int:
    """Bytes of the distinct storages behind tensors: a view counts what it keeps alive, and shared memory once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


# What torch and its libraries say when memory ran out. "An illegal memory access" is none of these.
RAN_OUT = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cublasCreate says on a full device
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on either device; Python's own MemoryError says nothing at all."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(said in str(error) for said in RAN_OUT)


def tallied(work: Callable[[], Any]) -> int:
    """Bytes that the CPU allocator gave out during ``work`` and did not get back, by the profiler's memory events."""
    with _silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    assert prof.profiler is not None
    events = prof.profiler.kineto_results.events()
    return sum(e.nbytes() for e in events if e.name() == "[memory]")


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the profiler's own lines, which its C++ writes to the process's stderr, from between ours."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- FLOPs -----------------------------------------------------------------------------------------------------------

# Ops without a product of two tensors' elements summed: shapes, copies, elementwise arithmetic, reductions, choices.
FREE = frozenset(
    [
        "view",
        "_unsafe_view",
        "unsqueeze",
        "squeeze",
        "transpose",
        "t",
        "permute",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "unbind",
        "unfold",
        "alias",
        "detach",
        "clone",
        "_to_copy",
        "copy_",
        "empty",
        "empty_like",
        "new_empty",
        "new_zeros",
        "zeros",
        "zeros_like",
        "ones",
        "full",
        "arange",
        "cat",
        "stack",
        "constant_pad_nd",
        "repeat",
        "roll",
        "lift_fresh",
        "scalar_tensor",
        "as_strided",
        "add",
        "add_",
        "sub",
        "mul",
        "div",
        "neg",
        "exp",
        "pow",
        "rsqrt",
        "sqrt",
        "reciprocal",
        "sigmoid",
        "silu",
        "elu",
        "cos",
        "sin",
        "abs",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_max",
        "floor_divide",
        "remainder",
        "round",
        "where",
        "masked_fill",
        "nan_to_num",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "bitwise_and",
        "bitwise_and_",
        "bitwise_or",
        "rsub",
        "__lshift__",
        "__rshift__",
        "__and__",
        "bitwise_left_shift",
        "bitwise_right_shift",
        "bitwise_not",
        "logical_and",
        "logical_not",
        "mean",
        "sum",
        "amin",
        "amax",
        "argmin",
        "prod",
        "max",
        "min",
        "_softmax",
        "topk",
        "sort",
        "nonzero",
        "gather",
        "index",
        "index_put_",
        "index_put",
        "index_select",
        "embedding",
        "_fused_rms_norm",
        "normal_",
        "uniform_",
        "randn",
        "fill_",
        "zero_",
        "is_same_size",
        "repeat_interleave",
        "_local_scalar_dense",
    ]
)


class Multiplied(NamedTuple):
    """FLOPs that FlopCounterMode counted, and the ops that it does not know and that are not known to be free."""

    flops: int
    uncounted: tuple[str, ...]


class _Audit(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in flop_registry:
            self.names.add(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def multiplied(work: Callable[[], Any]) -> Multiplied:
    """The FLOPs of ``work``: 2 per multiply-add of every matrix product."""
    counter, audit = FlopCounterMode(display=False), _Audit()
    with audit, counter:
        work()
    return Multiplied(counter.get_total_flops(), tuple(sorted(audit.names - FREE)))


# --- CUDA's caching allocator ----------------------------------------------------------------------------------------

MIB = 2**20
BLOCK, SMALL, SMALL_SEGMENT, LARGE_SEGMENT, LARGE, ROUND_LARGE = 512, MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


def cuda_bytes(size: int) -> int:
    """Bytes of one allocation: rounded up to 512; nothing is allocated for nothing.

    >>> cuda_bytes(0), cuda_bytes(1), cuda_bytes(512), cuda_bytes(513)
    (0, 512, 512, 1024)
    """
    return -(-size // BLOCK) * BLOCK


def cuda_blocks(sizes: Iterable[int]) -> tuple[int, int]:
    """The least and the most that ``allocated_bytes`` grows by for allocations of these sizes.

    Small ones (up to 1 MiB) are cut from their segments to the block; of a larger one the rest of the free block that it
    was put into stays with it where that is no more than 1 MiB (should_split).

    >>> cuda_blocks([100, 3 * MIB]) == (512 + 3 * MIB, 512 + 4 * MIB)
    True
    """
    rounded = [cuda_bytes(size) for size in sizes]
    return sum(rounded), sum(size + (SMALL if size > SMALL else 0) for size in rounded)


def cuda_segments(sizes: Iterable[int]) -> dict[int, int]:
    """Segments that allocations of these sizes reserve in an empty pool: bytes of a segment -> how many.

    Up to 1 MiB lie in segments of 2 MiB, up to 10 MiB in segments of 20 MiB, larger ones in one of their own, rounded to
    2 MiB; the best-fitting free block is taken, and what is left of it stays free where it is worth keeping.

    >>> cuda_segments([100] * 10), cuda_segments([3 * MIB] * 7), cuda_segments([30 * MIB + 1])
    ({2097152: 1}, {20971520: 2}, {33554432: 1})
    """
    free: dict[bool, list[int]] = {True: [], False: []}  # small or not -> sizes of free blocks
    made: dict[int, int] = {}
    for asked in sizes:
        size = cuda_bytes(asked)
        if not size:
            continue
        small = size <= SMALL
        fitting = [block for block in free[small] if block >= size]
        if fitting:
            block = min(fitting)
            free[small].remove(block)
        else:
            block = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE
            made[block] = made.get(block, 0) + 1
        rest = block - size
        if rest >= BLOCK if small else rest > SMALL:
            free[small].append(rest)
    return made


class CudaPhase(NamedTuple):
    """The allocator's counters after a phase, and its peak within it; bytes."""

    allocated: int  # in blocks that are in use
    requested: int  # what was asked for, before any rounding
    reserved: int  # in segments taken from the device
    peak: int  # of allocated

    @classmethod
    def now(cls) -> CudaPhase:
        """Reads the counters and starts a new peak."""
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        found = cls(
            stats["allocated_bytes.all.current"],
            stats["requested_bytes.all.current"],
            stats["reserved_bytes.all.current"],
            stats["allocated_bytes.all.peak"],
        )
        torch.cuda.reset_peak_memory_stats()
        return found

    def since(self, before: CudaPhase) -> CudaPhase:
        """What a phase added; its peak over what was there before it."""
        return CudaPhase(
            self.allocated - before.allocated,
            self.requested - before.requested,
            self.reserved - before.reserved,
            self.peak - before.allocated,
        )


# --- seconds ---------------------------------------------------------------------------------------------------------


def seconds(
    work: Callable[[int], Any],
    device: str,
    *,
    warm: int = 3,
    runs: int = 15,
    of: Callable[..., float] = statistics.median,
) -> float:
    """Median (or ``of``) seconds of ``work(i)``, which takes fresh inputs by its number: CUDA events, a clock on a CPU."""
    for i in range(warm):
        work(i)
    times = []
    for i in range(warm, warm + runs):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            work(i)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            work(i)
            times.append(time.perf_counter() - begun)
    return of(times)


class Ceilings(NamedTuple):
    """What the device really does: bytes per second of a large copy (read and written) and FLOP/s of a matrix product."""

    copy: float
    matmul: float

    @classmethod
    def measured(cls, device: str, dtype: torch.dtype) -> Ceilings:
        """The fastest of several runs on random data, rotating among buffers that no cache holds."""
        size, side = (2**30, 8192) if device == "cuda" else (2**26, 1024)
        sources = [torch.randn(size // 4, device=device) for _ in range(3)]
        target = torch.empty_like(sources[0])
        copy = 2 * size / seconds(lambda i: target.copy_(sources[i % 3]), device, of=min)
        squares = [torch.randn(side, side, device=device).to(dtype) for _ in range(3)]
        matmul = 2 * side**3 / seconds(lambda i: squares[i % 3] @ squares[(i + 1) % 3], device, of=min)
        return cls(copy, matmul)

    def or_higher(self, other: Ceilings) -> Ceilings:
        """The higher of each: what was measured while the machine was busy with something else is no ceiling."""
        return Ceilings(max(self.copy, other.copy), max(self.matmul, other.matmul))
