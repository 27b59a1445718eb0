"""The four helpers that formulas may use besides ``+ - *``. Imports nothing of ours.

A formula is written once and called with Python ints (answers), NumPy arrays (sweeps) or SymPy symbols
(``explain``). Each helper looks at the world its arguments come from, so neither library is imported here.
"""

from __future__ import annotations

import sys
from typing import Any

# A constrained TypeVar cannot express ``int * array``; the three-worlds test checks what the type cannot say.
Num = Any

__all__ = ["Num", "ceil_to", "ceildiv", "maximum", "minimum"]


def _world(*values: Num) -> str:
    for value in values:
        if isinstance(value, (int, float)):
            continue
        if hasattr(value, "free_symbols"):
            return "sympy"
        if hasattr(value, "__array_interface__"):
            return "numpy"
        return "named"
    return "int"


def minimum(a: Num, b: Num) -> Num:
    """The smaller of two numbers, elementwise for arrays.

    >>> minimum(8192, 4096)
    4096
    """
    if type(a) is type(b) is int:  # what a plan asks with, thousands of times
        return a if a < b else b
    world = _world(a, b)
    if world == "int":
        return a if a < b else b
    if world == "numpy":
        return sys.modules["numpy"].minimum(a, b)
    if world == "sympy":
        return sys.modules["sympy"].Min(a, b)
    return (a if not isinstance(a, (int, float)) else b).function("min", a, b)


def maximum(a: Num, b: Num) -> Num:
    """The larger of two numbers, elementwise for arrays.

    >>> maximum(0, -3)
    0
    """
    if type(a) is type(b) is int:  # what a plan asks with, thousands of times
        return a if a > b else b
    world = _world(a, b)
    if world == "int":
        return a if a > b else b
    if world == "numpy":
        return sys.modules["numpy"].maximum(a, b)
    if world == "sympy":
        return sys.modules["sympy"].Max(a, b)
    return (a if not isinstance(a, (int, float)) else b).function("max", a, b)


def ceildiv(a: Num, b: Num) -> Num:
    """Division rounded up; exact for ints of any size.

    >>> ceildiv(17, 16)
    2
    """
    if type(a) is type(b) is int:  # what a plan asks with, thousands of times
        return -(-a // b)
    world = _world(a, b)
    if world == "int":
        return -(-a // b)
    if world == "numpy":
        return sys.modules["numpy"].ceil(a / b)
    if world == "sympy":
        return sys.modules["sympy"].ceiling(a / b)
    return (a if not isinstance(a, (int, float)) else b).function("ceildiv", a, b)


def ceil_to(a: Num, multiple: Num) -> Num:
    """The smallest multiple that is not below ``a``.

    >>> ceil_to(17, 16)
    32
    """
    return ceildiv(a, multiple) * multiple
