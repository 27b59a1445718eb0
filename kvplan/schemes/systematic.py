"""The systematic study's nine owner maps: three ways to part the layers, three places for the target."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from kvplan.errors import InvalidInput
from kvplan.schemes import PASSES, Arguments, Change, attention_layers, scheme, share
from kvplan.specs import ModelSpec

__all__ = ["lasagna", "pizza", "sandwich"]

SOURCE = "Wu et al. 2024, arXiv 2410.14442"
Run = tuple[int, int]  # first and last layer of a group that shares one KV


def _shared(spec: ModelSpec, arguments: Arguments, part: Callable[[int, int], list[Run]]) -> ModelSpec:
    """The spec under the groups that ``part`` makes of the layers; layers outside of groups keep their own KV."""
    arguments.only("l", "target", "passes")
    kept, count = arguments.count("l"), len(attention_layers(spec))
    target = arguments.named.get("target", "bottom")
    if kept > count > 0:
        raise InvalidInput("scheme", arguments.text, f"l from 1 to the {count} attention layers")
    if target not in ("bottom", "middle", "top"):
        raise InvalidInput("scheme", arguments.text, "target=bottom, target=middle or target=top")
    owners = list(range(count))
    for low, high in part(count, kept) if count else []:
        chosen = {"bottom": low, "middle": (low + high) // 2, "top": high}[target]
        owners[low : high + 1] = [chosen] * (high + 1 - low)
    return share(spec, arguments.text, owners, arguments.count("passes", default=PASSES))


def _registered(name: str, summary: str) -> Callable[[Change], Change]:
    notation = f"{name}:l=N[,target=bottom|middle|top][,passes={PASSES}]"
    return scheme(name, notation, "layers", summary, SOURCE)


@_registered("pizza", "the first l - 1 layers keep KV, the rest read one target among them")
def pizza(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Pizza: the first l - 1 layers keep their own KV; the other L - l + 1 all read one of them, the target.

    Formula: l KV layers, 2 x l x n_kv x h elements per token. The target is the bottom (default), middle or top layer of
    those that share. Parameters and FLOPs: W_K and W_V vanish in L - l layers; traffic and attention stay. A target
    above its readers needs an iterated prefill (``passes``, as LCKV's) through all up to it and a masked diagonal.
    YOCO's layout is pizza-bottom with l = L / 2 + 1.
    Source: A Systematic Study of Cross-Layer KV Sharing, arXiv 2410.14442.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> [layer.mixers[0].reads for layer in apply(load("llama-2-7b"), "pizza:l=3,target=bottom").layers[:5]]
    [None, None, None, 2, 2]
    """
    return _shared(spec, arguments, lambda count, kept: [(kept - 1, count - 1)])


@_registered("sandwich", "about l / 2 layers at either end keep KV, the middle reads one target in it")
def sandwich(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Sandwich: the first ceil((l - 1) / 2) and the last floor((l - 1) / 2) layers keep KV, the middle shares a target.

    Formula: l KV layers, 2 x l x n_kv x h elements per token. The target is the bottom (default), middle or top layer of
    the middle. Parameters and FLOPs: W_K and W_V vanish in L - l layers; traffic and attention stay. A target above its
    readers needs an iterated prefill (``passes``) through all up to it and a masked diagonal. LCKV with w warm-up layers
    is sandwich-top with l = w + 1; sandwich-middle is ``0_10*20_21`` for 22 layers and l = 3.
    Source: A Systematic Study of Cross-Layer KV Sharing, arXiv 2410.14442.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> apply(load("llama-2-7b"), "sandwich:l=3,target=top").layers == apply(load("llama-2-7b"), "lckv:w=2").layers
    True
    """
    return _shared(spec, arguments, lambda count, kept: [(kept // 2, count - 1 - (kept - 1) // 2)])


@_registered("lasagna", "l groups of consecutive layers read one target each")
def lasagna(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Lasagna: l groups of consecutive layers, each reading the bottom (default), middle or top layer of its own.

    Formula: l KV layers, 2 x l x n_kv x h elements per token. Group i starts at floor(i x L / l): equal groups as in the
    paper, and MLKV's layers where l does not divide L. Parameters and FLOPs: W_K and W_V vanish in L - l layers; traffic
    and attention stay. A target above its readers needs an iterated prefill (``passes``) through each group up to it and
    a masked diagonal. CLA is lasagna-bottom.
    Source: A Systematic Study of Cross-Layer KV Sharing, arXiv 2410.14442.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> [layer.mixers[0].reads for layer in apply(load("llama-2-7b"), "lasagna:l=8,target=top").layers[:5]]
    [3, 3, 3, None, 7]
    """

    def part(count: int, kept: int) -> list[Run]:
        starts = [i * count // kept for i in range(kept + 1)]
        return [(low, high - 1) for low, high in pairwise(starts)]

    return _shared(spec, arguments, part)
