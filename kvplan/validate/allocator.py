"""The one place that reads an allocator's counters: torch's caching allocator on CUDA, live storages on a CPU.

``allocator_of(device)`` gives either; both answer the same questions, so that whatever measures a GPU can be rehearsed
without one. ``cuda_bytes`` and ``cuda_segments`` repeat the rounding of torch's caching allocator
(c10/cuda/CUDACachingAllocator.cpp), so that a prediction in bytes can be held against its counters; the CPU side plays that
allocator, from the sizes of the storages that are alive, with no free block ever used again.
"""

from __future__ import annotations

import gc
import os
import subprocess
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Allocator", "Cuda", "Host", "Phase", "allocator_of", "cuda_blocks", "cuda_bytes", "cuda_segments", "filled"]

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


def filled(sizes: Iterable[int]) -> int:
    """Bytes of the segments that tensors of these sizes take.

    >>> filled([30 * MIB + 1]) == 32 * MIB
    True
    """
    return sum(size * count for size, count in cuda_segments(sizes).items())


class Phase(NamedTuple):
    """The allocator's counters after a phase, and its peaks within it; bytes."""

    allocated: int  # in blocks that are in use
    requested: int  # what was asked for, before any rounding
    reserved: int  # in segments taken from the device
    peak: int  # of allocated
    peak_taken: int = 0  # of the device, in segments
    spare: int = 0  # free within segments that something else keeps alive
    taken: int = 0  # of the device, now

    def since(self, before: Phase) -> Phase:
        """What a phase added; its peaks over what was there before it."""
        return Phase(
            self.allocated - before.allocated,
            self.requested - before.requested,
            self.reserved - before.reserved,
            self.peak - before.allocated,
            self.peak_taken - before.taken,
            self.spare,
            self.taken - before.taken,
        )


class Allocator(Protocol):
    """What a measurement asks of a device."""

    device: str

    def settle(self) -> None:
        """Lets libraries take what they keep before anything else is there."""

    @contextmanager
    def watching(self, capacity: int | None = None) -> Iterator[None]:
        """Counts within; ``capacity`` bytes are all there is where the device itself sets no end (a CPU)."""

    def phase(self) -> Phase:
        """Reads the counters and starts new peaks."""

    def give_back(self) -> None:
        """Returns what torch holds and nothing uses, so that another process, or a larger block, may have it."""

    def free(self) -> tuple[int, int]:
        """Bytes that are free on the device, and all of its bytes."""

    def takes(self, sizes: Iterable[int]) -> int:
        """Bytes of the device that tensors of these sizes take."""

    def taken_by(self, process: int | None) -> int:
        """Bytes of the device that are taken, by whomever; on a CPU those of one process, of which None takes nothing."""

    def said_by_driver(self) -> tuple[str, str, int]:
        """Name, driver version and all bytes of memory, as the machine's own tool prints them; 0 where it does not."""


class Cuda:
    """Torch's caching allocator on the first CUDA device."""

    device = "cuda"

    def settle(self) -> None:
        """One product: a workspace taken later may be cut from a large segment, which then never goes back."""
        square = torch.ones(64, 64, device=self.device, dtype=torch.bfloat16)
        torch.mm(square, square)
        self.give_back()

    @contextmanager
    def watching(self, capacity: int | None = None) -> Iterator[None]:
        """The allocator counts by itself, and ends where the device's memory does."""
        yield

    def phase(self) -> Phase:
        """``torch.cuda.memory_stats()``."""
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        found = Phase(
            stats["allocated_bytes.all.current"],
            stats["requested_bytes.all.current"],
            stats["reserved_bytes.all.current"],
            stats["allocated_bytes.all.peak"],
            stats["reserved_bytes.all.peak"],
            stats["inactive_split_bytes.all.current"],
            stats["reserved_bytes.all.current"],
        )
        torch.cuda.reset_peak_memory_stats()
        return found

    def give_back(self) -> None:
        """Segments without a block in use go back to the device."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def free(self) -> tuple[int, int]:
        """``cudaMemGetInfo``."""
        free, total = torch.cuda.mem_get_info()
        return int(free), int(total)

    def takes(self, sizes: Iterable[int]) -> int:
        """Whole segments."""
        return filled(sizes)

    def taken_by(self, process: int | None) -> int:
        """All less what is free."""
        free, total = self.free()
        return total - free

    def said_by_driver(self) -> tuple[str, str, int]:
        """``nvidia-smi`` of the device that torch uses; torch's own name and no bytes where it does not say."""
        properties = torch.cuda.get_device_properties(0)
        chosen = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else "0"
        query = "--query-gpu=name,driver_version,memory.total"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id={chosen}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            name, driver, memory = done.stdout.strip().splitlines()[0].rsplit(",", 2)
            return name.strip(), driver.strip(), int(memory) * MIB
        except (OSError, subprocess.SubprocessError, IndexError, ValueError):
            return properties.name, "", 0


