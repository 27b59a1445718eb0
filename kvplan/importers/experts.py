"""Pieces that importers of mixtures of experts share: aliased counts, and which layers are sparse."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.importers.config import Config
from kvplan.specs import MLP, Layer, Mixer

__all__ = ["aliased", "routed", "sparse_layers", "stacked"]


def aliased(c: Config, keys: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number that files write under one of several names (a class's ``attribute_map``).

    Two names with different values are an error: nothing says which one counts.
    """
    names = keys.split()
    given = [(name, c.int(name, least=least)) for name in names if c.has(name)]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise c.error(name, value, f"the same as {given[0][0]} ({given[0][1]})")
    return given[0][1] if given else c.int(names[0], default, least=least)


def routed(
    c: Config, experts: int, keys: str = "num_experts_per_tok", default: int | None = None, *, active: int | None = None
) -> int:
    """Routed experts that one token visits: at most as many as there are. ``active`` is the value where it is known."""
    visited = aliased(c, keys, default) if active is None else active
    if visited > experts:
        raise c.error(keys.split()[0], visited, f"at most the number of experts ({experts})")
    return visited


def sparse_layers(c: Config, layers: int, default: list[bool], *, longer: bool = False) -> list[bool]:
    """Which layers hold experts, from ``mlp_layer_types`` where the file has it, else ``default``.

    ``longer`` lists pass where a class lacks ``layer_types``: only beside those does transformers check their length.
    """
    kinds = c.strings("mlp_layer_types", layers, ("sparse", "dense"), longer=longer)
    return default if kinds is None else [kind == "sparse" for kind in kinds]


def stacked(hidden: int, mixers: Sequence[Mixer], mlps: Sequence[MLP], norms: int = 2) -> tuple[Layer, ...]:
    """Layers of one mixer and one MLP each, with ``norms`` norms around them; equal ones are built once."""
    kinds = {
        (mixer, mlp): Layer((mixer,), (mlp,), norms=norms * hidden) for mixer, mlp in zip(mixers, mlps, strict=True)
    }
    return tuple(kinds[pair] for pair in zip(mixers, mlps, strict=True))
