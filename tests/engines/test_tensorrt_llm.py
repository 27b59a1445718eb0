"""TensorRT-LLM 1.2 through ``kvplan.plan``: worked numbers of its Python cache manager's rules."""

from typing import Any

import pytest

import kvplan
from kvplan.errors import InvalidInput

GIB = 2**30
VSWA = "1024,1024,1024,1024,1024,131072"


def ask(model: Any, options: dict[str, Any] | None = None, **given: Any) -> kvplan.Report:
    return kvplan.plan(model, engine="tensorrt-llm", engine_options=options, **given)


def test_blocks_of_a_budget() -> None:
    # (total 80 - peak 20 + temporary 1) GiB x 0.9
    found = ask("llama-3.1-8b", {"max_gpu_total_bytes": int(61 * GIB * 0.9)}, tp=2).engine["facts"]
    assert (65536, 2 * 2**20) == (found["kv_size_per_token"], found["block_size_bytes"])
    assert (899481, 28108) == (found["max_tokens"], found["blocks_in_primary_pool"])


def test_the_fraction_is_of_free_memory() -> None:
    report = ask("llama-3.1-8b", tp=2, memory="80GiB", runtime_overhead="2GiB")
    kept = {term.path: term.value for term in report.terms if term.path.startswith("engine/")}
    # 8192 tokens x (2 x 4096 + 3 x 14336 / 2) x 2 bytes
    assert 8192 * (2 * 4096 + 3 * 7168) * 2 == kept["engine/activations"]
    free = 80 * GIB - report.to_dict()["weights"]["bytes_per_gpu"] - 2 * GIB - kept["engine/activations"]
    assert int(free * 0.9) // 65536 == report.engine["facts"]["max_tokens"]
    half = ask("llama-3.1-8b", {"free_gpu_memory_fraction": 0.5}, tp=2, memory="80GiB", runtime_overhead="2GiB")
    assert int(free * 0.5) // 65536 == half.engine["facts"]["max_tokens"]


def test_latents_are_on_every_rank() -> None:
    for tp in (1, 8):
        found = ask("deepseek-v3", tp=tp, kv_dtype="fp8").engine["facts"]
        assert (35136, 1_124_352) == (found["kv_size_per_token"], found["block_size_bytes"])


def test_windows_share_the_pool_equally() -> None:
    options = {"max_gpu_total_bytes": 40 * GIB, "max_attention_window": VSWA}
    report = ask("gemma-3-12b", options, context=8192)
    found = report.engine["facts"]
    assert 10240 == found["blocks_in_primary_pool"]
    assert 2048 == found["blocks_in_primary_pool (window 1024)"]
    # a sequence beyond its window holds its blocks and the one it slides into
    assert 8192 * 65536 + (1024 + 32) * 327680 == report.kv["bytes"]
    assert any(
        "Allocated 20.00 GiB for max tokens in paged KV cache (327680)" in line for line in report.engine["printed"]
    )
    # without the list every layer keeps every token
    assert 8192 * 48 * 8192 == ask("gemma-3-12b", context=8192).kv["bytes"]


@pytest.mark.parametrize(
    ("tokens", "blocks"), [(1, 1), (31, 1), (32, 1), (33, 2), (1023, 32), (1024, 32), (1025, 33), (1056, 33)]
)
def test_blocks_at_their_edges(tokens: int, blocks: int) -> None:
    assert 3 * blocks * 32 * 131072 == ask("llama-3.1-8b", context=tokens, batch=3).kv["bytes"]
    report = ask("gemma-3-12b", {"max_attention_window": "1024"}, context=tokens)
    assert blocks * 32 * 48 * 8192 == report.kv["bytes"]
    longer = ask("gemma-3-12b", {"max_attention_window": "1024"}, context=100_000)
    assert 33 * 32 * 48 * 8192 == longer.kv["bytes"]


def test_heads_are_rounded_up_and_nvfp4_adds_scales() -> None:
    # 8 heads over 16 ranks: one each; 10 heads over 4 ranks of a described model: three
    assert 32 * 256 * 2 == ask("llama-3.1-8b", tp=16).engine["facts"]["kv_size_per_token"]
    found = ask(None, layers=1, hidden=1280, heads=20, kv_heads=10, head_dim=64, vocab=100, tp=2).engine["facts"]
    assert 5 * 128 * 2 == found["kv_size_per_token"]
    assert 32 * 8 * (256 // 2 + 256 // 16) == ask("llama-3.1-8b", kv_dtype="nvfp4").engine["facts"]["kv_size_per_token"]


def test_the_pool_of_max_tokens_and_the_host() -> None:
    found = ask("qwen3-8b", {"max_tokens": 33984, "host_cache_size": "1GiB"}).engine["facts"]
    assert 33984 * 2 * 36 * 8 * 128 * 2 == found["kv_cache_size"]
    assert GIB // 147456 // 32 == found["blocks_in_secondary_pool"]


def test_admission() -> None:
    report = ask("llama-3.1-8b", {"max_tokens": 65536, "max_batch_size": 3}, gpu="h100-80gb-sxm", context=8192)
    assert report.capacity is not None
    assert (3, 65536) == (report.capacity.max_batch, report.capacity.max_context)
    report = ask("llama-3.1-8b", {"max_tokens": 65536}, gpu="h100-80gb-sxm", context=8193)
    assert report.capacity is not None
    assert 65536 // 32 // 257 == report.capacity.max_batch


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kv_dtype": "int4"}, "with engine tensorrt-llm"),
        ({"engine_options": {"max_attention_window": "1024,x"}}, "tokens per layer with commas"),
        ({"gpu": "h100-80gb-sxm", "gpu_memory_utilization": 0.8}, "free_gpu_memory_fraction"),
        ({"engine_version": "0.9"}, "1.2"),
    ],
)
def test_bad_input(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kvplan.plan("llama-3.1-8b", engine="tensorrt-llm", **given)
