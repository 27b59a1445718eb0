"""The numbers that somebody else published or really allocated; none was written by kvplan."""

from __future__ import annotations

import pytest

import kvplan
from tests.support import config

# Total bytes at batch 1, 8,192 tokens, 16 bit: layers x entries x 2 x KV heads x head dim x 2 bytes, each product shown.
AT_8192 = {
    "meta-llama__Meta-Llama-3.1-8B": 32 * 8192 * 2 * 8 * 128 * 2,
    "meta-llama__Llama-2-7b-hf": 32 * 8192 * 2 * 32 * 128 * 2,
    "mistralai__Mistral-7B-v0.1": 32 * 4096 * 2 * 8 * 128 * 2,  # every layer slides, window 4,096
    "google__gemma-2-9b": (21 * 8192 + 21 * 4096) * 2 * 8 * 256 * 2,
    "google__gemma-3-12b-it": (8 * 8192 + 40 * 1024) * 2 * 8 * 256 * 2,  # five local layers to one global
    "deepseek-ai__DeepSeek-V2-Lite": 27 * 8192 * (512 + 64) * 2,  # latent and rotary key, no factor 2, no heads
    "deepseek-ai__DeepSeek-V3": 61 * 8192 * (512 + 64) * 2,
    "Qwen__Qwen2.5-7B": 28 * 8192 * 2 * 4 * 128 * 2,  # sliding_window is there, use_sliding_window is false
    "openai__gpt-oss-20b": (12 * 8192 + 12 * 128) * 2 * 8 * 64 * 2,
    "tiiuae__falcon-7b-instruct": 32 * 8192 * 2 * 1 * 64 * 2,  # multi_query beats num_kv_heads: 71
    "tiiuae__falcon-7b": 32 * 8192 * 2 * 1 * 64 * 2,
}
# The same as literals, from the tests of other planners against real torch tensors.
LITERALS = (
    1_073_741_824, 4_294_967_296, 536_870_912, 2_113_929_216, 872_415_232, 254_803_968,
    575_668_224, 469_762_048, 204_472_320, 67_108_864, 67_108_864,
)  # fmt: skip


@pytest.mark.parametrize(("name", "literal"), list(zip(AT_8192, LITERALS, strict=True)))
def test_ten_common_models(name: str, literal: int) -> None:
    """No planner we know of gets all of these right."""
    report = kvplan.plan(config(name), context=8192)

    assert literal == AT_8192[name] == report.kv["bytes_per_sequence"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google__gemma-3-12b-it", 8_925_478_912),  # (8 x 131,072 + 40 x 1,024) x 8,192
        ("openai__gpt-oss-20b", 3_224_371_200),  # (12 x 131,072 + 12 x 128) x 2,048
    ],
)
def test_long_context(name: str, expected: int) -> None:
    """At 131,072 tokens a window counts once and a global layer 128 times."""
    assert expected == kvplan.plan(config(name), context=131072).kv["bytes_per_sequence"]


@pytest.mark.parametrize(
    ("engine", "state"),
    [
        # 36 layers x (8,192 channels x columns x 2 bytes + 32 heads x 128 x 128 x 4 bytes)
        ("transformers", 77_856_768),  # 4 columns
        ("ideal", 77_266_944),  # 3 columns
    ],
)
def test_linear_attention_state(engine: str, state: int) -> None:
    """Qwen3-Next keeps 12 full layers and 36 states; transformers keeps one convolution column more than it needs."""
    kv = kvplan.plan(config("Qwen__Qwen3-Next-80B-A3B-Instruct"), context=8192, engine=engine).kv

    assert 201_326_592 == kv["bytes_per_sequence"] - kv["state_bytes_per_sequence"]
    assert state == kv["state_bytes_per_sequence"]


@pytest.mark.parametrize("tokens", [4095, 4096, 4097])
def test_window_boundary(tokens: int) -> None:
    """A window of W holds min(S, W) entries in the mathematics and min(S, W - 1) in transformers after a prefill."""
    per_token = 32 * 2 * 8 * 128 * 2
    ideal = kvplan.plan(config("mistralai__Mistral-7B-v0.1"), context=tokens)
    real = kvplan.plan(config("mistralai__Mistral-7B-v0.1"), context=tokens, engine="transformers")

    assert per_token * min(tokens, 4096) == ideal.kv["bytes_per_sequence"]
    assert per_token * min(tokens, 4095) == real.kv["bytes_per_sequence"]
    assert per_token == ideal.kv["bytes_per_token"]
    assert (per_token if tokens < 4096 else 0) == ideal.kv["bytes_per_token_marginal"]


