"""The reads axis: pages chosen by the bounds of their keys."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, scheme
from kvplan.schemes.topk import read_sparsely
from kvplan.specs import ModelSpec, Sparse


@scheme(
    "quest",
    "quest:k=1024[,page=16]",
    "reads",
    "a decode step reads each page's smallest and largest key, and the pages that hold the k best tokens",
    "Quest, Tang et al. 2024, arXiv 2406.10774",
)
def quest(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Quest: per page of tokens the minimum and maximum of every key channel bound its scores; the best pages are read.

    Formula: min(n, k + ceil(n / page)) entries: the two bounding keys of a page weigh as much as one key and value.
    Traffic and attention FLOPs of a decode step fall, the prompt is attended to in full, parameters stay. Every token
    stays in the cache; the bounds themselves (1/page of it) are counted as read and not as resident. The paper leaves
    the first two layers dense, which this does not.
    Source: arXiv 2406.10774, section 3.3 (page 16, budgets of 256 to 4096 tokens).

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="quest:k=1024,page=16", context=8191).kv["bytes_read_per_step"] // 524_288
    1536
    """
    arguments.only("k", "page")
    kept, page = arguments.count("k"), arguments.count("page", default=16, least=2)
    if kept % page:
        raise InvalidInput("scheme", arguments.text, f"k in whole pages of {page} tokens")
    return read_sparsely(spec, arguments.text, lambda mixer: Sparse(kept, page))
