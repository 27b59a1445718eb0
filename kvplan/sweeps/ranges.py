"""What an axis may be given as: ``1k..1M`` (powers of two), ``1k..64k:4k`` (steps), lists, and names with commas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from kvplan.errors import InvalidInput
from kvplan.units import parse_count

__all__ = ["MOST", "counts", "names"]

MOST = 2**20  # values on one axis, which take some 100 MB: every context up to 1M
LONGEST = 2**20  # characters of a list
RULE = "a number (8k), powers of two (1k..1M), steps (1k..64k:4k), or a list of these (1,2,8..64)"


def counts(given: Any, field: str) -> tuple[int, ...]:
    """Whole numbers of one axis, in the order given, each once. Raises InvalidInput with the piece that is wrong.

    >>> counts("1k..8k", "context"), counts("1..8:3,100", "batch"), counts([1, "2"], "tp")
    ((1024, 2048, 4096, 8192), (1, 4, 7, 100), (1, 2))
    """
    if isinstance(given, range):
        given = list(given[: MOST + 1])
    if isinstance(given, str) and len(given) > LONGEST:
        raise InvalidInput(field, given, f"a text of at most {LONGEST:,} characters; {RULE}")
    items: Iterable[Any]
    if isinstance(given, str):
        items = given.split(",")
    elif isinstance(given, Iterable):
        items = given
    else:
        items = [given]
    found: dict[int, None] = {}
    for item in items:
        # numpy's integers are numbers too
        piece = int(item) if hasattr(item, "__index__") and not isinstance(item, bool) else item
        values = _span(piece, field) if isinstance(piece, str) and ".." in piece else [_count(piece, field)]
        if len(found) + len(values) > 2 * MOST:
            raise InvalidInput(field, given, f"at most {MOST:,} values")
        found.update(dict.fromkeys(values))
        if len(found) > MOST:
            raise InvalidInput(field, given, f"at most {MOST:,} values")
    if not found:
        raise InvalidInput(field, given, RULE)
    return tuple(found)


def _count(piece: Any, field: str) -> int:
    try:
        return parse_count(piece, field)
    except InvalidInput as e:
        # a number out of bounds has its own rule; what is no number may be any of them
        raise InvalidInput(field, piece, e.rule if isinstance(piece, int) else RULE) from None


def _span(piece: str, field: str) -> Sequence[int]:
    text, colon, by = piece.partition(":")
    ends = text.split("..")
    if len(ends) != 2 or not all(end.strip() for end in ends) or (colon and not by.strip()):
        raise InvalidInput(field, piece, RULE)
    low, high = (_count(end, field) for end in ends)
    if low > high:
        raise InvalidInput(field, piece, "a range whose first number is the smaller one")
    if colon:
        step = _count(by, field)
        if (high - low) // step >= MOST:
            raise InvalidInput(field, piece, f"at most {MOST:,} values")
        return range(low, high + 1, step)
    if low & (low - 1) or high & (high - 1):
        # 1..100 might mean all of them, or 1, 2, 4 ... 64: ask
        raise InvalidInput(field, piece, f"ends that are powers of two, or a step: {low}..{high}:N")
    return [low << i for i in range((high // low).bit_length())]


def names(given: Any, field: str) -> tuple[Any, ...]:
    """Names of one axis, each once; ``none`` and ``auto`` are None. A comma separates unless an option follows it.

    >>> names("bf16,int2:g=32,residual=128", "kv_dtype")
    ('bf16', 'int2:g=32,residual=128')
    >>> names(["mqa", "none"], "scheme")
    ('mqa', None)
    """
    found: dict[Any, None] = {}
    for item in [given] if given is None or isinstance(given, str) else given:
        if item is None:
            found[None] = None
            continue
        if not isinstance(item, str):
            raise InvalidInput(field, item, "names, in a list or with commas")
        for name in re.split(r",(?!\s*\w+=)", item):
            if not name.strip():
                raise InvalidInput(field, item, "names with commas between them")
            word = name.strip()
            found[None if word.lower() in ("none", "auto") else word] = None
    if not found:
        raise InvalidInput(field, given, "at least one name")
    return tuple(found)
