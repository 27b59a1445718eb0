"""Ways of sharing the cache: each a pure function from a spec to a spec, chained with ``+`` as the papers write them.

A scheme says which axes it writes; two members of a chain that write the same axis are an error. Stores are derived
once, after the whole chain, so the order of members does not matter.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from kvplan.cache import build_plan
from kvplan.errors import InvalidInput, UnknownName
from kvplan.specs import (
    Attention,
    Compressed,
    Factored,
    Growth,
    Latent,
    Layer,
    Mixer,
    ModelSpec,
    Recurrent,
    replace,
)
from kvplan.units import parse_count

__all__ = ["SCHEMES", "Scheme", "apply", "attention_layers", "change_attention", "scheme", "share", "windowed"]

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
        try:
            return parse_count(value, name, least=least)
        except InvalidInput:
            raise InvalidInput("scheme", self.text, f"{name} as a whole number from {least}, e.g. 64 or 4k") from None

    def share(self, name: str, default: str) -> float:
        """A share of 1 among the arguments, in plain decimals."""
        value = self.named.get(name, default)
        digits = value.replace(".", "", 1)
        if not (digits.isascii() and digits.isdigit() and len(value) < 12) or float(value) > 1:
            raise InvalidInput("scheme", self.text, f"{name} as a share of 1, e.g. {name}={default}")
        return float(value)

    def only(self, *names: str, bare: bool = False) -> None:
        """Raises InvalidInput for an argument that the scheme does not know, so that a typing error is no default."""
        unknown = sorted(set(self.named) - set(names))
        if unknown or (self.bare and not bare):
            known = ", ".join([*(["one bare value"] if bare else []), *(f"{name}=" for name in names)])
            raise InvalidInput("scheme", self.text, f"these arguments: {known or 'none'}")


class Scheme(NamedTuple):
    """One registered scheme: its notation, the axes it writes, and where it comes from."""

    name: str
    notation: str
    axes: frozenset[str]
    summary: str
    source: str
    change: Change
    also: Callable[["Arguments"], str] | None = None  # axes that it writes with some arguments only


SCHEMES: dict[str, Scheme] = {}
# layers come after tokens: whose KV a layer may read, and which layers are of one type, hangs on what each one keeps
AXES = ("heads", "rank", "tokens", "layers", "reads", "bits", "place")


def scheme(
    name: str, notation: str, axes: str, summary: str, source: str, also: Callable[[Arguments], str] | None = None
) -> Callable[[Change], Change]:
    """Registers a scheme under its name; ``axes`` are words of AXES, several where it writes several.

    ``also`` names the axes that it writes beside those for some arguments: ``owners`` with windows.
    """

    def register(change: Change) -> Change:
        assert name not in SCHEMES, f"two schemes named {name}"
        assert set(axes.split()) <= set(AXES), f"{name} names an axis that does not exist"
        SCHEMES[name] = Scheme(name, notation, frozenset(axes.split()), summary, source, change, also)
        return change

    return register


def parse(text: str) -> list[tuple[Scheme, Arguments]]:
    """The members of a chain, in the order of their axes, whatever the order they were written in.

    Raises UnknownName for an unknown member, InvalidInput for a bad argument or two members on one axis.
    """
    members: list[tuple[Scheme, Arguments]] = []
    taken: dict[str, str] = {}
    for item in text.strip().lower().split("+"):
        name, _, rest = item.strip().partition(":")
        found = SCHEMES.get(name)
        if found is None:
            raise UnknownName("scheme", name, SCHEMES)
        arguments = _arguments(item.strip(), rest)
        for axis in sorted(found.axes.union(found.also(arguments).split() if found.also else ())):
            if axis in taken:
                raise InvalidInput("scheme", text, f"one member per axis ({taken[axis]} and {name} both write {axis})")
            taken[axis] = name
        members.append((found, arguments))
    # what a later axis changes exists by then
    return sorted(members, key=lambda member: min(AXES.index(axis) for axis in member[0].axes))


def apply(spec: ModelSpec, text: str) -> ModelSpec:
    """The spec under a chain of schemes such as ``mqa+cla:2``.

    Raises UnknownName for an unknown member, InvalidInput for a bad argument, two members on one axis, or a scheme
    that makes no sense for the model.
    """
    for found, arguments in parse(text):
        spec = found.change(spec, arguments)
    return spec


def idle(spec: ModelSpec, text: str) -> tuple[str, ...]:
    """The members of a chain that change nothing on this model: it is so already, or has nothing that they could change."""
    found_idle = []
    for found, arguments in parse(text):
        changed = found.change(spec, arguments)
        if changed is spec or replace(changed, notes=spec.notes) == spec:
            found_idle.append(arguments.text)
        spec = changed
    return tuple(found_idle)


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
        i for i, layer in enumerate(spec.layers) if any(isinstance(m, Compressed) or _attends(m) for m in layer.mixers)
    ]


def _attends(mixer: Mixer) -> bool:
    """Whether a mixer caches tokens of its own one by one: neither an encoder's layer nor a look at the encoder."""
    if isinstance(mixer, Attention):
        return mixer.cached and not mixer.cross
    return isinstance(mixer, (Latent, Factored))


