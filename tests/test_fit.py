"""`kvplan fit`: every row is the least that a search through all plans finds, and every failure says what binds."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

import kvplan
from kvplan.catalog import find_gpu, gpu_names
from kvplan.cli import app
from kvplan.engines import ENGINES, find_engine
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.fitting import ORDERS, Question, Search, Way, _paced, read_demand
from kvplan.planner import answer, batches, bounds
from kvplan.serving import _cases, _rooms, _sizes, held_at_once
from kvplan.settings import read_settings
from kvplan.stages import pipeline
from tests.support import CONFIGS

ROOT = Path(__file__).parents[1]
LLAMA = "llama-3.1-8b"
GPUS = ["rtx-3060-12gb", "l4-24gb", "h100-80gb-sxm", "apple-m1-max-64gb", "mi300x-192gb"]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def searched(model: str, gpu: str, most: int, flags: dict[str, Any]) -> tuple[int, int, int, int] | None:
    """(GPUs, tp, pp, dp) found by asking every plan: no bound, no inversion, no order to rely on."""

    def fits(**ranks: int) -> bool:
        try:
            return bool(kvplan.plan(model, gpu=gpu, **flags, **ranks).fits)
        except InvalidInput as e:
            if e.field not in ("tp", "pp"):
                raise
            return False

    # a Mac has no link to another one in its preset
    sizes = [tp for tp in ((1,) if gpu.startswith("apple") else (1, 2, 4, 8)) if tp <= most and legal(model, tp)]
    found = [(tp * dp, tp, 1, dp) for tp in sizes for dp in range(1, most // tp + 1) if fits(tp=tp, dp=dp)]
    if not found and not gpu.startswith("apple"):
        tp = max(sizes)
        stages = range(2, most // tp + 1)
        found = [
            (tp * pp * dp, tp, pp, dp)
            for pp in stages
            for dp in range(1, most // (tp * pp) + 1)
            if fits(tp=tp, pp=pp, dp=dp)
        ]
    return min(found, key=lambda ranks: (ranks[0], ranks[1] * ranks[2])) if found else None


@pytest.mark.parametrize(
    ("model", "engine", "context", "batch", "most"),
    [
        (LLAMA, "ideal", "8k", 4, 8),
        (LLAMA, "transformers", "32k", 16, 16),
        ("llama-3.1-70b", "ideal", "32k", 8, 32),
        ("gemma-3-12b", "ideal", "128k", 24, 16),  # windows
        ("gemma-3-12b", "transformers", "32k", 3, 12),  # storage of a prefill
        ("deepseek-v2-lite", "ideal", "32k", 64, 8),  # latents on every rank
        ("qwen3-next-80b-a3b", "ideal", "64k", 12, 16),  # recurrent state
        ("qwen2.5-7b", "ideal", "32k", 96, 24),  # 28 heads: no tp of 8
    ],
)  # fmt: skip
def test_rows_are_what_a_search_through_all_plans_finds(
    model: str, engine: str, context: str, batch: int, most: int
) -> None:
    """Skipping by bounds changes nothing: for every GPU and format the same ranks, or neither finds any."""
    found = kvplan.fit(
        model, context=context, batch=batch, gpu=GPUS, engine=engine, kv_dtype=["auto", "fp8"], max_gpus=most
    )
    rows = {(row.gpu, row.flags.get("kv_dtype")): (row.gpus, row.tp, row.pp, row.dp) for row in found.rows}
    for gpu in GPUS:
        for kv in (None, "fp8"):
            flags: dict[str, Any] = {"context": context, "batch": batch, "engine": engine}
            expected = searched(model, gpu, most, flags | ({"kv_dtype": kv} if kv else {}))
            assert expected == rows.get((gpu, kv)), (gpu, kv)
    assert len(rows) + len(found.failures) == 2 * len(GPUS)


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp", "sglang"])
def test_engines_with_rules_of_their_own(engine: str) -> None:
    """The same search through all plans, where an engine's pool and not a sum of parts says what fits."""
    found = kvplan.fit(LLAMA, context="16k", batch=6, gpu=["l4", "t4"], engine=engine, kv_dtype="auto", max_gpus=4)
    rows = {row.gpu: (row.gpus, row.tp, row.pp, row.dp) for row in found.rows}
    flags: dict[str, Any] = {"context": "16k", "batch": 6, "engine": engine}

    assert rows
    for gpu in ("l4-24gb", "t4-16gb"):
        assert searched(LLAMA, gpu, 4, flags) == rows.get(gpu)
    for row in found.rows:
        report = kvplan.plan(LLAMA, **row.flags)
        assert report.fits
        assert [size for _, size in report.memory()] == [row.weights_bytes, row.kv_bytes, row.overhead_bytes]


