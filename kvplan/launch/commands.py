"""A shell command that starts an engine: which engine, its own words, and the environment it is given. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from kvplan.errors import InvalidInput

__all__ = ["Command", "not_run", "read_command", "split"]

# Linux passes 2 MiB to a program (ARG_MAX) and 32 pages in a word. Of the shortest words that is 209,715, but an answer
# names each several times: so many take two seconds and 250 MB, and real commands have a few dozen.
MOST_TEXT = 2**21
MOST_WORDS = 2**17
MOST_WORD = 2**17 - 1
MOST_NESTED = 4  # programs that run a command inside of one another: docker, bash -c

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
ENDS = ("|", "||", "&&", ";", "&", "|&")
REDIRECT = re.compile(r"(?:\d|&)?>>?(?!\()(&\d?)?(.*)|<(?![(|])()(.*)", re.DOTALL)
PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
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
LLAMA_FLAGS = ("-m", "--model", "-hf", "-c", "--ctx-size", "-ngl", "--n-gpu-layers")  # of what is called main or server
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

    A sequence of one word with blanks in it is a text, too. What a shell would run (``$(...)``) stays one word, as typed.
    Raises InvalidInput for open quotes, for no words, and for more than any system passes to a program.
    """
    if isinstance(command, str):
        words = [command]
    else:
        try:
            words = [str(word) for word in islice(command, MOST_WORDS + 1)]
        except TypeError:
            raise InvalidInput("command", command, "a text, or the words of one") from None
    if not words:
        raise InvalidInput("command", None, KNOWN)
    if sum(map(len, words)) > MOST_TEXT:
        raise _too_much(f"{sum(map(len, words)):,} characters", f"{MOST_TEXT:,} of them")
    if len(words) == 1:
        try:
            words = _split(words[0])
        except ValueError as e:
            raise InvalidInput("command", words[0], f"closed quotes ({e})") from None
    if not words:
        raise InvalidInput("command", None, KNOWN)
    if len(words) > MOST_WORDS:
        raise _too_much(f"{MOST_WORDS + 1:,} words or more", f"{MOST_WORDS:,} of them")
    longest = max(words, key=len)
    if len(longest) > MOST_WORD:
        raise _too_much(f"a word of {len(longest):,} characters", f"{MOST_WORD:,} of them")
    return words


def _too_much(given: str, most: str) -> InvalidInput:
    return InvalidInput(
        "command",
        given,
        f"at most {most}; real commands have a few dozen words, and Linux passes 2 MiB in words of 128 KiB",
    )


# What stands outside of quotes, and inside of double ones: runs that mean themselves, and marks that do not.
OUTSIDE = re.compile(
    r"""[^ \t\r\n\\;|&'"`$<>]+|[ \t\r\n]+|\\(?:\r?\n|.)?|&>>?|[<>]&|[;|&]+|\$?['"]|`|[$<>]\(|\$\{|.""", re.DOTALL
)
INSIDE = re.compile(r"""[^\\"`$]+|\\(?:\r?\n|.)?|"|`|\$[({]|\$""", re.DOTALL)
# What may open or close something inside of a substitution.
NESTED = re.compile(r"""\\.|[$<>]?\(|\$\{|[)}'"`]""", re.DOTALL)
CLOSED_BY = {"`": "`", "$(": ")", "<(": ")", ">(": ")", "${": "}"}
ANSI = re.compile(
    r"""[^\\']+|\\x[0-9a-fA-F]{1,2}|\\[0-7]{1,3}|\\u[0-9a-fA-F]{1,4}|\\U[0-9a-fA-F]{1,8}|\\.|'""", re.DOTALL
)
LETTERS = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _split(text: str) -> list[str]:
    """Words and operators of a text, in one pass. Raises ValueError for what is not closed."""
    words: list[str] = []
    pieces: list[str] | None = None  # of the word that is being read; None between words
    i = 0
    while i < len(text):
        found = OUTSIDE.match(text, i)
        assert found is not None
        piece = found[0]
        i = found.end()
        if piece[0] in " \t\r\n;|&" or piece in ("\\\n", "\\\r\n"):
            if pieces is not None:
                words.append("".join(pieces))
                pieces = None
            if piece.startswith("&>"):
                pieces = [piece]  # a redirection, and perhaps its target
            elif piece[0] in ";|&":
                words.append(piece)
            if len(words) > MOST_WORDS:  # no need to read on
                return words
            continue
        if pieces is None:
            pieces = []
        if piece == "'":
            end = _find(text, "'", i)
            pieces.append(text[i : end - 1])
            i = end
        elif piece in ('"', '$"'):
            i = _double(text, i, pieces)
        elif piece == "$'":
            i = _ansi(text, i, pieces)
        elif piece in CLOSED_BY:
            end = _closed(text, i, CLOSED_BY[piece])
            pieces.append(piece + text[i:end])
            i = end
        elif piece == "\\":
            raise ValueError("a backslash stands at the end")
        else:
            pieces.append(piece.removeprefix("\\"))
    if pieces is not None:
        words.append("".join(pieces))
    return words


