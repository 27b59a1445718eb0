"""One cell, point by point: the answer of a plan at every context and batch, for engines whose rules run on ints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.errors import InvalidInput, KvplanError
from kvplan.planner import Answer, answer
from kvplan.report import Report
from kvplan.settings import read_settings
from kvplan.sweeps.columns import COLUMNS, KEYS
from kvplan.sweeps.grid import Cell

__all__ = ["Point", "asked", "columns_of"]

Point = dict[str, Any]
ENDLESS = float("inf")


def asked(
    cell: Cell, contexts: tuple[int, ...], batches: tuple[int, ...], columns: tuple[str, ...]
) -> Iterator[tuple[int, int, Point | KvplanError]]:
    """(position of the context, of the batch, every column or why there is no answer), the batch running fastest.

    A whole number of ``columns`` that their type does not hold is no answer.
    """
    for i, context in enumerate(contexts):
        for j, batch in enumerate(batches):
            try:
                s = read_settings(cell.spec, scheme=cell.scheme, context=context, batch=batch, **cell.flags)
                point = columns_of(answer(cell.spec, s))
                _counted({name: point[name] for name in columns if name in point})
            except KvplanError as e:
                yield i, j, e
            else:
                yield i, j, {**cell.keys, "context": context, "batch": batch, **point}


def columns_of(a: Answer) -> Point:
    """Every column of one answer, keys apart: None where there is no answer, infinite where nothing bounds."""
    c, t = a.capacity, a.times
    report = Report(a, lambda **_: None)
    kv = report.kv
    point: Point = {
        "parameters": a.profile.parameters,
        "active_parameters": a.profile.active_parameters,
        "kv_bytes_per_token": kv["bytes_per_token"],
        "kv_bytes_per_token_marginal": kv["bytes_per_token_marginal"],
        "kv_bytes_per_sequence": kv["bytes_per_sequence"],
        "state_bytes_per_sequence": kv["state_bytes_per_sequence"],
        "kv_bytes": kv["bytes"],
        "kv_bytes_per_gpu": kv["bytes_per_gpu"],
        "kv_bytes_read_per_step": kv["bytes_read_per_step"],
        "kv_bytes_host": kv["bytes_host"],
        "kv_bytes_disk": kv["bytes_disk"],
        "kv_bytes_over_link_per_step": kv["bytes_over_link_per_step"],
        "weights_bytes": a.weights.total if a.weights else None,
        "weights_bytes_per_gpu": a.weights_per_gpu,
        "activations_bytes_per_gpu": a.activations if a.served is None else None,
        "used_bytes_per_gpu": sum(size for _, size in report.memory()) if a.weights else None,
        "memory_bytes": c.memory_bytes if c else None,
        "usable_bytes": c.usable_bytes if c else None,
        "kv_pool_bytes": c.kv_pool_bytes if c else None,
        "kv_tokens": c.kv_tokens if c else None,
        "fits": c.fits if c else None,
        "max_batch": _limit(c.max_batch) if c else None,
        "max_context": _limit(c.max_context) if c else None,
        "binding": c.binding if c else None,
        "prefill_s": t.prefill.seconds if t else None,
        "decode_step_s": t.decode.seconds if t else None,
        "tokens_per_s": t.tokens_per_s if t else None,
        "prefill_bound": t.prefill.side if t else None,
        "decode_bound": t.decode.side if t else None,
    }
    for name, flops in (("prefill", a.prefill), ("decode", a.decode)):
        point[f"{name}_flops"] = flops.total
        for part in flops._fields:
            point[f"{name}_{part}_flops"] = getattr(flops, part)
    assert len(point) + len(KEYS) == len(COLUMNS)
    return point


def _limit(n: int | None) -> float:
    return ENDLESS if n is None else n


def _counted(point: Point) -> None:
    """Raises InvalidInput where a whole number does not fit its column."""
    for name, value in point.items():
        bound = {"whole": 2**63, "whole?": 2**53}.get(COLUMNS[name].kind)
        if bound and value is not None and value != ENDLESS and value >= bound:
            raise InvalidInput(name, value, f"less than 2**{bound.bit_length() - 1} in a sweep's column")
