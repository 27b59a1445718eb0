"""The reads axis: compressed, selected and windowed tokens."""

from __future__ import annotations

from kvplan.schemes import Arguments, scheme
from kvplan.schemes.topk import read_sparsely
from kvplan.specs import ModelSpec, Sparse


@scheme(
    "nsa",
    "nsa:block=16,select=64,count=16,window=512",
    "reads",
    "a query reads one compressed entry per stride, some selected blocks, and a window",
    "Native Sparse Attention, Yuan et al. 2025, arXiv 2502.11089",
)
def nsa(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Native sparse attention: a coarse view of everything, ``count`` blocks of ``select`` tokens, and a window.

    Formula: min(n, ceil(n / block) + count x select + window) of the n entries in reach, by queries of the prompt too;
    ``block`` is the stride at which compressed entries start. Traffic and attention FLOPs fall. Every token stays in
    the cache; the compressed entries (1/block of it) are counted as read and not as resident, and the weights of
    compressor and gates are not counted.
    Source: arXiv 2502.11089, section 4.1 and Table 4 (l = 32, d = 16, l' = 64, n = 16, w = 512).

    >>> from kvplan.api import plan
    >>> [plan("llama-2-7b", scheme="nsa", context=n - 1).kv["bytes_read_per_step"] // 524_288 for n in (8192, 65536)]
    [2048, 5632]
    """
    arguments.only("block", "select", "count", "window")
    stride = arguments.count("block", default=16, least=2)
    chosen = arguments.count("count", default=16) * arguments.count("select", default=64)
    fixed = chosen + arguments.count("window", default=512, least=0)
    return read_sparsely(spec, arguments.text, lambda mixer: Sparse(fixed, stride, prefill=True))
