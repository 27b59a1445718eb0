"""The tokens axis: how many entries are kept after S tokens; here a sliding window, and what its neighbours share."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme
from kvplan.specs import Attention, Factored, Growth, Latent, ModelSpec, replace

Own = Attention | Latent | Factored


def bounded(mixer: Own, growth: Growth, text: str) -> Own:
    """The mixer keeping what ``growth`` says; one that looks back no further anyway stays as it is.

    Raises InvalidInput for a window inside the chunks of a model that restarts attention: no store holds just that.
    """
    own = mixer_growth(mixer)
    if own.kind in ("window", "chunk") and own.limit <= growth.limit:
        return mixer
    if own.kind == "chunk" and growth.kind == "window":
        raise InvalidInput("scheme", text, f"a window no smaller than the model's chunks of {own.limit}, or chunk:N")
    return replace(mixer, keep=growth)


def everywhere(spec: ModelSpec, text: str, growth: Growth) -> ModelSpec:
    """The spec whose attention layers all keep what ``growth`` says, where they looked back further."""

    def change(layer: int, mixer: Own) -> Own:
        return bounded(mixer, growth, text)

    return change_attention(spec, text, change, weights=False)


def patterned(spec: ModelSpec, arguments: Arguments, kind: str) -> ModelSpec:
    """The spec under ``KIND:N`` or ``KIND:N@L:G``: L of every L + G attention layers keep what the growth says."""
    text = arguments.text
    arguments.only(bare=True)
    size, _, pattern = arguments.bare.partition("@")
    local, _, full = (pattern or "1:0").partition(":")
    for number in (size, local, full):
        if not (number.isascii() and number.isdigit() and len(number) < 12):
            raise InvalidInput("scheme", text, f"{kind}:N or {kind}:N@local:global, e.g. {kind}:4096@5:1")
    if int(size) < 1 or int(local) < 1:
        raise InvalidInput("scheme", text, f"a {kind} and a local count of at least 1")
    order = {layer: i for i, layer in enumerate(attention_layers(spec))}

    def change(layer: int, mixer: Own) -> Own:
        local_layer = order[layer] % (int(local) + int(full)) < int(local)
        return bounded(mixer, Growth(kind, int(size)), text) if local_layer else mixer

    return change_attention(spec, text, change, weights=False)


@scheme(
    "window",
    "window:W[@L:G]",
    "tokens",
    "layers see the last W tokens; @5:1 leaves every sixth layer as it is",
    "Mistral 7B, arXiv 2310.06825; the pattern: Gemma 3, arXiv 2503.19786",
)
def window(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """A sliding window in all attention layers, or in L of every L + G of them (local to global).

    Formula: min(S, W) entries are held, a decode step reads min(S + 1, W), a prompt's queries see min(i, W) keys.
    Parameters stay; residence, traffic and attention FLOPs never rise: a layer with a smaller window of its own keeps
    it, and what the pattern calls global stays as the model has it.
    Source: Mistral 7B, arXiv 2310.06825.

    >>> from kvplan.api import plan
    >>> [plan("llama-2-7b", scheme="window:4096", context=n).kv["bytes"] // 2**29 for n in (2048, 4096, 8192)]
    [2, 4, 4]
    """
    return patterned(spec, arguments, "window")


@scheme(
    "local",
    "local:W[@L:G]",
    "tokens",
    "the local layers of a mix: window under the name that mixed schemes use, beside a layers scheme for the global KV",
    "MixAttention, arXiv 2409.15012",
)
def local(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Local layers of W tokens in a pattern, the others global: ``window`` by the name of MixAttention and its kin.

    Formula and consequences: those of ``window``; with ``owners`` or ``cla`` beside it the global layers share theirs.
    Source: MixAttention, arXiv 2409.15012.

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="local:1024@3:1", context=4096).kv["bytes"] // 2**20  # 24 x 16 + 8 x 64 MiB
    896
    """
    return patterned(spec, arguments, "window")