def test_versions_and_blocks_go_to_the_engines() -> None:
    """What is asked of the model alone leaves them out; an engine that does not know the version is refused."""
    found = kvplan.fit(
        LLAMA, gpu="h100", engine=["sglang", "vllm"], engine_version="0.10.0", block_size=32, kv_dtype="auto"
    )

    assert ["vllm 0.10.0"] == [row.engine for row in found.rows]
    assert "--engine-version 0.10.0" in found.rows[0].command
    assert kvplan.plan(LLAMA, **found.rows[0].flags).fits


def test_a_row_of_lengths_beyond_which_the_engine_refuses() -> None:
    """mlx-lm quantises from 5,000 tokens on, in groups that do not divide 96: shorter ones it answers, the row's plan too."""
    options = {"kv_bits": 4, "kv_group_size": 128}
    found = kvplan.fit(
        "phi-3-mini-4k", context=4096, gpu="apple-m1-max-64gb", engine="mlx", engine_options=options, kv_dtype="auto"
    )
    report = kvplan.plan("phi-3-mini-4k", **found.rows[0].flags)

    assert report.fits
    assert report.capacity
    assert 4999 == report.capacity.max_context
    with pytest.raises(InvalidInput, match="kv_group_size"):
        kvplan.plan("phi-3-mini-4k", **found.rows[0].flags | {"context": 5000})


def test_engine_options_go_to_the_engines_that_know_them() -> None:
    """And into the command of their rows alone."""
    found = kvplan.fit(
        LLAMA, context="8k", gpu="l4", engine=["ideal", "vllm"], engine_options={"max_num_seqs": 8}, kv_dtype="auto"
    )
    assert {"ideal": None, "vllm": {"max_num_seqs": 8}} == {
        row.engine.split()[0]: row.flags.get("engine_options") for row in found.rows
    }
    vllm = next(row for row in found.rows if row.engine.startswith("vllm"))
    assert "--engine-option max_num_seqs=8" in vllm.command


def test_every_row_is_an_ordinary_plan() -> None:
    """Its flags, given to `kvplan.plan`, fit and give its numbers; and one GPU's memory adds up."""
    found = kvplan.fit(LLAMA, context="32k", batch=48, gpu=GPUS, engine=["ideal", "transformers"], scheme="cla:2")
    assert found.rows
    for row in found.rows:
        report = kvplan.plan(LLAMA, **row.flags)
        assert report.fits
        assert report.capacity
        assert report.answer.times
        assert (report.capacity.usable_bytes, report.answer.times.tokens_per_s) == (row.usable_bytes, row.tokens_per_s)
        assert [size for _, size in report.memory()] == [row.weights_bytes, row.kv_bytes, row.overhead_bytes]
        assert row.usable_bytes - row.weights_bytes - row.kv_bytes - row.overhead_bytes == row.free_bytes >= 0
        assert report.to_dict()["inputs"]["scheme"] == "cla:2"
        code, stdout, _ = run("plan", LLAMA, *row.command.split(), "--json")
        assert (0, row.usable_bytes) == (code, json.loads(stdout)["capacity"]["usable_bytes"])


def test_every_preset_is_asked() -> None:
    """Each GPU is in the rows or in the failures, once per format."""
    found = kvplan.fit("llama-3.1-70b", context="32k", batch=64)
    ways = {(row.kv_dtype, row.weight_dtype) for row in found.rows}

    assert {("bf16", "as published"), ("fp8_e4m3", "as published"), ("fp8_e4m3", "fp8")} == ways
    asked = [(item.gpu, item.kv_dtype, item.weight_dtype) for item in (*found.rows, *found.failures)]
    assert len(asked) == len(set(asked)) == 3 * len(gpu_names())
    assert set(gpu_names()) == {gpu for gpu, _, _ in asked}


