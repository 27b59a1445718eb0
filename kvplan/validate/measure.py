"""What was really allocated and really multiplied: storages, tallies of a profiler, counted matmuls, and seconds.

Nothing here knows what should come out. What an allocator counted is read in ``allocator.py``.
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
    "Ceilings",
    "Multiplied",
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
