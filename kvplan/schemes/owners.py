"""Any owner map, in the notation of LCKV's ``layer_types``."""

from __future__ import annotations

import re

from kvplan.errors import InvalidInput
from kvplan.schemes import PASSES, Arguments, attention_layers, change_attention, scheme, share, windowed
from kvplan.specs import Attention, Factored, Latent, ModelSpec

__all__ = ["owners"]

ITEM = re.compile(r"([0-9]{1,5})(s?)(?:\*([0-9]{1,5}))?")


def _axes(arguments: Arguments) -> str:
    """An ``s`` says what every layer sees: the map then writes the tokens axis too."""
    return "tokens" if "s" in arguments.bare else ""


@scheme(
    "owners",
    f"owners:0_0_2s_2*10[,window=W][,passes={PASSES}]",
    "layers",
    "an owner map: whose KV each attention layer reads, s through a window, a*b for b layers that read a",
    "LCKV's layer_types, arXiv 2405.10637; MixAttention, arXiv 2409.15012",
    also=_axes,
)
def owners(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Any owner map: attention layer i reads the KV of the layer that its integer names, below or above.

    Notation: integers joined by ``_``, one per attention layer; ``2*10`` are ten layers that read layer 2; ``s`` after
    the integer means through a sliding window of ``window`` tokens. Where any layer has an ``s``, those without see
    everything, and the map writes the tokens axis too; where none has, every layer keeps the window it came with.
    Formula: one KV per distinct integer, with as many entries as its longest reader needs. W_K and W_V are there in
    layers that are read, and nowhere else: parameters and FLOPs fall by them. Traffic and attention stay.
    Prefill: where a layer reads one above it, a prompt runs ``passes`` times through all from the reader up to the
    target (LCKV's iteration plan), and the diagonal is masked.
    Source: LCKV's layer_types, arXiv 2405.10637; MixAttention, arXiv 2409.15012.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> tiny = load("tinyllama-1.1b")
    >>> len({layer.mixers[0].reads for layer in apply(tiny, "owners:0_20*20_21").layers} - {None})
    1
    >>> [layer.mixers[0].window for layer in apply(tiny, "owners:0_1s*20_0,window=1024").layers[::7]]
    [None, 1024, 1024, None]
    """
    arguments.only("window", "passes", bare=True)
    count = len(attention_layers(spec))
    rule = f"{count} integers below {count}, joined by _ (5s through a window, 5*3 for three layers)"
    numbers: list[int] = []
    slides: list[bool] = []
    for item in arguments.bare.split("_"):
        found = ITEM.fullmatch(item)
        if not found or len(numbers) > count:
            raise InvalidInput("scheme", arguments.text, rule)
        times = min(int(found[3] or 1), count + 1)
        numbers += [int(found[1])] * times
        slides += [bool(found[2])] * times
    if len(numbers) != count or max(numbers) >= count:
        raise InvalidInput("scheme", arguments.text, rule)
    if any(slides) != ("window" in arguments.named):
        raise InvalidInput("scheme", arguments.text, "window=W together with s after an integer, or neither")
    if any(slides):
        spec = _slid(spec, arguments, slides)
    return share(spec, arguments.text, numbers, arguments.count("passes", default=PASSES))


def _slid(spec: ModelSpec, arguments: Arguments, slides: list[bool]) -> ModelSpec:
    window = arguments.count("window")
    sliding = dict(zip(attention_layers(spec), slides, strict=True))

    def change(layer: int, mixer: Attention | Latent | Factored) -> Attention | Latent | Factored:
        return windowed(mixer, window if sliding[layer] else None)

    return change_attention(spec, arguments.text, change, weights=False)
