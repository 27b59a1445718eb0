"""Engine vllm before 0.33: which release plans by which rules, and the V0 engine."""

from __future__ import annotations

from typing import Any

import pytest

import kvplan
from kvplan.engines import find_engine
from kvplan.engines.vllm.versions import parse, rules
from kvplan.errors import InvalidInput

GIB = 2**30
TINY = {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 2, "head_dim": 64, "vocab": 100}


def ask(version: str, model: Any = None, options: dict[str, Any] | None = None, **flags: Any) -> dict[str, Any]:
    return kvplan.plan(model, engine="vllm", engine_version=version, engine_options=options, **flags).engine


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.6.4.post1", (0, 6, 4)),
        ("0.9.0.1", (0, 9, 0)),
        ("0.10.1.dev101", (0, 10, 1)),
        ("0.15.0rc3", (0, 15, 0)),
        ("0.33.0+cu129", (0, 33, 0)),
        ("v0.11.0", (0, 11, 0)),
        ("0.20", (0, 20, 99)),  # the last patch of it
    ],
)
def test_names_of_releases(version: str, release: tuple[int, int, int]) -> None:
    assert release == parse(version)
    assert find_engine("vllm", version).version == version


@pytest.mark.parametrize("version", ["0.34.0", "1.0", "0.0.9", "main", "0", "0.33.x"])
def test_releases_without_rules(version: str) -> None:
    with pytest.raises(InvalidInput, match=r"engine_version.*allowed: a release of vllm from 0.1.0 to 0.33.0"):
        ask(version, **TINY)


def test_utilization_by_release() -> None:
    """0.92 since 0.20.0 (config/cache.py), 0.9 before."""
    assert 0.9 == find_engine("vllm", "0.19.1").utilization
    assert 0.92 == find_engine("vllm", "0.20.0").utilization == find_engine("vllm").utilization


@pytest.mark.parametrize(
    ("version", "groups"),
    [
        ("0.8.5", "25"),  # windows are kept like full attention
        ("0.11.0", "12,12,1"),  # the smallest bucket sets the size: 12 windows; 12 full and the draft's one
        ("0.12.0", "12,13"),  # 13 < 1.25 x 12
        ("0.33.0", "12,13"),
    ],
)
def test_groups_beside_a_draft_layer(version: str, groups: str) -> None:
    """gpt-oss-20b and one EAGLE layer: 12 windows beside 13 full layers."""
    facts = ask(version, "gpt-oss-20b", {"num_speculative_layers": 1}, context=4096)["facts"]

    assert sorted(groups.split(",")) == sorted(
        _halved(facts["group_sizes"]) if version == "0.11.0" else facts["group_sizes"].split(",")
    )


def _halved(sizes: str) -> list[str]:
    """Layers go to groups in turn: 13 full layers in two groups are 7 and 6, which wastes as much as 12 and 1."""
    found = [int(size) for size in sizes.split(",")]
    assert [12, 7, 6] == found or [7, 6, 12] == found
    return ["12", "12", "1"]


def test_group_size_factor_by_release() -> None:
    """4 full layers beside 5 windows: 5 < 1.5 x 4 makes groups of 5, 5 < 1.25 x 4 does not hold (0.12 to 0.17)."""
    model = {
        "model_type": "gemma3_text",
        "num_hidden_layers": 9,
        "hidden_size": 512,
        "intermediate_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 100,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 4 + ["sliding_attention"],
    }
    sizes = {v: ask(v, model, context=64)["facts"]["group_sizes"] for v in ("0.17.1", "0.18.0", "0.33.0")}

    assert {"0.17.1": "3,2,4", "0.18.0": "5,4", "0.33.0": "5,4"} == sizes


def test_tokens_changed_their_meaning() -> None:
    """Gemma-3-12B, 40 GiB: 40,960 blocks. Until 0.20.0 every group's share, 40960 // 6 x 16; then concurrency x length."""
    options = {"kv_cache_memory_bytes": 40 * GIB, "max_num_batched_tokens": 8192}
    old = ask("0.20.0", "gemma-3-12b", options, context=131072)["facts"]
    new = ask("0.20.1", "gemma-3-12b", options, context=131072)["facts"]

    assert 40960 // 6 * 16 == old["kv_cache_size_tokens"]
    assert old["max_concurrency"] == new["max_concurrency"]
    # a window takes ceil((1023 + 8192) / 16) + 1 = 577 blocks: one batch in flight until 0.26
    assert int(40960 / (8192 + 5 * 577) * 131072) == new["kv_cache_size_tokens"]


