"""Engine vllm at 0.33: its planner's recorded answers, worked tables, block boundaries, flags, and budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan.engines import find_engine
from kvplan.errors import InvalidInput

DATA = Path(__file__).parent.parent / "data/engines"
GIB = 2**30
# What vLLM's own planning code answered when it was run on a CPU, for named models.
PLANNER = json.loads((DATA / "vllm_planner.json").read_text())["rows"]
# And for random ones: by kvplan/validate/vllm.py, see `source` in the file.
RECORDED = json.loads((DATA / "vllm_recorded.json").read_text())
PRESETS = {
    "meta-llama/Llama-3.1-8B": "llama-3.1-8b",
    "google/gemma-3-12b-it": "gemma-3-12b",
    "openai/gpt-oss-20b": "gpt-oss-20b",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3.2": "deepseek-v3.2",
    "Qwen/Qwen3-Next-80B-A3B-Instruct": "qwen3-next-80b-a3b",
}
TINY = {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 2, "head_dim": 64, "vocab": 100}


def ask(model: Any = None, options: dict[str, Any] | None = None, **flags: Any) -> dict[str, Any]:
    """The engine's facts; recorded answers have 8,192 tokens per batch, two of them in flight."""
    given = {"max_num_batched_tokens": 8192, **(options or {})}
    return kvplan.plan(model, engine="vllm", engine_options=given, **flags).engine["facts"]


@pytest.mark.parametrize("row", PLANNER, ids=[row["name"] for row in PLANNER])
def test_recorded_answers_of_named_models(row: dict[str, Any]) -> None:
    said = row["inputs"]
    names = ("block_size", "disable_hybrid_kv_cache_manager", "mamba_ssm_cache_dtype", "enable_prefix_caching")
    options = {name: said[name] for name in names if name in said}
    options["kv_cache_memory_bytes"] = said["available_bytes"]
    if "speculative" in said:
        options["num_speculative_layers"] = 1
    tp = 1 if said["tp"] == "any" else said["tp"]
    flags = {"context": said["max_model_len"], "tp": tp, "kv_dtype": said["kv_dtype"]}
    facts = ask(PRESETS[said["model"]], options, **flags)

    assert row["num_blocks"] == facts["num_gpu_blocks"]
    assert row["alloc"][0] == facts["num_gpu_blocks"] * facts["bytes_per_block"]
    assert row["bytes_per_block"][0] == facts["bytes_per_block"]
    assert row["groups"] == [int(size) for size in facts["group_sizes"].split(",")]
    assert row["group_blocks"] == [int(size) for size in facts["group_block_sizes"].split(",")]
    assert row["blocks_per_req"] == facts["blocks_per_request"]
    assert row["needed"][0] == facts["needed_bytes"]
    assert row["concurrency"] == round(facts["max_concurrency"], 6)
    assert row["capacity_tokens"] == facts["kv_cache_size_tokens"]
    assert row["max_len_fit"] == facts["estimated_max_model_len"]
    assert said["in_flight_tokens"] == facts["max_in_flight_tokens"]
    report = kvplan.plan(
        PRESETS[said["model"]], engine="vllm", engine_options={"max_num_batched_tokens": 8192, **options}, **flags
    )
    refused = any(line.startswith("ValueError") for line in report.engine["printed"])
    assert row["ok"] is not refused


