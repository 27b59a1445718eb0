"""Multi-layer key-value heads: few layers keep KV, and few heads in each."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, scheme, share
from kvplan.schemes.heads import with_kv_heads
from kvplan.specs import ModelSpec

__all__ = ["mlkv"]


@scheme(
    "mlkv",
    "mlkv:layers=m,heads=g or mlkv:total=N",
    "heads layers",
    "m layers keep g KV heads each, the others read the nearest KV layer below",
    "Zuhri et al. 2024, arXiv 2406.09297 and its convert_to_mlkv.py",
)
def mlkv(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-layer key-value heads: m of L layers keep g KV heads each; ``total=N`` means m = N, g = 1, for N up to L.

    Formula: 2 x m x g x h elements per token. KV layers are 0 and int((i + 1) x (L / m)) for i = 0 .. m - 2; another
    layer reads the nearest one below. Traffic is that of g KV heads in every layer: sharing over layers leaves it alone.
    Parameters and FLOPs: W_K and W_V vanish in L - m layers and shrink to g heads in the others. The paper's models widen
    their MLPs to hold parameters equal (all near 162M), so their FLOPs do not fall; here the MLP stays as it is.
    Prefill is one pass.
    Source: Zuhri et al. 2024, arXiv 2406.09297 and its convert_to_mlkv.py.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> six = apply(load("llama-2-7b"), "mlkv:total=6")
    >>> [i for i, layer in enumerate(six.layers) if layer.mixers[0].reads is None], six.layers[0].mixers[0].kv_heads
    ([0, 5, 10, 16, 21, 26], 1)
    """
    arguments.only("layers", "heads", "total")
    count = len(attention_layers(spec))
    if "total" in arguments.named and len(arguments.named) > 1:
        raise InvalidInput("scheme", arguments.text, "either total=N or layers=m,heads=g")
    total = "total" in arguments.named
    kept, heads = (arguments.count("total"), 1) if total else (arguments.count("layers"), arguments.count("heads"))
    if kept > max(count, 1):  # without attention layers, share says so
        raise InvalidInput(
            "scheme", arguments.text, f"at most {count} KV layers, as many as there are attention layers"
        )
    kv_layers = [0, *(int((i + 1) * (count / kept)) for i in range(kept - 1))]
    owners = [max(layer for layer in kv_layers if layer <= i) for i in range(count)]
    return share(with_kv_heads(spec, arguments.text, heads), arguments.text, owners)
