"""The reads axis: a query reads the best of the entries that are kept; residence is not touched."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, Factored, ModelSpec, Sparse, replace


def read_sparsely(spec: ModelSpec, text: str, sparse: Callable[[Own], Sparse]) -> ModelSpec:
    """The spec whose attention layers read what ``sparse`` says of each; raises InvalidInput where they select already."""

    def change(layer: int, mixer: Own) -> Own:
        if mixer.sparse is not None or (not isinstance(mixer, Factored) and mixer.indexer is not None):
            raise InvalidInput("scheme", text, "a model that reads its whole cache (this one selects already)")
        return replace(mixer, sparse=sparse(mixer))

    return change_attention(spec, text, change, weights=False)


@scheme(
    "topk",
    "topk:K[,index=32]",
    "reads",
    "a decode step reads the K best entries, and index elements of every key to find them",
    "Gupta et al. 2021, arXiv 2106.06899; with index: SparQ, arXiv 2312.04985",
)
def topk(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Top-k attention: a decode step reads K entries of those kept.

    Formula: min(n, K) of the n entries in reach; with ``index`` also that many elements of every key of every head,
    which scores them (SparQ): min(n, K + ceil(n index / (key_dim + value_dim))). Without it the choice is free, which
    is a bound that no method reaches. Residence and parameters stay, traffic and attention FLOPs of a decode step fall;
    the prompt is attended to in full.
    Source: arXiv 2106.06899; SparQ (2312.04985) with index 32 of 128 and K = 128.

    >>> from kvplan.api import plan
    >>> kv = plan("llama-2-7b", scheme="topk:128,index=32", context=4095).kv
    >>> kv["bytes_read_per_step"] // 524_288, kv["bytes"] // 524_288  # 128 + 4096 x 32 / 256
    (640, 4095)
    """
    text = arguments.text
    arguments.only("K", "index", bare=True)
    kept, index = arguments.count("K", bare=True), arguments.count("index", default=0)

    def sparse(mixer: Own) -> Sparse:
        if not index:
            return Sparse(kept)
        if not isinstance(mixer, Attention) or mixer.rank_k or mixer.rank_v:
            raise InvalidInput("scheme", text, "a model with per-head keys and values, where an index is read of them")
        width = mixer.key_dim + mixer.value_dim
        if width % index or index == width:
            raise InvalidInput("scheme", text, f"an index that divides key and value dims together ({width})")
        return Sparse(kept, width // index)

    return read_sparsely(spec, text, sparse)