# Worked by hand and by the planner, at 0.33.0 with 16,384 tokens in flight:
# (bytes per block, blocks per request, blocks of the pool, tokens printed). Gemma-3-12B: a page is 8 heads x 16 tokens x
# (256 + 256) x 2 = 131,072 bytes; 8 full layers and 40 windows make 6 groups of 8; a window takes
# ceil((1023 + 16384) / 16) + 1 = 1089 blocks, so 131072 / 16 + 5 x 1089 = 13,637.
WORKED = [
    ("llama-3.1-8b", {"tp": 2, "kv_dtype": "fp8"}, 131072, 60, {}, (524288, 8192, 122880, 1966080)),
    ("gemma-3-12b", {}, 131072, 40, {}, (1048576, 13637, 40960, 393686)),
    ("gpt-oss-20b", {}, 131072, 50, {}, (393216, 9225, 136533, 1939908)),
    ("deepseek-v3", {}, 163840, 30, {"block_size": 64}, (4497408, 2560, 7162, 458368)),
    (
        "deepseek-v3",
        {"tp": 8, "kv_dtype": "fp8"},
        163840,
        30,
        {"block_size": 64, "decode_context_parallel_size": 8},
        (2248704, 320, 14324, 7333888),
    ),
    ("qwen3-next-80b-a3b", {}, 262144, 40, {}, (13369344, 488, 3212, 1725423)),
    ("qwen3-next-80b-a3b", {}, 262144, 40, {"mamba_ssm_cache_dtype": "float32"}, (25952256, 255, 1654, 1700337)),
]


