"""What a figure asks: the same questions at other contexts and batches, and a name for each line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kvplan.errors import InvalidInput
from kvplan.report import Report
from kvplan.units import parse_count

__all__ = ["again", "labels", "most_context", "parse_range", "powers", "sampled_contexts", "subject", "windows"]

REMEMBERED = 4096
# An answer's inputs that tell lines apart, in the order of their labels.
NAMED = ("model", "scheme", "engine", "engine_version", "gpu", "memory_bytes", "weight_dtype", "tp", "pp", "dp")
SPARE = ("kv_dtype", "dtype", "engine_options", "gpu_memory_utilization", "context", "batch")
# Growths that stop at a limit: what makes a line bend there.
BOUNDED = frozenset({"window", "chunk", "window_transformers", "budget"})
MOST_WINDOWS = 16


def again(report: Report, **changes: Any) -> Report:
    """The report asked anew, remembered on it: the figures of one page ask for the same points."""
    memo: dict[tuple[tuple[str, Any], ...], Report] = report.__dict__.setdefault("_asked_again", {})
    key = tuple(sorted(changes.items()))
    if key not in memo:
        if len(memo) > REMEMBERED:
            memo.clear()
        memo[key] = report.again(**changes)
    return memo[key]


def labels(reports: Sequence[Report]) -> list[str]:
    """A short name for each report: what it was asked differently from the others; equal questions are numbered.

    >>> import kvplan
    >>> labels([kvplan.plan("llama-3.1-8b"), kvplan.plan("llama-3.1-8b", scheme="cla:2")])
    ['as published', 'cla:2']
    """
    asked = [dict(report.answer.settings.inputs) for report in reports]
    names = [name for name in NAMED if len({repr(inputs.get(name)) for inputs in asked}) > 1]
    if "gpu" in names and "memory_bytes" in names:
        names.remove("memory_bytes")
    for spare in SPARE:
        if len({tuple(repr(inputs.get(n)) for n in names) for inputs in asked}) == len(asked):
            break
        if len({repr(inputs.get(spare)) for inputs in asked}) > 1:
            names.append(spare)
    found = [" · ".join(filter(None, (_word(name, inputs.get(name)) for name in names))) for inputs in asked]
    if not names:
        found = [_word("scheme", inputs.get("scheme")) if inputs.get("scheme") else inputs["model"] for inputs in asked]
    return [text if found.count(text) == 1 else f"{text} ({i})" for i, text in enumerate(found, 1)]


def _word(name: str, value: Any) -> str:
    if name == "scheme":
        return str(value) if value else "as published"
    if value is None:
        return ""
    if name in ("model", "engine", "gpu", "kv_dtype", "dtype", "engine_version"):
        return str(value)
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"


def subject(reports: Sequence[Report]) -> str:
    """What a figure is about, for its title: the models, and the scheme where all are asked under the same."""
    schemes = distinct(dict(report.answer.settings.inputs)["scheme"] for report in reports)
    names = ", ".join(distinct(report.answer.spec.name for report in reports))
    return f"{names} · {schemes[0]}" if len(schemes) == 1 and schemes[0] else names


def windows(report: Report) -> list[int]:
    """Tokens at which some cache of the model stops growing, smallest first."""
    plan = report.answer.profile.plan
    growths = [part.growth for store in plan.stores for part in store.parts] + [read.growth for read in plan.reads]
    return sorted({growth.limit for growth in growths if growth.kind in BOUNDED and growth.limit > 1})


def most_context(reports: Sequence[Report]) -> int:
    """Where an axis of contexts ends unless somebody says: the longest that a model was made for, else 128k."""
    return max((report.answer.spec.max_context or 2**17 for report in reports), default=2**17)


def powers(low: int, high: int) -> list[int]:
    """Powers of two within low..high, and both ends.

    >>> powers(3, 20)
    [3, 4, 8, 16, 20]
    """
    found = {low, high}
    power = 1
    while power < high:
        if power > low:
            found.add(power)
        power *= 2
    return sorted(found)


def sampled_contexts(reports: Sequence[Report], low: int, high: int) -> list[int]:
    """Contexts to ask for: powers of two, and W - 1, W, W + 1 of every window W, so that a line bends where it does.

    Of very many windows (a budget per layer) a spread of sixteen is taken.
    """
    found = set(powers(low, high))
    limits = sorted({limit for report in reports for limit in windows(report) if low <= limit <= high})
    if len(limits) > MOST_WINDOWS:
        step = (len(limits) - 1) / (MOST_WINDOWS - 1)
        limits = [limits[round(i * step)] for i in range(MOST_WINDOWS)]
    found |= {n for limit in limits for n in (limit - 1, limit, limit + 1) if low <= n <= high}
    return sorted(found)


def parse_range(text: str | int, field: str) -> tuple[int, int]:
    """The ends of a range of tokens or sequences; raises InvalidInput for what is none.

    >>> parse_range("1k..1M", "context")
    (1024, 1048576)
    """
    low, dots, high = str(text).partition("..")
    if not dots:
        raise InvalidInput(field, text, "a range LOW..HIGH for this figure, e.g. 1k..128k")
    ends = parse_count(low, field), parse_count(high, field)
    if ends[0] >= ends[1]:
        raise InvalidInput(field, text, "a range LOW..HIGH whose LOW is below its HIGH, e.g. 1k..128k")
    return ends


def distinct(items: Iterable[Any]) -> list[Any]:
    """The items without repetitions, in their order."""
    return list(dict.fromkeys(items))
