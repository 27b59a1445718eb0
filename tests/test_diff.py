"""`kvplan diff`: only what moved, by how much, and nothing that moved is missing."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.cli import app
from kvplan.errors import InvalidInput, UnknownName
from tests.support import CONFIGS

PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    ("gemma-2-9b", "gemma-3-12b", {"context": "32k"}),
    ("llama-2-7b", "mqa+cla:2", {"gpu": "l4", "batch": 3}),
    ("llama-3.1-8b", "llama-3.1-70b", {"gpu": "h100", "tp": 2}),
    ("deepseek-v2-lite", "qwen3-8b", {"context": "16k"}),
    ("llama-3.1-8b", "llama-3.1-8b", {"gpu": "h100"}),
]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_llama_2_with_half_the_caches_and_one_head_by_hand() -> None:
    """32 layers x 2 x 32 heads x 128 x 2 bytes become 16 layers x 2 x 1 head; projections of K and V go with them."""
    found = kvplan.diff("llama-2-7b", "mqa+cla:2", context=4096)
    moved = {row.path: row for row in (*found.figures, *found.terms)}

    per_token = moved["kv.bytes_per_token"]
    assert (524_288, 8_192, -516_096, 8_192 / 524_288) == per_token[2:]
    # K and V of 4096 x 4096 each in 32 layers; of 4096 x 128 each in 16
    projections = 2 * 4096 * 128 * 16 - 2 * 4096 * 4096 * 32
    assert projections == moved["model.parameters"].difference
    assert 2 * projections == moved["weights/attention"].difference == moved["weights.bytes"].difference
    assert (32, 16) == (moved["kv/global/key layers"].before, moved["kv/global/key layers"].after)
    assert (2**30, 2**24, 1 / 64) == (*moved["kv/global/key"][2:4], moved["kv/global/key"].ratio)
    # sharing across layers does not lower traffic: 32 layers read one head each, the new token's own entry included
    assert 4097 * 32 * 2 * 128 * 2 == moved["traffic/kv"].after
    assert "weights/mlp" not in moved
    assert "flops/decode/attention" not in moved


@pytest.mark.parametrize(("before", "after", "flags"), PAIRS)
def test_nothing_that_moved_is_missing(before: str, after: str, flags: dict[str, Any]) -> None:
    """Every term of both ledgers, summed over its path, is either equal or a row with both values."""
    scheme = after if "+" in after else None
    found = kvplan.diff(before, after, **flags)
    one, two = kvplan.plan(before, **flags), kvplan.plan(before if scheme else after, scheme=scheme, **flags)
    sums: list[dict[str, float]] = [{}, {}]
    for report, side in zip((one, two), sums, strict=True):
        for term in report.terms:
            path = re.sub(r" \(\d+ layers?\)$", "", term.path)
            side[path] = side.get(path, 0) + term.value
    moved = {row.path: (row.before, row.after) for row in found.terms if not row.path.endswith(" layers")}
    for path in sums[0].keys() | sums[1].keys():
        values = (sums[0].get(path), sums[1].get(path))
        assert (values if values[0] != values[1] else None) == moved.pop(path, None), path
    assert {} == moved
    figures = {row.path: (row.before, row.after) for row in found.figures}
    a, b = one.to_dict(), two.to_dict()
    for section in ("model", "kv", "weights", "capacity", "time"):
        for name, value in (a[section] or {}).items():
            if name != "name":
                same = value == b[section][name]
                assert same != (f"{section}.{name}" in figures), (section, name)


@pytest.mark.parametrize(("before", "after", "flags"), PAIRS)
def test_differences_and_ratios(before: str, after: str, flags: dict[str, Any]) -> None:
    """After is before plus the difference, and before times the ratio; exact where both are whole."""
    found = kvplan.diff(before, after, **flags)
    for row in (*found.figures, *found.terms):
        assert row.before != row.after
        if row.difference is not None:
            assert isinstance(row.before, (int, float))
            assert row.after == pytest.approx(row.before + row.difference)
            if isinstance(row.before, int) and isinstance(row.after, int):
                assert row.after == row.before + row.difference
            if row.before:
                assert row.ratio
                assert row.after == pytest.approx(row.before * row.ratio)
        else:
            assert None in (row.before, row.after) or isinstance(row.before, (str, bool))


def test_turned_round() -> None:
    """The other way round, differences change their sign and nothing else moves."""
    there, back = kvplan.diff("gemma-2-9b", "gemma-3-12b"), kvplan.diff("gemma-3-12b", "gemma-2-9b")
    for ours, theirs in ((there.figures, back.figures), (there.terms, back.terms)):
        assert {r.path: (r.before, r.after, r.difference) for r in ours} == {
            r.path: (r.after, r.before, None if r.difference is None else -r.difference) for r in theirs
        }
    assert there.unmoved == back.unmoved


def test_exit_codes() -> None:
    """0 whatever moved, as long as it can be said; with --exit-code 1 where anything did; 2 for bad input."""
    assert 0 == run("diff", "llama-2-7b", "gqa:8")[0]
    assert 1 == run("diff", "llama-2-7b", "gqa:8", "--exit-code")[0]
    assert 0 == run("diff", "llama-2-7b", "llama-2-7b", "--exit-code")[0]
    assert "nothing moved" in run("diff", "llama-2-7b", "llama-2-7b")[1]
    assert 2 == run("diff", "llama-2-7b")[0]


def test_a_scheme_may_stand_in_either_place() -> None:
    """`A S`, `A -s S` and `A A -s S` ask the same."""
    expected = kvplan.diff("llama-2-7b", "gqa:8").to_dict()

    assert expected == json.loads(run("diff", "llama-2-7b", "-s", "gqa:8", "--json")[1])
    assert expected == json.loads(run("diff", "llama-2-7b", "llama-2-7b", "-s", "gqa:8", "--json")[1])
    numbers = ["--layers", "4", "--hidden", "256", "--heads", "4"]
    assert "kv.bytes_per_token" in run("diff", *numbers, "-s", "mqa")[1]


def test_configs() -> None:
    """Two published configs by their paths."""
    one, two = (str(CONFIGS / f"{name}.json") for name in ("Qwen__Qwen1.5-72B", "Qwen__Qwen1.5-110B"))
    found = kvplan.diff(one, two)
    moved = {row.path: row for row in found.figures}

    # 80 layers of 64 heads (MHA) against 80 layers of 8 KV heads
    assert (2 * 64 * 128 * 2 * 80, 2 * 8 * 128 * 2 * 80) == moved["kv.bytes_per_token"][2:4]
    assert "model.layers" not in moved


def test_json_csv_and_markdown_say_the_same() -> None:
    """One object, four renderings."""
    command = ["diff", "gemma-2-9b", "gemma-3-12b", "-c", "32k"]
    found = kvplan.diff("gemma-2-9b", "gemma-3-12b", context="32k")
    rows = [*found.figures, *found.terms]

    assert found.to_dict() == json.loads(run(*command, "--json")[1])
    lines = list(csv.DictReader(io.StringIO(run(*command, "--csv")[1])))
    assert [(row.path, "" if row.after is None else str(row.after)) for row in rows] == [
        (line["path"], line["after"]) for line in lines
    ]
    markdown = run(*command, "--markdown")[1]
    for row in rows:
        assert f"| {row.path} |" in markdown
    assert max(map(len, found.to_text(100).splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("llama-2-7b", "after: missing, allowed: a second model, or a scheme"),
        ("llama-2-7b llama-2-7c", "unknown model 'llama-2-7c'; nearest"),
        ("llama-2-7b gqa:5", "gqa:5"),
        ("llama-2-7b mqa+clo:2", "unknown scheme 'clo'"),
        ("llama-2-7b gqa:8 -s mqa", "unknown model 'gqa:8'"),
        ("llama-2-7x gqa:8", "unknown model 'llama-2-7x'"),
        ("llama-2-7b gqa:8 -c x", "context: got 'x'"),
    ],
)
def test_bad_input_is_one_line(arguments: str, says: str) -> None:
    """Exit code 2, one line, naming what was given."""
    code, stdout, stderr = run("diff", *arguments.split())

    assert (2, "") == (code, stdout)
    assert 1 == len(stderr.splitlines())
    assert says in stderr


def test_errors_are_typed() -> None:
    """As everywhere in the API."""
    with pytest.raises(InvalidInput):
        kvplan.diff("llama-2-7b")
    with pytest.raises(UnknownName):
        kvplan.diff("llama-2-7b", "no-such-thing")
