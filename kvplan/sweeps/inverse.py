"""Integer inversion of many questions at once: ``solver.largest`` for arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvplan.units import LARGEST_COUNT

__all__ = ["largest"]

Array = Any


def largest(fits: Callable[[Array], Array], guess: Array) -> Array:
    """Elementwise the largest n >= 0 with ``fits(n)``, infinite where nothing binds. ``fits`` is monotone.

    Gallops out from ``guess`` (float64, any shape) and bisects, all elements together.

    >>> import numpy as np
    >>> size = np.array([3.0, 7.0, 101.0, 0.0])
    >>> largest(lambda n: size * n <= 100, np.ones(4))
    array([33., 14.,  0., inf])
    """
    high = np.clip(np.floor(guess), 1, LARGEST_COUNT)
    low = np.zeros_like(high)
    step = np.ones_like(high)
    # down from a guess that does not fit, up from one that does, in doubling steps
    over = ~fits(high)
    falling = over.copy()
    while falling.any():
        below = np.maximum(high - step, 0)
        ok = (below < 1) | fits(np.maximum(below, 1))
        low = np.where(falling & ok, below, low)
        high = np.where(falling & ~ok, below, high)
        falling &= ~ok
        step = step * 2
    low = np.where(over, low, high)
    step = np.ones_like(high)
    rising = ~over
    while rising.any():
        above = low + step
        ok = fits(above)
        high = np.where(rising & ~ok, above, high)
        low = np.where(rising & ok, above, low)
        rising &= ok & (low < LARGEST_COUNT)
        step = step * 2
    endless = low >= LARGEST_COUNT
    while True:
        open_ = (high - low > 1) & ~endless
        if not open_.any():
            return np.where(endless, np.inf, low)
        middle = np.floor((low + high) / 2)
        ok = fits(middle)
        low = np.where(open_ & ok, middle, low)
        high = np.where(open_ & ~ok, middle, high)
