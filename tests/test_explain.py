"""`kvplan explain`: every number of a report is reproduced by the steps shown, and every printed equation is true."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan import cli
from kvplan.catalog import model_names
from kvplan.explain import explain, ledger
from kvplan.report import Report

ASKED: list[dict[str, Any]] = [
    {"context": 5001, "batch": 3, "gpu": "h100"},
    {"context": 5001, "batch": 2, "encoder_context": 777, "attention_flops": "full", "logits": "all"},
    {"context": 9001, "batch": 2, "gpu": "h200", "engine": "transformers", "kv_dtype": "int4", "dp": 2},
    {"context": 3000, "gpu": "b200", "tp": 2, "pp": 2, "weight_dtype": "int4"},
    {"context": 333, "gpu": "h100", "block_size": 48, "encoder_context": 9, "kv_dtype": "int2:g=32,residual=128"},
]
SCHEMES = [
    "mqa", "gqa:8+cla:2", "mlkv:layers=8,heads=4", "lckv:w=2", "yoco:window=1024", "window:1000@5:1+int8", "chunk:500",
    "streaming:sinks=4,window=1020", "budget:1024", "pyramid:mean=1024", "compress:m=16,window=300", "landmark:block=50",
    "infini:segment=512", "linear", "mla:latent=512,rope=64", "tpa:q=6,k=2,v=2", "lowrank:k=1024,v=1024", "quest:k=2048,page=16",
    "sparsek:k=512,window=512", "nsa:block=16,select=64,count=16,window=512", "dsa:k=2048,dim=128,heads=64", "kivi:2,g=32,r=128",
    "kvquant:3,outliers=0.01", "minicache", "offload:cpu=0.3,disk=0.4",
]  # fmt: skip


def question(model: str, **asked: Any) -> Report | None:
    """The report, or None where this model cannot be asked so (heads that ranks or groups do not divide)."""
    try:
        return kvplan.plan(model, **asked)
    except kvplan.errors.KvplanError:
        return None


def assert_adds_up(report: Report) -> None:
    """Every term has a block in the ledger's order, whose steps come to the term's value and say so at the end."""
    blocks = list(ledger(report))
    assert [term.path for term in report.terms] == [block.path for block in blocks]
    assert [term.value for term in report.terms] == [block.result for block in blocks]
    amounts = {block.path: block.result for block in blocks}
    for name, flops in (("prefill", report.answer.prefill), ("decode", report.answer.decode)):
        assert flops._asdict() == {part: amounts[f"flops/{name}/{part}"] for part in ("linear", "attention", "logits")}
    for block in blocks:
        assert str(block.steps[-1][0]).endswith(f"= {block.total}"), block.path


NUMBERS = re.compile(r"(?:[\d(⌈⌊]|min\(|max\()[\d,()×+−/⌈⌉⌊⌋ ]*(?:(?:min|max|mod)[\d,()×+−/⌈⌉⌊⌋ ]*)*")


def value(text: str) -> Fraction:
    """What an expression of numbers comes to."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\d+", r"F(\g<0>)", text)
    for sign, code in zip("×−⌈⌉⌊⌋", ("*", "-", "ceil(", ")", "floor(", ")"), strict=True):
        text = text.replace(sign, code)
    names = {"F": Fraction, "ceil": math.ceil, "floor": math.floor, "min": min, "max": max}
    return Fraction(eval(text.replace(" mod ", " % "), {"__builtins__": {}}, names))


def assert_true_equations(text: str) -> int:
    """Each `numbers = number` on a line holds; how many there were."""
    found = 0
    for line in text.splitlines():
        sides = line.split(" = ")
        for left, right in pairwise(sides):
            # a side starts after words ("total", "S > 128:"), and ends where words follow ("bytes", "← the answer")
            left = re.sub(r"^.*?:\s", "", left).removeprefix("  = ").strip().removeprefix("= ")
            result = re.match(r"\d[\d,]*(?= |$|;)", right)
            if not result or not NUMBERS.fullmatch(left) or "," == left[-1:] or (left.count("(") != left.count(")")):
                continue
            assert value(left) == value(result[0]), line
            found += 1
    return found


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: " ".join(map(str, asked.values())))
@pytest.mark.parametrize("name", model_names())
def test_every_term_is_reproduced(name: str, asked: dict[str, Any]) -> None:
    """The steps of every block add up to the ledger's number, for every model of the catalogue."""
    report = question(name, **asked)
    if report is not None:
        assert_adds_up(report)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_reproduced(scheme: str) -> None:
    """The steps know growths, passes, early exits, indexers and sparse reads; short and long contexts."""
    for model in ("llama-2-7b", "gemma-3-12b"):
        for asked in ({}, {"logits": "all"}, {"gpu": "h100", "tp": 2, "block_size": 16}, {"attention_flops": "full"}):
            for context in (1, 1021, 8192):
                report = question(model, scheme=scheme, context=context, batch=2, **asked)
                assert report is not None or model != "llama-2-7b"
                if report is not None:
                    assert_adds_up(report)


