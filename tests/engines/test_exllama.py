"""ExLlamaV3 1.4.1 and ExLlamaV2 0.3.2 through ``kvplan.plan``: arithmetic of the shapes that their sources allocate."""

from typing import Any

import pytest

import kvplan
from kvplan.errors import InvalidInput


def ask(model: Any, options: dict[str, Any] | None = None, **given: Any) -> kvplan.Report:
    return kvplan.plan(model, engine="exllama", engine_options=options, **given)


@pytest.mark.parametrize(
    ("options", "llama", "latent"),
    [
        ({}, 131072, 1152),
        ({"k_bits": 8}, 69632, 672),
        ({"k_bits": 6, "v_bits": 6}, 53248, 544),
        ({"v_bits": 4}, 36864, 416),
        ({"k_bits": 8, "v_bits": 4}, (69632 + 36864) // 2, 672),
    ],
)
def test_bytes_per_token(options: dict[str, Any], llama: int, latent: int) -> None:
    report = ask("llama-3.1-8b", options, context=1000)
    assert llama == report.engine["facts"]["bytes_per_token"]
    assert 1024 * llama == report.kv["bytes"]
    assert 61 * latent == ask("deepseek-v3", options).engine["facts"]["bytes_per_token"]


@pytest.mark.parametrize(("tokens", "pages"), [(1, 1), (255, 1), (256, 1), (257, 2), (512, 2), (513, 3)])
def test_pages_of_256(tokens: int, pages: int) -> None:
    assert 3 * pages * 256 * 131072 == ask("llama-3.1-8b", context=tokens, batch=3).kv["bytes"]
    assert 65536 * 131072 == ask("llama-3.1-8b", {"max_num_tokens": 65536}, context=tokens).kv["bytes"]


def test_rings_of_sliding_layers() -> None:
    # gpt-oss: 12 layers of 16 rings of up(128 + 512, 256) = 768 slots, 8 heads of 64; Gemma 3 has none
    report = ask("gpt-oss-20b", context=1000)
    assert 12 * (16 * 768 + 1024) * 8 * 64 * 4 == report.kv["bytes"]
    assert 12 * (2 * 768 + 1024) * 8 * 64 * 4 == ask("gpt-oss-20b", {"max_batch_size": 2}, context=1000).kv["bytes"]
    assert 24 * 1024 * 8 * 64 * 4 == ask("gpt-oss-20b", {"swa_full": True}, context=1000).kv["bytes"]
    assert 1024 * 48 * 8192 == ask("gemma-3-12b", context=1000).kv["bytes"]


def test_states_per_slot() -> None:
    # 36 layers: 4 columns of 8192 channels in bf16, 32 heads of 128 x 128 in fp32
    for slots, history in ((16, 0), (1, 0), (4, 3)):
        report = ask("qwen3-next-80b-a3b", {"max_batch_size": slots, "max_history": history})
        size = 36 * slots * (8192 * (4 + history) * 2 + 32 * 128 * 128 * 4 * (history + 1))
        assert size == report.kv["state_bytes_per_sequence"]


@pytest.mark.parametrize(
    ("mode", "sixteenths", "temporary"),
    [("FP16", 256, 0), ("FP8", 128, 1), ("Q4", 72, 1), ("Q6", 104, 1), ("Q8", 136, 1)],
)
def test_version_2(mode: str, sixteenths: int, temporary: int) -> None:
    """16, 8, 4.5, 6.5 and 8.5 bits; 8-bit keys and 4-bit values of Q6; one layer in fp16 beside all but FP16."""
    report = ask("llama-3.1-8b", {"cache_mode": mode}, engine_version="2", context=1000, batch=2)
    elements = 2 * 1000 * 2 * 8 * 128
    assert 32 * elements * sixteenths // 128 + temporary * elements * 2 == report.kv["bytes"]
    assert report.engine["version"].endswith("0.3.2")


def test_version_2_rows_fill_blocks_of_512() -> None:
    # one head of 64: eight rows to a block, 1001 slots become 1008
    numbers = {"layers": 2, "hidden": 256, "heads": 4, "kv_heads": 1, "head_dim": 64, "vocab": 64}
    for mode, slots in (("Q8", 1008), ("FP8", 1001)):
        report = ask(None, {"cache_mode": mode}, engine_version="2", context=1001, **numbers)
        assert slots == report.engine["facts"]["max_seq_len"]
    assert 2 * 1001 * 128 + 1001 * 128 * 2 == report.kv["bytes"]


def test_admission() -> None:
    report = ask("llama-3.1-8b", {"max_num_tokens": 8192}, gpu="h100-80gb-sxm", context=1000)
    assert report.capacity is not None
    assert (8, 8192) == (report.capacity.max_batch, report.capacity.kv_tokens)
    report = ask("llama-3.1-8b", {"max_num_tokens": 65536}, gpu="h100-80gb-sxm", context=1000)
    assert report.capacity is not None
    assert 16 == report.capacity.max_batch


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"engine_options": {"max_num_tokens": 1000}}, "multiple of the page of 256"),
        ({"engine_options": {"k_bits": 9}}, "2 to 8 bits"),
        ({"kv_dtype": "fp8"}, "k_bits and v_bits"),
        ({"engine_version": "2", "engine_options": {"k_bits": 4}}, "cache_mode"),
        ({"engine_version": "4"}, "ExLlamaV3"),
    ],
)
def test_bad_input(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kvplan.plan("llama-3.1-8b", engine="exllama", **given)
    with pytest.raises(InvalidInput, match="latents"):
        kvplan.plan("deepseek-v3", engine="exllama", engine_version="2")


def test_versions() -> None:
    for asked, version in (
        ("3", "3-1.4.1"),
        ("v3", "3-1.4.1"),
        ("1.4.1", "3-1.4.1"),
        ("2", "2-0.3.2"),
        ("0.3.2", "2-0.3.2"),
    ):
        assert version == ask("llama-3.1-8b", engine_version=asked).engine["version"]
