"""KV sharing as Gemma 3n and 4 do it: the last layers read the last layer of their own type that keeps KV."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, scheme, share
from kvplan.specs import Growth, Mixer, ModelSpec, Recurrent

__all__ = ["shared_last"]


@scheme(
    "shared-last",
    "shared-last:K",
    "layers",
    "the last K layers read the last layer of their own type (local or full) that keeps KV",
    "Gemma 3n and 4: num_kv_shared_layers, transformers models/gemma3n",
)
def shared_last(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """The last K attention layers read the last of the others that sees as far back as they do.

    Formula: 2 x (L - K) x n_kv x h elements per token, local layers up to their window. A layer's type is its kind of
    attention and how many tokens it keeps: a sliding layer reads a sliding one, a full layer a full one.
    Parameters and FLOPs: W_K and W_V vanish in K layers; traffic and attention stay; prefill is one pass
    through all layers (an engine may leave the last ones early, as for YOCO: vLLM's --kv-sharing-fast-prefill; that is not
    counted). Raises InvalidInput where a type has no layer left below.
    Source: Gemma 3n and 4: num_kv_shared_layers, transformers models/gemma3n.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> gemma = load("gemma-3n-e4b")
    >>> {layer.mixers[0].reads for layer in gemma.layers[20:]}, apply(gemma, "shared-last:15") is gemma
    ({18, 19}, True)
    """
    arguments.only(bare=True)
    positions = attention_layers(spec)
    count, last = len(positions), arguments.count("K", bare=True, least=0)
    if last >= count > 0:
        raise InvalidInput("scheme", arguments.text, f"fewer layers than the {count} that attend")
    newest: dict[tuple[str, Growth], int] = {}
    owners: list[int] = []
    for i, position in enumerate(positions):
        kind = _kind(spec.layers[position].mixers)
        if i < count - last:
            newest[kind] = i
        if kind not in newest:
            rule = f"a layer of every type among the first {count - last} (layer {position} has none like it below)"
            raise InvalidInput("scheme", arguments.text, rule)
        owners.append(newest[kind])
    return share(spec, arguments.text, owners)


def _kind(mixers: tuple[Mixer, ...]) -> tuple[str, Growth]:
    found = next(m for m in mixers if not isinstance(m, Recurrent))
    return type(found).__name__, mixer_growth(found)