EXAMPLES = [
    "llama-2-7b",
    "gpt-oss-120b",
    "deepseek-v3.2",
    "deepseek-v4-flash",
    "llama-4-scout",
    "t5-base",
    "jamba-1.5-mini",
    "whisper-large-v3",
    "minimax-m3",
]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: " ".join(map(str, asked.values())))
def test_printed_equations_are_true(name: str, asked: dict[str, Any]) -> None:
    """Numbers put in give the number behind the equals sign, wherever a line holds nothing but numbers."""
    report = question(name, **asked)
    assert report is not None

    assert assert_true_equations(explain(report)) > 15


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("term", [None, "max_batch", "max_context"])
def test_latex_is_balanced(name: str, term: str | None) -> None:
    """What opens closes, and a row aligns once."""
    for asked in ({}, {"scheme": "offload:cpu=0.5"}, {"kv_dtype": "int2:g=32,residual=128", "pp": 2}):
        out = explain(kvplan.plan(name, gpu="h100", weight_dtype="int4", **asked), term, latex=True)

        assert out.count("{") - out.count(r"\{") == out.count("}") - out.count(r"\}")
        assert out.count(r"\left") == out.count(r"\right")
        assert out.count(r"\begin{align*}") == out.count(r"\end{align*}")
        rows = [line for line in out.splitlines() if line and not line.startswith(("%", "\\begin", "\\end"))]
        assert {1} == {row.count("&") - row.count(r"\&") for row in rows}


def test_the_planted_fault_is_caught() -> None:
    """The check of equations sees a wrong digit, a wrong floor and a wrong sum."""
    for wrong in (
        "  x = 2 × 3 = 7",
        "  S > 1: 16 × ⌊(1,000 − 1 × 10) / 7⌋ = 2,257",
        "  total = 1,000 + 1 = 1,002 bytes",
    ):
        with pytest.raises(AssertionError):
            assert_true_equations(wrong)
    assert 1 == assert_true_equations("  S > 1: 16 × ⌊(1,000 − 1 × 10) / 7⌋ = 2,256 ← the answer")


# --- inverse forms


def assert_inverse(report: Report) -> None:
    """The closed forms end at the solver's numbers, one regime is marked, and the neighbours are planned again."""
    c = report.capacity
    assert c is not None
    out = explain(report, "max_batch")
    if c.max_batch is None:
        assert out.startswith("max_batch = unbounded")
    else:
        assert out.startswith(f"max_batch = {c.max_batch:,} sequences")
        assert re.search(rf"⌋ = {c.max_batch:,}\n", out) or (c.max_batch == 0 and "⌋ < 0" in out)
        assert_true_equations(out)
        assert ["fits", "does not fit"][not c.max_batch :] == re.findall(r"again with batch [\d,]+: (.+)", out)
    out = explain(report, "max_context")
    if c.max_context is None:
        assert out.startswith("max_context = unbounded")
        return
    assert out.startswith(f"max_context = {c.max_context:,} tokens")
    assert_true_equations(out)
    assert 1 == out.count("← the answer")
    marked = next(line for line in out.splitlines() if "← the answer" in line)
    assert marked.endswith(f" {c.max_context:,} ← the answer")
    rough = any(stage.lean.others for stage in report.answer.stages) or report.answer.spec.offload != (0, 0)
    assert rough or "whole groups" not in marked
    assert ["fits", "does not fit"][not c.max_context :] == re.findall(r"again with context [\d,]+: (.+)", out)


def test_the_stage_that_binds_at_the_answer() -> None:
    """At two tokens the first stage binds; at the largest batch and context it is the one that holds the most cache."""
    asked = {"context": 2, "batch": 64, "engine": "transformers", "pp": 3, "dp": 3, "gpu": "mi355x-288gb"}
    report = kvplan.plan("qwen2.5-32b", weight_dtype="mxfp4", **asked)

    assert_inverse(report)
    assert "binding: pipeline stage " in explain(report, "max_batch")


