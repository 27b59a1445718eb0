"""Integer inversion of what an engine allocates: the largest n such that every n' up to n fits."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.units import LARGEST_COUNT

__all__ = ["largest"]


def largest(fits: Callable[[int], bool], guess: int = 1, *, wiggle: int = 0) -> int | None:
    """The largest n >= 0 with ``fits(n)``, found by galloping out from ``guess`` and bisecting; None where nothing binds.

    ``fits`` must be monotone, except that memory may fall by what at most ``wiggle`` steps added (buffers that fill and
    empty again): the answer is then walked back until every one of the last ``wiggle`` values fits too, so that every
    smaller n fits as well.

    >>> largest(lambda n: 3 * n <= 100)
    33
    """
    if not fits(1):
        return 0
    low = min(max(guess, 1), LARGEST_COUNT)
    step = 1
    if fits(low):
        high = low + step
        while fits(high):
            low, step = high, 2 * step
            high = low + step
            if low >= LARGEST_COUNT:
                return None
    else:
        high = low
        low = max(high - step, 1)
        while not fits(low):
            high, step = low, 2 * step
            low = max(high - step, 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return _walk_back(fits, low, wiggle) if wiggle else low


def _walk_back(fits: Callable[[int], bool], n: int, wiggle: int) -> int:
    """The largest m <= n after which no value fails within reach: every value in a run of ``wiggle`` below m fits."""
    clean, candidate = 0, n
    while n > 1 and clean < wiggle:
        n -= 1
        if fits(n):
            clean += 1
        else:
            clean, candidate = 0, n - 1
    return candidate
