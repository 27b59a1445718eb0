"""The reads axis: k scored pairs and a window."""

from __future__ import annotations

from kvplan.schemes import Arguments, scheme
from kvplan.schemes.topk import read_sparsely
from kvplan.specs import ModelSpec, Sparse


@scheme(
    "sparsek",
    "sparsek:k=512,window=512",
    "reads",
    "every query reads k entries that a scoring network picked, and the last tokens",
    "SparseK attention, Lou et al. 2024, arXiv 2406.16747",
)
def sparsek(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """SparseK: every query, of the prompt too, reads the k best-scored entries and a window.

    Formula: min(n, k + window) of the n entries in reach; a prompt then costs as many pairs as under a window of that
    size. Traffic and attention FLOPs fall, residence stays: every token is kept here. (A score does not depend on the
    query, so in generation what fell out of the best k may be dropped: ``budget:`` of k + window says that.) The
    scoring network, a projection to one number per KV head, is not counted.
    Source: arXiv 2406.16747, section 3.

    >>> from kvplan.api import plan
    >>> kv = plan("llama-2-7b", scheme="sparsek:k=512,window=512", context=4096).kv
    >>> kv["bytes_read_per_step"] // 524_288, kv["bytes"] // 524_288
    (1024, 4096)
    """
    arguments.only("k", "window")
    fixed = arguments.count("k") + arguments.count("window", default=0, least=0)
    return read_sparsely(spec, arguments.text, lambda mixer: Sparse(fixed, prefill=True))
