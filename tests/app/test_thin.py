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


# What draws Markdown, and what makes a text Markdown that shows just it.
DRAWS = {
    "error", "warning", "info", "success", "toast", "markdown", "caption", "write", "title", "header", "subheader", "badge",
    "expander", "popover", "metric",
}  # fmt: skip
SAFE = {"as_text", "as_link"}


def foreign(node: ast.expr, names: dict[str, ast.expr]) -> bool:
    """Whether an expression may hold text that is not a literal of ours and did not pass through page.as_text."""
    match node:
        case ast.Constant():
            return False
        case ast.JoinedStr(values):
            return any(foreign(value, names) for value in values)
        case ast.FormattedValue(value) | ast.Starred(value):
            return foreign(value, names)
        case ast.BoolOp(values=values) | ast.Tuple(values) | ast.List(values):
            return any(foreign(value, names) for value in values)
        case ast.IfExp(body=body, orelse=orelse):
            return foreign(body, names) or foreign(orelse, names)
        case ast.GeneratorExp(elt) | ast.ListComp(elt):
            return foreign(elt, names)
        case ast.Call(ast.Attribute(ast.Name("page"), attr)) if attr in SAFE:
            return False
        case ast.Call(ast.Attribute(ast.Constant(), "join"), [several]):
            return foreign(several, names)
        case ast.Name(name) if name in names:
            return foreign(names[name], {})
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_drawn_as_markdown_is_a_literal_or_made_text(path: Path) -> None:
    """Messages, captions, headings and helps: names in them may be somebody else's."""
    tree = ast.parse(path.read_text())
    found = []
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
        texts = {
            t.id: n.value
            for n in ast.walk(scope)
            if isinstance(n, ast.Assign)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        for node in ast.walk(scope):
            if scope is tree or not isinstance(node, ast.Call):
                continue
            drawn = node.args[:1] if isinstance(node.func, ast.Attribute) and node.func.attr in DRAWS else []
            drawn = drawn + [word.value for word in node.keywords if word.arg in ("help", "body", "placeholder")]
            found += [f"{path.name}:{node.lineno}" for text in drawn if foreign(text, texts)]
    assert [] == found


def test_html_is_made_by_one_function() -> None:
    """What stands in braces in HTML came through page.as_html, or is a literal of ours."""
    for path in FILES:
        assert "html.escape" not in path.read_text(), path
        assert "unsafe_allow_html" not in path.read_text(), path
