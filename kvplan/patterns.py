"""Regular expressions from outside: matched by RE2 in time linear in the text, never by an engine that backtracks.

RE2 is imported when the first expression is met; most models have none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kvplan.text import printable

__all__ = ["LONGEST", "Refused", "found", "size_of"]

LONGEST = 8192  # characters of one expression that somebody states
MEMORY = 2 * 2**20  # bytes of one compiled expression, perhaps of many made one, and of its states


class Refused(ValueError):  # what RE2 does with what it cannot promise to match
    """An expression that RE2 does not take, in its words."""


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    try:
        import re2
    except ImportError:
        raise Refused("google-re2 is not installed") from None
    options = re2.Options()
    options.log_errors = False  # it would write to stderr by itself
    options.max_mem = MEMORY
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as e:
        said = e.args[0].decode(errors="replace") if e.args and isinstance(e.args[0], bytes) else str(e)
        raise Refused(printable(said, 100)) from None


def size_of(pattern: str) -> int:
    """Instructions of an expression's program. Raises Refused for what cannot be matched in linear time."""
    size: int = _compiled(pattern).programsize
    return size


def found(pattern: str, text: str) -> bool:
    """Whether an expression is found somewhere in a text. Raises Refused as ``size_of`` does."""
    return _compiled(pattern).search(text) is not None
