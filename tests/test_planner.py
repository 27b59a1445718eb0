"""Laws of the planner: growth, windows, sharing, ranks, capacity, and the lean evaluator against the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.specs import ModelSpec
from kvplan.stages import stage_ranges
from tests.support import config

LLAMA = "meta-llama__Meta-Llama-3.1-8B"
GEMMA = "google__gemma-3-12b-it"
KINDS = (LLAMA, GEMMA, "deepseek-ai__DeepSeek-V3", "Qwen__Qwen3-Next-80B-A3B-Instruct", "openai__gpt-oss-20b")
SPECS: dict[str, ModelSpec] = {}


def spec(name: str) -> ModelSpec:
    """A spec, built once per session."""
    if name not in SPECS:
        SPECS[name] = kvplan.load(config(name))
    return SPECS[name]


def shape(**changes: int) -> dict[str, int]:
    """A small model in plain numbers."""
    return {"layers": 12, "hidden": 512, "heads": 8, "ffn": 1024, "vocab": 1000} | changes


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(KINDS), tokens=st.integers(1, 200_000), more=st.integers(1, 5000))
def test_more_tokens_never_need_fewer_bytes(name: str, tokens: int, more: int) -> None:
    """Residence and traffic never fall as the context grows (engine ideal, formats without a residual window)."""
    low, high = (kvplan.plan(spec(name), context=n).kv for n in (tokens, tokens + more))

    assert low["bytes_per_sequence"] <= high["bytes_per_sequence"]
    assert low["bytes_read_per_step"] <= high["bytes_read_per_step"]


@settings(max_examples=40, deadline=None)
@given(
    owners=st.lists(st.integers(0, 11), min_size=12, max_size=12),
    tokens=st.integers(1, 10_000),
    window=st.none() | st.integers(1, 3000),
)
def test_any_owner_map_saves_residence_and_leaves_traffic(owners: list[int], tokens: int, window: int | None) -> None:
    """A scheme on the layers axis alone never raises residence and never changes traffic; stores are the distinct owners."""
    numbers = shape() if window is None else shape(window=window)
    plain = kvplan.plan(context=tokens, **numbers).kv
    shared = kvplan.plan(context=tokens, scheme="owners:" + "_".join(map(str, owners)), **numbers).kv

    assert shared["bytes"] * 12 == plain["bytes"] * len(set(owners))
    assert shared["bytes_read_per_step"] == plain["bytes_read_per_step"]


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 10_000), window=st.integers(1, 3000))
def test_a_window_never_raises_either(tokens: int, window: int) -> None:
    """A window keeps min(S, W) entries and reads min(S + 1, W)."""
    full, slid = (kvplan.plan(context=tokens, scheme=s, **shape()).kv for s in (None, f"window:{window}"))

    assert full["bytes"] * min(tokens, window) == slid["bytes"] * tokens
    assert full["bytes_read_per_step"] * min(tokens + 1, window) == slid["bytes_read_per_step"] * (tokens + 1)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(KINDS),
    engine=st.sampled_from(["ideal", "transformers"]),
    gpu=st.sampled_from(["h100-80gb-sxm", "h200-141gb-sxm", "rtx-4090-24gb", "b300-288gb-sxm"]),
    context=st.integers(1, 300_000),
    batch=st.integers(1, 200),
    tp=st.sampled_from([1, 2, 4, 8]),
    dp=st.sampled_from([1, 3]),
    kv_dtype=st.sampled_from([None, "fp8", "int4", "q8_0", "int2:g=32,residual=128"]),
)
def test_capacity_is_exact(
    name: str, engine: str, gpu: str, context: int, batch: int, tp: int, dp: int, kv_dtype: str | None
) -> None:
    """fits(n) and not fits(n + 1), in batch and in context, asked again from the start."""
    flags = {"engine": engine, "gpu": gpu, "tp": tp, "dp": dp, "kv_dtype": kv_dtype}
    report = kvplan.plan(spec(name), context=context, batch=batch, **flags)
    c = report.capacity
    assert c is not None

    def fits(**size: int) -> bool:
        return bool(kvplan.plan(spec(name), **({"context": context, "batch": batch} | size), **flags).fits)

    for field, n in (("batch", c.max_batch), ("context", c.max_context)):
        if n is None:
            continue
        assert n == 0 or fits(**{field: n})
        assert not fits(**{field: n + 1})
    assert c.fits == (c.max_batch is None or batch <= c.max_batch)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(KINDS),
    engine=st.sampled_from(["ideal", "transformers"]),
    context=st.integers(1, 100_000),
    batch=st.integers(1, 9),
    kv_dtype=st.sampled_from([None, "fp8", "int4", "q4_0", "int2:g=32,residual=128"]),
)
def test_the_lean_evaluator_gives_the_ledgers_numbers(
    name: str, engine: str, context: int, batch: int, kv_dtype: str | None
) -> None:
    """The fast path of the solver and the named terms of the report are the same bytes."""
    report = kvplan.plan(spec(name), context=context, batch=batch, engine=engine, kv_dtype=kv_dtype, memory="80GiB")
    stage = report.answer.stages[0]
    terms = {t.path: t.value for t in report.terms}

    assert report.kv["bytes"] == sum(v for p, v in terms.items() if p.startswith("kv/"))
    assert report.kv["bytes"] == batch * stage.lean.at(context) == report.kv["bytes_per_gpu"]
    assert report.answer.storage == terms.get("engine/prefill_storage", 0)
    assert stage.weights == sum(v for p, v in terms.items() if p.startswith("weights/"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("block", [1, 16, 256])
def test_paging_wastes_less_than_a_block_per_part(name: str, block: int) -> None:
    """Blocks round every growing part up, by less than one block; the rounding is a term of its own."""
    exact = kvplan.plan(spec(name), context=1001).kv
    report = kvplan.plan(spec(name), context=1001, block_size=block)
    waste = report.kv["bytes_per_sequence"] - exact["bytes_per_sequence"]

    assert 0 <= waste < block * exact["bytes_per_token"] or block == 1
    assert waste == sum(t.value for t in report.terms if t.path == "engine/block rounding")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (8, 1), (1, 3), (4, 2)])
def test_ranks_hold_at_least_everything(name: str, tp: int, pp: int) -> None:
    """Bytes per rank times ranks are never below the total, for caches and for weights."""
    report = kvplan.plan(spec(name), context=4000, batch=3, tp=tp, pp=pp)
    whole = kvplan.plan(spec(name), context=4000, batch=3)

    assert report.kv["bytes_per_gpu"] * tp * pp >= report.kv["bytes"] == whole.kv["bytes"]
    weights = report.to_dict()["weights"]
    assert weights["bytes_per_gpu"] * tp * pp >= weights["bytes"]


def test_layers_that_share_stay_on_one_stage() -> None:
    """Under pipeline parallelism no cut goes through a group that shares KV; too few places to cut is an error."""
    shared = kvplan.plan(scheme="cla:4", **shape()).answer.spec
    assert [4, 4, 4] == [len(stage) for stage in stage_ranges(shared, 3)]
    with pytest.raises(kvplan.KvplanError, match="must share a stage"):
        kvplan.plan(scheme="cla:12", pp=2, **shape())


def test_utilization_reserves() -> None:
    """The engine may use its share of the memory, rounded down; the rest is a term."""
    report = kvplan.plan(spec(LLAMA), gpu="h100-80gb-sxm", gpu_memory_utilization=0.9)
    assert report.capacity is not None

    assert 85_520_809_984 * 9 // 10 == report.capacity.usable_bytes
    reserve = next(t.value for t in report.terms if t.path == "engine/reserve")
    assert 85_520_809_984 == reserve + report.capacity.usable_bytes


def test_nothing_grows_is_unbounded() -> None:
    """A pure state-space model needs the same bytes at any length: max_context is null and binding says unbounded."""
    report = kvplan.plan(config("mistralai__Mamba-Codestral-7B-v0.1"), gpu="h100", context=1000)
    assert report.capacity is not None

    assert report.capacity.max_context is None
    assert "unbounded" == report.capacity.binding
    assert report.capacity.max_batch is not None


def test_unknown_quantisation_is_an_omission() -> None:
    """A quant_method nobody knows leaves the weights out and says so; the cache is still right."""
    raw = config(LLAMA) | {"quantization_config": {"quant_method": "sorcery"}}
    report = kvplan.plan(raw, context=8192, gpu="h100")
    data = report.to_dict()

    assert data["weights"]["bytes"] is None
    assert data["capacity"] is None
    assert {"weights", "capacity"} <= {o["path"] for o in data["omitted"]}
    assert 2**30 == data["kv"]["bytes"]


def test_dtype_does_not_cancel_a_checkpoints_quantisation() -> None:
    """Dtype is the type of what is not quantised; only --weight-dtype replaces the checkpoint's own format."""
    name = "openai__gpt-oss-20b"
    assert (
        kvplan.plan(spec(name), dtype="fp16").to_dict()["weights"]["bytes"]
        == kvplan.plan(spec(name)).to_dict()["weights"]["bytes"]
    )
    assert kvplan.plan(spec(name), weight_dtype="bf16").to_dict()["weights"]["bytes"] == 2 * 20_914_757_184


