"""Flags of every engine: how they are spelled, what they take, and that none of them is ever dropped."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.launch import ENGINES, _rules
from kvplan.launch.commands import Command
from kvplan.launch.flags import Given, read_flags
from kvplan.launch.reading import Asked, Reading, human_readable
from kvplan.launch.vllm import RULES as VLLM

PROGRAM = {"llama.cpp": "llama-server"}
ASKED = Asked("h100", None, "llama-3.1-8b", None)
# What a flag takes where "1" is not among it; what may be refused is given something allowed.
VALUES = {
    "--dtype": "float16", "--kv-cache-dtype": "fp8", "--hf-overrides": "{}", "--speculative-config": "{}",
    "--json-model-override-args": "{}", "-ctk": "q8_0", "-ctv": "q8_0", "-hf": "org/name", "-fa": "on", "-fit": "on",
    "--mamba-cache-dtype": "float32", "--mamba-ssm-cache-dtype": "float32", "--mamba-cache-mode": "align",
    "--gdn-prefill-backend": "triton", "--mamba-ssm-dtype": "float32", "--mamba-radix-cache-strategy": "auto",
    "--quantization": "fp8",
}  # fmt: skip


def vllm(*words: str) -> list[Given | str]:
    return list(read_flags(words, VLLM.table))


def read(engine: str, *words: str, environment: dict[str, str] | None = None) -> Reading:
    command = Command(engine, PROGRAM.get(engine, ""), words, environment or {}, "")
    return Reading(_rules(engine), command, ASKED)


@pytest.mark.parametrize(
    ("words", "name", "value", "off"),
    [
        (["--max-model-len", "8"], "--max-model-len", "8", False),
        (["--max_model_len=8"], "--max-model-len", "8", False),
        (["--max-model-l", "8"], "--max-model-len", "8", False),
        (["--max-model-len", "-1"], "--max-model-len", "-1", False),
        (["-tp", "2"], "--tensor-parallel-size", "2", False),
        (["-O3"], "--optimization-level", "3", False),
        (["--enforce-eager"], "--enforce-eager", None, False),
        (["--no-enforce-eager"], "--enforce-eager", None, True),
        (["--no-enable-prefix-caching"], "--enable-prefix-caching", None, True),
        (["--disable-prefix-caching"], "--enable-prefix-caching", None, True),
        (["--no-disable-custom-all-reduce"], "--disable-custom-all-reduce", None, True),
        (["--enable-custom-all-reduce"], "--disable-custom-all-reduce", None, True),
    ],
)
def test_spellings_that_vllm_takes(words: list[str], name: str, value: str | None, off: bool) -> None:
    (given,) = vllm(*words)

    assert isinstance(given, Given)
    assert given.flag is not None
    assert (name, value, off) == (given.flag.name, given.value, given.off)


def test_lists_take_words_up_to_the_next_flag() -> None:
    names, port, model = vllm("--served-model-name", "a", "b", "--port", "1", "org/m")

    assert isinstance(names, Given)
    assert isinstance(port, Given)
    assert ("a b", "1", "org/m") == (names.value, port.value, model)


def test_keys_of_a_json_flag_one_by_one() -> None:
    (given,) = vllm("--hf-overrides.rope_scaling.factor", "2.0")

    assert isinstance(given, Given)
    assert ("rope_scaling.factor", "2.0") == (given.path, given.value)


def test_an_unknown_flag_comes_back_with_its_value_and_the_nearest_known_one() -> None:
    unknown, bare, port = vllm("--max-modl-len", "8", "--frob", "--port=1")

    assert isinstance(unknown, Given)
    assert isinstance(bare, Given)
    assert isinstance(port, Given)
    assert (None, "8", "--max-model-len") == (unknown.flag, unknown.value, unknown.nearest)
    assert (None, None) == (bare.flag, bare.value)
    assert port.flag is not None


def test_the_beginning_of_two_flags_is_neither() -> None:
    (given,) = vllm("--max-num", "8")  # --max-num-seqs, --max-num-batched-tokens ...

    assert isinstance(given, Given)
    assert given.flag is None


def test_a_flag_without_its_value_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="--max-model-len: missing"):
        vllm("--max-model-len", "--port", "1")


def test_llama_takes_the_next_word_whatever_it_is_and_no_equals_sign() -> None:
    llama = _rules("llama.cpp").table
    ngl, flash = read_flags(["-ngl", "-1", "-fa"], llama)
    (joined,) = read_flags(["--ctx-size=4096"], llama)

    assert isinstance(ngl, Given)
    assert isinstance(flash, Given)
    assert isinstance(joined, Given)
    assert ("-1", None) == (ngl.value, flash.value)
    assert joined.flag is None


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("auto", "auto"), ("-c", None)])
def test_flash_attn_takes_a_word_where_one_follows(word: str, value: str | None) -> None:
    given = next(read_flags(["-fa", word, "512"], _rules("llama.cpp").table))

    assert isinstance(given, Given)
    assert value == given.value


@pytest.mark.parametrize(
    ("engine", "text", "number"),
    [
        ("vllm", "32k", 32_000),
        ("vllm", "32K", 32_768),
        ("vllm", "25.6k", 25_600),
        ("vllm", "2m", 2_000_000),
        ("vllm", "1M", 2**20),
        ("sglang", "32k", 32_000),
        ("sglang", "32Ki", 32_768),
        ("sglang", "1M", 1_000_000),
        ("sglang", "4096", 4096),
    ],
)
def test_suffixes_mean_what_the_engine_means_by_them(engine: str, text: str, number: int) -> None:
    """As human_readable_int of vLLM 0.33.0 (k 1000, K 1024) and of SGLang 0.5.23 (k 1000, Ki 1024, M 10**6)."""
    assert number == human_readable(text, "--x", _rules(engine).suffixes)


@pytest.mark.parametrize(("engine", "text"), [("vllm", "1.5K"), ("vllm", "1x"), ("sglang", "32K"), ("sglang", "1.5Ki")])
def test_other_suffixes_are_refused(engine: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="to this engine"):
        human_readable(text, "--x", _rules(engine).suffixes)


def test_tables_hold_the_flags_of_real_commands() -> None:
    """A few hundred per engine, no caveat for a flag that no table holds."""
    for engine, least in (("vllm", 250), ("sglang", 400), ("llama.cpp", 250)):
        rules = _rules(engine)
        assert least <= len({flag.name for flag in rules.table.flags.values()})
        assert [] == [name for name in rules.caveats if name not in rules.table.flags]
        assert [] == [name for name in rules.caveats if rules.table.flags[name].name != name]
        assert [] == [flag for flag in rules.environment.values() if flag not in rules.table.flags]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flag_is_named_exactly_once(engine: str) -> None:
    """Read into the plan, not modelled, or without effect: one of them, whatever the flag."""
    model = {"vllm": ["m"], "tensorrt-llm": ["m"]}.get(engine, [])
    own = {"sglang": "--model-path", "mlx": "--model", "llama.cpp": "-m"}.get(engine)
    for flag in {flag.name: flag for flag in _rules(engine).table.flags.values()}.values():
        words = [flag.name] if flag.takes == "switch" else [flag.name, VALUES.get(flag.name, "1")]
        if own is not None and flag.name != own:
            words = [own, "m.gguf", *words]
        reading = read(engine, *model, *words)

        named = [item.flag for item in (*reading.read(), *reading.caveats)] + reading.without_effect()
        about = [item for item in named if item.split()[0].partition("=")[0] == flag.name]
        assert 1 == len(about), (flag.name, named)
        assert [] == reading.unknown


def test_unknown_flags_and_stray_words_are_named() -> None:
    reading = read("vllm", "m", "--frobnicate", "7", "--port", "1", "stray")

    assert ["--frobnicate 7"] == [given.words for given in reading.unknown]
    assert any("'stray'" in note for note in reading.notes)


def test_a_model_behind_an_unknown_flag_is_the_model() -> None:
    reading = read("vllm", "--new-switch", "org/m", "--port", "1")

    assert any("'org/m'" in note for note in reading.notes)
    assert ["--new-switch org/m"] == [given.words for given in reading.unknown]


def test_a_flag_given_twice_counts_once_and_is_said() -> None:
    reading = read("vllm", "m", "--max-model-len", "4096", "--max-model-len", "8192")

    assert 8192 == reading.plan["context"]
    assert ["--max-model-len 4096, then --max-model-len 8192: the last one counts"] == reading.repeated


def test_environment_that_stands_for_flags() -> None:
    reading = read("llama.cpp", "-m", "m.gguf", environment={"LLAMA_ARG_CTX_SIZE": "4096", "LLAMA_ARG_N_PARALLEL": "2"})

    assert (4096, 2) == (reading.options["ctx_size"], reading.options["parallel"])
    # and a flag beside it wins
    both = read("llama.cpp", "-m", "m.gguf", "-c", "8192", environment={"LLAMA_ARG_CTX_SIZE": "4096"})
    assert 8192 == both.options["ctx_size"]