class Host(TorchDispatchMode):
    """A CPU's side: every storage that an operation returns counts from then on until it is freed.

    Storages from before ``watching`` do not count, as if they lay elsewhere. Beyond ``capacity`` an operation raises
    torch.OutOfMemoryError, as an allocator does.
    """

    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}  # identity of a storage -> its bytes, in the order of allocation
        self.allocated = self.requested = 0
        self.peak = 0
        self.capacity: int | None = None

    def settle(self) -> None:
        """Nothing that a CPU's libraries keep is counted."""

    @contextmanager
    def watching(self, capacity: int | None = None) -> Iterator[None]:
        """Counts within, from nothing."""
        self.live, self.allocated, self.requested, self.peak = {}, 0, 0, 0
        self.capacity = capacity
        try:
            with self:
                yield
        finally:
            self.capacity = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = [t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                # a view of something from before is not new
                if storage._cdata not in self.live and storage._cdata not in known:
                    self._take(storage)
        return out

    def _take(self, storage: Any) -> None:
        key, size, live = storage._cdata, storage.nbytes(), self.live
        if self.capacity is not None and self.allocated + cuda_bytes(size) > self.capacity:
            raise torch.OutOfMemoryError(
                f"out of memory: {size:,} bytes beside {self.allocated:,} of {self.capacity:,}"
            )
        live[key] = size
        self.requested += size
        self.allocated += cuda_bytes(size)
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(storage, self._drop, live, key)

    def _drop(self, live: dict[int, int], key: int) -> None:
        size = live.pop(key, 0)
        if live is self.live:
            self.requested -= size
            self.allocated -= cuda_bytes(size)

    def phase(self) -> Phase:
        """What is alive, and the segments that it would fill in an empty pool; what is taken at most are blocks."""
        reserved = filled(self.live.values())
        found = Phase(
            self.allocated,
            self.requested,
            reserved,
            self.peak,
            self.peak,
            reserved - self.allocated,
            self.allocated,
        )
        self.peak = self.allocated
        return found

    def give_back(self) -> None:
        """Cycles that keep tensors alive are broken."""
        gc.collect()

    def free(self) -> tuple[int, int]:
        """What is left of the capacity, or of the machine's memory."""
        total = self.capacity or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total - self.allocated, total

    def takes(self, sizes: Iterable[int]) -> int:
        """Blocks: a segment is only named here, nothing is taken for it."""
        return cuda_blocks(sizes)[0]

    def taken_by(self, process: int | None) -> int:
        """The resident pages of a process (/proc/PID/statm)."""
        if process is None:
            return 0
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def said_by_driver(self) -> tuple[str, str, int]:
        """The kernel: /proc/cpuinfo, its release, and MemTotal of /proc/meminfo."""
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "CPU part"))]
        with open("/proc/meminfo", encoding="ascii") as file:
            memory = next(int(line.split()[1]) for line in file if line.startswith("MemTotal"))
        return (names or ["CPU"])[0], f"Linux {os.uname().release}", memory * 1024


def allocator_of(device: str) -> Allocator:
    """The allocator of a device, ``cuda`` or ``cpu``."""
    return Cuda() if device == "cuda" else Host()
