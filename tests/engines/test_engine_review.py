"""Engines as their users meet them: GPUs they run on, names of formats, what binds, the words of refusals, and laws.

Texts are those of the engines' own sources and logs: vllm v1/core/kv_cache_utils.py, worker/worker.py and executor_base.py of
the releases named, sglang 0.5.23 model_executor/pool_configurator.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
import kvplan.serving
from kvplan.catalog import find_gpu, gpu_names
from kvplan.engine_logs import log_rows
from kvplan.engines import ENGINES, find_engine
from kvplan.errors import InvalidInput

GIB = 2**30
TINY = {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 2, "head_dim": 64, "vocab": 100}
# A block of 16 tokens of TINY is 4 x 16 x 2 x (64 + 64) x 2 bytes
BLOCK = 4 * 16 * 2 * (64 + 64) * 2


# --- GPUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "gpu", "vendors"),
    [
        ("tensorrt-llm", "mi300x-192gb", "NVIDIA"),
        ("lmdeploy", "apple-m3-max-128gb", "NVIDIA"),
        ("exllama", "mi300x-192gb", "NVIDIA"),
        ("vllm", "apple-m3-max-128gb", "NVIDIA, AMD, Intel or Google"),
        ("sglang", "tpu-v5e-16gb", "NVIDIA, AMD or Intel"),
        ("mlx", "mi300x-192gb", "Apple or NVIDIA"),
        ("llama.cpp", "inferentia2-32gb", "NVIDIA, AMD, Apple or Intel"),
    ],
)
def test_an_engine_is_not_asked_of_a_gpu_it_does_not_run_on(engine: str, gpu: str, vendors: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        kvplan.plan("llama-3.1-8b", engine=engine, gpu=gpu)

    assert "gpu" == refused.value.field
    assert f"an accelerator of {vendors} with engine {engine}" == refused.value.rule


def test_of_two_exllamas_one_runs_on_amd() -> None:
    report = kvplan.plan("llama-3.1-8b", engine="exllama", engine_version="2", gpu="mi300x-192gb")

    assert report.fits


def test_vendors_of_engines_are_vendors_of_presets() -> None:
    presets = {find_gpu(name).vendor for name in gpu_names()}
    named = {vendor for name in ENGINES for vendor in find_engine(name).runs_on}

    assert named
    assert named <= presets
    assert () == find_engine("ideal").runs_on  # any


def test_fit_lists_such_gpus_with_the_reason() -> None:
    found = kvplan.fit("llama-3.1-8b", engine="tensorrt-llm", gpu=["mi300x-192gb", "h100-80gb-sxm"], kv_dtype="auto")

    assert ["h100-80gb-sxm"] == [row.gpu for row in found.rows]
    (failure,) = found.failures
    assert ("mi300x-192gb", "refused") == (failure.gpu, failure.binding)
    assert "an accelerator of NVIDIA with engine tensorrt-llm" in failure.why


# --- formats and models that an engine does not have -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "kv_dtype", "allowed"),
    [
        ("llama.cpp", "fp8", "q8_0"),
        ("vllm", "q8_0", "fp8_e4m3"),
        ("sglang", "q8_0", "fp8_e4m3"),
        ("tensorrt-llm", "q8_0", "fp8_e4m3"),
        ("mlx", "q8_0", "kv_bits"),
        ("exllama", "q8_0", "k_bits"),
        ("lmdeploy", "fp8", "quant_policy"),
    ],
)
def test_a_format_that_an_engine_does_not_have(engine: str, kv_dtype: str, allowed: str) -> None:
    """The flag that was given is the one that is named."""
    with pytest.raises(InvalidInput) as refused:
        kvplan.plan("llama-3.1-8b", engine=engine, kv_dtype=kv_dtype)

    assert "kv_dtype" == refused.value.field
    assert allowed in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_of_two_cache_types_keeps_its_own_name() -> None:
    with pytest.raises(InvalidInput, match=r"^cache_type_v: got 'fp8_e4m3'"):
        kvplan.plan("llama-3.1-8b", engine="llama.cpp", cache_type_k="q8_0", cache_type_v="fp8_e4m3")


@pytest.mark.parametrize("engine", ["mlx", "exllama"])
def test_engines_without_cross_attention_refuse_it(engine: str) -> None:
    """They counted a cache as long as the decoder's for every cross-attention layer, and none of the encoder's tokens."""
    with pytest.raises(InvalidInput, match="without cross-attention"):
        kvplan.plan("whisper-large-v3-turbo", engine=engine, context=448, encoder_context=1500)


def test_a_pool_of_states_holds_no_number_of_tokens() -> None:
    states, keys = (kvplan.plan(model, engine="exllama", gpu="h100") for model in ("falcon-mamba-7b", "llama-3.1-8b"))

    assert states.capacity.kv_tokens is None
    assert 8192 == keys.capacity.kv_tokens


def test_windows_are_said_to_be_ignored_where_there_are_some() -> None:
    formulas = {
        model: next(t.formula for t in kvplan.plan(model, engine="sglang").terms if t.path.startswith("kv/"))
        for model in ("deepseek-v3", "gemma-3-12b")
    }

    assert "windows ignored" not in formulas["deepseek-v3"]
    assert "windows ignored" in formulas["gemma-3-12b"]


# --- what binds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "batch", "options"),
    [
        ("vllm", 5, {"max_num_seqs": 4}),
        ("llama.cpp", 257, {}),  # LLAMA_MAX_SEQ is 256
        ("exllama", 17, {}),  # max_batch_size is 16
        ("tensorrt-llm", 5, {"max_batch_size": 4}),
        ("lmdeploy", 129, {}),  # max_batch_size is 128
        ("sglang", 5, {"max_running_requests": 4}),
    ],
)
def test_a_limit_of_sequences_is_what_binds(engine: str, batch: int, options: dict[str, Any]) -> None:
    """Memory is plentiful: a 16-token request of a model of 4 layers on 141 GB."""
    ask = {**TINY, "engine": engine, "gpu": "h200", "context": 16, "engine_options": options}
    over, under = kvplan.plan(batch=batch, **ask), kvplan.plan(batch=batch - 1, **ask)

    assert not over.fits
    assert "engine/sequences" == over.capacity.binding
    assert "engine/sequences" in over.verdict()
    assert under.fits
    assert "engine/sequences" != under.capacity.binding
    assert batch - 1 == over.capacity.max_batch


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "lmdeploy", "mlx"])
def test_the_cache_binds_where_weights_leave_room(engine: str) -> None:
    """What an engine keeps back does not grow: CUDA contexts and shares of memory do not limit the batch."""
    report = kvplan.plan("llama-3.1-8b", engine=engine, gpu="h100", context=1024)

    assert report.fits
    assert report.capacity.binding.startswith("kv/global")


def test_the_search_for_a_batch_stops_at_the_cells_of_a_context() -> None:
    """llama.cpp's 256 cells are shared by sequences of one cell at least; asking 981 of them was an error."""
    ask: dict[str, Any] = {"engine": "llama.cpp", "gpu": "a100-80gb-sxm", "engine_options": {"ctx_size": 256}}
    report = kvplan.plan("phi-4-mini", batch=2, context=100, **ask)

    assert 256 == report.capacity.max_batch


