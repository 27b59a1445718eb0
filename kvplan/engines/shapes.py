"""What a stage's layers would cache, before an engine decides how: heads, widths and reach of every attention and state.

For engines that keep keys and values as their own model class makes them, whatever the method of a paper would keep:
an entry is every head's key and value, or a latent and its rotary key.
"""

from typing import NamedTuple

from kvplan.cache import mixer_parts
from kvplan.engines.policy import Case
from kvplan.errors import InvalidInput
from kvplan.formats import Format, find_format
from kvplan.specs import Attention, Compressed, Factored, Latent, Part, Recurrent

__all__ = ["PLAIN", "Shape", "floor_heads", "plain", "shapes", "state_bytes", "states"]

PLAIN = ("bf16", "fp16", "fp32")


class Shape(NamedTuple):
    """One attention mixer of one layer: what it would cache per token, for all heads."""

    layer: int
    kind: str  # global | local | chunk | cross | latent
    heads: int  # KV heads; 1 of a latent
    key: int  # elements per head; of a latent its rank
    value: int  # of a latent its rotary part
    reach: int = 0  # window or chunk in tokens; 0: none
    index_dim: int = 0  # elements of an indexer's key, one head; 0: no indexer, or one that uses another layer's choice
    reads: int | None = None  # the layer whose cache the model reads in its place
    wide: tuple[int, int, int] = (0, 0, 0)  # of a latent: heads, key and value dims where it is cached expanded
    index_as: str = "compute"


def shapes(case: Case, engine: str) -> tuple[Shape, ...]:
    """The attention mixers of this stage in layer order; shared layers too, since not every engine lets them share.

    What a scheme drops, pools or factors is cached whole: no engine here has a cache for it. Remembered on the spec, which
    never changes. Raises InvalidInput for entries pooled by the model itself (DeepSeek-V4), whose pools are not reproduced.
    """
    memo: dict[tuple[int, int], tuple[Shape, ...]] = case.spec.__dict__.setdefault("_shapes", {})
    key = (case.layers.start, case.layers.stop)
    if key not in memo:
        memo[key] = _shapes(case, engine)
    return memo[key]


def _shapes(case: Case, engine: str) -> tuple[Shape, ...]:
    found = []
    for i in case.layers:
        for mixer in case.spec.layers[i].mixers:
            if isinstance(mixer, Recurrent) or (isinstance(mixer, Attention) and not mixer.cached):
                continue
            reads = mixer.reads if mixer.reads != i else None
            if isinstance(mixer, Compressed):
                rule = f"a model without pooled entries: what {engine} keeps for them is not reproduced; engine ideal knows"
                raise InvalidInput("engine", engine, rule)
            if isinstance(mixer, Latent):
                index = mixer.indexer
                found.append(
                    Shape(
                        i,
                        "latent",
                        1,
                        mixer.kv_rank,
                        mixer.rope_dim,
                        index_dim=index.dim if index is not None and not index.shares else 0,
                        reads=reads,
                        wide=(mixer.heads, mixer.nope_dim + mixer.rope_dim, mixer.value_dim),
                        index_as=index.store_as if index is not None else "compute",
                    )
                )
            elif isinstance(mixer, Factored):
                found.append(Shape(i, "global", mixer.heads, mixer.dim, mixer.dim, reads=reads))
            else:
                kind = "cross" if mixer.cross else "chunk" if mixer.chunk else "local" if mixer.window else "global"
                index = mixer.indexer
                found.append(
                    Shape(
                        i,
                        kind,
                        mixer.kv_heads,
                        mixer.key_dim,
                        mixer.value_dim,
                        mixer.chunk or mixer.window or 0,
                        index.dim if index is not None and not index.shares else 0,
                        reads,
                        index_as=index.store_as if index is not None else "compute",
                    )
                )
    return tuple(found)


def states(case: Case) -> list[tuple[int, Part]]:
    """Recurrent and convolution states of this stage: layer and part; a convolution keeps kernel - 1 columns."""
    memo: dict[tuple[int, int], list[tuple[int, Part]]] = case.spec.__dict__.setdefault("_states", {})
    key = (case.layers.start, case.layers.stop)
    if key not in memo:
        memo[key] = [
            (i, part)
            for i in case.layers
            for mixer in case.spec.layers[i].mixers
            if isinstance(mixer, Recurrent)
            for part in mixer_parts(mixer)
        ]
    return memo[key]


def state_bytes(case: Case, conv: Format, recurrent: Format | None) -> tuple[int, int]:
    """Bytes of one sequence's convolution columns and of its other state on one rank; None: each in its own format."""
    memo: dict[object, tuple[int, int]] = case.spec.__dict__.setdefault("_state_bytes", {})
    key = (case.layers.start, case.layers.stop, case.tp, case.formats.compute, conv, recurrent)
    if key not in memo:
        columns = rest = 0
        for _, part in states(case):
            heads = -(-part.heads // case.tp) if part.shard == "heads" else part.heads
            if part.name.startswith("conv"):
                columns += -(-heads * part.width * conv.element_bits // 8)
                continue
            own = case.formats.compute if part.store_as == "compute" else find_format(part.store_as)
            rest += -(-heads * part.width * (recurrent or own).element_bits // 8)
        memo[key] = columns, rest
    return memo[key]


def floor_heads(heads: int, tp: int) -> int:
    """KV heads on one rank: split while they last, then replicated; an uneven split is cut off as vLLM and SGLang do."""
    return max(1, heads // tp)


def plain(case: Case, engine: str, instead: str) -> Format:
    """The cache's format of an engine that keeps keys and values in the type the model computes in.

    A format that the checkpoint states for other engines is not asked of this one. Raises InvalidInput for one that the
    question names.
    """
    found = case.formats.key
    same = case.formats.value == found
    if same and found.name in PLAIN:
        return found
    stated = case.spec.kv_dtype
    if same and stated is not None and find_format(stated).name == found.name:
        return case.formats.compute
    name = found.name if same else f"k={found.name},v={case.formats.value.name}"
    raise InvalidInput("kv_dtype", name, f"bf16, fp16 or fp32 with engine {engine}: {instead}")