def test_prefill_storage_is_apart() -> None:
    """Right after a one-shot prefill the windowed tensors are views of full-length storage: a term of its own."""
    report = kvplan.plan(config("google__gemma-3-12b-it"), context=32768, engine="transformers", gpu="h100")
    term = next(t for t in report.terms if t.path == "engine/prefill_storage")

    # 12.0 GiB held right after the prefill, measured with real tensors: all 48 layers at full length
    assert 12 * 2**30 == term.value + report.kv["bytes"]


def test_tensor_parallel_replicates_heads_and_latents() -> None:
    """Tp > kv_heads replicates heads; an MLA latent lies on every rank."""
    llama = kvplan.plan(config("meta-llama__Meta-Llama-3-70B-Instruct"), context=8192, tp=16).kv
    mla = kvplan.plan(config("deepseek-ai__DeepSeek-V3"), context=8192, tp=8).kv

    assert llama["bytes_per_sequence"] == 8 * llama["bytes_per_gpu"]  # 8 KV heads on 16 ranks: one each, twice
    assert mla["bytes_per_sequence"] == mla["bytes_per_gpu"]


def test_sharing_saves_residence_not_traffic() -> None:
    """CLA-2 halves what is stored and leaves what a decode step reads (arXiv 2405.12981, section 2.3)."""
    plain = kvplan.plan(config("meta-llama__Llama-2-7b-hf"), context=4096).kv
    shared = kvplan.plan(config("meta-llama__Llama-2-7b-hf"), context=4096, scheme="cla:2").kv

    assert plain["bytes"] == 2 * shared["bytes"]
    assert plain["bytes_read_per_step"] == shared["bytes_read_per_step"]


def test_cla_paper_bytes_per_token() -> None:
    """CLA's 1B models (20 layers, hidden 2,048): H128 MHA 163,840 B, MQA 10,240 B, MQA-CLA2 5,120 B per token, 16 bit."""
    shape = {"layers": 20, "hidden": 2048, "heads": 16, "head_dim": 128, "ffn": 5472, "vocab": 32000}

    def per_token(scheme: str) -> int:
        return kvplan.plan(scheme=scheme, **shape).kv["bytes_per_token"]

    assert 163_840 == per_token("mha")
    assert 10_240 == per_token("mqa")
    assert 5_120 == per_token("mqa+cla:2")


def test_dropped_projections_take_their_flops_along() -> None:
    """CLA-2 on the 1B MQA model drops 10 layers' K and V: 10 x 2 x 2,048 x 128 = 5.24M parameters (the paper's figure)."""
    shape = {"layers": 20, "hidden": 2048, "heads": 16, "head_dim": 128, "ffn": 5472, "vocab": 32000}
    plain, shared = (kvplan.plan(scheme=s, **shape) for s in ("mqa", "mqa+cla:2"))
    dropped = 10 * 2 * 2048 * 128

    assert dropped == plain.answer.profile.parameters - shared.answer.profile.parameters == 5_242_880
    assert 2 * dropped == plain.answer.decode.linear - shared.answer.decode.linear


def test_flops_beyond_int64() -> None:
    """126 layers, 1M tokens, batch 64: above 2**63, and exact because answers are Python ints."""
    report = kvplan.plan(config("meta-llama__Meta-Llama-3.1-405B"), context="1M", batch=64, attention_flops="full")
    hidden, kv, ffn, tokens = 16384, 8 * 128, 53248, 64 * 2**20
    linear = 2 * tokens * 126 * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn)
    attention = 64 * 126 * 4 * 2**40 * 128 * 128

    assert linear == report.answer.prefill.linear
    assert attention == report.answer.prefill.attention
    assert report.answer.prefill.total > 2**63


def test_mla_is_absorbed_in_decode_and_expanded_in_prefill() -> None:
    """Per (query, cached token, layer): 278,528 FLOPs absorbed, 81,920 expanded (DeepSeek-V2 and V3 shapes)."""
    report = kvplan.plan(config("deepseek-ai__DeepSeek-V3"), context=1000, attention_flops="full")

    assert 61 * 1001 * 278_528 == report.answer.decode.attention
    assert 61 * 1000 * 1000 * 81_920 == report.answer.prefill.attention


def test_published_checkpoint_size() -> None:
    """gpt-oss-20b's index says total_size 13,761,264,768 bytes: MXFP4 experts, the rest bf16."""
    assert 13_761_264_768 == kvplan.plan(config("openai__gpt-oss-20b")).to_dict()["weights"]["bytes"]