def change_attention(
    spec: ModelSpec, text: str, change: Callable[[int, Attention | Latent | Factored], Mixer], *, weights: bool
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
        if isinstance(m, (Attention, Latent, Factored)) and _attends(m):
            return change(i, m)
        return m

    layers: list[Layer] = [
        replace(layer, mixers=tuple(mixer(i, m) for m in layer.mixers)) for i, layer in enumerate(spec.layers)
    ]
    if not weights:
        return replace(spec, layers=tuple(layers))
    return replace(spec, layers=tuple(layers), weight_bytes=None, weight_source="")


PASSES = 9  # of LCKV's prefill: m = 7 and b = 2 in the paper and in its repository


def share(spec: ModelSpec, text: str, owners: list[int], passes: int = PASSES) -> ModelSpec:
    """The spec in which attention layer ``i`` reads the KV of layer ``owners[i]``, both counted among attention layers.

    An owner map e that the model came with stays in force: layer i reads e(owners(e(i))), so that layers which share
    already move together and no scheme on this axis can raise residence. Windows stay. Where a layer reads one above
    it, a prompt runs ``passes`` times through the layers from the reader up to the owner. Raises InvalidInput, naming the scheme
    ``text``, for a model without attention and where layers would share that cannot.
    """
    positions = attention_layers(spec)
    if not positions:
        raise InvalidInput("scheme", text, f"a model with attention layers ({spec.name} has none)")
    own = _own_map(spec, positions)
    owners = [own[owners[target]] for target in own]
    owner_of = {positions[i]: positions[owner] for i, owner in enumerate(owners)}
    times = dict.fromkeys(range(len(spec.layers)), 1)
    for low, high in _iterated(owners):
        times |= dict.fromkeys(range(positions[low], positions[high] + 1), passes)

    def mixer(i: int, m: Mixer) -> Mixer:
        if isinstance(m, Recurrent) or not (isinstance(m, Compressed) or _attends(m)):
            return m
        reads = None if owner_of[i] == i else owner_of[i]
        return m if m.reads in (reads, i if reads is None else reads) else replace(m, reads=reads)

    layers = tuple(
        replace(
            layer,
            mixers=tuple(mixer(i, m) for m in layer.mixers),
            prefill_passes=times[i],
            prefill_last=False,
        )
        for i, layer in enumerate(spec.layers)
    )
    if layers == spec.layers:
        return spec
    notes = spec.notes
    if own != list(range(len(own))):
        kept = len(set(owners))
        notes += (
            f"{text} joins the owner map that the model came with, so that layers which share already move together: "
            f"{kept} of {len(owners)} attention layers keep KV",
        )
    shared = replace(spec, layers=layers, weight_bytes=None, notes=notes)
    try:
        build_plan(shared)
    except InvalidInput as error:
        rule = f"{SCHEMES[text.partition(':')[0]].summary}: {error.field} = {error.value} is not {error.rule}"
        raise InvalidInput("scheme", text, rule) from error
    return shared


def _own_map(spec: ModelSpec, positions: list[int]) -> list[int]:
    """Whose KV each attention layer reads as the model stands, both counted among attention layers."""
    order = {layer: i for i, layer in enumerate(positions)}
    own = []
    for i, layer in enumerate(positions):
        targets = [getattr(m, "reads", None) for m in spec.layers[layer].mixers if not isinstance(m, Recurrent)]
        own.append(next((order[target] for target in targets if target in order), i))
    return own


def _iterated(owners: list[int]) -> list[tuple[int, int]]:
    """Runs of layers, both ends included, that a prompt passes several times: LCKV's LayerTypeParser.iteration_plan.

    >>> _iterated([0, 3, 3, 3, 4]), _iterated([1, 2, 0]), _iterated([0, 0, 2, 2])
    ([(1, 3)], [(0, 2)], [])
    """
    runs, i = [], 0
    while i < len(owners):
        top = i
        while max(owners[i : top + 1]) > top and owners[i] > i:
            top = max(owners[i : top + 1])
        if top > i:
            runs.append((i, top))
        i = top + 1
    return runs


def windowed(mixer: Attention | Latent | Factored, window: int | None) -> Attention | Latent | Factored:
    """The mixer under a sliding window of ``window`` tokens, or under none; what it kept otherwise is dropped."""
    if isinstance(mixer, Attention):
        return replace(mixer, window=window, chunk=None, keep=None)
    return replace(mixer, keep=None if window is None else Growth("window", window))


# Every file of this folder registers its schemes: a new one is one new file, and nothing else knows of it.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
