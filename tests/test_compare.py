"""Comparing schemes: every row is an ordinary plan, the first is the model as published, ratios are to it."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.cli import app
from kvplan.errors import InvalidInput, UnknownName

SCHEMES = ["mha", "gqa:8", "mqa", "cla:2", "mqa+cla:2", "window:1024"]
QUESTION = {"gpu": "a100-80gb", "context": 4096, "batch": 2}


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_every_row_is_a_plan() -> None:
    """No number of a comparison is its own: each row repeats what plan answers."""
    rows = kvplan.compare("llama-2-7b", SCHEMES, **QUESTION).rows

    assert [None, *SCHEMES] == [row.scheme for row in rows]
    base = kvplan.plan("llama-2-7b", **QUESTION).to_dict()
    for row in rows:
        d = kvplan.plan("llama-2-7b", scheme=row.scheme, **QUESTION).to_dict()
        assert (
            d["kv"]["bytes_per_token"],
            d["kv"]["bytes_per_sequence"],
            d["kv"]["bytes_read_per_step"],
            d["flops"]["prefill"]["total"],
            d["flops"]["decode"]["total"],
            d["model"]["parameters"],
            d["capacity"]["max_batch"],
            d["capacity"]["max_context"],
            d["time"]["decode_step_s"],
            d["time"]["decode_bound"],
            d["kv"]["bytes_per_sequence"] / base["kv"]["bytes_per_sequence"],
            d["kv"]["bytes_read_per_step"] / base["kv"]["bytes_read_per_step"],
        ) == (
            row.kv_bytes_per_token,
            row.kv_bytes_per_sequence,
            row.bytes_read_per_step,
            row.prefill_flops,
            row.decode_flops,
            row.parameters,
            row.max_batch,
            row.max_context,
            row.decode_step_s,
            row.decode_bound,
            row.kv_ratio,
            row.read_ratio,
        )


def test_the_four_questions_are_told_apart() -> None:
    """CLA-2: 0.500 of the residence, 1.000 of the traffic, fewer parameters and FLOPs."""
    base, cla = kvplan.compare("llama-2-7b", "cla:2", context="4k").rows

    assert (0.5, 1.0) == (cla.kv_ratio, cla.read_ratio)
    assert 16 * 2 * 4096 * 4096 == base.parameters - cla.parameters
    assert cla.decode_flops < base.decode_flops
    assert "mha" == base.described


def test_pareto_rows() -> None:
    """Marked rows are those that no other row beats on what is kept and what is read; equal rows are marked alike."""
    rows = kvplan.compare("llama-2-7b", ["mqa+cla:2", "window:128", "window:128", "cla:2", "gqa:8"], context=4096).rows
    assert [False, True, True, True, False, False] == [row.pareto for row in rows]
    for row in rows:
        mine = (row.kv_bytes_per_sequence, row.bytes_read_per_step)
        others = [(r.kv_bytes_per_sequence, r.bytes_read_per_step) for r in rows]
        beaten = any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in others)
        assert row.pareto is not beaten


def test_engines_may_be_compared() -> None:
    """--engine repeated: one row per scheme and engine; a full window holds W - 1 entries in transformers."""
    code, out, _ = run(
        "compare", "mistral-7b-v0.1", "-s", "gqa:4", "--engine", "ideal", "--engine", "transformers", "-c", "8k", "--json"
    )  # fmt: skip
    rows = json.loads(out)["rows"]

    assert 0 == code
    assert [(None, "ideal"), (None, "transformers"), ("gqa:4", "ideal"), ("gqa:4", "transformers")] == [
        (row["scheme"], row["engine"].split()[0]) for row in rows
    ]
    assert 4095 * rows[0]["kv_bytes_per_sequence"] == 4096 * rows[1]["kv_bytes_per_sequence"]


def test_json_csv_and_markdown_say_the_same() -> None:
    """Three renderings of the same rows; `--json` is the API's to_dict."""
    base = ["compare", "llama-2-7b", *(word for scheme in SCHEMES for word in ("-s", scheme)), "-c", "4k"]
    data = json.loads(run(*base, "--json")[1])
    lines = list(csv.DictReader(run(*base, "--csv")[1].splitlines()))
    markdown = run(*base, "--markdown")[1]

    assert data == json.loads(json.dumps(kvplan.compare("llama-2-7b", SCHEMES, context=4096).to_dict()))
    assert len(data["rows"]) == len(lines) == 1 + len(SCHEMES)
    for row, line in zip(data["rows"], lines, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line
    for scheme in ("as published (mha)", *SCHEMES):
        assert f" {scheme} |" in markdown
    assert "a100" not in markdown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("flags", [{}, {"gpu": "a100-80gb"}])
@pytest.mark.parametrize("model", ["llama-2-7b", "gemma-3n-e4b", "deepseek-v3.2", "mamba-130m"])
def test_text_keeps_to_the_terminal(model: str, flags: dict[str, str], width: int) -> None:
    """No line is wider than the terminal, and no escape code is there without colour."""
    rows = kvplan.compare(model, [] if model in ("mamba-130m", "deepseek-v3.2") else SCHEMES, context=2048, **flags)
    text = rows.to_text(width)

    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "\x1b" in rows.to_text(width, color=True)


def test_bars_are_as_long_as_their_ratios() -> None:
    """Two bars per row, told apart by block as well as by colour, in proportion to the longest."""
    comparison = kvplan.compare("llama-3.1-8b", ["mha", "cla:2", "mqa"], context=4096)
    lines = comparison.to_text(100).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("█ resident KV"))
    bars = [line for line in lines[start + 1 :] if "█" in line or "▓" in line]
    longest = max(line.count("█") for line in bars)

    assert 2 * len(comparison.rows) == len(bars)
    for i, row in enumerate(comparison.rows):
        assert row.kv_ratio is not None
        assert row.read_ratio is not None
        assert abs(bars[2 * i].count("█") - row.kv_ratio / 4 * longest) <= 1
        assert abs(bars[2 * i + 1].count("▓") - row.read_ratio / 4 * longest) <= 1


