"""The bits axis for latents: DeepSeek's own cache layout, in which each part of an entry has its own format."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.specs import Attention, Compressed, Factored, Latent, Layer, Mixer, ModelSpec, replace

SCALED = "fp8_s128"
ROPE = 64  # rotary dims of a DeepSeek-V4 entry


@scheme(
    "fp8_ds_mla",
    "fp8_ds_mla",
    "bits",
    "latents and indexer keys in fp8 with an fp32 scale per 128 elements, rotary keys in the compute dtype",
    "DeepSeek-V3.2's reference cache and vLLM's fp8_ds_mla: 512 + 4 x 4 + 64 x 2 = 656 bytes, indexer 128 + 4",
)
def fp8_ds_mla(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """DeepSeek's fp8 layout of a latent cache.

    Formula: latent + 4 bytes per 128 of it, 2 bytes per rotary element, and where there is an indexer its key with a
    scale likewise: 656 + 132 bytes per layer and token for DeepSeek-V3.2. DeepSeek-V4's pooled entries take 448 in fp8
    with a byte of scale per 64, and 64 rotary dims in 16 bits: 583 bytes; its index keys 4 bits and a scale: 68.
    Residence and traffic fall; FLOPs (expanding what was read is not counted) and parameters stay.
    Source: DeepSeek-V3.2's reference code, vLLM's fp8_ds_mla.

    >>> from kvplan.api import plan
    >>> plan("deepseek-v3.2", scheme="fp8_ds_mla").kv["bytes_per_token"]  # 61 x (656 + 132)
    48068
    """
    arguments.only()
    if any(isinstance(m, Compressed) for layer in spec.layers for m in layer.mixers):
        return replace(spec, layers=tuple(_pooled(layer) for layer in spec.layers))

    def change(layer: int, mixer: Attention | Latent | Factored) -> Latent:
        if not isinstance(mixer, Latent):
            raise InvalidInput("scheme", arguments.text, "a model that caches latents (MLA)")
        indexer = mixer.indexer._replace(store_as=SCALED) if mixer.indexer else None
        return replace(mixer, latent_as=SCALED, rope_as="compute", indexer=indexer)

    return change_attention(spec, arguments.text, change, weights=False)


def _pooled(layer: Layer) -> Layer:
    def mixer(m: Mixer) -> Mixer:
        if not isinstance(m, Compressed):
            return m
        indexer = m.indexer._replace(store_as="fp4_s128") if m.indexer else None
        return replace(m, entry_as="fp8_s64", rope_dim=ROPE, indexer=indexer)

    return replace(layer, mixers=tuple(mixer(m) for m in layer.mixers))
