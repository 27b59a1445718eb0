"""A shell command that starts an engine: which engine, its own words, and the environment it is given. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from kvplan.errors import InvalidInput

__all__ = ["Command", "read_command", "split"]

ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)=(.*)$", re.DOTALL)
ENDS = ("|", "||", "&&", ";", "&", "|&")
REDIRECT = re.compile(r"^(?:\d|&)?>{1,2}(?:&\d)?(.*)$|^<(.*)$")
PYTHON = re.compile(r"^(?:.*/)?(?:python|pypy)[\d.]*$")
# Programs that run the one named behind them.
WRAPPERS = (
    "sudo", "nohup", "exec", "time", "env", "export", "command", "uv", "uvx", "poetry", "pipenv", "pixi", "conda",
    "numactl", "nice", "taskset", "torchrun", "srun",
)  # fmt: skip
SHELLS = ("bash", "sh", "zsh", "dash")  # -c runs a text
MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sglang.launch_server": "sglang",
    "mlx_lm.server": "mlx",
    "mlx_lm": "mlx",
}
LLAMA = ("llama-server", "llama-cli", "llama-completion", "llama-mtmd-cli", "server", "main")
# Flags of docker run that take no value; every other one without "=" takes the next word.
DOCKER_SWITCHES = {
    "-d", "-i", "-t", "-it", "-ti", "-dit", "-itd", "-P", "--rm", "--detach", "--interactive", "--tty", "--privileged",
    "--init", "--read-only", "--oom-kill-disable", "--no-healthcheck", "--publish-all", "--sig-proxy", "-q", "--quiet",
}  # fmt: skip
ATTACHED = re.compile(r"^-[a-zA-Z].")
KNOWN = "vllm serve, llama-server, python -m sglang.launch_server, trtllm-serve or mlx_lm.server, with their flags"


class Command(NamedTuple):
    """A command as read."""

    engine: str  # as kvplan names it
    program: str  # what the command calls
    words: tuple[str, ...]  # behind the program
    environment: dict[str, str]
    left_out: str  # where reading stopped: a pipe, a second command


def split(command: str | Sequence[str]) -> list[str]:
    """The words of a command: a text as a shell splits it, line continuations included; a sequence as it is.

    A sequence of one word with blanks in it is a text, too. Raises InvalidInput for open quotes and for no words.
    """
    if not isinstance(command, str):
        words = [str(word) for word in command]
        if len(words) != 1:
            if not words:
                raise InvalidInput("command", None, KNOWN)
            return words
        command = words[0]
    # a backslash at the end of a line goes on; what a redirection does with output is no matter here
    text = re.sub(r"\s\d?>&\d|\s&>>?\s*\S+", " ", re.sub(r"\\\r?\n", " ", command))
    try:
        # quotes and blanks as a shell has them; operators become words of their own
        lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError as e:
        raise InvalidInput("command", command, f"closed quotes ({e})") from None
    if not words:
        raise InvalidInput("command", None, KNOWN)
    return words


def read_command(command: str | Sequence[str]) -> Command:
    """The engine that a command starts, its words and its environment; raises InvalidInput where it starts none."""
    words = split(command)
    environment: dict[str, str] = {}
    while words:
        end = next((i for i, word in enumerate(words) if word in ENDS), len(words))
        part, operator, words = words[:end], words[end : end + 1], words[end + 1 :]
        found = _program(_redirected(part), environment)
        if found is not None:
            left = " ".join([*operator, *words])
            return Command(*found, environment, left)
    raise InvalidInput("command", " ".join(split(command)), f"a command that starts an engine: {KNOWN}")


def _redirected(words: list[str]) -> list[str]:
    """Words without redirections and their targets."""
    kept: list[str] = []
    skip = False
    for word in words:
        match = REDIRECT.match(word)
        if skip:
            skip = False
        elif match and not word.startswith("<|"):
            skip = not any(match.groups()) and "&" not in word[1:]
        else:
            kept.append(word)
    return kept


def _program(words: list[str], environment: dict[str, str]) -> tuple[str, str, tuple[str, ...]] | None:
    """Engine, program and the words behind it; assignments on the way go into the environment."""
    wrapped = python = False
    for i, word in enumerate(words):
        name, rest = word.rpartition("/")[2].rpartition("\\")[2].removesuffix(".exe"), words[i + 1 :]
        assignment = ASSIGNMENT.match(word)
        if assignment:
            environment[assignment[1]] = assignment[2]
        elif name in ("docker", "podman", "nerdctl") and "run" in rest:
            return _container(rest[rest.index("run") + 1 :], environment)
        elif PYTHON.match(word):
            if rest[:1] == ["-m"] and len(rest) > 1:
                return _module(rest[1], rest[2:])
            python = True
        elif name in SHELLS and len(rest) > 1 and rest[0].startswith("-") and rest[0].endswith("c"):
            inner = read_command(rest[1])
            environment.update(inner.environment)
            return inner.engine, inner.program, inner.words
        elif name == "vllm" and rest[:1] == ["serve"]:
            return "vllm", "vllm serve", tuple(rest[1:])
        elif name in LLAMA and (name.startswith("llama-") or _looks_like_llama(rest)):
            return "llama.cpp", name, tuple(rest)
        elif name == "llama" and rest[:1] in (["serve"], ["server"], ["cli"]):
            return "llama.cpp", "llama-cli" if rest[0] == "cli" else "llama-server", tuple(rest[1:])
        elif name == "sglang" and rest[:1] == ["serve"]:
            return "sglang", "sglang serve", tuple(rest[1:])
        elif python and name in ("launch_server.py", "api_server.py"):
            return "vllm" if name.startswith("api") else "sglang", name, tuple(rest)
        elif name == "trtllm-serve":
            return "tensorrt-llm", name, tuple(rest[1:] if rest[:1] == ["serve"] else rest)
        elif name in ("mlx_lm.server", "mlx_lm"):
            return _module(name, rest)
        elif name in WRAPPERS:
            wrapped = True
        elif not wrapped and not python:
            return None
    return None


def _looks_like_llama(words: Sequence[str]) -> bool:
    return any(word in ("-m", "--model", "-hf", "-c", "--ctx-size", "-ngl", "--n-gpu-layers") for word in words)


def _module(name: str, rest: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    engine = MODULES.get(name)
    if engine is None:
        return None
    if name in ("mlx_lm", "vllm.entrypoints.cli.main"):
        if rest[:1] not in (["server"], ["serve"]):
            return None
        return engine, f"{name} {rest[0]}" if engine == "mlx" else "vllm serve", tuple(rest[1:])
    return engine, name, tuple(rest)


def _container(words: list[str], environment: dict[str, str]) -> tuple[str, str, tuple[str, ...]] | None:
    """The engine of `docker run … IMAGE …`: an image that starts it, or a command inside of one."""
    i, entry = 0, ""
    while i < len(words) and words[i].startswith("-"):
        name, equals, value = words[i].partition("=")
        if ATTACHED.match(name) and name not in DOCKER_SWITCHES:  # -p8000:8000, -eNAME=value
            name, value = words[i][:2], words[i][2:]
        elif not equals and name not in DOCKER_SWITCHES:
            i += 1
            value = words[i] if i < len(words) else ""
        assignment = ASSIGNMENT.match(value) if name in ("-e", "--env") else None
        devices = re.search(r"device=([\w,-]+)", value) if name == "--gpus" else None
        if assignment:
            environment[assignment[1]] = assignment[2]
        elif devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[1]
        elif name == "--entrypoint":
            entry = value
        i += 1
    if i >= len(words):
        return None
    image, rest = words[i].lower(), words[i + 1 :]
    inside = _program([*entry.split(), *rest], environment)
    if inside is not None:
        return inside
    if "vllm" in image:
        return "vllm", "vllm serve", tuple(rest[1:] if rest[:1] == ["serve"] else rest)
    if "llama.cpp" in image and (not rest or rest[0].startswith("-")):
        return "llama.cpp", "llama-server", tuple(rest)
    return None
