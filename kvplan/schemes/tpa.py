"""The rank axis: tensor-product attention."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.mla import own_growth, refactored
from kvplan.schemes.window import Own
from kvplan.specs import Factored, Mixer, ModelSpec


@scheme(
    "tpa",
    "tpa:q=6,k=2,v=2",
    "heads rank",
    "queries, keys and values as sums of q, k, v products of a vector over heads and one over dims",
    "Tensor Product Attention, Zhang et al. 2025, arXiv 2501.06425",
)
def tpa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Tensor-product attention: a token's keys are k outer products (heads vector x dims vector), its values v of them.

    Formula: (k + v) (heads + head_dim) elements per layer and token. Parameters: hidden x (q + k + v) (heads +
    head_dim) instead of the q, k, v projections; o stays. Prefill attends over expanded heads as before; a decode step
    scores from factors: 2 (q k head_dim + heads q k + heads v head_dim) FLOPs per cached token. Norms of queries and
    keys are dropped. Windows, chunks and owner maps are kept.
    Source: arXiv 2501.06425, Table 1 and section 3 (ranks 6, 2, 2).

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="tpa:q=6,k=2,v=2").kv["bytes_per_token"] // (32 * 2)  # 4 x (32 + 128)
    640
    """
    text = arguments.text
    arguments.only("q", "k", "v")
    q, k, v = (arguments.count(name, default=n) for name, n in (("q", 6), ("k", 2), ("v", 2)))

    def change(layer: int, mixer: Own) -> Mixer:
        a = refactored(mixer, text)
        if a.key_dim != a.value_dim:
            raise InvalidInput("scheme", text, f"equal key and value dims (here {a.key_dim} and {a.value_dim})")
        if a.indexer is not None:
            raise InvalidInput("scheme", text, "attention without an indexer")
        bias = "o" if "o" in a.bias else ""
        return Factored(
            a.heads, a.key_dim, q, k, v, bias=bias, reads=a.reads, keep=own_growth(a), extra=a.extra, module=a.module
        )

    return change_attention(spec, text, change, weights=True)
