"""You only cache once: a self-decoder with a small cache, and a cross-decoder that reads one global KV."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme, share, windowed
from kvplan.specs import (
    Attention,
    Factored,
    Growth,
    Latent,
    Mixer,
    ModelSpec,
    Part,
    Recurrent,
    Weight,
    replace,
    vector,
)

__all__ = ["yoco"]

# per element of the state and token: decay, the outer product of key and value, and the query's look at it (5)
RETENTION_FLOPS = 5


@scheme(
    "yoco",
    "yoco:window=W or yoco:retention",
    "layers tokens",
    "the first half sees a window (or keeps a gated-retention state), the second half reads one global KV",
    "Sun et al. 2024, arXiv 2405.05254 and github.com/microsoft/unilm/tree/master/YOCO",
)
def yoco(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """You Only Cache Once: L // 2 layers of self-decoder, then a cross-decoder that reads the KV of its first layer.

    Formula: 2 x n_kv x h elements per token, one global KV for the upper half, plus a constant for the lower: L // 2 x W
    x 2 x n_kv x h elements under a window, or L // 2 x n_q x h x h of state in fp32 with ``retention``.
    Parameters: the cross-decoder has one W_K and W_V, and a norm before them; ``retention`` layers have
    W_Q, W_K, W_V and a gate for all query heads and one decay per head.
    Traffic: every cross-decoder layer reads the global KV at each step; the self-decoder reads its windows or states.
    Prefill leaves early: a prompt's last token alone runs through the cross-decoder, whose K and V every token makes, so
    linear FLOPs are about half and attention is O(S) in the context. Windows of the lower half stay where they are
    smaller; the upper half's give way to the global KV, which may keep and read more than a model of windows does.
    With ``--logits all`` every token runs through.
    Decode runs all layers. A model with recurrent layers in its upper half cannot leave early and is refused.
    Source: Sun et al. 2024, arXiv 2405.05254 and github.com/microsoft/unilm/tree/master/YOCO.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> half = apply(load("llama-2-7b"), "yoco:window=1024")
    >>> [(layer.mixers[0].window, layer.mixers[0].reads, layer.prefill_last) for layer in half.layers[15:18]]
    [(1024, None, False), (None, None, True), (None, 16, True)]
    """
    arguments.only("window", bare=True)
    if (arguments.bare == "retention") == ("window" in arguments.named) or arguments.bare not in ("", "retention"):
        raise InvalidInput("scheme", arguments.text, "yoco:window=W or yoco:retention")
    window = arguments.count("window") if "window" in arguments.named else None
    positions = attention_layers(spec)
    if len(positions) < 2:
        raise InvalidInput("scheme", arguments.text, "a model with 2 attention layers or more")
    half = len(positions) // 2
    owner = positions[half]
    if any(isinstance(mixer, Recurrent) for layer in spec.layers[owner:] for mixer in layer.mixers):
        raise InvalidInput("scheme", arguments.text, "a model without recurrent layers in its upper half")

    def change(layer: int, mixer: Attention | Latent | Factored) -> Mixer:
        if layer > owner:
            return windowed(mixer, None)
        if layer == owner:
            norm = vector(f"{mixer.module}.kv_layer_norm", spec.hidden)._replace(cached=True)
            return replace(windowed(mixer, None), extra=(*mixer.extra, norm))
        if not window:
            return _retention(spec, arguments.text, mixer)
        own = mixer_growth(mixer)
        return mixer if own.kind == "window" and own.limit <= window else windowed(mixer, window)

    changed = change_attention(spec, arguments.text, change, weights=True)
    upper = len(positions) - half
    owners = [*range(half), *[half] * upper] if window else [0] * upper
    shared = share(changed, arguments.text, owners)
    layers = tuple(replace(layer, prefill_last=i >= owner) for i, layer in enumerate(shared.layers))
    return replace(shared, layers=layers, weight_bytes=None)


def _retention(spec: ModelSpec, text: str, mixer: Attention | Latent | Factored) -> Recurrent:
    """Gated retention as YOCO's gate_retention.py builds it: no KV heads, a gate as wide as the values, a decay a head."""
    if not isinstance(mixer, Attention):
        raise InvalidInput("scheme", text, "a model with per-head keys and values")
    hidden, keys, values = mixer.input_hidden or spec.hidden, mixer.heads * mixer.key_dim, mixer.heads * mixer.value_dim
    outputs = {"q_proj": keys, "k_proj": keys, "v_proj": values, "g_proj": values, "gt_proj": mixer.heads}
    weights = [Weight(f"{mixer.module}.{name}", hidden, width) for name, width in outputs.items()]
    weights.append(Weight(f"{mixer.module}.out_proj", values, spec.hidden))
    size = mixer.key_dim * mixer.value_dim
    return Recurrent(
        "gated retention",
        tuple(weights),
        state=(Part("recurrent", mixer.heads, size, "fp32", Growth("constant", 1)),),
        mix_flops=RETENTION_FLOPS * mixer.heads * size,
    )
