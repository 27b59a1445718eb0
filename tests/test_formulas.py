"""One formula, three worlds: what may appear in formulas.py, and that ints, arrays and symbols agree."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan import formulas
from kvplan.explain import show, symbolic

FORMULAS = {
    name: f for name, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__
}
ALLOWED = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Expr, ast.Constant, ast.Return, ast.Assign, ast.Name,
    ast.Load, ast.Store, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Call, ast.ImportFrom, ast.alias,
)  # fmt: skip
HELPERS = {"minimum", "maximum", "ceildiv", "ceil_to"} | set(FORMULAS)  # a formula may build on another one


def forbidden(source: str) -> list[str]:
    """What a formula must not hold: other operators, other calls, branches."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ALLOWED):
            found.append(type(node).__name__)
        elif isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in HELPERS):
            found.append(ast.unparse(node.func))
    return found


def test_only_the_four_helpers_and_plus_minus_times() -> None:
    """A walk over the syntax tree finds nothing but + - *, the helpers of num.py and other formulas."""
    assert forbidden(inspect.getsource(formulas)) == []


@pytest.mark.parametrize("planted", ["a // b", "max(a, b)", "a if a > b else b", "a % b", "a / b", "a ** 2"])
def test_the_walk_catches_a_planted_fault(planted: str) -> None:
    """The guard itself is checked: each of these would break one of the worlds."""
    assert forbidden(f"def f(a, b):\n    return {planted}\n")


def test_every_formula_says_what_and_whence() -> None:
    """One sentence per formula."""
    assert all(f.__doc__ and f.__doc__.rstrip().endswith((".", ")")) for f in FORMULAS.values())


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_three_worlds_agree(name: str, data: st.DataObject) -> None:
    """Ints, float64 arrays, SymPy symbols and numbers that remember their names give the same answer."""
    f = FORMULAS[name]
    parameters = list(inspect.signature(f).parameters)
    # a stride of one would read everything; formulas say that it starts at two
    numbers = {p: data.draw(st.integers(2 if p == "stride" else 1, 2000), label=p) for p in parameters}
    exact = f(**numbers)

    array = f(**{p: np.array([float(n), float(n)]) for p, n in numbers.items()})
    symbols = symbolic(name)
    substituted = symbols.subs({s: numbers[s.name] for s in symbols.free_symbols})

    assert isinstance(exact, int)
    assert [exact, exact] == np.broadcast_to(array, 2).tolist()
    assert exact == int(substituted)
    assert exact == show(f, **numbers).result.value


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 300), limit=st.integers(1, 64), top=st.integers(1, 20))
def test_pairs_count_what_the_masks_allow(tokens: int, limit: int, top: int) -> None:
    """Each closed form equals counting (query, key) pairs one by one."""
    window = sum(min(i, limit) for i in range(1, tokens + 1))
    chunk = sum((i - 1) % limit + 1 for i in range(1, tokens + 1))
    pooled = sum(i // limit for i in range(1, tokens + 1))
    some = sum(min(i // limit, top) for i in range(1, tokens + 1))

    assert window == formulas.pairs_window(tokens, limit)
    assert chunk == formulas.pairs_chunk(tokens, limit)
    assert pooled == formulas.pairs_compressed(tokens, limit)
    assert some == formulas.pairs_compressed_topk(tokens, limit, top)
    assert tokens * (tokens + 1) // 2 == formulas.pairs_causal(tokens)
    assert tokens % limit + 1 == formulas.keys_chunk(tokens, limit)


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 300), fixed=st.integers(1, 90), stride=st.integers(2, 40))
def test_sparse_pairs_count_what_is_read(tokens: int, fixed: int, stride: int) -> None:
    """Each query reads min(i, fixed + ceil(i / stride)) keys, one by one."""
    read = [min(i, fixed + -(-i // stride)) for i in range(1, tokens + 1)]

    assert sum(read) == formulas.pairs_sparse(tokens, fixed, stride)
    assert read[-1] == formulas.keys_sparse(tokens, fixed, stride)


def test_symbols_stay_symbols() -> None:
    """The symbolic view is a real SymPy expression, with min left as Min."""
    assert symbolic("entries_window").has(sympy.Min)