def test_numbers_instead_of_a_model() -> None:
    """Plain numbers are compared too."""
    out = run(
        "compare", "--layers", "20", "--hidden", "2048", "--heads", "16", "--head-dim", "128", "-s", "mqa+cla:2", "--csv"
    )[1]  # fmt: skip
    assert ["163840", "5120"] == [line["kv_bytes_per_token"] for line in csv.DictReader(out.splitlines())]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["llama-2-7b", "-s", "gqa:8", "-s", "gqa:5"], "gqa:5"),
        (["llama-2-7b", "-s", "clam:2"], "nearest: cla"),
        (["deepseek-v3", "-s", "gqa:8"], "gqa:8"),
        (["llama-2-7b", "-s", "mqa+gqa:2"], "one member per axis"),
        (["llama-2-7b", "-s", "gqa:4", "--tp", "3"], "tp: got 3"),
        (["mamba-130m", "-s", "cla:2"], "cla:2"),
        (["gemma-4-31b", "-s", "cla:4"], "cla:4"),
        (["llama-2-7b", "-e", "ideal", "-e", "abacus"], "abacus"),
        ([], "model"),
    ],
)
def test_a_scheme_that_does_not_apply_is_named(arguments: list[str], says: str) -> None:
    """Exit 2, one line that names the scheme (or the flag, where the model as published has no answer either)."""
    code, out, err = run("compare", *arguments)
    assert (2, "") == (code, out)
    assert 1 == len(err.splitlines())
    assert says in err


def test_errors_of_the_api_are_typed() -> None:
    """The same as exceptions with fields."""
    with pytest.raises(InvalidInput) as wrong:
        kvplan.compare("gemma-4-31b", ["gqa:4", "cla:4"])
    assert "scheme" == wrong.value.field
    with pytest.raises(UnknownName):
        kvplan.compare("llama-2-7b", ["clam:2"])
    with pytest.raises(UnknownName):
        kvplan.compare("llama-2-7b", ["mqa"], contxt=4096)


def test_the_flags_names_work_in_python_too() -> None:
    """`scheme=` and `engine=` mean what the flags mean, one or several."""
    assert kvplan.compare("llama-2-7b", scheme=["mqa"]).rows == kvplan.compare("llama-2-7b", "mqa").rows
    assert (
        kvplan.compare("llama-2-7b", engine="transformers").rows
        == kvplan.compare("llama-2-7b", engines=["transformers"]).rows
    )
