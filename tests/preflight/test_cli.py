"""`kvplan preflight` as typed: where the other program's words begin, exit codes, one line per error."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kvplan.cli import app

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["preflight", *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("dashes", [["--"], []])
def test_the_command_with_and_without_dashes(dashes: list[str]) -> None:
    code, out, _ = run("--gpu", "h100", *dashes, "vllm", "serve", MODEL, "--max-model-len", "8192", "--json-x", "1")

    assert 0 == code
    assert "starts" in out
    assert "--json-x 1: unknown to kvplan" in " ".join(out.split())


def test_the_command_as_one_quoted_text() -> None:
    code, out, _ = run(
        "--gpu", "h100", "--json", f"CUDA_VISIBLE_DEVICES=0,1 vllm serve {MODEL} -tp 2 --max-model-len 8192"
    )
    data = json.loads(out)

    assert (0, 2) == (code, data["gpus"])
    assert "CUDA_VISIBLE_DEVICES" in data["command"]["environment"]


def test_exit_codes() -> None:
    assert 0 == run("--gpu", "h100", "--", "vllm", "serve", MODEL)[0]
    assert 1 == run("--gpu", "rtx-4090", "--", "vllm", "serve", MODEL)[0]
    assert 2 == run("--gpu", "rtx-4090", "--", "vllm", "serve")[0]
    assert 2 == run("--gpu", "no-such-gpu", "--", "vllm", "serve", MODEL)[0]
    assert 2 == run("--", "vllm", "serve", MODEL)[0]
    assert 2 == run("--gpu", "h100")[0]


def test_an_error_is_one_line_on_stderr() -> None:
    code, out, err = run("--gpu", "h100", "--", "llama-server", "-m", "/nowhere/x.gguf")

    assert (2, "") == (code, out)
    assert err.startswith("kvplan: model: got '/nowhere/x.gguf'")
    assert 1 == err.count("\n")


def test_memory_instead_of_a_gpu() -> None:
    assert 0 == run("--memory", "80GiB", "--", "vllm", "serve", MODEL)[0]
    assert 1 == run("--memory", "16GiB", "--", "vllm", "serve", MODEL)[0]
