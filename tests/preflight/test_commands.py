"""A command as typed: which engine it starts, its own words, the environment, and what is no command of an engine."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.launch.commands import read_command, split

CASES = {
    "vllm serve org/m --port 1": ("vllm", "vllm serve", ("org/m", "--port", "1")),
    "/opt/venv/bin/vllm serve org/m": ("vllm", "vllm serve", ("org/m",)),
    "python3.11 -m vllm.entrypoints.openai.api_server --model m": (
        "vllm",
        "vllm.entrypoints.openai.api_server",
        ("--model", "m"),
    ),
    "python api_server.py --model m": ("vllm", "api_server.py", ("--model", "m")),
    "uv run --with vllm vllm serve m": ("vllm", "vllm serve", ("m",)),
    "sudo -E env A=1 vllm serve m": ("vllm", "vllm serve", ("m",)),
    "./build/bin/llama-server -m x.gguf": ("llama.cpp", "llama-server", ("-m", "x.gguf")),
    "llama-server.exe -m x.gguf": ("llama.cpp", "llama-server", ("-m", "x.gguf")),
    "llama-cli -m x.gguf -c 512": ("llama.cpp", "llama-cli", ("-m", "x.gguf", "-c", "512")),
    "./main -m x.gguf -c 512": ("llama.cpp", "main", ("-m", "x.gguf", "-c", "512")),
    "llama serve -m x.gguf": ("llama.cpp", "llama-server", ("-m", "x.gguf")),
    "python -m sglang.launch_server --model-path m": ("sglang", "sglang.launch_server", ("--model-path", "m")),
    "sglang serve m --tp 2": ("sglang", "sglang serve", ("m", "--tp", "2")),
    "trtllm-serve m --tp_size 2": ("tensorrt-llm", "trtllm-serve", ("m", "--tp_size", "2")),
    "trtllm-serve serve m": ("tensorrt-llm", "trtllm-serve", ("m",)),
    "mlx_lm.server --model m": ("mlx", "mlx_lm.server", ("--model", "m")),
    "python -m mlx_lm server --model m": ("mlx", "mlx_lm server", ("--model", "m")),
    "docker run --rm -it --gpus all -p8000:8000 -v a:b --ipc=host vllm/vllm-openai:latest --model m": (
        "vllm",
        "vllm serve",
        ("--model", "m"),
    ),
    "docker run --gpus all ghcr.io/ggml-org/llama.cpp:server-cuda -m x.gguf": (
        "llama.cpp",
        "llama-server",
        ("-m", "x.gguf"),
    ),
    "docker run --shm-size 32g lmsysorg/sglang python3 -m sglang.launch_server --model m": (
        "sglang",
        "sglang.launch_server",
        ("--model", "m"),
    ),
    "podman run --entrypoint llama-cli image -m x.gguf": ("llama.cpp", "llama-cli", ("-m", "x.gguf")),
    "cd /srv && source venv/bin/activate; vllm serve m": ("vllm", "vllm serve", ("m",)),
    "vllm serve m \\\n  --port 1 \\\n  --seed 2": ("vllm", "vllm serve", ("m", "--port", "1", "--seed", "2")),
    "nohup vllm serve m > log.txt 2>&1 &": ("vllm", "vllm serve", ("m",)),
    "vllm serve m --hf-overrides '{\"a\": 1}'": ("vllm", "vllm serve", ("m", "--hf-overrides", '{"a": 1}')),
}


@pytest.mark.parametrize("text", CASES)
def test_engine_program_and_words(text: str) -> None:
    read = read_command(text)

    assert CASES[text] == (read.engine, read.program, read.words)


def test_a_sequence_is_taken_as_it_is_and_a_lone_text_is_split() -> None:
    assert ("a b", "--port", "1") == read_command(["vllm", "serve", "a b", "--port", "1"]).words
    assert ("a", "b") == read_command(["vllm serve a b"]).words
    assert ["vllm", "serve", "a b"] == split("vllm serve 'a b'")


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("CUDA_VISIBLE_DEVICES=0,1 VLLM_USE_V1=0 vllm serve m", {"CUDA_VISIBLE_DEVICES": "0,1", "VLLM_USE_V1": "0"}),
        ("export HF_HOME=/x && vllm serve m", {"HF_HOME": "/x"}),
        ("docker run -e A=1 --env B=2 -eC=3 vllm/vllm-openai m", {"A": "1", "B": "2", "C": "3"}),
        ("docker run --gpus '\"device=0,2\"' vllm/vllm-openai m", {"CUDA_VISIBLE_DEVICES": "0,2"}),
    ],
)
def test_environment(text: str, environment: dict[str, str]) -> None:
    assert environment == read_command(text).environment


def test_a_pipe_ends_the_command_and_is_named() -> None:
    read = read_command("vllm serve m --port 1 | tee log")

    assert ("m", "--port", "1") == read.words
    assert "| tee log" == read.left_out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "python train.py",
        "vllm bench serve m",
        "ls -l",
        "docker run ubuntu bash",
        "python -m http.server",
        "vllm",
    ],
)
def test_what_starts_no_engine_is_refused_with_what_would(text: str) -> None:
    with pytest.raises(InvalidInput, match="llama-server"):
        read_command(text)


def test_an_open_quote_is_said() -> None:
    with pytest.raises(InvalidInput, match="closed quotes"):
        read_command("vllm serve 'm")