def _find(text: str, mark: str, start: int) -> int:
    """The place behind the next mark."""
    end = text.find(mark, start)
    if end < 0:
        raise ValueError(f"{mark} is not closed")
    return end + 1


def _double(text: str, i: int, pieces: list[str]) -> int:
    """Takes what stands in double quotes; gives the place behind them."""
    while (found := INSIDE.match(text, i)) is not None:
        piece = found[0]
        i = found.end()
        if piece == '"':
            pieces.append("")
            return i
        if piece in CLOSED_BY:
            end = _closed(text, i, CLOSED_BY[piece])
            pieces.append(piece + text[i:end])
            i = end
        elif piece[0] != "\\" or piece[1:] not in ('"', "\\", "`", "$", "\n", "\r\n"):
            pieces.append(piece)
        else:
            pieces.append(piece[1:].strip("\r\n"))
    raise ValueError('" is not closed')


def _closed(text: str, i: int, closer: str) -> int:
    """The place behind a substitution that has begun: what it holds is passed over, however it nests."""
    waiting = [closer]
    while waiting:
        found = NESTED.search(text, i)
        if found is None:
            raise ValueError(f"{waiting[-1]} is missing")
        mark, inner = found[0], waiting[-1]
        i = found.end()
        if mark == inner:
            waiting.pop()
        elif mark == "'" and inner != '"':
            i = _find(text, "'", i)
        elif mark in ('"', "`"):
            waiting.append(mark)
        elif mark == "$(" or (mark[-1] == "(" and inner == ")"):
            waiting.append(")")
        elif mark == "${":
            waiting.append("}")
    return i


def _ansi(text: str, i: int, pieces: list[str]) -> int:
    r"""Takes what stands in the quotes of ``$'\x1b'``; gives the place behind them."""
    taken: list[str] = []
    while (found := ANSI.match(text, i)) is not None:
        piece = found[0]
        i = found.end()
        if piece == "'":
            word = "".join(taken)
            with suppress(UnicodeEncodeError):  # bytes that make a character
                word = word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
            pieces.append(word)
            return i
        if piece[0] != "\\":
            taken.append(piece)
        elif len(piece) > 2 or piece[1] in "01234567":
            number = int(piece[1:], 8) & 255 if piece[1] in "01234567" else int(piece[2:], 16)
            byte = piece[1] not in "uU" and number > 127
            taken.append(chr(0xDC00 + number) if byte else chr(number) if number <= 0x10FFFF else piece)
        else:
            taken.append(LETTERS.get(piece[1], piece[1] if piece[1] in "\\'\"?" else piece))
    raise ValueError("' is not closed")


def not_run(words: Sequence[str]) -> list[str]:
    """Words in which a shell would run something: kvplan takes them as they stand."""
    return [word for word in words if "$(" in word or "`" in word or "<(" in word or ">(" in word]


def read_command(command: str | Sequence[str], depth: int = 0) -> Command:
    """The engine that a command starts, its words and its environment; raises InvalidInput where it starts none."""
    words = split(command)
    environment: dict[str, str] = {}
    start = 0
    while start < len(words):
        end = next((i for i in range(start, len(words)) if words[i] in ENDS), len(words))
        found = _program(_redirected(words[start:end]), environment, depth)
        if found is not None:
            return Command(*found, environment, " ".join(words[end:]))
        start = end + 1
    raise InvalidInput("command", " ".join(words[:100]), f"a command that starts an engine: {KNOWN}")


