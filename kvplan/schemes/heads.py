"""The heads axis: how many KV heads a layer has."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.specs import Attention, Factored, Latent, ModelSpec, replace

__all__ = ["gqa", "mha", "mqa", "with_kv_heads"]


def with_kv_heads(spec: ModelSpec, text: str, count: int | None) -> ModelSpec:
    """The spec with ``count`` KV heads in every attention layer (None: one per query head).

    Raises InvalidInput where the number does not divide the query heads, or where no layer has keys per head.
    """

    def change(layer: int, mixer: Attention | Latent | Factored) -> Attention:
        if not isinstance(mixer, Attention):
            held = "a latent" if isinstance(mixer, Latent) else "factors"
            raise InvalidInput("scheme", text, f"a model with per-head keys and values (this one caches {held})")
        wanted = mixer.heads if count is None else count
        if wanted > mixer.heads or mixer.heads % wanted:
            raise InvalidInput("scheme", text, f"a number of KV heads that divides the {mixer.heads} query heads")
        return mixer if wanted == mixer.kv_heads else replace(mixer, kv_heads=wanted)

    changed = change_attention(spec, text, change, weights=True)
    return spec if changed.layers == spec.layers else changed


@scheme("mha", "mha", "heads", "as many KV heads as query heads", "Vaswani et al. 2017, arXiv 1706.03762")
def mha(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-head attention: every query head has keys and values of its own.

    Formula: 2 x L x n_q x h elements per token over all layers. Against GQA with n KV heads, residence, traffic and the
    parameters of W_K and W_V grow n_q / n times; the FLOPs of attention itself stay, in prefill and decode.
    Source: Vaswani et al. 2017, arXiv 1706.03762.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> apply(load("llama-3.1-8b"), "mha").layers[0].mixers[0].kv_heads
    32
    """
    arguments.only()
    return with_kv_heads(spec, arguments.text, None)


@scheme(
    "gqa",
    "gqa:N",
    "heads",
    "N KV heads, each shared by a group of query heads",
    "Ainslie et al. 2023, arXiv 2305.13245",
)
def gqa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Grouped-query attention; N counts KV heads, not the size of a group.

    Formula: 2 x L x N x h elements per token. Residence, traffic and the parameters of W_K and W_V fall to N / n_q of
    MHA; FLOPs fall by those two projections alone, since every query head still looks at every key.
    Source: Ainslie et al. 2023, arXiv 2305.13245.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> apply(load("llama-2-7b"), "gqa:8").layers[0].mixers[0].kv_heads
    8
    """
    arguments.only(bare=True)
    return with_kv_heads(spec, arguments.text, arguments.count("N", bare=True))


@scheme("mqa", "mqa", "heads", "one KV head for all query heads", "Shazeer 2019, arXiv 1911.02150")
def mqa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-query attention.

    Formula: 2 x L x h elements per token: GQA with N = 1. Residence and traffic fall to 1 / n_q of MHA on one GPU; under
    tensor parallelism the one head is held by every rank (Pope et al. 2022, arXiv 2211.05102).
    Source: Shazeer 2019, arXiv 1911.02150.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> apply(load("llama-2-7b"), "mqa").layers[0].mixers[0].kv_heads
    1
    """
    arguments.only()
    return with_kv_heads(spec, arguments.text, 1)
