"""The command line as a person meets it: output, exit codes, one line per error, nothing on stdout but data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.cli import app
from tests.support import CONFIGS

LLAMA = str(CONFIGS / "meta-llama__Meta-Llama-3.1-8B.json")
runner = CliRunner()


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = runner.invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_json_is_the_api() -> None:
    """`--json` prints exactly what the API's to_dict gives, and nothing else."""
    code, out, err = run("plan", LLAMA, "--gpu", "h100-80gb-sxm", "-c", "8k", "-b", "4", "--kv-dtype", "fp8", "--json")
    report = kvplan.plan(LLAMA, gpu="h100-80gb-sxm", context=8192, batch=4, kv_dtype="fp8")

    assert (0, "") == (code, err)
    assert json.loads(out) == json.loads(report.to_json()) == json.loads(json.dumps(report.to_dict()))


def test_vllm_names_mean_the_same() -> None:
    """The flags that vLLM taught people are aliases of the short ones."""
    short = run("plan", LLAMA, "-c", "8k", "-b", "4", "--tp", "2", "--kv-dtype", "fp8", "--json")
    long = run(
        "plan", LLAMA, "--max-model-len", "8192", "--max-num-seqs", "4", "--tensor-parallel-size", "2",
        "--kv-cache-dtype", "fp8", "--json",
    )  # fmt: skip

    assert short == long


@pytest.mark.parametrize("width", [80, 200])
def test_text_keeps_to_the_terminal(width: int) -> None:
    """No line of the report is wider than the terminal."""
    report = kvplan.plan(LLAMA, gpu="rtx-4090-24gb", context="32k", batch=8)

    assert max(map(len, report.to_text(width).splitlines())) <= width
    assert "✘ does not fit" in report.to_text(width)


def test_the_memory_bar_fills_its_width() -> None:
    """The bar's cells add up, and a part that exists gets at least one."""
    from kvplan.render import memory_bar

    for gpu, batch in (("h100", 1), ("h100", 50), ("rtx-4090", 1)):
        bar = memory_bar(kvplan.plan(LLAMA, gpu=gpu, batch=batch), 80)[0].plain
        assert len(bar) == 80
        assert {"█", "▓", "▒"} <= set(bar)


def test_exit_codes() -> None:
    """0 yes, 1 it does not fit, 2 bad input."""
    assert run("plan", LLAMA, "--gpu", "h100")[0] == 0
    assert run("plan", LLAMA, "--gpu", "t4", "--json")[0] == 1
    assert run("plan", LLAMA, "--gpu", "abacus")[0] == 2


def test_what_to_try_is_true() -> None:
    """Every suggested flag, asked for, fits."""
    question = {"gpu": "rtx-4090", "context": "64k", "batch": 4}
    report = kvplan.plan(LLAMA, **question)
    assert report.fits is False
    assert report.suggestions
    for suggestion in report.suggestions:
        words = suggestion.split()
        change = {
            flag.removeprefix("--").replace("-", "_"): value
            for flag, value in zip(words[::2], words[1::2], strict=True)
        }
        assert kvplan.plan(LLAMA, **(question | change)).fits, suggestion


def test_numbers_instead_of_a_model() -> None:
    """Plain numbers always work: 20 layers x 2 x 16 heads x 128 x 2 bytes."""
    code, out, _ = run(
        "plan", "--layers", "20", "--hidden", "2048", "--heads", "16", "--kv-heads", "16", "--head-dim", "128",
        "--ffn", "5472", "--vocab", "32000", "--json",
    )  # fmt: skip

    assert code == 0
    assert 20 * 2 * 16 * 128 * 2 == json.loads(out)["kv"]["bytes_per_token"]


def test_a_window_in_plain_numbers() -> None:
    """--window makes every layer slide."""
    out = run("plan", "--layers", "2", "--hidden", "64", "--heads", "2", "--window", "10", "-c", "11", "--json")[1]

    assert 2 * 10 * 2 * 64 * 2 == json.loads(out)["kv"]["bytes_per_sequence"]


