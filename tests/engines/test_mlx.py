"""MLX-LM 0.32.2 through ``kvplan.plan``: what its cache classes held when run, and worked numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.engines.mlx import Held, chunked, grow, history, quantized_bytes, rotate
from kvplan.errors import InvalidInput, MissingExtra
from kvplan.validate import mlx

RECORDED = json.loads((Path(__file__).parent.parent / "data/engines/mlx_recorded.json").read_text())
GIB = 2**30


def ask(model: Any, options: dict[str, Any] | None = None, **given: Any) -> kvplan.Report:
    return kvplan.plan(model, engine="mlx", engine_options=options, **given)


@pytest.mark.parametrize("case", RECORDED["cases"], ids=range(len(RECORDED["cases"])))
def test_a_recorded_history(case: dict[str, Any]) -> None:
    report = kvplan.plan(**case["plan"])
    assert case["nbytes"] == report.kv["bytes"]
    if case["prefill_peak"] is not None:
        assert case["prefill_peak"] == report.engine["facts"]["prefill_peak_bytes"]


def test_the_records_are_of_the_version_whose_rules_are_held() -> None:
    assert kvplan.plan("llama-3.1-8b", engine="mlx").engine["version"] == RECORDED["versions"]["mlx-lm"]
    assert [case["plan"] for case in RECORDED["cases"]] == mlx.cases(len(RECORDED["cases"]), RECORDED["seed"])


@pytest.mark.parametrize(
    ("options", "slots", "size"),
    [
        ({}, 5120, 671_088_640),
        ({"max_tokens": 120}, 5120, 671_088_640),
        ({"max_tokens": 121}, 5376, 704_643_072),
        ({"max_tokens": 200}, 5376, 704_643_072),
        ({"kv_bits": 8}, 5120, 5120 * 69632),
        ({"kv_bits": 4}, 5120, 5120 * 36864),
        ({"kv_bits": 4, "quantized_kv_start": 5001}, 5120, 671_088_640),
    ],
)
def test_llama_at_a_prompt_of_5000(options: dict[str, Any], slots: int, size: int) -> None:
    report = ask("llama-3.1-8b", options, context=5000)
    assert (slots, size) == (report.engine["facts"]["global_slots"], report.kv["bytes"])


def test_sliding_layers_hold_a_chunk_beside_their_window() -> None:
    found = ask("gemma-3-12b", {"max_tokens": 512}, context=32768).engine["facts"]
    assert (33280, 1024, 3071) == (found["global_slots"], found["local_slots"], found["local_prefill_slots"])


@pytest.mark.parametrize(
    ("model", "peak", "steady"),
    [("llama-3.1-8b", 16.0, 16.0), ("gemma-3-12b", 8.937, 8.3125), ("gpt-oss-20b", 3.050, 3.0029)],
)
def test_a_prompt_of_131072(model: str, peak: float, steady: float) -> None:
    report = ask(model, context=131072)
    assert peak == round(report.engine["facts"]["prefill_peak_bytes"] / GIB, 3)
    assert steady == round(report.kv["bytes"] / GIB, 4)


def test_what_each_class_keeps() -> None:
    # Gemma 2 and Mistral build no rotating caches; Gemma 3n and 4 none for layers that share
    assert 8192 * 42 * 8 * 512 * 2 == ask("gemma-2-9b", context=8192).kv["bytes"]
    assert 8192 * 131072 == ask("mistral-7b-v0.1", context=8192).kv["bytes"]
    # the first 24 of 42 layers own a cache: 4 full ones of 2 x 512, 20 sliding ones of 2 x 256 (window 512)
    assert 4 * 8192 * 2 * 1024 * 2 + 20 * 512 * 2 * 512 * 2 == ask("gemma-4-e4b", context=8192).kv["bytes"]
    # Llama never asks max_kv_size, Qwen2 does: 4 first tokens stay, the rest rotates
    assert 8192 * 131072 == ask("llama-3.1-8b", {"max_kv_size": 1024}, context=8192).kv["bytes"]
    assert 1024 * 28 * 4 * 256 * 2 == ask("qwen2.5-7b", {"max_kv_size": 1024}, context=8192).kv["bytes"]
    # an indexer's key is cached as key and as value; DeepSeek-V2's class caches expanded heads
    assert 2048 * 61 * (576 + 256) * 2 == ask("deepseek-v3.2", context=2048).kv["bytes"]
    assert 2048 * 27 * 16 * (192 + 128) * 2 == ask("deepseek-v2-lite", context=2048).kv["bytes"]
    # gated delta rule: 3 columns in bf16, states in fp32
    report = ask("qwen3-next-80b-a3b", context=256)
    assert 36 * (3 * 8192 * 2 + 32 * 128 * 128 * 4) == report.kv["state_bytes_per_sequence"]
    assert 256 * 24576 + report.kv["state_bytes_per_sequence"] == report.kv["bytes"]


def test_updates_one_by_one() -> None:
    # from an offset inside a step growth drops its rest; at a step's edge it does not
    assert 300 + 512 == grow(Held(300, 512), 300).slots
    assert 512 + 512 == grow(Held(256, 512), 512).slots
    assert 256 == grow(Held(), 1).slots
    assert 100 == rotate(Held(), 1, 100).slots
    assert 3000 == rotate(Held(), 3000, 1024).slots
    assert Held(3001, 1024, 1) == rotate(Held(3000, 3000, 3000), 1, 1024)
    assert 1023 + 2048 == rotate(Held(3000, 3000, 3000), 2048, 1024).slots
    assert 8192 + 256 == chunked(Held(8193, 8448, 8193), 1, 8192).slots


@pytest.mark.parametrize("chunk", [1, 2, 3, 100, 255, 256, 257, 1000, 2048])
@pytest.mark.parametrize(("path", "bound"), [("kv/global", 0), ("kv/local", 1), ("kv/local", 300), ("kv/chunk", 700)])
def test_shortcuts_equal_the_long_way(path: str, bound: int, chunk: int) -> None:
    """The closed forms of ``history`` against one update after another."""
    for prompt, new in ((1, 3), (2, 0), (777, 900), (3 * chunk + 1, 1), (5000, 300)):
        held, left = Held(), prompt
        steps = []
        while left:
            steps.append(min(chunk, max(left - 1, 1)))
            left -= steps[-1]
        for tokens in steps + [1] * new:
            if path == "kv/chunk":
                held = chunked(held, tokens, bound)
            else:
                held = rotate(held, tokens, bound) if bound else grow(held, tokens)
        now = history(path, prompt, new, chunk, bound)[1]
        assert (held.offset, held.slots) == (now.offset, now.slots)


def test_quantised_rows() -> None:
    # engines' own arithmetic: 8 bits 1.0625 x dim, 4 bits 0.5625 x dim
    assert 136 == quantized_bytes(128, 8, 64, 2)
    assert 72 == quantized_bytes(128, 4, 64, 2)


def test_capacity_counts_the_prompts_peak() -> None:
    report = ask("gemma-3-12b", context=8192, memory="32GiB", runtime_overhead=0)
    capacity = report.capacity
    assert capacity is not None
    assert capacity.max_batch is not None
    room = 32 * GIB - report.to_dict()["weights"]["bytes"]
    one = report.engine["facts"]["prefill_peak_bytes"]
    assert one > report.kv["bytes"]
    assert room // one == capacity.max_batch


@pytest.mark.parametrize(
    ("model", "given", "named"),
    [
        ("llama-3.1-8b", {"kv_dtype": "fp8"}, "kv_bits quantises"),
        ("llama-3.1-8b", {"engine_options": {"kv_bits": 7}}, "2, 3, 4, 5, 6, 8"),
        ("gemma-3-12b", {"engine_options": {"kv_bits": 8}, "context": 5000}, "rotating caches"),
        ("deepseek-v3", {"engine_options": {"kv_bits": 8}, "context": 5000}, "latents"),
        ("deepseek-v4-flash", {}, "pooled entries"),
        ("llama-3.1-8b", {"engine_version": "0.20"}, "0.32.2"),
    ],
)
def test_bad_input(model: str, given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kvplan.plan(model, engine="mlx", **given)


def test_the_real_classes_where_they_are_installed() -> None:
    try:
        rows = mlx.compare(40, 5)
    except MissingExtra:
        pytest.skip("mlx and mlx-lm are not installed; tests/data/engines/mlx_recorded.json holds their answers")
    assert [] == [row.plan for row in rows if row.verdict != "exact"]


def stepped(path: str, prompt: int, chunk: int, bound: int, keep: int) -> list[Held]:
    """The classes' own updates one after another, as a prompt makes them."""
    held, seen = Held(), []
    full, rest = divmod(prompt - 1, chunk)
    for tokens in [chunk] * full + [n for n in (rest, 1) if n]:
        held = chunked(held, tokens, bound) if path == "kv/chunk" else rotate(held, tokens, bound, keep)
        seen.append(held)
    return seen


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(["kv/chunk", "kv/local"]),
    prompt=st.integers(1, 2500),
    chunk=st.sampled_from([1, 2, 3, 7, 64, 255, 256, 257, 512]),
    bound=st.sampled_from([1, 2, 10, 255, 256, 257, 300, 511, 512, 513, 1000, 2000]),
    keep=st.sampled_from([0, 4, 100]),
)
def test_a_bound_that_is_not_reached_is_not_stepped_through(path, prompt, chunk, bound, keep) -> None:
    """The sum of many updates is what they leave one by one, below, at and above the bound."""
    _, now = history(path, prompt, 0, chunk, bound, keep)
    assert stepped(path, prompt, chunk, bound, keep)[-1] == now


def test_a_window_that_nothing_fills_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^40 tokens in a window of 2^40, one at a time: few updates are asked."""
    calls = []
    monkeypatch.setattr("kvplan.engines.mlx.rotate", lambda *a: calls.append(a) or rotate(*a))
    monkeypatch.setattr("kvplan.engines.mlx.chunked", lambda *a: calls.append(a) or chunked(*a))
    for path in ("kv/local", "kv/chunk"):
        for chunk in (1, 2048):
            _, now = history(path, 2**40, 0, chunk, 2**40)
            assert 2**40 == now.offset == now.slots
    assert len(calls) < 5000