def test_roofline_bounds_by_hand() -> None:
    """Llama-3.1-8B on H100: the decode step reads 15.01 GB of matrices, logits and 1.07 GB of cache at 3.35 TB/s."""
    report = kvplan.plan(spec(LLAMA), context=8192, gpu="h100-80gb-sxm")
    times = report.answer.times
    assert times is not None
    streamed = 2 * (8_030_261_248 - 128_256 * 4096)  # everything but the token table
    expected = (streamed + report.kv["bytes_read_per_step"]) / 3.35e12

    assert times.decode.seconds == pytest.approx(expected, rel=1e-12)
    assert "memory" == times.decode.side
    assert "compute" == times.prefill.side
    assert times.prefill.seconds >= report.answer.prefill.total / 989e12
    slower = kvplan.plan(spec(LLAMA), context=8192, gpu="h100-80gb-sxm", bandwidth_efficiency=0.5).answer.times
    assert slower is not None
    assert slower.decode.seconds == pytest.approx(2 * expected, rel=1e-12)


def test_a_batch_touches_more_experts() -> None:
    """Under uniform routing a batch of T tokens touches E (1 - (1 - k/E)^T) experts: traffic per step grows, then stops."""
    name = "mistralai__Mixtral-8x7B-Instruct-v0.1"
    steps = [kvplan.plan(spec(name), batch=b, context=1, gpu="h200").answer.times for b in (1, 4, 4096)]
    bytes_ = [next(s for path, s, _ in t.decode.terms if path == "linear") for t in steps if t]
    experts = 32 * 8 * 3 * 4096 * 14336 * 2
    rest = 2 * 46_702_792_704 - experts - 2 * 2 * 32_000 * 4096

    assert bytes_[0] == pytest.approx((rest + experts * 2 / 8) / 4.8e12, rel=1e-9)
    assert bytes_[1] == pytest.approx((rest + experts * (1 - 0.75**4)) / 4.8e12, rel=1e-9)
    assert bytes_[2] > bytes_[1]