def test_few_questions_find_the_longest_context_past_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the slope below the window of Gemma 3, the search took 41 questions of the engine."""
    asked: list[int] = []
    largest = kvplan.serving.largest

    def counted(fits: Any, guess: int = 1, **more: Any) -> int | None:
        return largest(lambda n: asked.append(n) or fits(n), guess, **more)

    monkeypatch.setattr(kvplan.serving, "largest", counted)
    report = kvplan.plan("gemma-3-12b", engine="vllm", gpu="h100")

    assert len(asked) <= 12
    again = kvplan.plan("gemma-3-12b", engine="vllm", gpu="h100", context=report.capacity.max_context)
    assert again.fits


# --- what engines say ------------------------------------------------------------------------------------------------


def last_line(engine: str, version: str | None, **flags: Any) -> str:
    return kvplan.plan(engine=engine, engine_version=version, **flags).engine["printed"][-1]


def test_vllm_refuses_in_the_words_of_a_public_log() -> None:
    """Issue 20148 of vllm, 0.9.1: the whole sentence for Gemma 2 9B, advice included; its 1.64 GiB are 1.635 to 1.645."""
    (row,) = (row for row in log_rows("vllm") if row["id"] == "v1-040")
    options = {**row["ask"]["engine_options"], "kv_cache_memory_bytes": 1636 * GIB // 1000}

    said = last_line("vllm", row["version"], model="gemma-2-9b", context=8192, engine_options=options)

    assert row["line"].partition("ValueError: ")[2] == said.removeprefix("ValueError: ")


SEE = " See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
HOST = " (which also controls CPU memory on the CPU backend)"


@pytest.mark.parametrize(
    ("version", "host", "see"), [("0.12.0", "", ""), ("0.13.0", "", SEE), ("0.21.0", "", SEE), ("0.33.0", HOST, SEE)]
)
def test_the_advice_of_a_refusal_by_release(version: str, host: str, see: str) -> None:
    """Ten blocks hold 160 tokens, and not 1,024."""
    said = last_line("vllm", version, **TINY, context=1024, engine_options={"kv_cache_memory_bytes": 10 * BLOCK})

    advice = (
        f"Try increasing `gpu_memory_utilization`{host} or decreasing `max_model_len` when initializing the engine."
    )
    assert said.endswith(f" {advice}{see}")


@pytest.mark.parametrize("version", ["0.12.0", "0.33.0"])
def test_no_memory_at_all_by_release(version: str) -> None:
    """A hundredth of 8 GiB is less than the CUDA context alone."""
    shape = {"layers": 2, "hidden": 1024, "heads": 8, "vocab": 1000}
    said = last_line("vllm", version, **shape, memory=8 * GIB, gpu_memory_utilization=0.01)

    start = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
    host = " (this flag also controls CPU memory reservation on the CPU backend, despite its name)"
    newer = version == "0.33.0"
    assert f"{start}initializing the engine{host if newer else ''}.{SEE if newer else ''}" == said


def test_v0_refuses_with_its_advice() -> None:
    said = last_line("vllm", "0.7.3", **TINY, context=1024, engine_options={"num_gpu_blocks_override": 10})

    assert said == (
        "ValueError: The model's max seq len (1024) is larger than the maximum number of tokens that can be stored in KV "
        "cache (160). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
    )


@pytest.mark.parametrize(
    ("gpu", "version", "word"), [("mi300x-192gb", "0.7.3", "rocm"), ("h100", "0.7.3", "cuda"), ("h100", "0.6.4", "GPU")]
)
def test_v0_names_the_platform(gpu: str, version: str, word: str) -> None:
    """executor_base.py prints the platform's name since 0.7; log row v0-033 is of an MI300X."""
    printed = kvplan.plan(**TINY, engine="vllm", engine_version=version, gpu=gpu).engine["printed"]

    assert printed[0].startswith(f"# {word} blocks: ")


