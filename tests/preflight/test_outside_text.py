"""Command lines from a file, a chat or a clipboard: however long, deep or odd, they are answered or refused in one line."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kvplan
from kvplan.catalog import model_preset
from kvplan.cli import app
from kvplan.errors import InvalidInput, KvplanError
from kvplan.launch import _rules, commands, flags, preflight, reading
from kvplan.launch.commands import MOST_TEXT, MOST_WORD, MOST_WORDS, read_command, split
from kvplan.launch.flags import MOST, read_flags
from kvplan.launch.models import preset_of_file, quantized_name
from kvplan.text import shell

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
VLLM = ["vllm", "serve", MODEL]
LLAMA = ["llama-server", "-m", "Llama-3.1-8B-Q4_K_M.gguf"]
SGLANG = ["python", "-m", "sglang.launch_server", "--model-path", MODEL]


def printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def answer(words: str | list[str], gpu: str = "h100", **how: Any) -> str:
    """What a person reads: the answer or the error, which are both fit to be shown."""
    try:
        found = preflight(words, gpu, **how)
    except KvplanError as e:
        text, data = str(e), "{}"
    else:
        text, data = found.to_text(), found.to_json()
    assert printable(text)
    assert printable(data)
    assert "\n" not in text or data != "{}"  # an error is one line
    assert isinstance(json.loads(data), dict)
    return text


# --- many ------------------------------------------------------------------------------------------------------------


class Counted(list[str]):
    """Words that count how many of them are copied or looked at."""

    seen = 0

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            return super().__getitem__(key)
        part = Counted(super().__getitem__(key))
        Counted.seen += len(part)
        return part

    def __contains__(self, word: object) -> bool:
        Counted.seen += len(self)
        return super().__contains__(word)

    def __iter__(self) -> Iterator[str]:
        Counted.seen += len(self)
        return super().__iter__()


@pytest.mark.parametrize(
    ("before", "word"),
    [
        ([], ["A=B"]), ([], ["sudo"]), ([], ["sudo", "word"]), ([], ["python", "word"]), (["sudo"], ["main"]),
        (["sudo"], ["docker"]), (["sudo"], ["bash"]), ([], ["python"]), ([], ["cd", "&&"]), ([], ["cd", "|"]),
        (["docker", "run"], ["-e", "A=1"]), ([], ["docker", "run", "image"]),
    ],
)  # fmt: skip
def test_words_before_the_engine_are_looked_at_a_few_times_each(
    before: list[str], word: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Counted([*before, *word * 1000, "vllm", "serve", "m"])
    monkeypatch.setattr(commands, "split", lambda command: words)
    monkeypatch.setattr(commands, "_redirected", Counted)
    Counted.seen = 0
    with suppress(InvalidInput):  # a thousand containers inside of one another, none of which starts an engine
        assert ("m",) == read_command("").words

    assert Counted.seen <= 20 * len(words)


def test_flags_that_nobody_knows_are_looked_up_by_their_beginning_and_few_by_likeness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Looked(dict[str, Any]):
        times = 0

        def __iter__(self) -> Iterator[str]:
            Looked.times += 1
            return super().__iter__()

    known = _rules("vllm").table
    known = known._replace(flags=Looked(known.flags))
    unknown = list(read_flags([f"--max-modl-len{i}" for i in range(1000)], known))

    assert Looked.times <= MOST
    assert [True] * MOST + [False] * (1000 - MOST) == [bool(item.nearest) for item in unknown]  # type: ignore[union-attr]


def test_words_are_read_once_however_many_changes_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {"words": 0, "models": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            asked[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(reading, "read_flags", counted("words", flags.read_flags))
    monkeypatch.setattr(reading, "find_model", counted("models", reading.find_model))
    found = preflight([*VLLM, "--hf-overrides.rope_theta", "1e6"], "rtx-4090")

    assert found.changes
    assert {"words": 1, "models": 1} == asked


N = 3000
MANY: dict[str, list[str]] = {
    "unknown": [*VLLM, *(f"--unknown{i}" for i in range(N))],
    "unknown, with values": [*VLLM, *(word for i in range(N) for word in (f"--unknown{i}", "1"))],
    "unknown, to SGLang": [*SGLANG, *(f"--unknown{i}" for i in range(N))],
    "unknown, to llama.cpp": [*LLAMA, *(f"--unknown{i}" for i in range(N))],
    "joined, to llama.cpp": [*LLAMA, *(f"--ctx-size={i}" for i in range(N))],
    "stray": [*VLLM, *map(str, range(N))],
    "stray, to llama.cpp": [*LLAMA, *map(str, range(N))],
    "given again": [*VLLM, *(word for i in range(N) for word in ("--max-model-len", str(i + 1)))],
    "one letter": [*VLLM, *(f"-O{i}" for i in range(N))],
    "keys": [*VLLM, *(word for i in range(N) for word in (f"--hf-overrides.a{i}", "1"))],
    "keys that are not modelled": [*VLLM, *(word for i in range(N) for word in (f"--compilation-config.a{i}", "1"))],
    "a list": [*VLLM, "--served-model-name", *map(str, range(N))],
    "not run": [*VLLM, *(f"$(echo {i})" for i in range(N))],
    "long": [*VLLM, *(f"--{letter}{'x' * 10_000}" for letter in "abcdef"), "--port", "1" * 10_000],
    "unprintable": [*VLLM, *("\x1b" * 100 for _ in range(N))],
}


@pytest.mark.parametrize("name", MANY)
def test_a_terminal_shows_the_first_of_many(name: str) -> None:
    found = preflight(MANY[name], "h100", config="llama-3.1-8b")
    text = found.to_text()

    assert len(text.splitlines()) < 400
    assert len(text) < 40_000
    assert len(found.why) < 2000
    if name in ("unknown", "keys that are not modelled"):
        assert f"and {N - MOST:,} more" in text


def test_all_unknown_flags_are_in_the_data() -> None:
    data = json.loads(preflight(MANY["unknown"], "h100").to_json())

    assert [f"--unknown{i}" for i in range(N)] == [flag["flag"] for flag in data["flags"]["unknown"]]


def test_a_flag_given_often_is_one_note() -> None:
    assert (f"--max-model-len 1, then {N - 2:,} more, then --max-model-len {N}: the last one counts",) == tuple(
        preflight(MANY["given again"], "h100").reading.repeated
    )


@pytest.mark.parametrize(
    "command",
    [
        "vllm serve " + "m" * MOST_TEXT,
        "x " * (MOST_WORDS + 1),
        [*VLLM, "x" * (MOST_WORD + 1)],
        "vllm serve " + "m" * (MOST_WORD + 1),
        ["vllm", *["x" * 1000] * 3000],
        repeat("x"),
        f"bash -c '{'x' * MOST_WORD}y'",
    ],
    ids=["text", "words", "word", "word of a text", "sum", "endless", "inner"],
)
def test_what_no_system_passes_on_is_refused(command: Any) -> None:
    with pytest.raises(InvalidInput, match=r"command: got '.* (characters|words or more)', allowed: at most [\d,]+"):
        preflight(command, "h100")


# --- odd -------------------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "\x1b]0;x\x07", "‮", "$(id)", "`id`", "<(id)", "'", '"', "\\", "&&", "|", ">"]),
    st.sampled_from(
        ["--max-model-len", "-tp", "--hf-overrides", "--hf-overrides.a.b", "--speculative-config", "--dtype"]
    ),
    st.sampled_from(
        ["--quantization", "-c", "-ngl", "--model", "-m", "--port=1", "A=\x1b", "bash", "-c", "docker", "run"]
    ),
    st.sampled_from(["NaN", '{"a": NaN}', '{"a": 1e999}', "[" * 100, '{"a":' * 2000, "9" * 5000, "-1", "1e3", "²"]),
)
ODD = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@ODD
@given(
    before=st.lists(WORDS, max_size=2), after=st.lists(WORDS, max_size=6), start=st.sampled_from([VLLM, LLAMA, SGLANG])
)
def test_any_words_are_answered_or_refused_in_printable_lines(
    before: list[str], after: list[str], start: list[str]
) -> None:
    answer([*before, *start, *after], config="llama-3.1-8b")


@ODD
@given(st.text(max_size=80))
def test_any_text_is_answered_or_refused_in_printable_lines(text: str) -> None:
    answer(text)
    answer(f"vllm serve {MODEL} {text}")


@pytest.mark.parametrize(
    "flag", ["--quantization", "--attention-backend", "--load-format", "--model", "--x\x1b", "-O\x1b"]
)
@pytest.mark.parametrize("value", ["\x1b[2J", "a\nb", "‮", "x\x1b" * 10_000, "\ud800", "\x9b31m"])
def test_values_do_nothing_to_a_terminal(flag: str, value: str) -> None:
    assert len(answer([*VLLM, flag, value], "rtx-4090")) < 6000
    assert len(answer([f"PYTORCH_CUDA_ALLOC_CONF={value}", f"VLLM_ATTENTION_BACKEND={value}", *VLLM])) < 6000


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--hf-overrides", '{"a":' * 10_000 + "1" + "}" * 10_000),
        ("--hf-overrides", '{"a":' * 900 + "1" + "}" * 900),
        ("--hf-overrides", '{"a": ' + "9" * 5000 + "}"),
        ("--hf-overrides", '{"hidden_size": NaN}'),
        ("--hf-overrides", '{"hidden_size": 1e999}'),
        ("--hf-overrides", "[]"),
        ("--hf-overrides", "\ud800"),
        ("--hf-overrides.a", "[" * 60_000),
        ("--hf-overrides." + "a." * 60_000 + "a", "1"),
        ("--hf-overrides.hidden_size", "9" * 5000),
        ("--speculative-config", '{"method": ' + "[" * 900 + "]" * 900 + "}"),
        ("--compilation-config." + "a." * 60_000 + "a", "1"),
        ("--max-model-len", "9" * 5000),
        ("--tensor-parallel-size", "9" * 100_000),
        ("--gpu-memory-utilization", "0." + "9" * 100_000),
        ("--" + "a" * 100_000, "1"),
        ("-" + "1" * 100_000 + "x", "1"),
    ],
)
def test_values_of_any_size_and_depth(flag: str, value: str) -> None:
    assert len(answer([*VLLM, flag, value])) < 4000


@pytest.mark.parametrize(
    "value", ["1e999", "-1e999", "1e300", "-5", "true", "0", "9" * 4000, '"x"', "[1]", "{}", "null"]
)
def test_lengths_of_a_config_that_are_none(value: str) -> None:
    """What stands in the config for the model's own length: it is read, refused in one line, or passed by."""
    for config in (
        {"rope_scaling": {"rope_type": "linear", "factor": "VALUE"}},
        {"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": "VALUE"},
        {"rope_scaling": {"rope_type": "VALUE", "factor": 2}},
        {"max_position_embeddings": "VALUE"},
    ):
        answer([*VLLM, "--hf-overrides", json.dumps(config).replace('"VALUE"', value)])


