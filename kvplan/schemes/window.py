"""The tokens axis: how many entries are kept after S tokens."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme
from kvplan.specs import Attention, Latent, ModelSpec, replace


@scheme(
    "window",
    "window:W[@L:G]",
    "tokens",
    "layers see the last W tokens; @5:1 keeps every sixth layer full",
    "Mistral 7B, arXiv 2310.06825",
)
def window(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """A sliding window in all attention layers, or in L of every L + G of them (local to global)."""
    size, _, pattern = arguments.bare.partition("@")
    local, _, full = (pattern or "1:0").partition(":")
    for number in (size, local, full):
        if not (number.isascii() and number.isdigit() and len(number) < 12):
            raise InvalidInput("scheme", arguments.text, "window:W or window:W@local:global, e.g. window:4096@5:1")
    if int(size) < 1 or int(local) < 1:
        raise InvalidInput("scheme", arguments.text, "a window and a local count of at least 1")
    order = {layer: i for i, layer in enumerate(attention_layers(spec))}

    def change(layer: int, mixer: Attention | Latent) -> Attention:
        if isinstance(mixer, Latent):
            raise InvalidInput(
                "scheme", arguments.text, "a model with per-head keys and values (this one caches a latent)"
            )
        slides = order[layer] % (int(local) + int(full)) < int(local)
        return replace(mixer, window=int(size) if slides else None, chunk=None)

    return change_attention(spec, arguments.text, change, weights=False)
