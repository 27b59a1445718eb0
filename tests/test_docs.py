"""README and the code agree: commands exist, examples run, CI runs the README's own line."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS_SHOWN = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("kvplan ")
]


@pytest.mark.parametrize("line", [part.strip() for line in COMMANDS_SHOWN for part in line.split(";")])
def test_every_command_of_the_readme_runs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answers yes or no (0 or 1), never bad input."""
    monkeypatch.chdir(ROOT / "tests/data")
    arguments = shlex.split(line)[1:]
    arguments = ["configs/google__gemma-2-9b.json" if a == "./config.json" else a for a in arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (0, 1), result.stderr
    assert result.stdout


def test_every_command_is_in_the_readme() -> None:
    """Nothing on the command line is undocumented."""
    for name in COMMANDS:
        assert f"kvplan {name}" in README


def test_the_readme_shows_what_is_printed() -> None:
    """The report in the README is today's, line for line but for its width."""
    shown = [line.split() for line in README.split("```\nllama-3.1-8b")[1].split("```")[0].splitlines()[6:] if line]
    printed = [
        line.split()
        for line in kvplan.plan("llama-3.1-8b", gpu="h100-80gb-sxm", context="8k").to_text(120).splitlines()
    ]
    for line in shown:
        assert line in printed


def test_the_python_example_runs() -> None:
    """The block of Python does what it says."""
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code
    space: dict[str, object] = {}
    exec(compile(ast.parse(code[1]), "README.md", "exec"), space)
    assert isinstance(space["report"], kvplan.Report)


def test_ci_runs_the_readmes_test_command() -> None:
    """.ci/run takes the line out of the README instead of repeating it."""
    assert "grep -m1 '^pip install torch==' README.md" in (ROOT / ".ci/run").read_text()
    assert 1 == len(re.findall(r"^pip install torch==.*&& pytest -n auto$", README, re.M))


def test_counts_in_the_readme() -> None:
    """Numbers of configs and presets that the texts name are the real ones."""
    from kvplan.catalog import gpu_names, model_names
    from tests.support import reference

    counted = sum("parameters" in row for row in reference().values())
    assert f"{counted} published configs" in README
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"{len(model_names())} model and {len(gpu_names())} accelerator presets" in changelog


def test_public_names_are_documented() -> None:
    """Every public function and class of the package has a docstring."""
    for path in (ROOT / "kvplan").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                inside = [c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.startswith("_")]
                if any(node in ast.walk(c) for c in inside):
                    continue
                nested = any(
                    node in ast.walk(f) and f is not node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)
                )
                assert nested or ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_table_of_papers_is_todays() -> None:
    """README holds what `kvplan reproduce --markdown` prints."""
    from kvplan.reproduce import markdown

    assert markdown() in README
