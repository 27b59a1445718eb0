"""``--where``: a condition on columns, e.g. ``max_batch >= 32 and kv_bytes_per_gpu < 40GiB``. Parsed, never evaluated as code.

Comparisons (also chained), ``and or not``, parentheses, ``+ - * /``, numbers with a unit (``40GiB``, ``8k``, ``20ms``),
names in quotes. A comparison with a missing value is false; what nothing bounds is larger than any number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.sweeps.columns import COLUMNS, Words, known
from kvplan.units import BINARY, COUNT, DECIMAL, parse_bytes, parse_count

__all__ = ["Filter", "condition"]

Array = Any
Values = Mapping[str, Any]  # column name -> array, number, Words or None
RULE = "comparisons of columns with numbers (40GiB, 8k) or quoted names, and, or, not, parentheses, + - * /"
SECONDS = {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "s": 1.0}
LONGEST = 2000  # characters
DEEPEST = 100  # levels of brackets and operators

_UNITS = "|".join(sorted({*BINARY, *DECIMAL, *COUNT, *SECONDS} - {""}, key=len, reverse=True))
# a quoted name is left alone; a number takes the unit behind it along
_TOKEN = re.compile(rf"""('[^']*'|"[^"]*")|(?<![\w.])(\d[\d_]*(?:\.\d+)?)[ ]?({_UNITS})(?!\w)""", re.IGNORECASE)
_COMPARE: dict[type[ast.cmpop], Any] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
}


class Filter(NamedTuple):
    """A checked condition: which columns it looks at, and the rows it keeps."""

    text: str
    columns: tuple[str, ...]
    keeps: Callable[[Values], Array]  # a boolean array that broadcasts to the points


class _Part(NamedTuple):
    kind: str  # number | text | truth
    value: Callable[[Values], Array]
    word: str = ""  # of a quoted name
    column: str = ""