@pytest.mark.parametrize("name", ["-" * 100_000, "-0" * 50_000, "Q4" + "_A" * 49_000, "Q4-" * 33_000, "-gguf" * 20_000])
def test_names_of_any_size(name: str) -> None:
    for model in (f"a/x{name}x", f"a/x{name}.gguf", f"x{name}-4bit"):
        assert preset_of_file(model) is None
        quantized_name(model)
        for words in (["mlx_lm.server", "--model", model], ["llama-server", "-hf", model], ["vllm", "serve", model]):
            answer(words, config="llama-3.1-8b")
            answer(words)


def test_endings_of_names_are_still_read() -> None:
    for name in ("Llama-3.1-8B-Instruct--.GGUF", "org/Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "llama-3.1-8b_Q8_0.gguf"):
        assert preset_of_file(name) in ("llama-3.1-8b", "llama-3.1-8b-instruct"), name


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Paths that are no config.json, by what they are."""
    for name in ("pipe", "pipe.json", "pipe.gguf"):
        os.mkfifo(tmp_path / name)
    for name, to in (("loop.json", "loop.json"), ("zero.json", "/dev/zero")):
        (tmp_path / name).symlink_to(to)
    for name in ("of-a-pipe", "of-a-device", "of-a-folder"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "of-a-pipe/config.json")
    (tmp_path / "of-a-device/config.json").symlink_to("/dev/zero")
    (tmp_path / "of-a-folder/config.json").mkdir()
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**31)
    here = {path.name: str(path) for path in tmp_path.iterdir()}
    odd = ["\0", "a\0.json", "~\0", "~nobody-of-that-name/x", "\ud800/x.json", "a/" + "b" * 5000, "b" * 5000 + ".json"]
    return here | {"/dev/zero": "/dev/zero"} | {name: name for name in odd}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_paths_that_are_no_config(places: dict[str, str]) -> None:
    for path in places.values():
        with pytest.raises(KvplanError) as caught:
            preflight(VLLM, "h100", config=path)
        assert str(caught.value).isprintable()
        with pytest.raises(KvplanError) as caught:
            preflight(["vllm", "serve", path], "h100")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("config", [["a"], 7, b"x"])
def test_what_is_no_path(config: Any) -> None:
    with pytest.raises(InvalidInput, match="--config"):
        preflight(VLLM, "h100", config=config)


def test_a_path_may_be_one_of_pathlib(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(model_preset("llama-3.1-8b").config)

    assert preflight(VLLM, "h100", config=tmp_path).starts


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_presets_that_cannot_be_read_are_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/folder.toml").mkdir(parents=True)
    (tmp_path / "models/binary.toml").write_bytes(b"\xff\0" * 9000)
    os.mkfifo(tmp_path / "models/pipe.toml")
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))
    kvplan.catalog._preset_spec.cache_clear()

    assert preflight(VLLM, "h100").starts


# --- a shell's words -------------------------------------------------------------------------------------------------


@ODD
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2))
def test_a_command_that_is_printed_reads_back_as_its_words(words: list[str]) -> None:
    assert words == split(shell(words))


@ODD
@given(st.text("ab '\"\\;|& \t"))
def test_words_are_what_the_standard_library_takes_them_for(text: str) -> None:
    """But for lines that go on and redirections, which a shell has and shlex has not."""
    text += " end"
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        expected = list(lexer)
    except ValueError:
        with pytest.raises(InvalidInput, match="closed quotes"):
            split(text)
        return
    assert expected == split(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("$(cat a b)", "$(cat a b)"),
        ("x$(echo $(echo ')') \"$(id)\")y", "x$(echo $(echo ')') \"$(id)\")y"),
        ("`cat a b`", "`cat a b`"),
        ("<(cat a b)", "<(cat a b)"),
        ('"a $(cat \'b \\" c\') d"', "a $(cat 'b \\\" c') d"),
        ("${A:-b c}", "${A:-b c}"),
        ("$((1 + (2)))", "$((1 + (2)))"),
        ("$'a\\x1b\\n\\303\\251\\u20ac\\''", "a\x1b\né€'"),
        ("'$(id)'", "$(id)"),
        ("'a &> b'", "a &> b"),
        ('"a\\\nb"', "ab"),
    ],
)
def test_what_a_shell_would_run_stays_one_word(text: str, word: str) -> None:
    assert ["vllm", "serve", word, "--port"] == split(f"vllm serve {text} --port")


@pytest.mark.parametrize("text", ["$(a", "`a", "${a", "<(a", "$(a 'b)", "'a", '"a', "$'a", "a\\"])
def test_what_is_not_closed_is_said(text: str) -> None:
    with pytest.raises(InvalidInput, match="closed quotes"):
        split(f"vllm serve {text}")


@pytest.mark.parametrize("run", ["$(touch {})", "`touch {}`", "<(touch {})", ">(touch {})"])
def test_nothing_is_run_and_it_is_said(run: str, tmp_path: Path) -> None:
    """As a value, in a variable, as the model, in an inner shell; as one text and as words."""
    mark = tmp_path / "mark"
    word = run.format(mark)
    for command in (f"vllm serve {MODEL} --port {word}", [*VLLM, "--port", word], f"X={word} vllm serve {MODEL}"):
        found = preflight(command, "h100")
        assert any("stands as typed: kvplan runs nothing" in note and "touch" in note for note in found.notes)
        assert "kvplan runs nothing" in " ".join(found.to_text(200).split())
    for command in (f"vllm serve {word}", f'bash -c "vllm serve {word}"'):
        with pytest.raises(InvalidInput, match="touch"):
            preflight(command, "h100")

    assert not mark.exists()


@pytest.mark.parametrize(
    "tail", ["> log 2>&1", "2> log", "&> log", ">> log", ">& log", "< in", "2>&1 > log", "&>> log"]
)
def test_redirections_are_no_words(tail: str) -> None:
    assert ("m", "--port", "1") == read_command(f"vllm serve m --port 1 {tail}").words


def test_the_command_line_answers_too() -> None:
    result = CliRunner().invoke(app, ["preflight", "--gpu", "h100", "--", *VLLM, *(f"--u{i}\x1b" for i in range(2000))])

    assert 0 == result.exit_code
    assert printable(result.stdout)
    assert len(result.stdout.splitlines()) < 200


@pytest.mark.parametrize("command", [7, None, b"vllm serve m", [None], [], ["", ""]])
def test_what_is_no_command(command: Any) -> None:
    with pytest.raises(InvalidInput, match="command"):
        preflight(command, "h100")
