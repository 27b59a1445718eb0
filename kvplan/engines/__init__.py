"""What an engine really allocates for a cache, and what it keeps back: one module per engine, each naming its version.

An engine is data and small functions. ``parts_of`` says which tensors it keeps for a mixer; ``page`` whether it rounds
entries up to blocks; ``prefill_tokens`` how many tokens run at once; ``prefill_storage`` whether a one-shot prefill
keeps full-length tensors alive behind its windows. A new engine with known behaviour is one more entry here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from kvplan.cache import mixer_parts
from kvplan.errors import InvalidInput, UnknownName
from kvplan.specs import Mixer, Part

__all__ = ["ENGINES", "Engine", "find_engine"]


class Engine(NamedTuple):
    """One engine at one version."""

    name: str
    version: str
    summary: str
    utilization: float  # default share of the GPU's memory it may use
    source: str
    parts_of: Callable[[Mixer], tuple[Part, ...]] = mixer_parts
    paged: bool = False  # honours block_size
    one_shot_prefill: bool = False  # the whole prompt runs at once, else chunks of PREFILL_CHUNK tokens
    prefill_storage: bool = False  # windows are views of full-length tensors right after a one-shot prefill
    options: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()


IDEAL = Engine(
    name="ideal",
    version="",
    summary="the mathematics: exactly the entries that the next token needs, no rounding unless --block-size is given",
    utilization=1.0,
    source="kvplan/formulas.py",
    paged=True,
)

# The engine itself, or the module whose ENGINE it is; modules load only when asked for.
ENGINES: dict[str, Engine | str] = {
    "ideal": IDEAL,
    "transformers": "kvplan.engines.transformers",
}


def find_engine(name: str, version: str | None = None) -> Engine:
    """The engine of a name, at a version it implements. Raises UnknownName or InvalidInput."""
    if str(name).lower() not in ENGINES:
        raise UnknownName("engine", str(name), ENGINES)
    entry = ENGINES[name.lower()]
    engine: Engine = import_module(entry).ENGINE if isinstance(entry, str) else entry
    if version and engine.version and not engine.version.startswith(version):
        raise InvalidInput("engine_version", version, f"{engine.version} (the version whose rules kvplan holds)")
    if version and not engine.version:
        raise InvalidInput("engine_version", version, f"none: {engine.name} has no versions")
    return engine