def test_tokens_in_flight_by_release() -> None:
    """Two batches with asynchronous scheduling since 0.26.0; before, one, however many ran."""
    options = {"max_num_batched_tokens": 100}
    in_flight = {
        v: ask(v, **TINY, options=options, context=64)["facts"]["max_in_flight_tokens"] for v in ("0.25.1", "0.26.0")
    }

    assert {"0.25.1": 100, "0.26.0": 200} == in_flight


def test_the_block_that_stands_for_none_counts_since_0_29() -> None:
    """63 blocks hold a request of 1,000 tokens in 63 blocks until then."""
    options = {"num_gpu_blocks_override": 63}
    for version, fits in [("0.28.0", True), ("0.29.0", False)]:
        printed = ask(version, **TINY, options=options, context=1000)["printed"]
        assert fits is not any("To serve at least one request" in line for line in printed)


def test_pages_of_several_sizes_by_release() -> None:
    """Gemma 4 26B: pages of 32,768 (full) and 131,072 bytes (windows) have one size since 0.12, by longer blocks."""
    facts = ask("0.12.0", "gemma-4-26b-a4b", context=4096)["facts"]
    # full: 2 heads x 1,024 x 2 bytes = 4,096 a token; windows: 8 x 512 x 2 = 8,192
    assert {"16", "32"} == set(facts["group_block_sizes"].split(","))
    with pytest.raises(InvalidInput, match=r"engine_version: got '0.11.0', allowed: 0.12.0 or later"):
        ask("0.11.0", "gemma-4-26b-a4b", context=4096)


def test_prefix_caching_of_states_by_release() -> None:
    """Off by default until 0.25, where one state is kept; on since 0.26, where two are."""
    for version, each in [("0.25.1", 1), ("0.26.0", 2)]:
        facts = ask(version, "qwen3-next-80b-a3b", context=5440)["facts"]
        assert 3 * each + 10 == facts["blocks_per_request"], version


def test_mode_all_keeps_a_state_per_block() -> None:
    """0.15 to 0.31, Mamba-2 with prefix caching: a block is a multiple of 256 tokens that a state fits into."""
    facts = ask("0.21.0", "falcon-h1-3b", {"enable_prefix_caching": True}, context=4096)["facts"]
    # a state is 3 x 4,608 x 2 + 32 x 128 x 256 x 2 = 2,124,800 bytes, a token 1,024: 2,075 tokens, 2,304 in blocks of 256
    assert ("all", 2304, 2 * 2) == (facts["mamba_cache_mode"], facts["block_size"], facts["blocks_per_request"])


def test_alignment_beside_latents_by_release() -> None:
    """Kimi Linear's state is 2,170,880 bytes, a token 1,152: 1,885 tokens, in blocks of 64 until 0.19, then of 128."""
    blocks = {
        v: ask(v, "kimi-linear-48b-a3b", context=4096)["facts"]["block_size"] for v in ("0.12.0", "0.19.1", "0.20.0")
    }

    assert {"0.12.0": 1920, "0.19.1": 1920, "0.20.0": 1920} == blocks
    # with a state of 64 columns less the difference shows: Qwen3-Next's block is 544 under multiples of 16 ...
    assert 544 == ask("0.19.1", "qwen3-next-80b-a3b", {"block_size": 32}, context=4096)["facts"]["block_size"]
    # ... and since 0.20 a multiple of the block that was asked for
    assert 640 == ask("0.20.0", "qwen3-next-80b-a3b", {"block_size": 128}, context=4096)["facts"]["block_size"]


def test_messages_by_release() -> None:
    options = {"kv_cache_memory_bytes": GIB}
    said = {
        v: ask(v, "llama-3.1-8b", options, context=131072)["printed"][-1]
        for v in ("0.8.0", "0.11.0", "0.14.0", "0.33.0")
    }

    assert "with the models's max seq len (131072), (16.00 GB KV cache is needed" in said["0.8.0"]
    assert "estimated" not in said["0.8.0"]
    assert (
        "(16.00 GiB KV cache is needed, which is larger than the available KV cache memory (1.00 GiB)."
        in said["0.11.0"]
    )
    assert "the estimated maximum model length is 8192." in said["0.11.0"]
    assert "(16.0 GiB KV cache is needed" in said["0.14.0"]
    assert "with the model's max seq len" in said["0.33.0"]
    two = ask("0.21.0", "llama-3.1-8b", {"kv_cache_memory_bytes": 32 * GIB}, context=131072)["printed"]
    assert [
        "GPU KV cache size: 262,144 tokens",
        "Maximum concurrency for 131,072 tokens per request: 2.00x",
    ] == two


# --- the V0 engine ---------------------------------------------------------------------------------------------------


