"""The columns of a sweep: names with their units, types, and what each one says. The words are those of the JSON contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kvplan.errors import InvalidInput, UnknownName

__all__ = ["COLUMNS", "DEFAULT", "KEYS", "Column", "Words", "buffer", "chosen"]

Array = Any


class Column(NamedTuple):
    """One column. kind: whole (int64) | whole? (int64, may be missing) | real (float64) | truth | text (a dictionary)."""

    name: str
    kind: str
    says: str
    key: bool = False


class Words(NamedTuple):
    """Text as codes into a tuple of words, -1 where there is none; codes have any shape that broadcasts."""

    codes: Array
    words: tuple[str, ...]


_ALL = (
    Column("model", "text", "name of the model", True),
    Column("scheme", "text", "sharing scheme as asked for; none: as published", True),
    Column("dtype", "text", "activations and unquantised weights", True),
    Column("kv_dtype", "text", "storage format of the cache; k=...,v=... where K and V differ", True),
    Column("cache_type_k", "text", "storage format of K", True),
    Column("cache_type_v", "text", "storage format of V", True),
    Column("weight_dtype", "text", "format of the matrices in layers; auto: the checkpoint's", True),
    Column("engine", "text", "engine whose rules apply", True),
    Column("gpu", "text", "accelerator; none: capacity and times are missing", True),
    Column("tp", "whole", "tensor-parallel ranks", True),
    Column("pp", "whole", "pipeline stages", True),
    Column("dp", "whole", "data-parallel replicas", True),
    Column("context", "whole", "tokens per sequence", True),
    Column("batch", "whole", "sequences", True),
    Column("parameters", "whole", "parameters of the model"),
    Column("active_parameters", "whole", "parameters that one token visits"),
    Column("kv_bytes_per_token", "whole", "bytes of one more token below every window, one sequence, whole model"),
    Column("kv_bytes_per_token_marginal", "whole", "bytes of one more token at this context"),
    Column("kv_bytes_per_sequence", "whole", "bytes cached for one sequence, whole model"),
    Column("state_bytes_per_sequence", "whole", "of which recurrent and convolution state"),
    Column("kv_bytes", "whole", "bytes cached for the batch, whole model"),
    Column("kv_bytes_per_gpu", "whole", "bytes of cache on the fullest GPU"),
    Column("kv_bytes_read_per_step", "whole", "bytes that one decode step of the batch reads"),
    Column("kv_bytes_host", "whole", "bytes of cache in host memory"),
    Column("kv_bytes_disk", "whole", "bytes of cache on disk"),
    Column("kv_bytes_over_link_per_step", "whole", "bytes over the link to the host per decode step"),
    Column("weights_bytes", "whole?", "bytes of weights, whole model; missing where the quantisation is unknown"),
    Column("weights_bytes_per_gpu", "whole?", "bytes of weights on the fullest GPU"),
    Column("prefill_flops", "real", "FLOPs of the prefill of the batch"),
    Column("prefill_linear_flops", "real", "of which matrices of layers"),
    Column("prefill_attention_flops", "real", "of which attention"),
    Column("prefill_logits_flops", "real", "of which logits"),
    Column("decode_flops", "real", "FLOPs of one decode step of the batch"),
    Column("decode_linear_flops", "real", "of which matrices of layers"),
    Column("decode_attention_flops", "real", "of which attention"),
    Column("decode_logits_flops", "real", "of which logits"),
    Column(
        "activations_bytes_per_gpu",
        "whole?",
        "estimated transient bytes on one GPU; missing where the engine says its own",
    ),
    Column("used_bytes_per_gpu", "whole?", "weights, cache and overhead on the fullest GPU"),
    Column("memory_bytes", "whole?", "memory of one GPU"),
    Column("usable_bytes", "whole?", "of which the engine may use"),
    Column("kv_pool_bytes", "whole?", "bytes left for caches on the GPU with the least room"),
    Column("kv_tokens", "whole?", "tokens that the pool holds, all replicas"),
    Column("fits", "truth", "whether it fits"),
    Column("max_batch", "whole?", "largest batch that fits at this context; missing in files where nothing grows"),
    Column("max_context", "whole?", "largest context that fits at this batch; missing in files where nothing grows"),
    Column("binding", "text", "what stops growth"),
    Column("prefill_s", "real", "lower bound of the prefill, seconds"),
    Column("decode_step_s", "real", "lower bound of one decode step, seconds"),
    Column("tokens_per_s", "real", "upper bound of decoded tokens per second, all sequences"),
    Column("prefill_bound", "text", "what binds the prefill: compute, memory or link"),
    Column("decode_bound", "text", "what binds a decode step: compute, memory or link"),
)
COLUMNS: dict[str, Column] = {column.name: column for column in _ALL}
KEYS = tuple(column.name for column in _ALL if column.key)
# without a GPU the first five have answers, with one all of them
DEFAULT = (
    "kv_bytes_per_sequence",
    "kv_bytes",
    "kv_bytes_per_gpu",
    "kv_bytes_read_per_step",
    "prefill_flops",
    "decode_flops",
)
DEFAULT_GPU = ("used_bytes_per_gpu", "fits", "max_batch", "max_context", "decode_step_s", "tokens_per_s")


def chosen(asked: str | Sequence[str] | None, varied: Sequence[str], gpu: bool) -> tuple[str, ...]:
    """The columns in the order they are written: the axes that vary, then what was asked for.

    Keys that were named keep their place among what was asked. Raises UnknownName with the nearest names.
    """
    if asked is None:
        keys = [name for name in KEYS if name in ("model", "context", "batch") or name in varied]
        return (*keys, *DEFAULT, *(DEFAULT_GPU if gpu else ()))
    given: list[Any] = asked.split(",") if isinstance(asked, str) else list(asked)
    names = [name.strip() if isinstance(name, str) else "" for name in given]
    if not names or not all(names):
        raise InvalidInput("columns", asked, "names with commas, e.g. kv_bytes,max_batch")
    for name in names:
        known(name)
    leading = [name for name in KEYS if name in varied and name not in names]
    return tuple(dict.fromkeys([*leading, *names]))


def known(name: str) -> Column:
    """The column of a name. Raises UnknownName with the nearest ones."""
    if name not in COLUMNS:
        raise UnknownName("column", name, COLUMNS)
    return COLUMNS[name]


def buffer(column: Column, points: int) -> Array:
    """Room for the values of one column, of the type in which chunks hold it.

    int64; float64 for reals and for whole numbers that may be missing (NaN; infinite where nothing bounds them);
    int8 for truths (1, 0, -1 missing); int32 codes for text.
    """
    return np.empty(points, {"whole": "i8", "whole?": "f8", "real": "f8", "truth": "i1", "text": "i4"}[column.kind])
