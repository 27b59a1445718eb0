"""SGLang 0.5.23 through ``kvplan.plan``: pools and defaults that its own pool objects and functions answered on a CPU."""

from typing import Any

import pytest

import kvplan
from kvplan.engines import find_engine
from kvplan.errors import InvalidInput

GIB = 2**30


def ask(model: Any, options: dict[str, Any] | None = None, **given: Any) -> kvplan.Report:
    return kvplan.plan(model, engine="sglang", engine_options=options, **given)


def facts(model: Any, options: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask(model, options, **given).engine["facts"]
    return found


def room(gib: int, **more: Any) -> dict[str, Any]:
    return {"available_bytes": gib * GIB, **more}


# --- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kv_dtype", "gib", "options", "cell", "tokens"),
    [
        ("deepseek-v3", "bf16", 30, {"page_size": 64}, 61 * 576 * 2, 458368),
        ("deepseek-v3", "fp8", 30, {"page_size": 64}, 61 * 576, 916736),
        ("deepseek-v3.2", "fp8", 30, {}, 61 * (512 + 16 + 128 + 132), 670080),
        ("deepseek-v3.2", "fp8", 30, {"dsa_raw_layout": True}, 61 * (576 + 132), None),
        ("deepseek-v3.2", "bf16", 30, {}, 61 * (1152 + 132), None),
    ],
)
def test_latents_and_indexer_keys(
    model: str, kv_dtype: str, gib: int, options: dict[str, Any], cell: int, tokens: int | None
) -> None:
    found = facts(model, room(gib, **options), kv_dtype=kv_dtype)
    # pages of 64: rows are whole pages, and one page more is allocated
    tokens = gib * GIB // cell // 64 * 64 if tokens is None else tokens
    assert (cell, tokens, 64) == (found["cell_size"], found["max_total_num_tokens"], found["page_size"])
    assert (tokens + 64) * cell == found["kv_size"]


def test_tokens_of_a_plain_model_and_the_row_to_spare() -> None:
    report = ask("llama-3.1-8b", room(60), tp=2)
    found = report.engine["facts"]
    assert 65536 == found["cell_size"]
    assert 983040 == found["max_total_num_tokens"]
    assert 64_424_574_976 == found["kv_size"]
    # 983040 / 131072 * 512 = 3840 requests, between the floor of 2048 and the ceiling of 4096
    assert 3840 == found["max_running_requests"]
    assert 3841 * (131072 + 4) * 4 == found["req_to_token_size"]
    line = "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 983040, K size: 30.00 GB, V size: 30.00 GB"
    assert line in report.engine["printed"]


@pytest.mark.parametrize(
    ("model", "gib", "ratio", "full", "swa", "tokens"),
    [
        ("gemma-3-12b", 40, None, 65536, 327680, (131072, 104857)),
        ("gemma-3-12b", 40, 0.1, 65536, 327680, (436906, 43690)),
        ("gpt-oss-20b", 50, None, 24576, 24576, (1213629, 970903)),
    ],
)
def test_the_sliding_pool_is_split_off_by_a_ratio(
    model: str, gib: int, ratio: float | None, full: int, swa: int, tokens: tuple[int, int]
) -> None:
    options: dict[str, Any] = {} if ratio is None else {"swa_full_tokens_ratio": ratio}
    if model.startswith("gemma"):
        options["disable_hybrid_swa_memory"] = False
    found = facts(model, room(gib, **options))
    assert (full, swa) == (found["cell_size"], found["swa_cell_size"])
    assert tokens == (found["full_max_total_num_tokens"], found["swa_max_total_num_tokens"])
    assert (tokens[0] + 1) * full + (tokens[1] + 1) * swa == found["kv_size"]


def test_gemma_3_has_one_pool_unless_told_otherwise() -> None:
    # arg_groups/model_overrides/gemma2_gemma3.py sets disable_hybrid_swa_memory
    found = facts("gemma-3-12b", room(48), context=8192)
    assert (48 * 8192, 131072) == (found["cell_size"], found["max_total_num_tokens"])
    assert "swa_cell_size" not in found
    assert 8192 * 48 * 8192 == ask("gemma-3-12b", context=8192).kv["bytes"]


@pytest.mark.parametrize(
    ("model", "options", "gib"),
    [
        ("llama-3.1-8b", {}, 16.0),
        ("gemma-3-12b", {"disable_hybrid_swa_memory": False}, 40.0),
        ("gemma-3-12b", {"disable_hybrid_swa_memory": False, "swa_full_tokens_ratio": 0.1}, 12.0),
        ("gpt-oss-20b", {}, 5.4),
        ("gpt-oss-20b", {"swa_full_tokens_ratio": 0.1}, 3.3),
    ],
)
def test_what_a_request_of_131072_tokens_reserves(model: str, options: dict[str, Any], gib: float) -> None:
    assert gib == round(ask(model, options, context=131072).kv["bytes"] / GIB, 2)