def test_v0_blocks_hold_every_layer() -> None:
    """Mixtral 8x7B: 16 tokens x 2 x 32 layers x 8 heads x 128 x 2 bytes = 2 MiB; 4 GiB of swap hold 2,048 (issue 2621)."""
    engine = ask("0.2.7", "mixtral-8x7b", {"kv_cache_memory_bytes": 12486 * 2**21 + 5}, context=32768)

    assert 2**21 == engine["facts"]["bytes_per_block"]
    assert "# GPU blocks: 12486, # CPU blocks: 2048" == engine["printed"][0]
    assert 12486 * 16 == engine["facts"]["kv_cache_size_tokens"]


@pytest.mark.parametrize(("context", "blocks"), [(16, 1), (17, 2), (4096, 256)])
def test_v0_saves_nothing_behind_windows(context: int, blocks: int) -> None:
    report = kvplan.plan(**TINY, window=32, context=context, engine="vllm", engine_version="0.6.4.post1")

    assert 4 * blocks * 8192 == report.kv["bytes"]


def test_v0_beside_v1() -> None:
    """0.8 to 0.10 have both, and V1 unless asked; 0.7 has no V1 that runs by default, 0.11 no V0."""
    assert "num_cpu_blocks" not in ask("0.9.1", **TINY)["facts"]
    assert "num_cpu_blocks" in ask("0.9.1", **TINY, options={"use_v1": False})["facts"]
    assert "num_cpu_blocks" in ask("0.7.3", **TINY)["facts"]
    with pytest.raises(InvalidInput, match=r"use_v1: got False, allowed: true: vllm 0.11.0"):
        ask("0.11.0", **TINY, options={"use_v1": False})
    with pytest.raises(InvalidInput, match=r"use_v1: got True, allowed: false: vllm 0.7.3"):
        ask("0.7.3", **TINY, options={"use_v1": True})


def test_v0_swap_space_and_words() -> None:
    facts = ask(
        "0.8.1", **TINY, options={"use_v1": False, "swap_space": 0.5, "num_gpu_blocks_override": 10}, context=200
    )

    assert 2**29 // 32768 == facts["facts"]["num_cpu_blocks"]
    assert "# cuda blocks: 10, # CPU blocks: 16384" == facts["printed"][0]
    assert "larger than the maximum number of tokens that can be stored in KV cache (160)" in facts["printed"][-1]


def test_v0_keeps_states_outside_its_blocks() -> None:
    """Jamba 1.5 Mini in fp8: 4 attention layers of 8 heads x 128: 131,072 bytes a block, 32,768 of swap (issue 7992)."""
    facts = ask("0.5.5", "jamba-1.5-mini", kv_dtype="fp8", context=4096)["facts"]

    assert (131072, 32768) == (facts["bytes_per_block"], facts["num_cpu_blocks"])


def test_v0_of_latents() -> None:
    with pytest.raises(InvalidInput, match=r"engine_version: got '0.6.4', allowed: 0.7.1 or later"):
        ask("0.6.4", "deepseek-v3", context=4096)
    facts = ask("0.7.3", "deepseek-v3", {"block_size": 16}, context=4096)["facts"]
    assert 61 * 16 * 1152 == facts["bytes_per_block"]


def test_every_change_names_a_release_in_order() -> None:
    versions = find_engine("vllm").versions

    assert sorted(versions, key=parse) == list(versions)
    assert rules("0.33.0") != rules("0.31.0") != rules("0.28.0")


def test_the_start_check_of_0_14_to_0_18_forgot_groups() -> None:
    """Its sum took the blocks of the first group alone: for Gemma 3 a window's, far below what a request takes."""
    options = {"kv_cache_memory_bytes": GIB, "max_num_batched_tokens": 2048}
    needed = {
        v: ask(v, "gemma-3-12b", options, context=65536)["facts"]["needed_bytes"]
        for v in ("0.13.0", "0.14.1", "0.19.1")
    }
    window, full, page = -(-(1023 + 2048) // 16) + 1, 65536 // 16, 131072

    assert {
        "0.13.0": (40 * window + 8 * full) * page,
        "0.14.1": 8 * window * page,
        "0.19.1": 8 * (5 * window + full) * page,
    } == needed


def test_groups_of_several_sizes_counted_every_stage_until_0_16() -> None:
    """DeepSeek-V3.2 over two stages: latents of 1,152 bytes and index keys of 132 make one group of all 61 layers."""
    options = {"kv_cache_memory_bytes": 30 * GIB, "kv_cache_dtype": "bfloat16", "block_size": 64}
    blocks = {
        v: ask(v, "deepseek-v3.2", options, context=64, pp=2)["facts"]["num_gpu_blocks"] for v in ("0.16.0", "0.17.1")
    }

    assert {"0.16.0": 30 * GIB // (61 * 64 * 1284), "0.17.1": 30 * GIB // (31 * 64 * 1284)} == blocks