def test_windows_end_at_blocks() -> None:
    """A window of 128 in blocks of 256 holds 256 entries."""
    report = kvplan.plan("gpt-oss-120b", gpu="h100", block_size=256)

    assert_inverse(report)
    assert "0 < S ≤ 256" in explain(report, "max_context")


def test_a_residual_window_is_a_regime() -> None:
    """KIVI: 128 tokens of 16 bits (131,072 bytes each), from there on 24,576 bytes per token."""
    report = kvplan.plan("llama-3.1-8b", gpu="h100", kv_dtype="int2:g=32,residual=128")
    out = explain(report, "max_context")

    assert_inverse(report)
    assert "0 < S ≤ 128: " in out
    assert "/ 131,072⌋" in out
    assert f"× {128 * (131_072 - 24_576):,}) / 24,576⌋" in out


def test_pooled_entries_grow() -> None:
    """DeepSeek-V4: past the window an entry per 4 and per 128 tokens; never unbounded under a finite answer."""
    report = kvplan.plan("deepseek-v4-flash", gpu="h100", tp=8)
    out = explain(report, "max_context")

    assert_inverse(report)
    assert "unbounded" not in out


@pytest.mark.parametrize("flags", [
    {"block_size": 16}, {"block_size": 1000}, {"pp": 3}, {"dp": 2, "pp": 2}, {"engine": "transformers"}, {"kv_dtype": "q8_0"},
    {"kv_dtype": "int3:g=64,residual=4000"}, {"kv_dtype": "int4:g=32,outliers=3", "block_size": 7}, {"logits": "all"},
    {"scheme": "offload:cpu=0.5"}, {"scheme": "offload:cpu=0.3,disk=0.2", "engine": "transformers"}, {"scheme": "window:1000"},
    {"scheme": "budget:900"}, {"scheme": "compress:m=16,window=300", "block_size": 16}, {"scheme": "landmark:block=50"},
    {"kv_dtype": "int2:g=32,residual=128", "engine": "transformers"}, {"scheme": "kivi:2,g=32,r=128", "pp": 2},
], ids=lambda flags: " ".join(map(str, flags.values())))  # fmt: skip
@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "gpt-oss-20b", "gemma-3-12b", "deepseek-v4-flash", "qwen2.5-32b", "phi-2"]
)
def test_inverse_forms_end_at_the_solvers_numbers(name: str, flags: dict[str, Any]) -> None:
    """Over blocks, stages, engines, residual windows, groups and offloading; nothing that is printed is false."""
    for gpu, context, batch in (("h100", 3000, 1), ("rtx-4090", 1, 7), ("mi355x-288gb", 40000, 64)):
        report = question(name, gpu=gpu, context=context, batch=batch, weight_dtype="fp8", **flags)
        if report is not None:
            assert_inverse(report)


# --- the command


@pytest.mark.parametrize(
    ("term", "says"),
    [("flopz", "nearest: flops"), ("max_contex", "nearest: max_context"), ("xyzzy", "among them weights, kv, traffic")],
)
def test_an_unknown_term_names_others(term: str, says: str) -> None:
    """The nearest terms or their beginnings; where nothing is near, what there is."""
    with pytest.raises(kvplan.errors.UnknownName, match=says):
        explain(kvplan.plan("llama-3.1-8b"), term)


def options(name: str) -> dict[str, list[str]]:
    """Names of a command's parameters and their flags."""
    group = cli.typer.main.get_command(cli.app)
    return {parameter.name: parameter.opts for parameter in group.get_command(None, name).params}


def test_explain_takes_the_flags_of_plan() -> None:
    """Every flag that asks is a flag of explain, under the same names."""
    plan, other = options("plan"), options("explain")

    assert {"as_json", "as_markdown"} == set(plan) - set(other)
    assert {"term", "latex"} == set(other) - set(plan)
    assert all(other[name] == plan[name] for name in set(plan) & set(other))


def test_explain_of_a_flag_that_only_plan_had() -> None:
    """The flags reach the question."""
    arguments = ["explain", "llama-3.1-8b", "traffic", "-ctv", "q4_0", "-c", "1000"]
    out = CliRunner().invoke(cli.app, arguments).stdout

    assert (
        f"traffic/kv = {kvplan.plan('llama-3.1-8b', cache_type_v='q4_0', context=1000).kv['bytes_read_per_step']:,} bytes"
        in out
    )
