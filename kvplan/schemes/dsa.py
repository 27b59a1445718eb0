"""The reads axis: a lightning indexer picks the entries."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Factored, Indexer, Latent, ModelSpec, Weight, replace, vector


@scheme(
    "dsa",
    "dsa:k=2048,dim=128,heads=64",
    "reads",
    "a lightning indexer scores every token by a small key of its own, and attention reads the k best",
    "DeepSeek-V3.2, arXiv 2512.02556",
)
def dsa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """DeepSeek sparse attention: ``heads`` small index queries score one index key of ``dim`` per token.

    Formula: min(n, k) entries are read of the n in reach, and all n index keys. Residence is not unchanged: it rises by
    ``dim`` elements per layer and token, the indexer key. Parameters: index queries (from the low-rank queries of MLA,
    else from the hidden state), index key and its norm, head weights; 2 heads x dim FLOPs per pair, S^2 of them in a
    prompt, beside attention to min(i, k) keys. A layer that reads another's cache scores that layer's index keys. Layers
    whose window is no larger than k stay as they are.
    Source: arXiv 2512.02556, section 2.1 (k = 2048, 64 heads of 128).

    >>> from kvplan.api import plan
    >>> a, b = (plan("deepseek-v3", scheme=s, context=8192).kv for s in ("dsa:k=2048", None))
    >>> (a["bytes_per_token"] - b["bytes_per_token"]) // 61, a["bytes_read_per_step"] // 61 - 2048 * 576 * 2
    (256, 2097408)
    """
    text = arguments.text
    arguments.only("k", "dim", "heads")
    top, dim, heads = (arguments.count(name, default=n) for name, n in (("k", 2048), ("dim", 128), ("heads", 64)))

    def change(layer: int, mixer: Own) -> Own:
        if isinstance(mixer, Factored):
            raise InvalidInput("scheme", text, "per-head keys and values, or a latent")
        if mixer.indexer is not None and (mixer.indexer.top_k, mixer.indexer.dim, mixer.indexer.heads) == (
            top,
            dim,
            heads,
        ):
            return mixer  # what the model is already
        if mixer.indexer is not None or mixer.sparse is not None:
            raise InvalidInput("scheme", text, "a model that reads its whole cache (this one selects already)")
        growth = mixer_growth(mixer)
        if growth.kind != "full" and growth.limit <= top:
            return mixer
        source = (mixer.q_rank if isinstance(mixer, Latent) else mixer.input_hidden) or spec.hidden
        name = f"{mixer.module}.indexer"
        weights = (
            Weight(f"{name}.wq_b", source, heads * dim),
            Weight(f"{name}.weights_proj", spec.hidden, heads, shard="none"),
            Weight(f"{name}.wk", spec.hidden, dim, shard="none", cached=True),
            vector(f"{name}.k_norm", 2 * dim)._replace(cached=True),
        )
        return replace(mixer, indexer=Indexer(heads, dim, top, weights))

    return change_attention(spec, text, change, weights=True)