def test_64_sequences_of_70b_by_hand() -> None:
    """80 layers x 2 x 8 heads x 128 x 2 bytes are 10 GiB per 32k; weights 131.4 GiB: an MI325X of 256 GiB holds 12."""
    found = kvplan.fit("llama-3.1-70b", context="32k", batch=64, gpu="mi325x", kv_dtype="auto")
    row = found.rows[0]

    # tp 1: 11 or 12 sequences beside the weights, six replicas; tp 2: 38 on two, two replicas; tp 4: 89 on four
    assert (4, 2, 1, 2) == (row.gpus, row.tp, row.pp, row.dp)
    assert 64 * 10 * 2**30 // 4 == row.kv_bytes  # 32 sequences over 2 ranks
    capacity = kvplan.plan("llama-3.1-70b", **row.flags).capacity
    assert capacity
    assert capacity.max_batch
    assert capacity.max_batch // 2 == (2 * row.usable_bytes - 141_107_412_992 - 2 * row.overhead_bytes) // (10 * 2**30)


def test_orders() -> None:
    """Each order sorts by what it is called; a price is the preset's, times the GPUs."""
    for by in ORDERS:
        rows = kvplan.fit(LLAMA, context="32k", batch=32, by=by).rows
        values = {
            "gpus": [row.gpus for row in rows],
            "headroom": [-row.headroom for row in rows],
            "price": [math.inf if row.usd_per_hour is None else row.usd_per_hour for row in rows],
            "tokens_per_s": [-(row.tokens_per_s or 0) for row in rows],
        }[by]
        assert sorted(values) == values
        assert len(set(values)) > 3
    priced = [row for row in rows if row.usd_per_hour is not None]
    assert 10 < len(priced) < len(rows)
    for row in priced:
        preset = tomllib.loads((ROOT / f"presets/gpus/{row.gpu}.toml").read_text())
        assert preset["price_usd_per_hour"] * row.gpus == row.usd_per_hour


@pytest.mark.parametrize(
    ("flags", "binding", "says"),
    [
        ({"gpu": "t4", "max_gpus": 8, "context": "2k"}, "weights", "tp 8: 16.43 GiB of 15 GiB per GPU"),
        ({"gpu": "l4", "max_gpus": 16, "context": "128k", "batch": 999}, "kv/global", "are allowed"),
        # no tp of a Mac: its preset names no link
        ({"gpu": "apple-m1-max-64gb", "max_gpus": 64, "context": "2k"}, "weights", "tp 1: 131.4 GiB of 64 GiB"),
    ],
)
def test_failures_name_what_binds(flags: dict[str, Any], binding: str, says: str) -> None:
    """The term and its bytes against what the GPU has, at the most that was tried."""
    found = kvplan.fit("llama-3.1-70b", kv_dtype="auto", **flags)
    failure = found.failures[0]

    assert () == found.rows
    assert binding == failure.binding
    assert says in failure.why
    flags = {"context": flags["context"], "batch": flags.get("batch", 1), "gpu": flags["gpu"]}
    report = kvplan.plan("llama-3.1-70b", **flags, tp=failure.tp, pp=failure.pp, dp=failure.dp)
    assert report.fits is False
    assert report.capacity
    assert report.capacity.binding == failure.binding
    assert sum(size for _, size in report.memory()) == failure.needed_bytes
    assert failure.needed_bytes > failure.usable_bytes == report.capacity.usable_bytes
    assert 1 == run("fit", "llama-3.1-70b", "--gpu", flags["gpu"], "-c", "2k", "--max-gpus", "1")[0]


def test_the_number_of_gpus_that_would_do_is_told() -> None:
    """Where only the limit is in the way, the number is the one that a higher limit gives."""
    failure = kvplan.fit(LLAMA, context="32k", batch=64, gpu="l4", kv_dtype="auto", max_gpus=8).failures[0]
    row = kvplan.fit(LLAMA, context="32k", batch=64, gpu="l4", kv_dtype="auto", max_gpus=64).rows[0]

    assert row.gpus == failure.gpus_needed
    assert failure.gpus_needed > 8