@pytest.mark.parametrize(("model", "flags", "context", "gib", "options", "expected"), WORKED)
def test_worked_pools(
    model: str, flags: dict[str, Any], context: int, gib: int, options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    facts = ask(model, {"kv_cache_memory_bytes": gib * GIB, **options}, context=context, **flags)

    assert expected == (
        facts["bytes_per_block"],
        facts["blocks_per_request"],
        facts["num_gpu_blocks"],
        facts["kv_cache_size_tokens"],
    )


GRANITE_SMALL = {  # ibm-granite/granite-4.0-h-small: 40 layers, of which 4 attend
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 40,
    "hidden_size": 4096,
    "intermediate_size": 768,
    "shared_intermediate_size": 1536,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 100352,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "num_local_experts": 72,
    "num_experts_per_tok": 10,
    "dtype": "bfloat16",
}
# (state of one layer, attention block, page it is padded to): from the same run of vLLM's own alignment
ALIGNED: list[tuple[Any, int, dict[str, Any], tuple[int, int, int]]] = [
    ("qwen3-next-80b-a3b", 1, {}, (1097728, 544, 1114112)),
    ("qwen3-next-80b-a3b", 1, {"mamba_ssm_cache_dtype": "float32"}, (2146304, 1056, 2162688)),
    # half the heads, half the state, and one of two KV heads: the block stays
    ("qwen3-next-80b-a3b", 2, {}, (548864, 544, 557056)),
    ("qwen3-next-80b-a3b", 2, {"mamba_ssm_cache_dtype": "float32"}, (1073152, 1056, 1081344)),
    # one KV head on each of four ranks: half as long a block
    ("qwen3-next-80b-a3b", 4, {}, (274432, 272, 278528)),
    ("qwen3-next-80b-a3b", 4, {"mamba_ssm_cache_dtype": "float32"}, (536576, 528, 540672)),
    (GRANITE_SMALL, 1, {}, (2147840, 528, 2162688)),
    ("kimi-linear-48b-a3b", 1, {}, (2170880, 1920, 2211840)),
]


@pytest.mark.parametrize(("model", "tp", "options", "expected"), ALIGNED)
def test_blocks_that_a_state_fits_into(
    model: Any, tp: int, options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    facts = ask(model, options, tp=tp, context=8192)

    assert expected == (facts["mamba_page_size"], facts["block_size"], facts["mamba_page_size_padded"])


@pytest.mark.parametrize("row", RECORDED["rows"])
def test_recorded_answers_of_random_models(row: dict[str, Any]) -> None:
    """Every kind of layer, pipeline stages, draft layers, prefix caching and states, equal in every quantity."""
    if row["answer"] is None:  # vLLM refuses to plan these layers together
        with pytest.raises(InvalidInput, match="engine_version"):
            kvplan.plan(**row["plan"])
        return
    facts = kvplan.plan(**row["plan"]).engine["facts"]

    assert row["answer"] == {name: facts[name] for name in row["answer"]}


def test_the_record_has_every_kind_of_model() -> None:
    kinds = {row["plan"]["model"]["model_type"] for row in RECORDED["rows"]}

    assert "0.33.0" == RECORDED["versions"]["vllm"]
    assert len(kinds) >= 8
    assert any(row["answer"] is None for row in RECORDED["rows"])
    assert any("," in row["answer"]["group_sizes"] for row in RECORDED["rows"] if row["answer"])


@pytest.mark.parametrize(("context", "blocks"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_requests_take_whole_blocks(context: int, blocks: int) -> None:
    report = kvplan.plan(**TINY, context=context, batch=3, engine="vllm")
    # 2 KV heads x (64 + 64) x 2 bytes x 16 tokens = 8,192 bytes per layer and block

    assert blocks == report.engine["facts"]["blocks_per_request"]
    assert 3 * 4 * blocks * 8192 == report.kv["bytes"]


@pytest.mark.parametrize(("context", "blocks"), [(95, 7), (96, 7), (97, 8), (111, 8), (112, 8), (113, 8), (1000, 8)])
def test_windows_keep_what_is_in_flight(context: int, blocks: int) -> None:
    """Window 81, 16 tokens per batch, two batches in flight: ceil(min(80 + 32, n) / 16) + 1 blocks."""
    report = kvplan.plan(
        **TINY, window=81, context=context, engine="vllm", engine_options={"max_num_batched_tokens": 16}
    )

    assert blocks == report.engine["facts"]["blocks_per_request"]


def test_in_flight_tokens_follow_the_pipeline_and_the_scheduler() -> None:
    """PP + 1 batches with asynchronous scheduling, else PP."""
    for pp, asynchronous, batches in [(1, True, 2), (2, True, 3), (1, False, 1), (2, False, 2)]:
        facts = ask(**TINY, options={"async_scheduling": asynchronous}, pp=pp, context=64)
        assert batches * 8192 == facts["max_in_flight_tokens"]


def test_ledger_sums_to_blocks() -> None:
    """What requests hold is blocks times bytes per block; what groups and pages leave is named."""
    for model, options in [
        ("gpt-oss-20b", {"num_speculative_layers": 1}),  # 12 windows beside 13 full layers: one page idle
        ("nemotron-3-nano-30b-a3b", {}),
        ("falcon-h1-3b", {"enable_prefix_caching": False}),
    ]:
        report = kvplan.plan(model, engine="vllm", context=5000, batch=2, engine_options=options)
        facts = report.engine["facts"]
        held = {term.path: term.value for term in report.terms if term.path.startswith(("kv/", "engine/"))}
        assert 2 * facts["blocks_per_request"] * facts["bytes_per_block"] == report.kv["bytes"]
        assert any("padding" in path for path in held)


def test_whole_pages_of_a_group_that_is_short_of_layers() -> None:
    """12 windows, 13 full layers: one page of 8 heads x 16 x 128 x 2 = 32,768 bytes of each window block is idle."""
    options = {"num_speculative_layers": 1, "max_num_batched_tokens": 8192}
    report = kvplan.plan("gpt-oss-20b", engine="vllm", context=131072, engine_options=options)
    idle = sum(int(term.value) for term in report.terms if term.path.startswith("engine/group padding"))

    assert 1033 * 32768 == idle
    assert ["Add 1 padding layers, may waste at most 8.33% KV cache memory"] == report.engine["printed"]


def test_layouts_of_latents() -> None:
    """656 bytes: 512 in fp8, 4 scales, 64 rotary dims in bf16; plain fp8 is 576, bf16 1,152; the indexer adds 132."""
    for model, dtype, token in [
        ("deepseek-v3", None, 1152),
        ("deepseek-v3", "fp8", 576),
        ("deepseek-v3.2", "fp8_ds_mla", 656 + 132),
        ("deepseek-v3.2", "fp8", 656 + 132),
        ("deepseek-v3.2", None, 1152 + 132),
        ("deepseek-v3.2", "nvfp4_ds_mla", 352 + 132),
    ]:
        facts = ask(model, {"block_size": 64}, kv_dtype=dtype, context=4096)
        assert 61 * 64 * token == facts["bytes_per_block"], (model, dtype)
    # on Blackwell, kernels take plain fp8
    blackwell = ask("deepseek-v3.2", {"block_size": 64}, kv_dtype="fp8", context=4096, gpu="b200-192gb", tp=8)
    assert 61 * 64 * (576 + 132) == blackwell["bytes_per_block"]


def test_quantised_heads_carry_their_scales() -> None:
    """Per token and head: two fp32 scales beside 8-bit or 4-bit elements; NVFP4 has an fp8 scale per 16."""
    for name, token in [
        ("int8_per_token_head", 2 * (64 + 64 + 8)),
        ("fp8_per_token_head", 2 * (64 + 64 + 8)),
        ("int4_per_token_head", 2 * (32 + 32 + 8)),
        ("nvfp4", 2 * 2 * (32 + 4)),
        ("fp8", 2 * (64 + 64)),
        ("auto", 2 * (64 + 64) * 2),
    ]:
        by_option = ask(**TINY, options={"kv_cache_dtype": name}, context=64)
        assert 4 * 16 * token == by_option["bytes_per_block"], name
        if name != "auto":
            assert by_option["bytes_per_block"] == ask(**TINY, kv_dtype=name, context=64)["bytes_per_block"]


@pytest.mark.parametrize(("tp", "heads"), [(1, 4), (2, 2), (4, 1), (8, 1)])
def test_heads_are_replicated_beyond_their_number(tp: int, heads: int) -> None:
    facts = ask(layers=2, hidden=512, heads=8, kv_heads=4, head_dim=64, vocab=10, tp=tp, context=64)

    assert 2 * 16 * heads * 128 * 2 == facts["bytes_per_block"]


def test_layers_that_read_another_cache_have_none() -> None:
    """Gemma 4 E4B: 42 layers, 18 of which read others: 20 windows and 4 full layers remain."""
    facts = ask("gemma-4-e4b", context=32768)

    assert 24 == sum(int(size) for size in facts["group_sizes"].split(","))


def test_states_under_every_mode() -> None:
    """Blocks of a state: 1 without prefix caching, 2 with it, one more per drafted token, and Mamba-2's checkpoint."""
    attends = -(-8192 // 544)  # Qwen3-Next: 3 groups of states, one of attention
    for options, states in [
        ({"enable_prefix_caching": False}, 3 * 1),
        ({"enable_prefix_caching": True}, 3 * 2),
        ({"enable_prefix_caching": True, "gdn_prefill_backend": "flashinfer"}, 3 * 3),
    ]:
        assert attends + states == ask("qwen3-next-80b-a3b", options, context=8192)["blocks_per_request"]
    drafted = ask("qwen3-next-80b-a3b", {"num_speculative_tokens": 2}, context=8192)
    assert 3 * (2 + 2) == drafted["blocks_per_request"] - -(-8192 // drafted["block_size"])
    # granite: 36 states in 9 groups of 4
    granite = ask(GRANITE_SMALL, {"enable_prefix_caching": True}, context=8192)
    assert 9 * 3 + -(-8192 // 528) == granite["blocks_per_request"]


def test_a_pool_needs_no_gpu_when_its_size_is_given() -> None:
    bytes_given = ask(**TINY, options={"kv_cache_memory_bytes": "1GiB"}, context=1000)
    blocks_given = ask(**TINY, options={"num_gpu_blocks_override": 1000}, context=1000)

    assert GIB // 32768 == bytes_given["num_gpu_blocks"]
    assert 1000 == blocks_given["num_gpu_blocks"]
    # 63 blocks per request of 1,000 tokens
    assert 1000 / 63 == blocks_given["max_concurrency"]
    assert int(1000 / 63 * 1000) == blocks_given["kv_cache_size_tokens"]
    assert "num_gpu_blocks" not in ask(**TINY, context=1000)


def test_one_block_stands_for_none() -> None:
    """Starting needs one block more than a request takes: 63 blocks are too few for 1,000 tokens, 64 are enough."""
    for count, refused in [(62, True), (63, True), (64, False)]:
        report = kvplan.plan(**TINY, context=1000, engine="vllm", engine_options={"num_gpu_blocks_override": count})
        assert refused is any("To serve at least one request" in line for line in report.engine["printed"]), count
    # 62 usable blocks of the 63 hold 992 tokens
    assert 992 == ask(**TINY, options={"num_gpu_blocks_override": 63}, context=1000)["estimated_max_model_len"]


def test_words_of_the_log() -> None:
    report = kvplan.plan(
        "llama-3.1-8b",
        engine="vllm",
        context=131072,
        tp=2,
        engine_options={"kv_cache_memory_bytes": 60 * GIB},
    )
    assert [
        "GPU KV cache size: 983,040 tokens, Maximum concurrency for 131,072 tokens per request: 7.50x"
    ] == report.engine["printed"]
    measured = kvplan.plan("llama-3.1-8b", engine="vllm", context=131072, gpu="h100-80gb-sxm")
    assert measured.engine["printed"][0].startswith("Available KV cache memory: ")


def test_the_longest_length_that_fits_holds_and_one_more_does_not() -> None:
    options = {"kv_cache_memory_bytes": 3 * GIB, "max_num_batched_tokens": 2048}
    longest = ask("gemma-3-12b", options, context=131072)["estimated_max_model_len"]

    assert not _refused("gemma-3-12b", longest, options)
    assert _refused("gemma-3-12b", longest + 1, options)


def _refused(model: str, context: int, options: dict[str, Any]) -> bool:
    printed = kvplan.plan(model, engine="vllm", context=context, engine_options=options).engine["printed"]
    return any("To serve at least one request" in line for line in printed)


def test_a_budget_is_named_and_estimates_are_labelled() -> None:
    report = kvplan.plan("llama-3.1-8b", engine="vllm", gpu="h100-80gb-sxm", context=131072)
    estimated = [t for t in report.terms if t.path.startswith("engine/") and t.basis == "estimated"]
    capacity = report.capacity
    assert capacity is not None

    assert {"engine/activation peak", "engine/cuda graphs", "engine/context and libraries"} <= {
        t.path for t in estimated
    }
    kept = sum(t.value for t in estimated)
    requested = -(-capacity.memory_bytes * 92 // 100)
    weight_bytes = report.to_dict()["weights"]["bytes_per_gpu"]
    assert requested - weight_bytes - kept == report.engine["facts"]["available_kv_cache_memory"]
    eager = kvplan.plan(
        "llama-3.1-8b", engine="vllm", gpu="h100-80gb-sxm", context=131072, engine_options={"enforce_eager": True}
    )
    assert not [t for t in eager.terms if t.path == "engine/cuda graphs"]


def test_capacity_is_what_admission_allows() -> None:
    """The largest batch that fits holds its blocks, one more does not; max_num_seqs bounds it too."""
    asked: dict[str, Any] = {"engine": "vllm", "gpu": "h100-80gb-sxm", "context": 8192}
    report = kvplan.plan("llama-3.1-8b", **asked)
    assert report.capacity is not None
    facts = report.engine["facts"]

    assert (facts["num_gpu_blocks"] - 1) // 512 == report.capacity.max_batch
    bounded = kvplan.plan("llama-3.1-8b", **asked, engine_options={"max_num_seqs": 7})
    assert bounded.capacity is not None
    assert 7 == bounded.capacity.max_batch


def test_defaults_go_by_the_gpu() -> None:
    """Server defaults: 8,192 tokens and 1,024 sequences from 70 GiB on, A100s apart; 16,384 from 160 GiB on."""
    for gpu, tokens, seqs in [
        ("rtx-4090", 2048, 256),
        ("a100-80gb-sxm", 2048, 256),
        ("h100-80gb-sxm", 8192, 1024),
        ("b200-192gb", 16384, 1024),
    ]:
        facts = kvplan.plan("qwen3-0.6b", engine="vllm", gpu=gpu, context=4096).engine["facts"]
        assert (tokens, seqs) == (facts["max_num_batched_tokens"], facts["max_num_seqs"]), gpu


def test_a_poorer_stage_says_how_many_blocks() -> None:
    """Pipeline stages of 3 and 2 layers: every stage has the blocks that the larger one affords."""
    facts = ask(
        layers=5, hidden=512, heads=8, kv_heads=2, head_dim=64, vocab=100, pp=2, context=64,
        options={"kv_cache_memory_bytes": 3 * 8192 * 1000 + 5},
    )  # fmt: skip

    assert 3 * 8192 == facts["bytes_per_block"]
    assert 1000 == facts["num_gpu_blocks"]


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"kv_dtype": "q8_0"}, {}, "kv_dtype: got 'q8_0', allowed: bf16"),
    ({"cache_type_k": "bf16", "cache_type_v": "fp8"}, {}, "cache_type_v"),
    ({}, {"decode_context_parallel_size": 2}, "decode_context_parallel_size: got 2, allowed: 1"),
    ({"tp": 8}, {"decode_context_parallel_size": 3}, "allowed: a divisor of tp"),
    ({"tp": 8}, {"decode_context_parallel_size": 8}, "allowed: at most 4"),
    ({"tp": 8, "window": 64}, {"decode_context_parallel_size": 2}, "1 where layers see a window"),
    ({}, {"use_v1": False}, "use_v1: got False, allowed: true"),
    ({}, {"num_speculative_layers": 1, "max_model_len": 1.5}, "max_model_len"),
    ({"context": 64}, {"max_model_len": 128}, "max_model_len"),
    ({}, {"block_size": 0}, "block_size"),
]


@pytest.mark.parametrize(("flags", "options", "said"), BAD)
def test_bad_input_is_one_clear_line(flags: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        kvplan.plan(**TINY, engine="vllm", engine_options=options, **flags)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modes_of_states_that_no_release_has() -> None:
    with pytest.raises(InvalidInput, match="mamba_cache_mode: got 'all', allowed: none, align"):
        ask("qwen3-next-80b-a3b", {"mamba_cache_mode": "all"}, context=64)
    with pytest.raises(InvalidInput, match="mamba_cache_mode: got 'align', allowed: none"):
        ask("qwen3-next-80b-a3b", {"mamba_cache_mode": "align", "enable_prefix_caching": False}, context=64)


def test_layouts_that_are_not_planned_say_so() -> None:
    with pytest.raises(InvalidInput, match="engine: got 'vllm', allowed: ideal or transformers"):
        ask("deepseek-v4-flash", context=4096)
    assert any("DeepSeek-V4" in sentence for sentence in find_engine("vllm").ignores)


def test_encoder_tokens_take_blocks_of_their_own() -> None:
    """Whisper: 32 layers of self- and 32 of cross-attention, two groups: 448 tokens and 1,500 of the encoder."""
    facts = ask("whisper-large-v3", context=448, encoder_context=1500)

    assert "32,32" == facts["group_sizes"]
    assert 448 // 16 + -(-1500 // 16) == facts["blocks_per_request"]


def test_a_model_without_attention_has_a_state_per_request() -> None:
    facts = ask("mamba-130m", {"num_gpu_blocks_override": 10}, context=4096)

    # 24 layers: 3 columns x 1,536 channels and 1,536 x 16 elements, all bf16
    assert 24 * (3 * 1536 + 1536 * 16) * 2 == facts["bytes_per_block"]
    assert 10 == facts["max_concurrency"]
