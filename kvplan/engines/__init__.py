"""What an engine really allocates for a cache, and what it keeps back: one module per engine, each naming its version.

An engine is data and small functions. ``parts_of`` says which tensors it keeps for a mixer; ``paged`` whether it rounds
entries up to blocks; ``prompt`` what a prompt that runs at once holds; ``prefill_storage`` whether that keeps
full-length tensors alive behind windows. An engine with pools, groups or cells of its own has a ``policy`` (see
``policy.py``). A new engine with known behaviour is one more entry here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from kvplan.cache import mixer_parts
from kvplan.errors import InvalidInput, UnknownName
from kvplan.specs import Mixer, ModelSpec, Part

if TYPE_CHECKING:
    from kvplan.engines.policy import Policy

__all__ = ["ENGINES", "Engine", "Option", "Prompt", "find_engine"]


class Option(NamedTuple):
    """A setting of one engine, under the engine's own flag name."""

    name: str
    kind: str  # count | bytes | flag | share | number | word | text
    help: str
    words: tuple[str, ...] = ()  # of a word
    least: int = 1  # of a count
    common: str = ""  # the flag of every engine that means the same: given here, it is given there


class Prompt(NamedTuple):
    """What an engine holds at once while a prompt runs, beside weights and cache: an estimate, in bytes on one rank."""

    # of each kind of layer: what it is, bytes per token, bytes per pair of tokens
    layers: tuple[tuple[str, int, int], ...]
    masks: int = 0  # attention masks that are whole matrices
    mask_element: int = 1
    logit: int = 2  # of one logit
    all_logits: bool = False  # of every token, whatever is asked for


class Engine(NamedTuple):
    """One engine at one version."""

    name: str
    version: str
    summary: str
    utilization: float  # default share of the GPU's memory it may use
    source: str
    parts_of: Callable[[Mixer], tuple[Part, ...]] = mixer_parts
    paged: bool = False  # honours block_size
    # of a spec, bytes of an element and tp, where a prompt runs at once; None: in chunks of PREFILL_CHUNK tokens
    prompt: "Callable[[ModelSpec, int, int], Prompt] | None" = None
    prefill_storage: bool = False  # windows are views of full-length tensors right after a one-shot prefill
    options: tuple[Option, ...] = ()
    ignores: tuple[str, ...] = ()  # what it does not honour, a sentence each
    policy: "Policy | None" = None
    default_kv: str = ""  # the cache's format where nobody says; "": the checkpoint's or the compute dtype
    cache_names: tuple[tuple[str, str], ...] = ()  # its own names of cache formats, and which format each stores
    with_options: "Callable[[Engine, dict[str, Any]], Engine] | None" = None  # the engine that its options make of it
    versions: tuple[str, ...] = ()  # whose rules it holds, oldest first; () = this one alone
    runs_on: tuple[str, ...] = ()  # vendors of accelerators that its rules are of; () = any


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
    "vllm": "kvplan.engines.vllm",
    "llama.cpp": "kvplan.engines.llama_cpp",
    "mlx": "kvplan.engines.mlx",
    "exllama": "kvplan.engines.exllama",
    "lmdeploy": "kvplan.engines.lmdeploy",
    "sglang": "kvplan.engines.sglang",
    "tensorrt-llm": "kvplan.engines.tensorrt_llm",
}


def find_engine(name: str, version: str | None = None) -> Engine:
    """The engine of a name, at a version it implements. Raises UnknownName or InvalidInput."""
    if not isinstance(name, str):
        raise InvalidInput("engine", name, f"one of {', '.join(ENGINES)}")
    if name.lower() not in ENGINES:
        raise UnknownName("engine", str(name), ENGINES)
    entry = ENGINES[name.lower()]
    if not isinstance(entry, str):
        engine = entry
    else:
        module: Any = import_module(entry)
        engine = module.ENGINE
        if version and engine.versions:
            at: Engine = module.at(version)  # raises InvalidInput for a version whose rules it does not hold
            return at
    if version and engine.version and not engine.version.startswith(version):
        raise InvalidInput("engine_version", version, f"{engine.version} (the version whose rules kvplan holds)")
    if version and not engine.version:
        raise InvalidInput("engine_version", version, f"none: {engine.name} has no versions")
    return engine
