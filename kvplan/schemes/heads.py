"""The heads axis: how many KV heads a layer has."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.specs import Attention, Latent, ModelSpec, replace


def _with_kv_heads(spec: ModelSpec, text: str, count: int | None) -> ModelSpec:
    def change(layer: int, mixer: Attention | Latent) -> Attention:
        if isinstance(mixer, Latent):
            raise InvalidInput("scheme", text, "a model with per-head keys and values (this one caches a latent)")
        wanted = mixer.heads if count is None else count
        if wanted > mixer.heads or mixer.heads % wanted:
            raise InvalidInput("scheme", text, f"a number of KV heads that divides the {mixer.heads} query heads")
        return replace(mixer, kv_heads=wanted)

    return change_attention(spec, text, change, weights=True)


@scheme("mha", "mha", "heads", "as many KV heads as query heads", "Vaswani et al. 2017, arXiv 1706.03762")
def mha(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-head attention."""
    return _with_kv_heads(spec, arguments.text, None)


@scheme(
    "gqa",
    "gqa:N",
    "heads",
    "N KV heads, each shared by a group of query heads",
    "Ainslie et al. 2023, arXiv 2305.13245",
)
def gqa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Grouped-query attention; N counts KV heads, not the size of a group."""
    return _with_kv_heads(spec, arguments.text, arguments.count("N", bare=True))


@scheme("mqa", "mqa", "heads", "one KV head for all query heads", "Shazeer 2019, arXiv 1911.02150")
def mqa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-query attention."""
    return _with_kv_heads(spec, arguments.text, 1)