def _redirected(words: list[str]) -> list[str]:
    """Words without redirections and their targets."""
    kept: list[str] = []
    skip = False
    for word in words:
        match = REDIRECT.fullmatch(word)
        if skip:
            skip = False
        elif match:
            skip = not (match[2] or match[4] or len(match[1] or "") > 1)  # the next word is its target
        else:
            kept.append(word)
    return kept


def _program(words: list[str], environment: dict[str, str], depth: int) -> tuple[str, str, tuple[str, ...]] | None:
    """Engine, program and the words behind it; assignments on the way go into the environment."""
    wrapped = python = False
    last = {word: i for i, word in enumerate(words)}  # where each stands for the last time
    llama = max(last.get(flag, -1) for flag in LLAMA_FLAGS)
    for i, word in enumerate(words):
        name, after = word.rpartition("/")[2].rpartition("\\")[2].removesuffix(".exe"), words[i + 1 : i + 3]
        assignment = ASSIGNMENT.fullmatch(word)
        if assignment:
            environment[assignment[1]] = assignment[2]
        elif name in ("docker", "podman", "nerdctl") and last.get("run", -1) > i:
            return _container(words[words.index("run", i) + 1 :], environment, depth + 1)
        elif PYTHON.fullmatch(name):
            if after[:1] == ["-m"] and len(after) > 1:
                return _module(after[1], words[i + 3 :])
            python = True
        elif name in SHELLS and len(after) > 1 and after[0].startswith("-") and after[0].endswith("c"):
            if depth >= MOST_NESTED:
                return None
            inner = read_command(after[1], depth + 1)
            environment.update(inner.environment)
            return inner.engine, inner.program, inner.words
        elif name == "vllm" and after[:1] == ["serve"]:
            return "vllm", "vllm serve", tuple(words[i + 2 :])
        elif name in LLAMA and (name.startswith("llama-") or llama > i):
            return "llama.cpp", name, tuple(words[i + 1 :])
        elif name == "llama" and after[:1] in (["serve"], ["server"], ["cli"]):
            return "llama.cpp", "llama-cli" if after[0] == "cli" else "llama-server", tuple(words[i + 2 :])
        elif name == "sglang" and after[:1] == ["serve"]:
            return "sglang", "sglang serve", tuple(words[i + 2 :])
        elif python and name in ("launch_server.py", "api_server.py"):
            return "vllm" if name.startswith("api") else "sglang", name, tuple(words[i + 1 :])
        elif name == "trtllm-serve":
            return "tensorrt-llm", name, tuple(words[i + 1 + (after[:1] == ["serve"]) :])
        elif name in ("mlx_lm.server", "mlx_lm"):
            return _module(name, words[i + 1 :])
        elif name in WRAPPERS:
            wrapped = True
        elif not wrapped and not python:
            return None
    return None


def _module(name: str, rest: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    engine = MODULES.get(name)
    if engine is None:
        return None
    if name in ("mlx_lm", "vllm.entrypoints.cli.main"):
        if rest[:1] not in (["server"], ["serve"]):
            return None
        return engine, f"{name} {rest[0]}" if engine == "mlx" else "vllm serve", tuple(rest[1:])
    return engine, name, tuple(rest)


def _container(words: list[str], environment: dict[str, str], depth: int) -> tuple[str, str, tuple[str, ...]] | None:
    """The engine of `docker run … IMAGE …`: an image that starts it, or a command inside of one."""
    if depth > MOST_NESTED:
        return None
    i, entry = 0, ""
    while i < len(words) and words[i].startswith("-"):
        name, equals, value = words[i].partition("=")
        if ATTACHED.match(name) and name not in DOCKER_SWITCHES:  # -p8000:8000, -eNAME=value
            name, value = words[i][:2], words[i][2:]
        elif not equals and name not in DOCKER_SWITCHES:
            i += 1
            value = words[i] if i < len(words) else ""
        assignment = ASSIGNMENT.fullmatch(value) if name in ("-e", "--env") else None
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
    inside = _program([*entry.split(), *rest], environment, depth)
    if inside is not None:
        return inside
    if "vllm" in image:
        return "vllm", "vllm serve", tuple(rest[1:] if rest[:1] == ["serve"] else rest)
    if "llama.cpp" in image and (not rest or rest[0].startswith("-")):
        return "llama.cpp", "llama-server", tuple(rest)
    return None
