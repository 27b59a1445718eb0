"""The page is a thin face: public names only, no arithmetic, short views."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvplan

APP = Path(__file__).parents[2] / "app"
FILES = sorted(APP.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_imports_only_public_names(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("kvplan.")]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvplan"):
            assert "kvplan" == node.module
            assert {alias.name for alias in node.names} <= set(kvplan.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_computes_nothing(path: Path) -> None:
    """Neither products nor quotients, sums, differences, powers or shifts: ``+`` joins text and lists at most."""
    forbidden = (ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.Mod, ast.Sub, ast.LShift, ast.RShift)
    tree = ast.parse(path.read_text())
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, (ast.BinOp, ast.AugAssign))
        and (
            isinstance(node.op, forbidden)
            or (isinstance(node.op, ast.Add) and isinstance(node, ast.BinOp) and _number(node.left, node.right))
        )
    ]
    calls = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("sum", "round", "divmod")
    ]
    assert [] == found + calls


def _number(*sides: ast.expr) -> bool:
    return any(isinstance(side, ast.Constant) and isinstance(side.value, (int, float)) for side in sides)


def test_views_are_short_and_the_page_is_small() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert sum(lengths.values()) <= 750
    assert all(len(path.read_text().splitlines()) < 100 for path in (APP / "views").glob("*.py"))


def test_nothing_on_the_page_names_a_place_elsewhere() -> None:
    """No font, script, style or picture of another host."""
    for path in APP.rglob("*"):
        if path.suffix in (".py", ".css", ".js", ".svg"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not [word for word in ("http:", "https:", "//cdn", "@import", "url(") if word in text], path
