"""The rank axis: multi-head latent attention."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, Growth, Latent, Mixer, ModelSpec


def refactored(mixer: Own, text: str) -> Attention:
    """The attention that a scheme may give other projections; raises InvalidInput where it cannot."""
    if not isinstance(mixer, Attention):
        raise InvalidInput("scheme", text, "a model with per-head keys and values")
    if mixer.input_hidden or mixer.tie:
        raise InvalidInput("scheme", text, "a model whose layers have attention weights of their own")
    return mixer


def own_growth(mixer: Attention) -> Growth | None:
    """The window or chunk that another kind of mixer has to take over; None where there is none."""
    growth = mixer_growth(mixer)
    return None if growth.kind == "full" else growth


@scheme(
    "mla",
    "mla:latent=512,rope=64[,q=1536]",
    "heads rank",
    "one latent and one rotary key per token for all heads",
    "DeepSeek-V2, arXiv 2405.04434",
)
def mla(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Multi-head latent attention: keys and values of all heads are expanded from one latent per token.

    Formula: latent + rope elements per layer and token, no factor 2 and no heads. Parameters: hidden x (latent + rope)
    and latent x heads x (key + value dims) instead of the K and V projections; with ``q`` low-rank queries too. Every
    head gains rope dims beside its own key dims. Prefill runs expanded: 2 heads (key + rope + value) FLOPs per pair;
    decode absorbed: 2 heads (2 latent + rope), more FLOPs for far less traffic. Norms of queries and keys are dropped,
    a norm of the latent comes in. Windows, chunks and owner maps are kept.
    Source: arXiv 2405.04434, section 2.1. A model under ``mla`` has no KV heads, so ``gqa`` beside it is an error.

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="mla:latent=512,rope=64").kv["bytes_per_token"] // (32 * 2)
    576
    """
    text = arguments.text
    arguments.only("latent", "rope", "q")
    latent, rope = arguments.count("latent"), arguments.count("rope", least=0)
    queries = arguments.count("q", default=0, least=0)

    def change(layer: int, mixer: Own) -> Mixer:
        if isinstance(mixer, Latent) and (mixer.kv_rank, mixer.rope_dim, mixer.q_rank or 0) == (latent, rope, queries):
            return mixer  # what the model is already
        a = refactored(mixer, text)
        return Latent(
            a.heads,
            queries or None,
            latent,
            nope_dim=a.key_dim,
            rope_dim=rope,
            value_dim=a.value_dim,
            bias="o" if "o" in a.bias else "",
            indexer=a.indexer,
            reads=a.reads,
            extra=a.extra,
            module=a.module,
            keep=own_growth(a),
        )

    return change_attention(spec, text, change, weights=True)
