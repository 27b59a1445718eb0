"""The rank axis: keys and values cached in a smaller space."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, ModelSpec, replace


@scheme(
    "lowrank",
    "lowrank:k=1024,v=1024",
    "rank",
    "keys cached as k elements per layer and token, values as v, expanded when read",
    "Palu, Chang et al. 2024, arXiv 2407.21118",
)
def lowrank(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Low-rank keys and values: the projections are cut in two, and what lies between is cached.

    Formula: k + v elements per layer and token instead of 2 x KV heads x head_dim; either may be left out. Parameters:
    a matrix of inputs x outputs becomes inputs x rank and rank x outputs. Prefill attends over expanded heads as before
    (expanding is in its linear FLOPs); a decode step expands every key, its own included, 2 k x KV heads x key_dim FLOPs
    each, and weighs values in their own rank, to expand the sum of each query head. A rank is that of the whole layer,
    decomposed jointly; groups of heads decomposed apart cache their sum and expand keys with fewer FLOPs.
    Source: arXiv 2407.21118, section 3; "50 % compression" of Llama-2-7B is k = v = 2048.

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="lowrank:k=2048,v=2048").kv["bytes_per_token"] // (32 * 2)
    4096
    """
    text = arguments.text
    arguments.only("k", "v")
    if not arguments.named:
        raise InvalidInput("scheme", text, "ranks of keys and values, e.g. lowrank:k=1024,v=1024")
    k, v = (arguments.count(name, default=0 if name not in arguments.named else None) for name in "kv")

    def change(layer: int, mixer: Own) -> Own:
        if not isinstance(mixer, Attention):
            raise InvalidInput("scheme", text, "a model with per-head keys and values")
        for rank, width in ((k, mixer.kv_heads * mixer.key_dim), (v, mixer.kv_heads * mixer.value_dim)):
            if rank > width:
                raise InvalidInput("scheme", text, f"ranks of at most {width}, the width of the projection")
        if v and mixer.value_is_key:
            raise InvalidInput("scheme", text, "k alone: this model makes values from the keys' projection")
        return replace(mixer, rank_k=k, rank_v=v)

    return change_attention(spec, text, change, weights=True)
