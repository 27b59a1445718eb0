"""Ways of sharing the cache: each a pure function from a spec to a spec, chained with ``+`` as the papers write them.

A scheme says which axes it writes; two members of a chain that write the same axis are an error. Stores are derived
once, after the whole chain, so the order of members does not matter.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from kvplan.errors import InvalidInput, UnknownName
from kvplan.specs import Attention, Compressed, Latent, Layer, Mixer, ModelSpec, replace

__all__ = ["SCHEMES", "Scheme", "apply", "attention_layers", "change_attention", "scheme"]

Change = Callable[[ModelSpec, "Arguments"], ModelSpec]


class Arguments(NamedTuple):
    """The text after the colon: ``gqa:8`` has one bare value, ``lckv:w=2`` a named one."""

    text: str
    bare: str
    named: dict[str, str]

    def count(self, name: str, *, bare: bool = False, default: int | None = None, least: int = 1) -> int:
        """A whole number among the arguments; errors name the scheme as it was written."""
        value = self.bare if bare and self.bare else self.named.get(name, "")
        if not value and default is not None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 12) or int(value) < least:
            raise InvalidInput("scheme", self.text, f"{name} as a whole number from {least}")
        return int(value)


class Scheme(NamedTuple):
    """One registered scheme: its notation, the axes it writes, and where it comes from."""

    name: str
    notation: str
    axes: frozenset[str]
    summary: str
    source: str
    change: Change


SCHEMES: dict[str, Scheme] = {}
AXES = ("heads", "rank", "layers", "tokens", "reads", "bits", "place")


def scheme(name: str, notation: str, axes: str, summary: str, source: str) -> Callable[[Change], Change]:
    """Registers a scheme under its name; ``axes`` are words of AXES, several where it writes several."""

    def register(change: Change) -> Change:
        assert name not in SCHEMES, f"two schemes named {name}"
        assert set(axes.split()) <= set(AXES), f"{name} names an axis that does not exist"
        SCHEMES[name] = Scheme(name, notation, frozenset(axes.split()), summary, source, change)
        return change

    return register


def apply(spec: ModelSpec, text: str) -> ModelSpec:
    """The spec under a chain of schemes such as ``mqa+cla:2``.

    Raises UnknownName for an unknown member, InvalidInput for a bad argument or two members on one axis.
    """
    members: list[tuple[Scheme, Arguments]] = []
    taken: dict[str, str] = {}
    for item in text.strip().lower().split("+"):
        name, _, rest = item.strip().partition(":")
        found = SCHEMES.get(name)
        if found is None:
            raise UnknownName("scheme", name, SCHEMES)
        for axis in sorted(found.axes):
            if axis in taken:
                raise InvalidInput("scheme", text, f"one member per axis ({taken[axis]} and {name} both write {axis})")
            taken[axis] = name
        members.append((found, _arguments(item.strip(), rest)))
    # in the order of the axes, whatever the order they were written in: what a later axis changes exists by then
    for found, arguments in sorted(members, key=lambda member: min(AXES.index(axis) for axis in member[0].axes)):
        spec = found.change(spec, arguments)
    return spec


def _arguments(text: str, rest: str) -> Arguments:
    bare, named = "", {}
    for piece in rest.split(",") if rest else []:
        key, equals, value = piece.strip().partition("=")
        if equals:
            named[key] = value
        elif not bare:
            bare = piece.strip()
        else:
            raise InvalidInput("scheme", text, "at most one bare value, the others as name=value")
    return Arguments(text, bare, named)


def attention_layers(spec: ModelSpec) -> list[int]:
    """Indices of the layers that hold attention of their own tokens: what owner maps count."""
    return [
        i
        for i, layer in enumerate(spec.layers)
        if any(isinstance(m, (Latent, Compressed)) or (isinstance(m, Attention) and not m.cross) for m in layer.mixers)
    ]


def change_attention(
    spec: ModelSpec, text: str, change: Callable[[int, Attention | Latent], Mixer], *, weights: bool
) -> ModelSpec:
    """The spec with every self-attention mixer replaced by ``change(layer, mixer)``.

    ``weights`` says whether the change adds or drops projections: exact bytes read from headers then no longer hold.
    Raises InvalidInput, naming the scheme ``text``, where nothing would change: no attention, or pooled entries.
    """
    if not attention_layers(spec):
        raise InvalidInput("scheme", text, f"a model with attention layers ({spec.name} has none)")

    def mixer(i: int, m: Mixer) -> Mixer:
        if isinstance(m, Compressed):
            raise InvalidInput("scheme", text, "a model whose layers cache tokens one by one (this one pools them)")
        if isinstance(m, Latent) or (isinstance(m, Attention) and not m.cross):
            return change(i, m)
        return m

    layers: list[Layer] = [
        replace(layer, mixers=tuple(mixer(i, m) for m in layer.mixers)) for i, layer in enumerate(spec.layers)
    ]
    return replace(spec, layers=tuple(layers), weight_bytes=None if weights else spec.weight_bytes)


# Every file of this folder registers its schemes: a new one is one new file, and nothing else knows of it.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
