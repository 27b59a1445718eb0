"""The layers axis: whose KV a layer reads. Everything here is an owner map."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme
from kvplan.specs import Attention, Latent, ModelSpec, replace


def share(spec: ModelSpec, text: str, owners: list[int]) -> ModelSpec:
    """The spec in which attention layer ``i`` reads the KV of layer ``owners[i]``, both counted among attention layers."""
    positions = attention_layers(spec)
    owner_of = {positions[i]: positions[owner] for i, owner in enumerate(owners)}

    def change(layer: int, mixer: Attention | Latent) -> Attention | Latent:
        owner = owner_of[layer]
        return replace(mixer, reads=None if owner == layer else owner)

    return change_attention(spec, text, change, weights=True)


@scheme(
    "cla",
    "cla:F",
    "layers",
    "groups of F layers read the KV of their first layer",
    "Brandon et al. 2024, arXiv 2405.12981",
)
def cla(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Cross-layer attention; where F does not divide the layers, the first group is the short one, as in the paper's Figure 2."""
    factor = arguments.count("F", bare=True)
    count = len(attention_layers(spec))
    short = count % factor
    owners = [0 if i < short else short + (i - short) // factor * factor for i in range(count)]
    return share(spec, arguments.text, owners)


@scheme(
    "owners",
    "owners:0_0_2_2",
    "layers",
    "an owner map, one integer per attention layer",
    "LCKV's layer_types, arXiv 2405.10637",
)
def owners(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Any owner map: layer i reads the KV of the layer its integer names; reads may point upwards."""
    count = len(attention_layers(spec))
    items = arguments.bare.split("_")
    rule = f"{count} integers below {count}, joined by _"
    if len(items) != count or not all(item.isascii() and item.isdigit() and len(item) < 6 for item in items):
        raise InvalidInput("scheme", arguments.text, rule)
    numbers = [int(item) for item in items]
    if max(numbers) >= count:
        raise InvalidInput("scheme", arguments.text, rule)
    return share(spec, arguments.text, numbers)
