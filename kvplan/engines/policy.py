"""What an engine with rules of its own answers: which bytes its caches take, what it leaves for them, what it prints.

``kvplan/serving.py`` asks; a module per engine answers. Engines whose caches are exactly the parts that they name
(``ideal``, ``transformers``) need none of this.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from kvplan.cache import CachePlan, Store
from kvplan.costs import Formats, profile
from kvplan.specs import ModelSpec

__all__ = ["Budget", "Case", "Line", "Policy", "Pool", "Room", "Stated", "holds", "stores"]


class Case(NamedTuple):
    """What one GPU is asked to hold: one pipeline stage of one tensor-parallel rank of one replica."""

    spec: ModelSpec
    formats: Formats
    context: int  # tokens per sequence
    batch: int  # sequences on this replica
    tp: int
    pp: int
    layers: range  # of this pipeline stage
    encoder_context: int
    options: dict[str, Any]  # the engine's own, checked; what was not given is missing
    version: str
    memory_bytes: int | None  # of the GPU as the driver exposes it
    architecture: str = ""  # of the GPU: Hopper, Ampere ...
    kind: str = ""  # of the GPU: datacenter, consumer, soc ...

    def option(self, name: str, default: Any) -> Any:
        """The value of an option, or what the engine does where it is not given."""
        value = self.options.get(name)
        return default if value is None else value


class Line(NamedTuple):
    """One named amount of bytes on one GPU, for all sequences of the case."""

    path: str  # kv/... of caches, engine/... of what the engine takes besides
    size: int
    layers: int  # that it stands for; 0 where it belongs to none
    formula: str
    source: str
    state: bool = False  # recurrent and convolution state, which does not grow with context
    basis: str = "exact"

    @property
    def on_gpu(self) -> bool:
        """Whether it lies on the GPU: caches whose path begins with ``kv/host/`` lie in host memory."""
        return not self.path.startswith("kv/host/")


class Budget(NamedTuple):
    """What an engine finds on one GPU."""

    memory_bytes: int | None
    weights: int | None  # bytes on this rank
    utilization: float
    runtime_bytes: int  # context and kernels, outside the allocator


class Room(NamedTuple):
    """What an engine leaves for its caches on one GPU; None where it cannot be said without a GPU or weights."""

    size: int | None
    kept: tuple[Line, ...] = ()  # what it keeps back, weights apart
    weights: int | None = None  # bytes of weights on the GPU, where the engine leaves some of them on the host


class Pool(NamedTuple):
    """What an engine makes of the room on all stages of one replica."""

    size: int  # bytes it allocates on the fullest GPU
    tokens: int | None  # that the pool holds, in the engine's own count; None where nothing grows
    facts: tuple[tuple[str, int | float | str], ...] = ()  # e.g. num_gpu_blocks, under the engine's own names
    printed: tuple[str, ...] = ()  # the lines that the engine would log, its units and rounding


class Stated(NamedTuple):
    """What an engine says of its settings before it knows the room: facts and log lines that need no GPU."""

    facts: tuple[tuple[str, int | float | str], ...] = ()
    printed: tuple[str, ...] = ()


Rooms = tuple[int, ...]
Cases = tuple[Case, ...]


def holds(caches: Callable[[Case], tuple[Line, ...]], cases: Cases, rooms: Rooms) -> bool:
    """Whether the caches of every stage fit into its room: the rule of engines that allocate what the requests need."""
    return all(
        sum(line.size for line in caches(case) if line.on_gpu) <= room for case, room in zip(cases, rooms, strict=True)
    )


class Policy(NamedTuple):
    """The rules of one engine. ``caches`` sums to ``kv.bytes`` of the case; all sizes are bytes."""

    caches: Callable[[Case], tuple[Line, ...]]
    room: Callable[[Case, Budget], Room]
    pool: Callable[[Cases, Rooms], Pool]
    admits: Callable[[Cases, Rooms], bool] | None = None  # None: the caches fit into the room
    states: Callable[[Cases], Stated] | None = None  # facts that need no GPU; the pool's own come after them
    most: Callable[[Case], int] | None = None  # sequences that run at once, whatever the memory; ``admits`` honours it

    def fits(self, cases: Cases, rooms: Rooms) -> bool:
        """Whether the engine starts with these rooms and holds all sequences of the cases at once."""
        return (self.admits or partial(holds, self.caches))(cases, rooms)


def stores(case: Case) -> list[Store]:
    """The caches of this stage in the order of their layers, as ``kvplan.cache`` lists them: one per cache that exists."""
    plan: CachePlan = profile(case.spec).plan
    return [store for store in plan.stores if store.layer in case.layers]