def condition(text: object, words: Mapping[str, Callable[[str], str]]) -> Filter:
    """The condition of a text. ``words`` says how a quoted name is written in a column, or raises where none is.

    Raises InvalidInput, or UnknownName with the nearest columns.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise InvalidInput("where", text, RULE)
    try:
        tree = ast.parse(_TOKEN.sub(_number, text).strip(), mode="eval")
        if _depth(tree.body) > DEEPEST:
            raise InvalidInput("where", text, f"a condition of at most {DEEPEST} levels")
        parser = _Parser(text, words)
        part = parser.part(tree.body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as e:
        if isinstance(e, KvplanError):
            raise
        single = re.search(r"(?<![<>=!])=(?!=)", text)
        raise InvalidInput("where", text, f"{'== for equal; ' if single else ''}{RULE}") from None
    if part.kind != "truth":
        raise InvalidInput("where", text, f"a condition, not a {part.kind}: {RULE}")

    def keeps(values: Values) -> Array:
        with np.errstate(all="ignore"):
            return part.value(values)

    return Filter(text, tuple(dict.fromkeys(parser.columns)), keeps)


def _depth(node: ast.AST) -> int:
    """Levels of a tree: what is parsed in a loop is evaluated level by level."""
    deepest, level = 0, [node]
    while level:
        deepest, level = deepest + 1, [child for parent in level for child in ast.iter_child_nodes(parent)]
    return deepest


def _number(match: re.Match[str]) -> str:
    quoted, digits, unit = match.groups()
    if quoted:
        return quoted
    name = unit.lower()
    if name in SECONDS:
        return repr(float(digits.replace("_", "")) * SECONDS[name])
    if name in COUNT:
        if "." in digits:
            raise InvalidInput("where", match[0], "a whole number before k, M or G")
        return str(parse_count(digits + unit, "where", least=0))
    return str(parse_bytes(digits.replace("_", "") + unit, "where"))


class _Parser:
    """From syntax to functions on columns; every node is checked, an unknown one is refused."""

    def __init__(self, text: str, words: Mapping[str, Callable[[str], str]]) -> None:
        self.text, self.words = text, words
        self.columns: list[str] = []

    def part(self, node: ast.expr) -> _Part:
        """One node of the tree."""
        if isinstance(node, ast.BoolOp):
            return self._joined(node)
        if isinstance(node, ast.UnaryOp):
            return self._signed(node)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = (self._of_kind("number", side).value for side in (node.left, node.right))
            operate = _ARITHMETIC[type(node.op)]
            return _Part("number", lambda values: operate(left(values), right(values)))
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _Part("text", lambda values: None, word=node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            number = float(node.value)
            if isinstance(node.value, bool):
                return _Part("truth", lambda values: np.bool_(number))
            return _Part("number", lambda values: np.float64(number))
        raise InvalidInput("where", ast.unparse(node), RULE)

    def _of_kind(self, kind: str, node: ast.expr) -> _Part:
        part = self.part(node)
        if part.kind != kind:
            raise InvalidInput("where", ast.unparse(node), f"a {kind} here, not a {part.kind}")
        return part

    def _column(self, name: str) -> _Part:
        if name in ("true", "false"):
            return _Part("truth", lambda values: np.bool_(name == "true"))
        column = known(name)
        self.columns.append(name)
        if column.kind == "text":
            return _Part("text", lambda values: values[name], column=name)
        if column.kind == "truth":
            # missing is false
            return _Part("truth", lambda values: np.bool_(False) if values[name] is None else values[name] == 1)
        return _Part("number", lambda values: np.float64("nan") if values[name] is None else values[name], column=name)

    def _joined(self, node: ast.BoolOp) -> _Part:
        parts = [self._of_kind("truth", value).value for value in node.values]
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or

        def joined(values: Values) -> Array:
            found = parts[0](values)
            for part in parts[1:]:
                found = join(found, part(values))
            return found

        return _Part("truth", joined)

    def _signed(self, node: ast.UnaryOp) -> _Part:
        if isinstance(node.op, ast.Not):
            truth = self._of_kind("truth", node.operand).value
            return _Part("truth", lambda values: np.logical_not(truth(values)))
        if isinstance(node.op, ast.USub):
            number = self._of_kind("number", node.operand).value
            return _Part("number", lambda values: np.negative(number(values)))
        raise InvalidInput("where", ast.unparse(node), RULE)

    def _compared(self, node: ast.Compare) -> _Part:
        sides = [self.part(side) for side in (node.left, *node.comparators)]
        pairs = [
            self._pair(left, operator, right) for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]

        def compared(values: Values) -> Array:
            found = pairs[0](values)
            for pair in pairs[1:]:
                found = np.logical_and(found, pair(values))
            return found

        return _Part("truth", compared)

    def _pair(self, left: _Part, operator: ast.cmpop, right: _Part) -> Callable[[Values], Array]:
        compare = _COMPARE.get(type(operator))
        if compare is None:
            raise InvalidInput("where", self.text, RULE)
        kinds = {left.kind, right.kind}
        if len(kinds) > 1:
            name = left.column or right.column or "this"
            raise InvalidInput(
                "where", self.text, f"{name} compared with its own kind, not a {left.kind} with a {right.kind}"
            )
        if kinds == {"text"}:
            return self._named(left, operator, right)
        if kinds == {"truth"} and not isinstance(operator, (ast.Eq, ast.NotEq)):
            raise InvalidInput("where", self.text, "== or != between truths")

        def pair(values: Values) -> Array:
            a, b = left.value(values), right.value(values)
            found = compare(a, b)
            # NaN is missing: unequal to everything in float64, and neither equal nor unequal here
            return found & ~np.isnan(a) & ~np.isnan(b) if compare is np.not_equal and kinds == {"number"} else found

        return pair

    def _named(self, left: _Part, operator: ast.cmpop, right: _Part) -> Callable[[Values], Array]:
        if not isinstance(operator, (ast.Eq, ast.NotEq)) or bool(left.column) == bool(right.column):
            raise InvalidInput("where", self.text, 'a column == or != a quoted name, e.g. gpu == "h200-141gb-sxm"')
        column, word = left.column or right.column, left.word or right.word
        wanted = self.words[column](word) if column in self.words else word
        equal = isinstance(operator, ast.Eq)

        def pair(values: Values) -> Array:
            value: Words | None = values[column]
            if value is None:
                return np.bool_(False)
            code = value.words.index(wanted) if wanted in value.words else -2
            found = np.equal(value.codes, code)
            return found if equal else np.logical_not(found)

        return pair


def one_of(column: str, allowed: tuple[str, ...]) -> Callable[[str], str]:
    """A word as it is written in a column of which all words are known. Raises UnknownName for another one."""

    def written(word: str) -> str:
        if word not in allowed:
            raise UnknownName(COLUMNS[column].name, word, allowed)
        return word

    return written
