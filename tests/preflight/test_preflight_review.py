"""Commands as people type them: shells, variables, equals signs, and engines that read a word otherwise than others do."""

from __future__ import annotations

import pytest

from kvplan.launch import Preflight, preflight

MODEL = "Qwen/Qwen3-8B"
SERVER = "llama-server -m model-Q4_K_M.gguf"


def effects(found: Preflight) -> dict[str, str]:
    return {named.flag: named.effect for named in found.read}


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "-c", f"vllm serve {MODEL} --max-model-len 4096"],
        f"sh -lc 'HF_HOME=/models exec vllm serve {MODEL} --max-model-len 4096'",
        f'docker run --gpus all --entrypoint bash vllm/vllm-openai -c "vllm serve {MODEL} --max-model-len 4096"',
    ],
)
def test_a_shell_runs_a_text(command: str | list[str]) -> None:
    found = preflight(command, "h100")

    assert ("vllm", 4096) == (found.command.engine, found.report.answer.settings.context)


def test_a_variable_is_shown_once() -> None:
    found = preflight(f"LLAMA_ARG_CTX_SIZE=4096 {SERVER} -np 2", "rtx-4090", config="llama-3.1-8b")

    assert "4,096 cells" == effects(found)["LLAMA_ARG_CTX_SIZE=4096"]


def test_llama_cpp_splits_no_words() -> None:
    """common/arg.cpp looks for the whole word: ``--ctx-size=4096`` is an invalid argument, and the server stops."""
    found = preflight(f"{SERVER} --ctx-size=4096", "rtx-4090", config="llama-3.1-8b")

    assert found.starts is False
    assert "invalid argument: --ctx-size=4096" in found.why
    assert () == found.printed
    assert preflight(f"{SERVER} --ctx-size 4096", "rtx-4090", config="llama-3.1-8b").starts


@pytest.mark.parametrize("size", ["-1", "0"])
def test_sglang_prompts_that_are_not_cut(size: str) -> None:
    """-1 is SGLang's own word for it."""
    found = preflight(f"python -m sglang.launch_server --model-path {MODEL} --chunked-prefill-size {size}", "h100")

    assert found.starts
    assert f"--chunked-prefill-size {size}" in {named.flag for named in found.not_modelled}


def test_mlx_weights_have_the_bits_of_the_name() -> None:
    """Qwen3-8B: 36 layers of 192,937,984 matrix elements in 4.5 bits, and 2 x 151,936 x 4,096 outside in 16."""
    found = preflight("mlx_lm.server --model mlx-community/Qwen3-8B-4bit", "apple-m3-max-128gb", config="qwen3-8b")

    # q and o 4,096 x 4,096, k and v 1,024 x 4,096, three matrices of the MLP 4,096 x 12,288
    matrices = 36 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 12288)
    expected = matrices * 9 // 16 + 2 * 151936 * 4096 * 2
    assert expected == pytest.approx(found.report.answer.weights_per_gpu, rel=1e-3)
    assert any("4 bits" in note for note in found.notes)


def test_mlx_weights_of_bits_without_a_format_are_named() -> None:
    found = preflight("mlx_lm.server --model mlx-community/Qwen3-8B-6bit", "apple-m3-max-128gb", config="qwen3-8b")

    assert any("6 bits" in note for note in found.notes)
    assert 16 * 10**9 < found.report.answer.weights_per_gpu


@pytest.mark.parametrize(
    ("version", "starts", "says"),
    [
        ("0.9.2", True, "# cuda blocks"),  # V0
        ("0.11.0", False, "has the V1 engine alone"),  # llm_engine.py raises
        ("0.33.0", True, "is no variable of vllm 0.33.0"),  # envs.py does not name it any more
    ],
)
def test_the_variable_of_the_old_engine(version: str, starts: bool, says: str) -> None:
    found = preflight(f"VLLM_USE_V1=0 vllm serve {MODEL} --max-model-len 4096", "h100", engine_version=version)

    assert starts is found.starts
    assert says in " ".join((found.why, *found.notes, *found.printed))


def test_a_value_with_a_dash_stays_with_its_flag_in_a_change() -> None:
    command = ["vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct", "--log-config-file=-x", "--max-model-len", "131072"]
    found = preflight(command, "rtx-4090")
    changes = found.changes

    assert found.starts is False
    assert changes
    for change in changes:
        assert "--log-config-file=-x" in change.command
        assert preflight(["vllm", "serve", *change.command], "rtx-4090").starts


def test_weights_that_do_not_load_print_nothing() -> None:
    """131 GiB on a T4 stop before anything is measured; "-119 GiB available" is printed by nobody."""
    found = preflight("vllm serve meta-llama/Llama-3.1-70B-Instruct", "t4")

    assert found.starts is False
    assert () == found.printed


@pytest.mark.parametrize(("size", "starts"), [(16, True), (48, True), (17, False)])
def test_blocks_that_no_kernel_takes(size: int, starts: bool) -> None:
    """v1/attention/backends: MultipleOf(16)."""
    assert starts is preflight(f"vllm serve {MODEL} --max-model-len 4096 --block-size {size}", "h100").starts
