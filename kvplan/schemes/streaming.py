"""The tokens axis: attention sinks and a window."""

from __future__ import annotations

from kvplan.schemes import Arguments, scheme
from kvplan.schemes.window import everywhere
from kvplan.specs import Growth, ModelSpec


@scheme(
    "streaming",
    "streaming:sinks=4,window=1020",
    "tokens",
    "the first tokens (sinks) and the last ones stay: a cache of sinks + window entries",
    "StreamingLLM, Xiao et al. 2023, arXiv 2309.17453",
)
def streaming(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Attention sinks: the first ``sinks`` tokens (default 4) and the last ``window`` (default 1020) stay.

    Formula: min(S, sinks + window) entries, read min(S + 1, sinks + window); a query of the prompt sees as many.
    Residence, traffic and attention FLOPs stop growing there; parameters and linear FLOPs stay. Sinks are a model's
    first tokens as they are; learned sinks would be parameters.
    Source: StreamingLLM, arXiv 2309.17453 (4 sinks; "4 + 1020" in Table 2).

    >>> from kvplan.api import plan
    >>> [plan("llama-2-7b", scheme="streaming:sinks=4,window=1020", context=n).kv["bytes"] for n in (1024, 4_000_000)]
    [536870912, 536870912]
    """
    arguments.only("sinks", "window")
    sinks, window = arguments.count("sinks", default=4, least=0), arguments.count("window", default=1020)
    return everywhere(spec, arguments.text, Growth("window", sinks + window, sinks))