@pytest.mark.parametrize("tokens", [127, 128, 129, 257, 258, 259, 386])
def test_sliding_slots_that_a_request_holds(tokens: int) -> None:
    # gpt-oss, window 128: at most window + 128 awaiting eviction + 2 pages of one slot, or its ratio of the full pool
    report = ask("gpt-oss-20b", context=tokens, batch=3)
    held = 3 * min(tokens, 128 + 128 + 2)
    assert 24576 * (3 * tokens + max(held, int(3 * tokens * 0.8))) == report.kv["bytes"]


def test_the_sliding_pool_by_requests() -> None:
    options = room(50, disable_radix_cache=True, max_running_requests=16, chunked_prefill_size=4096)
    found = facts("gpt-oss-20b", options)
    # (window + 128 + 2 pages) x requests + 2 x chunked_prefill + page
    swa = (128 + 128 + 2) * 16 + 2 * 4096 + 1
    assert swa == found["swa_max_total_num_tokens"]
    assert (50 * GIB - swa * 24576) // 24576 == found["full_max_total_num_tokens"]


def test_mamba_slots() -> None:
    found = facts("qwen3-next-80b-a3b", room(40, mamba_radix_cache_strategy="no_buffer"))
    # 36 layers x (8192 channels x 3 columns x 2 bytes + 32 heads x 128 x 128 x 4 bytes)
    assert 77_266_944 == 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4) == found["mamba_cache_per_req"]
    assert 262 == found["max_mamba_cache_size"]
    assert 20_321_206_272 == 263 * 77_266_944 == found["mamba_size"]
    assert (24576, 920754) == (found["cell_size"], found["max_total_num_tokens"])
    assert 87 == 262 // 3 == found["max_running_requests"]


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, 5),  # extra buffers while the schedule overlaps
        ({"disable_overlap_schedule": True}, 3),  # auto then takes none: pages of one slot
        ({"disable_overlap_schedule": True, "mamba_radix_cache_strategy": "extra_buffer"}, 4),
        ({"mamba_radix_cache_strategy": "extra_buffer_lazy"}, 4),
        ({"disable_radix_cache": True}, 1),
    ],
)
def test_mamba_slots_per_request(options: dict[str, Any], slots: int) -> None:
    report = ask("qwen3-next-80b-a3b", options, context=100)
    assert slots == report.engine["facts"]["mamba_slots_per_request"]
    assert 100 * 24576 + slots * 77_266_944 == report.kv["bytes"]
    assert 77_266_944 == report.kv["state_bytes_per_sequence"]


def test_mamba_slots_of_requests_and_of_a_flag() -> None:
    found = facts("qwen3-next-80b-a3b", room(40, disable_radix_cache=True, max_running_requests=32))
    assert 32 == found["max_mamba_cache_size"]
    assert (40 * GIB - 33 * 77_266_944) // 24576 == found["max_total_num_tokens"]
    found = facts("qwen3-next-80b-a3b", {"max_mamba_cache_size": 9, "mamba_ssm_dtype": "bfloat16"})
    assert 10 * 36 * 32 * 128 * 128 * 2 == found["ssm_state_size"]