BAD = [
    (["plan"], "model"),
    (["plan", "/no/such/config.json"], "existing"),
    (["plan", "llama-9"], "nearest"),
    (["plan", LLAMA, "--context", "0"], "context"),
    (["plan", LLAMA, "--context", "-5"], "context"),
    (["plan", LLAMA, "--context", "1.5"], "context"),
    (["plan", LLAMA, "--context", "1e400"], "context"),
    (["plan", LLAMA, "--batch", "none"], "batch"),
    (["plan", LLAMA, "--tp", "3"], "tp: got 3, allowed: a divisor of the 32 attention heads"),
    (["plan", LLAMA, "--pp", "33"], "pp"),
    (["plan", LLAMA, "--gpu", "h1000"], "nearest: h100"),
    (["plan", LLAMA, "--dtype", "fp7"], "dtype"),
    (["plan", LLAMA, "--kv-dtype", "fp9"], "kv_dtype"),
    (["plan", LLAMA, "--kv-dtype", "int4:g=x"], "kv_dtype"),
    (["plan", LLAMA, "--engine", "vlm"], "engine"),
    (["plan", LLAMA, "--engine", "transformers", "--engine-version", "4.1"], "5.23"),
    (["plan", LLAMA, "--engine", "transformers", "--block-size", "16"], "block_size"),
    (["plan", LLAMA, "--engine-option", "swa_full=true"], "swa_full"),
    (["plan", LLAMA, "--engine-option", "a=1", "--engine-option", "a=2"], "one value per option"),
    (["plan", LLAMA, "--scheme", "clam:2"], "nearest: cla"),
    (["plan", LLAMA, "--scheme", "gqa:5"], "divides the 32"),
    (["plan", LLAMA, "--scheme", "mqa+gqa:2"], "one member per axis"),
    (["plan", LLAMA, "--scheme", "cla:2+owners:0_0"], "one member per axis"),
    (["plan", LLAMA, "--attention-flops", "half"], "attention_flops"),
    (["plan", LLAMA, "--gpu-memory-utilization", "1.2"], "gpu_memory_utilization"),
    (["plan", LLAMA, "--gpu-memory-utilization", "much"], "much"),
    (["plan", LLAMA, "--memory", "80"], "80GiB"),
    (["plan", LLAMA, "--memory", "80 quarts"], "memory"),
    (["plan", LLAMA, "--layers", "3"], "named already"),
    (["plan", "--layers", "3", "--hidden", "64"], "heads"),
    (["plan", "--layers", "3", "--hidden", "64", "--heads", "4", "--kv-heads", "3"], "kv_heads"),
    (["plan", "--layers", "9999999", "--hidden", "64", "--heads", "4"], "layers"),
    (["plan", LLAMA, "--bogus"], "--bogus"),
    (["explain", LLAMA, "nonsense"], "nonsense"),
    (["explain", LLAMA, "max_batch"], "gpu"),
    (["frobnicate"], "frobnicate"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), BAD, ids=lambda v: " ".join(v[-3:])[-50:] if isinstance(v, list) else ""
)
def test_bad_input_is_one_clear_line(arguments: list[str], says: str) -> None:
    """Exit 2, one line on stderr that names what is wrong, nothing on stdout."""
    code, out, err = run(*arguments)
    assert (2, "") == (code, out)
    assert 1 == len(err.splitlines()), err
    assert says in err
    assert "Traceback" not in err


def test_explain_prints_every_formula_with_numbers() -> None:
    """Each term of the ledger has its formula in symbols and in numbers."""
    out = run("explain", LLAMA, "-c", "8k", "--gpu", "h100")[1]

    assert "heads × ⌈width / block⌉ × block bits" in out
    assert "8 × ⌈128 / 1⌉ × 16 = 16,384" in out
    assert "min(" in run("explain", str(CONFIGS / "mistralai__Mistral-7B-v0.1.json"), "kv", "-c", "8k")[1]