def test_the_virtual_engines_of_v0_share_the_blocks() -> None:
    """core/scheduler.py, worker/cache_engine.py: each of the pp virtual engines has num_gpu_blocks // pp of them.

    Of 1,000 blocks each has 500: one sequence of 300 blocks, and no more than 8,000 tokens, though 1,000 hold three.
    """
    ask = {**TINY, "engine": "vllm", "engine_version": "0.9.2", "gpu": "h100", "context": 16 * 300}
    options = {"num_gpu_blocks_override": 1000, "use_v1": False}
    one, two = (kvplan.plan(**ask, pp=pp, engine_options=options).capacity for pp in (1, 2))

    assert (3, 16_000) == (one.max_batch, one.max_context)
    assert (2, 8_000) == (two.max_batch, two.max_context)


def test_sglang_stops_without_tokens() -> None:
    said = kvplan.plan("qwen3-8b", engine="sglang", gpu="l4", engine_options={"mem_fraction_static": 0.5})

    assert not said.fits
    assert [
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
        "Current value: mem_fraction_static=0.5"
    ] == said.engine["printed"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_nothing_is_said_of_caches_where_the_weights_do_not_load(engine: str) -> None:
    """131 GiB of weights on a T4."""
    report = kvplan.plan("llama-3.1-70b", engine=engine, gpu="t4")

    assert not report.fits
    assert "weights" == report.capacity.binding
    assert [] == report.engine["printed"]
    assert report.engine["facts"]


# --- laws ------------------------------------------------------------------------------------------------------------

MODELS = (
    "gemma-3-12b",
    "gpt-oss-20b",
    "llama-3.1-8b",
    "deepseek-v2-lite",
    "mamba-130m",
    "falcon-h1-3b",
    "gemma-3n-e4b",
)
POLICIES = tuple(name for name in ENGINES if find_engine(name).policy is not None)


def answer(**flags: Any) -> kvplan.Report | None:
    """A report, None where the engine or the model's heads refuse the question."""
    try:
        return kvplan.plan(flags.pop("model"), **flags)
    except InvalidInput:
        return None


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    engine=st.sampled_from(POLICIES),
    context=st.sampled_from((1, 255, 256, 257, 1023, 1024, 1025, 4097, 40_000)),
    batch=st.integers(1, 6),
    tp=st.sampled_from((1, 2, 4)),
    pp=st.sampled_from((1, 2, 3)),
    dp=st.sampled_from((1, 2)),
    gpu=st.sampled_from(("h100-80gb-sxm", "rtx-4090-24gb", "l4-24gb")),
    more=st.integers(1, 700),
)
def test_laws_of_every_engine(more: int, **ask: Any) -> None:
    """Ranks hold all of it, more of anything never takes less, and a limit is a limit."""
    report = answer(**ask)
    if report is None:
        return
    kv, c = report.kv, report.capacity

    assert kv["bytes"] == sum(line.size for line in report.answer.served.lines)
    if ask["batch"] == 1:
        assert kv["bytes"] == kv["bytes_per_sequence"]
    assert kv["bytes_per_gpu"] * ask["tp"] * ask["pp"] * ask["dp"] >= kv["bytes"]
    for name in ("context", "batch"):
        larger = answer(**{**ask, name: ask[name] + more})
        assert larger is None or kv["bytes"] <= larger.kv["bytes"]
        assert larger is None or kv["bytes_per_gpu"] <= larger.kv["bytes_per_gpu"]
    for name, most in (("batch", c.max_batch), ("context", c.max_context)):
        if most is None:
            assert c.fits
            continue
        assert c.fits is (ask[name] <= most)
        assert most == 0 or answer(**{**ask, name: most}).fits
        assert not answer(**{**ask, name: most + 1}).fits
    if c.fits:
        assert c.kv_pool_bytes >= kv["bytes_per_gpu"]
        if ask["pp"] == 1:  # of several stages, the pool is the binding one's and the weights are the heaviest one's
            assert c.kv_pool_bytes + (report.answer.weights_per_gpu or 0) <= c.usable_bytes