@pytest.mark.parametrize(
    ("model", "engine", "batch"),
    [
        ("gpt2", "ideal", 50_000),
        ("gpt2", "ideal", 10**6),  # more than any engine schedules
        ("gpt2", "vllm", 10**6),  # as many per replica as vLLM schedules: the smallest replicas do best
        (LLAMA, "vllm", 2000),  # as many as memory holds: larger ones do
        ("gemma-3-12b", "sglang", 2**40),
        ("mamba-130m", "ideal", 10**6),
    ],
)
def test_the_fewest_gpus_of_a_failure_are_the_fewest_of_all_replicas(model: str, engine: str, batch: int) -> None:
    """Replicas skipped because they cannot win change nothing: every tp and pp is asked here for the most that it holds."""
    (failure,) = kvplan.fit(
        model, context="8k", batch=batch, gpu="l4", engine=engine, kv_dtype="auto", max_gpus=8
    ).failures
    found = []
    for tp in (1, 2, 4, 8):
        for pp in range(1, 9 if tp == max(t for t in (1, 2, 4, 8) if legal(model, t)) else 2):
            if tp * pp <= 8 and legal(model, tp):
                each = kvplan.plan(model, context="8k", gpu="l4", engine=engine, tp=tp, pp=pp).capacity
                assert each is not None
                assert each.max_batch is not None
                if each.max_batch:
                    found.append((tp * pp * -(-batch // each.max_batch), -tp * pp))
    assert found
    assert (failure.gpus_needed, -failure.tp * failure.pp) == min(found)


def legal(model: str, tp: int) -> bool:
    """Whether the model's heads allow so many ranks."""
    try:
        kvplan.plan(model, tp=tp)
    except InvalidInput:
        return False
    return True


def test_stages_are_tried_up_to_64() -> None:
    """Layers of 8 × 8192² bf16 parameters, 1.07 GB: some ten fit on a GPU, 100 take ten stages and 1,000 about a hundred."""
    flags: dict[str, Any] = {"context": 128, "gpu": "rtx-3060-12gb", "kv_dtype": "auto", "tp": 1, "max_gpus": 200}
    numbers = {"layers": 100, "hidden": 8192, "heads": 64, "kv_heads": 1, "ffn": 16384, "vocab": 256}
    found = kvplan.fit(**numbers, **flags)
    more = kvplan.fit(**numbers | {"layers": 1000}, **flags)

    assert [10 <= row.pp <= 12 for row in found.rows] == [True]
    assert not more.rows
    assert 64 >= more.failures[0].pp
    assert "at most 64" in found.notes[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_search_asks_is_what_a_plan_answers(engine: str) -> None:
    """``batches`` and ``bounds`` leave out all other numbers of a plan and say the same of theirs."""
    for model in ("gpt2", "gemma-3-12b", "qwen3-next-80b-a3b"):
        spec = kvplan.load(model)
        for flags in ({"gpu": "h100"}, {"gpu": "l4", "tp": 2, "pp": 3, "dp": 2}):
            flags |= {"context": 3000, "engine": engine}
            if engine in ("mlx", "llama.cpp", "exllama") and "tp" in flags:
                continue  # on one device, or split in a way of their own
            s = read_settings(spec, **flags)
            fits, near = batches(spec, s)
            held = set()
            for batch in (1, 2, 7, 64, 300, 4000, 10**6, near(), near() + 1):
                capacity = answer(spec, s._replace(batch=batch)).capacity
                assert capacity is not None
                assert fits(batch) is capacity.fits is (capacity.max_batch is None or batch <= capacity.max_batch)
                held.add(capacity.max_batch)
                times = answer(spec, s._replace(batch=batch)).times
                assert times is not None
                assert [times.prefill, times.decode] == [bound() for bound in bounds(spec, s._replace(batch=batch))]
            assert 1 == len(held)


@pytest.mark.parametrize("engine", [name for name in ENGINES if find_engine(name).policy])
def test_what_a_few_stages_do_not_hold_all_do_not(engine: str) -> None:
    """A question ends where the first stage and the heaviest say no: asked of all stages at once, the answer is the same."""
    policy = find_engine(engine).policy
    assert policy is not None
    told = 0
    for model, context in itertools.product(("gpt2", "gemma-3-12b", "qwen3-next-80b-a3b", "jamba-v0.1"), (500, 30_000)):
        spec = kvplan.load(model)
        for gpu, pp in itertools.product(("l4", "h100"), (3, 5, 8)):
            s = read_settings(spec, gpu=gpu, pp=pp, context=context, engine=engine, kv_dtype=None)
            stages = pipeline(spec, s)
            try:
                fits = held_at_once(spec, s, stages)

                def whole(batch: int) -> bool:
                    cases = _cases(spec, s, stages, s.context, batch)  # noqa: B023
                    sizes = _sizes(_rooms(policy, s, stages, cases, True))  # noqa: B023
                    return sizes is not None and min(sizes) >= 0 and policy.fits(cases, sizes)

                answers = [(fits(s.context, batch), whole(batch)) for batch in (1, 2, 5, 30, 200, 1500)]
            except InvalidInput:  # a model that this engine does not know
                continue
            most = policy.most(_cases(spec, s, stages, s.context, 1)[0]) if policy.most else 10**6
            assert [a for a, _ in answers] == [
                b and n <= most for (_, b), n in zip(answers, (1, 2, 5, 30, 200, 1500), strict=True)
            ]
            told += len({a for a, _ in answers}) == 2
    assert told >= 3  # questions where some batches fit and some do not


def test_a_search_asks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demand that nothing holds: a few questions per GPU, format and number of ranks, not a bisection of every one."""
    asked = 0

    def counted(*arguments: Any) -> tuple[Any, Any]:
        fits, near = batches(*arguments)

        def count(n: int) -> bool:
            nonlocal asked
            asked += 1
            return fits(n)

        return count, near

    monkeypatch.setattr("kvplan.fitting.batches", counted)
    for engine, model in itertools.product(("ideal", "vllm"), ("gpt2", "gemma-3-12b")):
        asked = 0
        found = kvplan.fit(model, context="8k", batch=2**48, engine=engine)
        assert not found.rows
        # 11 to 14 numbers of ranks are tried with a GPU (tp of 1, 2, 4 and pp of 2 to 12 of gpt2): a bisection of each
        # would ask 200 to 300 times
        assert asked <= 64 * len(found.failures), (engine, model)


# --- requests per second -----------------------------------------------------------------------------------------------


def waited(model: str, rate: float, prompt: int, output: int, **flags: Any) -> tuple[int, int] | None:
    """(replicas, sequences on each) by iterating Little's law from one sequence up, replica by replica."""
    ends = (prompt, prompt + output - 1)

    def latency(n: int) -> float:
        first = kvplan.plan(model, context=prompt, **flags).to_dict()["time"]["prefill_s"]
        steps = [kvplan.plan(model, context=c, batch=n, **flags).to_dict()["time"]["decode_step_s"] for c in ends]
        return float(first + (output - 1) * sum(steps) / 2)

    capacity = kvplan.plan(model, context=prompt + output, **flags).capacity
    assert capacity
    held = capacity.max_batch
    assert held
    for replicas in range(1, 65):
        share, n = rate / replicas, 1
        while n <= held:
            more = max(math.ceil(share * latency(n)), 1)
            if more == n:
                break
            n = more
        # dense bf16 FLOP/s of the data sheet
        flops = kvplan.plan(model, context=prompt, **flags).to_dict()["flops"]["prefill"]["total"]
        flops += (
            (output - 1) * sum(kvplan.plan(model, context=c).to_dict()["flops"]["decode"]["total"] for c in ends) / 2
        )
        if n <= held and share * flops / flags.get("tp", 1) <= 989e12:
            return replicas, n
    return None


@pytest.mark.parametrize(
    ("rate", "prompt", "output", "tp"),
    [(0.2, 512, 64, 1), (8, 2048, 256, 1), (30, 1000, 500, 1), (5, 30000, 100, 2), (3, 100, 8000, 1), (40, 900, 1, 1)],
)
def test_littles_law_is_the_fixed_point(rate: float, prompt: int, output: int, tp: int) -> None:
    """Iterating n = rate x latency(n) upwards from 1 on every number of replicas gives the same answer."""
    found = kvplan.fit(
        LLAMA, input_len=prompt, output_len=output, request_rate=rate, gpu="h100", tp=tp, kv_dtype="auto"
    )
    expected = waited(LLAMA, rate, prompt, output, gpu="h100", tp=tp)

    assert expected
    row = found.rows[0]
    assert (expected[0], expected[0] * expected[1]) == (row.dp, row.sequences)
    assert row.latency_s
    assert row.sequences >= rate * row.latency_s * (1 - 1e-9)
    assert row.flags["context"] == prompt + output


def test_little_by_hand() -> None:
    """Bytes over bandwidth, from the data sheet alone: 8.03e9 weights less the table, 128 KiB per token, 3.35 TB/s."""
    row = kvplan.fit(LLAMA, input_len=1024, output_len=1025, request_rate=1, gpu="h100", kv_dtype="auto").rows[0]

    streamed = 2 * (8_030_261_248 - 128_256 * 4096)
    flops = 2 * (8_030_261_248 - 2 * 128_256 * 4096) * 1024 + 4 * (1024 * 1025 // 2) * 4096 * 32
    prefill = flops / 989e12 + 2 * 128_256 * 4096 / 3.35e12  # one row of logits reads their whole matrix
    first, last = ((streamed + n * 131_072) / 3.35e12 for n in (5 * 1025, 5 * 2049))
    latency = prefill + 1024 * (first + last) / 2
    assert 5 == row.sequences == math.ceil(latency)
    assert row.latency_s == pytest.approx(latency, rel=1e-3)
    assert row.first_token_s == pytest.approx(prefill, rel=1e-3)


def test_more_requests_need_no_fewer_gpus() -> None:
    """Over a sweep of rates, GPUs and sequences never fall."""
    flags: dict[str, Any] = {"input_len": 2000, "output_len": 300, "gpu": "l40s", "kv_dtype": "auto"}
    rows = [kvplan.fit(LLAMA, request_rate=rate, **flags).rows[0] for rate in (0.01, 0.5, 2, 5, 11, 23)]

    assert [row.gpus for row in rows] == sorted(row.gpus for row in rows)
    assert 1 == rows[0].sequences < rows[-1].sequences
    assert rows[-1].gpus > rows[0].gpus


@pytest.mark.parametrize("stages", [1, 2, 6])
def test_what_is_needed_at_least_is_no_more_than_is_needed(stages: int) -> None:
    """Stages without sequences make a step slow: the bound from below holds there too, and replicas agree with it."""
    spec = kvplan.load("gemma-3-12b")
    question = Question(spec, lambda **flags: read_settings(spec, **flags), kvplan.plan)
    demand = read_demand(None, input_len=8000, output_len=4000, request_rate=1)
    search = Search(question, demand, (1,), 64, {}, {}, {}, {})
    pace = _paced(search, find_gpu("arc-b580-12gb"), Way("ideal", None, None, ""), 1, stages)
    found = {}
    for rate in (0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 1):
        least, needed = pace.least(rate), pace.concurrency(rate)
        assert (least is None) == (needed is None)
        if least is not None and needed is not None:
            assert 1 <= least <= needed
            found[needed] = least
            replicas = pace.replicas(rate, needed)
            assert replicas == 1
            assert needed == 1 or (pace.replicas(rate, needed - 1) or 2) > 1
    assert len(found) >= 3


def test_no_number_of_replicas_is_none_said() -> None:
    """Where nothing would do, the failure names no number: 10**11 requests are too many, and 750 GiB too much for 4 x 15."""
    lengths: dict[str, Any] = {"input_len": "2k", "output_len": 500, "gpu": "t4"}
    many = kvplan.fit(LLAMA, request_rate=1e11, **lengths).failures[0]
    large = kvplan.fit("llama-3.1-405b", request_rate=1e6, max_gpus=4, kv_dtype="auto", **lengths).failures[0]

    assert ("rate/compute", None) == (many.binding, many.gpus_needed)
    assert "not even 65,536 replicas of tp 8 × pp 8 would do" in many.why
    assert ("weights", None) == (large.binding, large.gpus_needed)
    assert "None" not in many.why + large.why


def test_too_slow_says_so() -> None:
    """Where arithmetic is the limit, the failure names it and the number of GPUs that would do."""
    found = kvplan.fit("llama-3.1-70b", input_len=4000, output_len=10, request_rate=50, gpu="t4", weight_dtype="int4")

    assert "rate/compute" == found.failures[0].binding
    assert found.failures[0].gpus_needed
    assert found.failures[0].gpus_needed > 64
    assert "lower bounds" in found.to_text()


def preset(folder: Path, name: str, **changes: Any) -> None:
    """A preset of the user's own, made from a shipped one."""
    facts = tomllib.loads((ROOT / "presets/gpus/h200-141gb-sxm.toml").read_text())
    (folder / "gpus").mkdir(exist_ok=True)
    (folder / f"gpus/{name}.toml").write_text(tomli_w.dumps(facts | {"name": name, "aliases": []} | changes))


def test_a_gpu_without_rates_answers_memory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rate in the preset: a demand of sequences is answered without times, one of requests is refused."""
    preset(tmp_path, "silent-141gb", tflops={"source": "none is stated"})
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    row = kvplan.fit(LLAMA, context=1000, gpu="silent-141gb").rows[0]
    assert (1, None) == (row.gpus, row.tokens_per_s)
    with pytest.raises(InvalidInput, match="no time bounds"):
        kvplan.fit(LLAMA, input_len=100, output_len=10, request_rate=1, gpu="silent-141gb")


# --- faces and errors ----------------------------------------------------------------------------------------------------


def test_json_csv_and_markdown_say_the_same() -> None:
    """One object, four renderings; JSON and CSV hold every row, text and Markdown the first."""
    command = ["fit", LLAMA, "-c", "32k", "-b", "64", "--by", "price"]
    found = kvplan.fit(LLAMA, context="32k", batch=64, by="price")
    data = json.loads(run(*command, "--json")[1])

    assert json.loads(found.to_json()) == data
    assert [row.gpu for row in found.rows] == [row["gpu"] for row in data["rows"]]
    lines = list(csv.DictReader(io.StringIO(run(*command, "--csv")[1])))
    assert [(row.gpu, str(row.free_bytes), row.command) for row in found.rows] == [
        (line["gpu"], line["free_bytes"], line["command"]) for line in lines
    ]
    markdown = run(*command, "--markdown", "--top", "3")[1]
    assert [row.gpu for row in found.rows[:3]] == [
        line.split("|")[1].strip() for line in markdown.splitlines() if line.startswith("| ")
    ][1:4]
    assert data["inputs"]["by"] == "price"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_keeps_to_the_terminal(width: int) -> None:
    """No line is longer; the first row's command stands below the table."""
    found = kvplan.fit("llama-3.1-70b", context="32k", batch=64, engine=["ideal", "transformers"], max_gpus=4)
    text = found.to_text(width)

    if width >= 80:
        assert max(map(len, text.splitlines())) <= width
    assert found.rows[0].command in " ".join(text.split())
    assert found.failures
    assert found.lacking()[0].binding in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--gpu h100-80", "unknown GPU 'h100-80'; nearest"),
        ("--by prize", "unknown order 'prize'; nearest: price"),
        ("--engine vlm", "unknown engine 'vlm'"),
        ("--kv-dtype fp9", "'fp9'"),
        ("--input-len 1k", "output_len: missing"),
        ("--input-len 1k --output-len 1k -c 4k", "allowed: --input-len + --output-len (2048)"),
        ("--request-rate 3", "only with --input-len and --output-len"),
        ("--input-len 1k --output-len 9 --request-rate 3 -b 4", "Little's law gives it"),
        ("--input-len 1k --output-len 9 --request-rate -3", "requests per second above 0"),
        ("--input-len 1k --output-len 9 --request-rate nan", "requests per second above 0"),
        ("--tp 3 --gpu h100", "tp: got 3, allowed: a divisor of the 32 attention heads"),
        ("--tp 1,x", "tp: got 'x'"),
        ("--max-gpus 0", "max_gpus: got '0'"),
        ("--max-gpus 1M", "max_gpus: got '1M', allowed: a whole number from 1 to 65,536"),
        ("--kv-dtype q9", "unknown kv_dtype (storage format) 'q9'"),
        ("--weight-dtype q9", "unknown weight_dtype (storage format) 'q9'"),
        ("--tp 2 -g apple-m1-max-64gb", "tp: got 2, allowed: 1 on a system on a chip that no link joins to others"),
        ("--engine-version 0.10.0", "engine_version: got '0.10.0', allowed: none: ideal has no versions"),
        (
            "--input-len 281474976710655 --output-len 2",
            "input_len + output_len: got 281474976710657, allowed: at most 2**48",
        ),
        (
            "--isl 1 --osl 1 --request-rate 1e12",
            "request_rate: got '1e12', allowed: requests per second above 0 and below",
        ),
        (
            " ".join(f"--kv-dtype q{n}_k --weight-dtype q{n}_k" for n in (2, 3, 4, 5, 6, 8)) + " -e ideal -e vllm",
            f"gpu × engine × format: got '{len(gpu_names()) * 2 * 36:,}', allowed: at most 4,096",
        ),
        ("--top -1", "--top: got '-1'"),
        ("--gpu-memory-utilization 3", "gpu_memory_utilization: got 3.0"),
    ],
)
def test_bad_input_is_one_line(arguments: str, says: str) -> None:
    """Exit code 2, one line, naming what was given."""
    code, stdout, stderr = run("fit", LLAMA, *arguments.split())

    assert (2, "") == (code, stdout)
    assert 1 == len(stderr.splitlines())
    assert says in stderr


def test_what_is_the_answer_cannot_be_asked() -> None:
    """Numbers of replicas and stages are what fit finds."""
    for name in ("pp", "dp", "memory"):
        with pytest.raises(InvalidInput) as e:
            kvplan.fit(LLAMA, **{name: 2})
        assert name == e.value.field
    with pytest.raises(UnknownName, match="flag"):
        kvplan.fit(LLAMA, colour="red")
    assert read_demand(None) == read_demand(8192, batch="1")


def test_a_preset_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the answers, and one that cannot be read is named and passed by."""
    preset(tmp_path, "mine-1tb", memory_bytes=2**40)
    (tmp_path / "gpus/broken.toml").write_text("memory =")
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    found = kvplan.fit("llama-3.1-70b", context="32k", batch=64, kv_dtype="auto")
    assert ("mine-1tb", 1) == (found.rows[0].gpu, found.rows[0].gpus)
    assert any("broken.toml" in note for note in found.notes)


def test_a_config_and_plain_numbers() -> None:
    """Whatever plan takes, fit takes; a checkpoint of few bits is tried with its own weights alone."""
    code, stdout, _ = run("fit", "--layers", "20", "--hidden", "2048", "--heads", "16", "--gpu", "l4", "--json")
    assert 0 == code
    flags = json.loads(stdout)["rows"][0]["flags"]
    assert kvplan.plan(**flags).fits
    quantised = str(next(path for path in CONFIGS.glob("*.json") if "gpt-oss-20b" in path.name))
    found = kvplan.fit(quantised, context="32k", gpu="rtx-4090")
    assert {"as published"} == {row.weight_dtype for row in found.rows}


def test_the_start_stays_light() -> None:
    """`import kvplan` does not import it; a fit imports no numpy, pandas or torch."""
    code = (
        "import sys, kvplan; assert 'kvplan.fitting' not in sys.modules; assert callable(kvplan.fit);"
        "kvplan.fit('llama-3.1-8b', gpu='l4'); assert callable(kvplan.fit);"
        "assert not {'numpy', 'torch', 'pandas', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=os.environ | {"KVPLAN_PRESETS": ""})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tp": 2.0}, "tp: got 2.0"),
        ({"tp": b"2"}, "tp: got"),
        ({"by": None}, "by: missing, allowed: gpus"),
        ({"by": ["gpus"]}, "by: got"),
        ({"request_rate": 10**400, "input_len": 1, "output_len": 1}, "request_rate: got"),
    ],
)
def test_wrong_types_are_typed(flags: dict[str, Any], says: str) -> None:
    """In Python too: one line that names the field."""
    with pytest.raises(InvalidInput) as error:
        kvplan.fit(LLAMA, gpu="h100", **flags)
    assert says in str(error.value)
    assert 1 == len(str(error.value).splitlines())


def test_several_ranks_in_a_text() -> None:
    """As on the command line; None is what is tried without a word."""
    assert [2, 4] == kvplan.fit(LLAMA, gpu="h100", tp="2,4").to_dict()["inputs"]["tp"]
    assert [1, 2, 4, 8] == kvplan.fit(LLAMA, gpu="h100", tp=None).to_dict()["inputs"]["tp"]


def test_errors_are_typed() -> None:
    """Everything that fit raises is a KvplanError."""
    with pytest.raises(KvplanError):
        kvplan.fit("no-such-model")
    with pytest.raises(InvalidInput, match="whole number"):
        kvplan.fit(LLAMA, batch="many")