def test_speculation_widens_the_mamba_budget() -> None:
    # budget = avail x 0.9 / 1.9; K = (budget - S (1 + D)) / (S (1 + D / q)), then D x S for min(running, K / q) + 1 requests
    s, draft, q = 77_266_944, 4, 3
    options = {
        "speculative_num_draft_tokens": draft,
        "max_running_requests": 48,
        "mamba_radix_cache_strategy": "no_buffer",
    }
    found = facts("qwen3-next-80b-a3b", room(40, **options))
    budget = 40 * 0.9 / 1.9 * GIB
    k = int((budget - s * (1 + draft)) // (s * (1 + draft / q)))
    assert k == found["max_mamba_cache_size"]
    kept = min(48, k // q) + 1
    assert int(40 * GIB - kept * draft * s - (k + 1) * s) // 24576 == found["max_total_num_tokens"]


def test_every_layer_has_slots_whoever_shares() -> None:
    # Gemma-4-E4B: 35 sliding layers of 2 x 256, 7 full ones of 2 x 512, of which 18 read another's cache
    report = ask("gemma-4-e4b", {"max_total_tokens": 997846})
    found = report.engine["facts"]
    assert (7 * 2 * 1024 * 2, 35 * 2 * 512 * 2) == (found["cell_size"], found["swa_cell_size"])
    assert "SWAKVPool mem usage: 79.94 GB, swa size: 798276, full size: 997846" in report.engine["printed"]
    assert any("share" in sentence for sentence in report.engine["ignores"])
    shared, whole = (ask("llama-3.1-8b", scheme=scheme).kv["bytes"] for scheme in ("cla:2", None))
    assert whole == shared


def test_heads_of_a_rank_and_stages() -> None:
    # 8 heads over 16 ranks: one on each; 32 layers over 2 stages, the smallest pool of tokens holds
    assert 32 * 256 * 2 == facts("llama-3.1-8b", tp=16)["cell_size"]
    found = facts("llama-3.1-8b", room(8), pp=2)
    assert 16 * 8 * 256 * 2 == found["cell_size"]
    assert 8 * GIB // (16 * 8 * 256 * 2) == found["max_total_num_tokens"]


@pytest.mark.parametrize(("tokens", "pages"), [(1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_whole_pages(tokens: int, pages: int) -> None:
    assert 2 * pages * 64 * 131072 == ask("llama-3.1-8b", {"page_size": 64}, context=tokens, batch=2).kv["bytes"]
    assert pages * 64 * 131072 == ask("llama-3.1-8b", context=tokens, block_size=64).kv["bytes"]


# --- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "tp", "post", "plain", "latent"),
    [
        (24564, 1, 0.932, 0.704, 0.657),
        (24564, 8, 0.896, 0.658, 0.612),
        (81559, 1, 0.980, 0.830, 0.816),
        (81559, 8, 0.969, 0.812, 0.799),
        (143771, 1, 0.988, 0.903, 0.896),
        (143771, 8, 0.982, 0.893, 0.886),
    ],
)
def test_mem_fraction_static(card: int, tp: int, post: float, plain: float, latent: float) -> None:
    given = {"memory": f"{card}MiB", "tp": tp}
    assert plain == facts("qwen3-8b", **given)["mem_fraction_static"]
    assert post == facts("qwen3-8b", {"post_capture_kv_sizing": True}, **given)["mem_fraction_static"]
    assert latent == facts("deepseek-v2-lite", **given)["mem_fraction_static"]
    # latents are never sized after capture
    assert latent == facts("deepseek-v2-lite", {"post_capture_kv_sizing": True}, **given)["mem_fraction_static"]


@pytest.mark.parametrize(
    ("card", "chunk"), [(20479, 2048), (20480, 4096), (61440, 8192), (163839, 8192), (163840, 16384)]
)
def test_chunked_prefill_size_by_the_card(card: int, chunk: int) -> None:
    assert chunk == facts("qwen3-0.6b", memory=f"{card}MiB")["chunked_prefill_size"]


def test_a_share_of_what_was_free_before_loading() -> None:
    report = ask("qwen3-0.6b", {"mem_fraction_static": 0.5}, memory="20GiB", runtime_overhead="1GiB")
    # free before loading 19 GiB: half of it stays free, weights come off the other half
    left = int((19 - report.to_dict()["weights"]["bytes"] / GIB - 19 * 0.5) * GIB)
    assert left // (28 * 8 * 256 * 2) == report.engine["facts"]["max_total_num_tokens"]
    assert report.capacity is not None
    assert left // (28 * 8 * 256 * 2) == report.capacity.max_context


def test_admission() -> None:
    given = {"gpu": "h100-80gb-sxm", "context": 8192}
    report = ask("gpt-oss-20b", {"max_total_tokens": 100_000}, **given)
    # full pool: 12 requests of 8192 tokens; the sliding one holds 80,000 / 258
    assert report.capacity is not None
    assert 100_000 // 8192 == report.capacity.max_batch
    report = ask("gpt-oss-20b", {"max_running_requests": 7}, **given)
    assert report.capacity is not None
    assert 7 == report.capacity.max_batch
    # a sliding pool of no more than window + page slots admits nothing: the engine refuses to start
    for tokens, starts in ((161, False), (162, False), (163, True)):  # int(0.8 x tokens) = 128, 129, 130
        report = ask("gpt-oss-20b", {"max_total_tokens": tokens}, gpu="h100-80gb-sxm", context=10)
        assert report.capacity is not None
        assert report.capacity.fits is starts


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kv_dtype": "q8_0"}, "with engine sglang"),
        ({"cache_type_k": "fp8", "cache_type_v": "bf16"}, "the same for K and V"),
        ({"gpu": "h100-80gb-sxm", "gpu_memory_utilization": 0.9}, "mem_fraction_static"),
        ({"engine_options": {"mem_fraction": 0.9}}, "mem_fraction_static"),
        ({"engine_options": {"mamba_ssm_dtype": "fp8"}}, "float32, bfloat16, float16"),
        ({"engine_options": {"page_size": 16}, "block_size": 64}, "block_size"),
        ({"engine_version": "0.4.1"}, "0.5.23"),
    ],
)
def test_bad_input(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kvplan.plan("llama-3.1-8b", engine="sglang", **given)


def test_pooled_entries_are_refused_not_guessed() -> None:
    with pytest.raises(InvalidInput, match="pooled entries"):
        ask("deepseek-v4-flash")
    assert "0.5.23" == find_engine("sglang", "0.5").version