def test_explain_latex_is_balanced() -> None:
    """LaTeX output opens and closes what it opens."""
    out = run("explain", str(CONFIGS / "openai__gpt-oss-20b.json"), "--latex", "-c", "8k", "--gpu", "h100")[1]

    assert out.count("{") == out.count("}")
    assert out.count(r"\left") == out.count(r"\right")
    assert out.count(r"\begin{align*}") == out.count(r"\end{align*}") > 5


@pytest.mark.parametrize("flags", [[], ["--block-size", "16"], ["--engine", "transformers"], ["--dp", "2"]])
@pytest.mark.parametrize("name", ["meta-llama__Meta-Llama-3.1-8B", "openai__gpt-oss-20b", "google__gemma-3-12b-it"])
@pytest.mark.parametrize("batch", ["1", "7"])
def test_the_inverse_forms_give_the_solvers_answer(name: str, batch: str, flags: list[str]) -> None:
    """The closed form of max_batch and max_context, regime by regime, ends at the number that bisection found."""
    for gpu in ("h100", "rtx-4090", "h200"):
        base = [str(CONFIGS / f"{name}.json"), "--gpu", gpu, "-c", "3000", "-b", batch, *flags]
        capacity = json.loads(run("plan", *base, "--json")[1])["capacity"]
        context = run("explain", base[0], "max_context", *base[1:])[1]
        number = f"{capacity['max_context']:,}"
        assert context.startswith(f"max_context = {number} tokens")
        if capacity["max_context"]:
            assert f"= {number} ← the answer" in context
            assert f"context {number}: fits" in context
            assert "does not fit" in context
        sequences = f"{capacity['max_batch']:,}"
        out = run("explain", base[0], "max_batch", *base[1:])[1]
        assert out.startswith(f"max_batch = {sequences} sequences")
        if capacity["max_batch"]:
            assert f"⌋ = {sequences}\n" in out


@pytest.mark.parametrize("command", ["models", "gpus", "formats", "engines", "schemes"])
def test_listings_filter_and_speak_json(command: str) -> None:
    """Every listing is JSON on demand, and filters by any text."""
    everything = json.loads(run(command, "--json")[1])
    name = everything[0]["name"]

    assert name in run(command)[1]
    assert name in [row["name"] for row in json.loads(run(command, name, "--json")[1])]
    assert run(command, "no such thing anywhere")[0] == 1


def test_version() -> None:
    """`--version` prints name and version."""
    assert (0, f"kvplan {kvplan.__version__}\n", "") == run("--version")


def test_completion_is_offered() -> None:
    """Shell completion comes with the command line."""
    assert "--install-completion" in run("--help")[1]


@pytest.mark.parametrize(
    "code",
    [
        "import kvplan",
        f"import kvplan; kvplan.plan({LLAMA!r}, gpu='h100', context=8192).to_json()",
        f"import sys; sys.argv = ['kvplan', 'plan', {LLAMA!r}, '--json']\nfrom kvplan.cli import app\n"
        "try: app()\nexcept SystemExit: pass",
    ],
)
def test_the_core_stays_light(code: str) -> None:
    """Import kvplan and kvplan plan import none of the heavy libraries; pydantic only where untrusted presets enter."""
    heavy = "numpy sympy torch streamlit plotly rich transformers huggingface_hub pydantic"
    script = (
        f"import sys\n{code}\nfound = [m for m in {heavy!r}.split() if m in sys.modules]\nsys.exit(' '.join(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )

    assert "" == done.stderr.strip()


def test_a_closed_pipe_is_no_error() -> None:
    """`kvplan gpus | head` says nothing on stderr."""
    command = f"{sys.executable} -m kvplan gpus --json | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )

    assert ("[\n", "") == (done.stdout, done.stderr)


def test_no_color() -> None:
    """Colour only on a terminal; the plain text holds no escape codes."""
    report = kvplan.plan(LLAMA, gpu="h100")

    assert "\x1b" not in report.to_text(80)
    assert "\x1b" in report.to_text(80, color=True)
