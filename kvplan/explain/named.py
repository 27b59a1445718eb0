"""Numbers that remember their names: a formula run on them comes out as it is written, with the numbers put in.

``symbolic`` gives SymPy's view of the same functions (extra ``explain``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from kvplan import formulas
from kvplan.errors import MissingExtra, UnknownName

__all__ = ["Named", "Step", "plain", "show", "symbolic"]


class Named:
    """A number that remembers how it came about: as text and as LaTeX, in symbols and in numbers."""

    def __init__(self, value: int, symbol: str, number: str, latex: str, latex_number: str, weight: int = 3) -> None:
        self.value, self.symbol, self.number = value, symbol, number
        self.latex, self.latex_number = latex, latex_number
        self.weight = weight  # 1 sum, 2 product, 3 atom: decides where brackets go

    @classmethod
    def of(cls, name: str, value: int) -> Named:
        """A named number."""
        word = name.replace("_", " ")
        digits = f"{value:,}"
        return cls(value, word, digits, rf"\text{{{word}}}", digits.replace(",", r"\,"))

    def _binary(self, other: Any, sign: str, latex: str, value: int, weight: int, *, swapped: bool) -> Named:
        right = other if isinstance(other, Named) else plain(other)
        a, b = (right, self) if swapped else (self, right)

        def put(x: str, item: Named, strict: bool, brackets: tuple[str, str]) -> str:
            needs = item.weight < weight or (strict and item.weight == weight and sign == "−")
            return f"{brackets[0]}{x}{brackets[1]}" if needs else x

        text, tex = ("(", ")"), (r"\left(", r"\right)")
        return Named(
            value,
            f"{put(a.symbol, a, False, text)} {sign} {put(b.symbol, b, True, text)}",
            f"{put(a.number, a, False, text)} {sign} {put(b.number, b, True, text)}",
            f"{put(a.latex, a, False, tex)} {latex} {put(b.latex, b, True, tex)}",
            f"{put(a.latex_number, a, False, tex)} {latex} {put(b.latex_number, b, True, tex)}",
            weight,
        )

    def __add__(self, other: Any) -> Named:
        return self._binary(other, "+", "+", self.value + _value(other), 1, swapped=False)

    def __radd__(self, other: Any) -> Named:
        return self._binary(other, "+", "+", self.value + _value(other), 1, swapped=True)

    def __sub__(self, other: Any) -> Named:
        return self._binary(other, "−", "-", self.value - _value(other), 1, swapped=False)

    def __rsub__(self, other: Any) -> Named:
        return self._binary(other, "−", "-", _value(other) - self.value, 1, swapped=True)

    def __mul__(self, other: Any) -> Named:
        return self._binary(other, "×", r"\cdot", self.value * _value(other), 2, swapped=False)

    def __rmul__(self, other: Any) -> Named:
        return self._binary(other, "×", r"\cdot", self.value * _value(other), 2, swapped=True)

    def __divmod__(self, other: Any) -> tuple[Named, Named]:
        right = other if isinstance(other, Named) else plain(other)
        whole, rest = divmod(self.value, right.value)

        def text(a: str, b: str) -> str:
            return f"⌊{a} / {b}⌋"

        def tex(a: str, b: str) -> str:
            return rf"\left\lfloor \frac{{{a}}}{{{b}}} \right\rfloor"

        names, numbers = (self.symbol, right.symbol), (self.number, right.number)
        latex, latex_numbers = (self.latex, right.latex), (self.latex_number, right.latex_number)
        return (
            Named(whole, text(*names), text(*numbers), tex(*latex), tex(*latex_numbers)),
            Named(
                rest,
                " mod ".join(names),
                " mod ".join(numbers),
                r" \bmod ".join(latex),
                r" \bmod ".join(latex_numbers),
                1,
            ),
        )

    def __lt__(self, other: Any) -> bool:
        return self.value < _value(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > _value(other)

    def __bool__(self) -> bool:
        return self.value != 0

    def function(self, name: str, a: Any, b: Any) -> Named:
        """min, max or ceildiv of two numbers, at least one of them named."""
        x, y = (item if isinstance(item, Named) else plain(item) for item in (a, b))
        if name == "ceildiv":
            value = -(-x.value // y.value)

            def tex(top: str, bottom: str) -> str:
                return rf"\left\lceil \frac{{{top}}}{{{bottom}}} \right\rceil"

            def text(top: Named, bottom: Named, number: bool) -> str:
                parts = []
                for item in (top, bottom):
                    t = item.number if number else item.symbol
                    parts.append(t if item.weight == 3 else f"({t})")
                return f"⌈{parts[0]} / {parts[1]}⌉"

            return Named(
                value, text(x, y, False), text(x, y, True), tex(x.latex, y.latex), tex(x.latex_number, y.latex_number)
            )
        value = min(x.value, y.value) if name == "min" else max(x.value, y.value)
        return Named(
            value,
            f"{name}({x.symbol}, {y.symbol})",
            f"{name}({x.number}, {y.number})",
            rf"\{name}\left({x.latex}, {y.latex}\right)",
            rf"\{name}\left({x.latex_number}, {y.latex_number}\right)",
        )


def plain(value: int) -> Named:
    """A number without a name: it shows its digits."""
    return Named(value, f"{value:,}", f"{value:,}", f"{value}", f"{value:,}".replace(",", r"\,"))


def _value(other: Any) -> int:
    return int(other.value if isinstance(other, Named) else other)


class Step(NamedTuple):
    """One formula applied: its name, sentence, and result with its history."""

    name: str
    sentence: str
    result: Named


def show(formula: Callable[..., Any], **numbers: int) -> Step:
    """A formula of ``formulas.py`` with numbers put in, by the names of its own parameters."""
    named = [Named.of(name, numbers[name]) for name in inspect.signature(formula).parameters]
    result = formula(*named)
    if not isinstance(result, Named):
        result = plain(result)
    return Step(formula.__name__, (formula.__doc__ or "").split("\n")[0], result)


def symbolic(name: str) -> Any:
    """A formula as a SymPy expression over its own parameters; raises MissingExtra without SymPy, UnknownName."""
    try:
        import sympy
    except ImportError:
        raise MissingExtra("symbolic formulas", "explain") from None
    known = {n: f for n, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__}
    if name not in known:
        raise UnknownName("formula", name, known)
    symbols = [sympy.Symbol(p, integer=True, positive=True) for p in inspect.signature(known[name]).parameters]
    return known[name](*symbols)
