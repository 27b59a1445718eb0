"""A sweep gives what a plan gives, point by point: whole numbers equal, floats to 1e-12."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

import kvplan
from kvplan.catalog import model_names
from kvplan.engines import ENGINES, find_engine
from kvplan.errors import UnknownName
from kvplan.sweeps.columns import COLUMNS, KEYS
from kvplan.sweeps.surface import Surface, suits

POINTS = 10_000

# What a plan says under each column's name. Written out by hand: the sweep has a list of its own.
SECTIONS = {
    "parameters": ("model", "parameters"),
    "active_parameters": ("model", "active_parameters"),
    "kv_bytes_per_token": ("kv", "bytes_per_token"),
    "kv_bytes_per_token_marginal": ("kv", "bytes_per_token_marginal"),
    "kv_bytes_per_sequence": ("kv", "bytes_per_sequence"),
    "state_bytes_per_sequence": ("kv", "state_bytes_per_sequence"),
    "kv_bytes": ("kv", "bytes"),
    "kv_bytes_per_gpu": ("kv", "bytes_per_gpu"),
    "kv_bytes_read_per_step": ("kv", "bytes_read_per_step"),
    "kv_bytes_host": ("kv", "bytes_host"),
    "kv_bytes_disk": ("kv", "bytes_disk"),
    "kv_bytes_over_link_per_step": ("kv", "bytes_over_link_per_step"),
    "weights_bytes": ("weights", "bytes"),
    "weights_bytes_per_gpu": ("weights", "bytes_per_gpu"),
    "memory_bytes": ("capacity", "memory_bytes"),
    "usable_bytes": ("capacity", "usable_bytes"),
    "kv_pool_bytes": ("capacity", "kv_pool_bytes"),
    "kv_tokens": ("capacity", "kv_tokens"),
    "fits": ("capacity", "fits"),
    "max_batch": ("capacity", "max_batch"),
    "max_context": ("capacity", "max_context"),
    "binding": ("capacity", "binding"),
    "prefill_s": ("time", "prefill_s"),
    "decode_step_s": ("time", "decode_step_s"),
    "tokens_per_s": ("time", "tokens_per_s"),
    "prefill_bound": ("time", "prefill_bound"),
    "decode_bound": ("time", "decode_bound"),
}
MODELS = (
    "llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b", "deepseek-v3", "deepseek-v4-flash", "qwen3-next-80b-a3b", "minimax-m3",
    "llama-4-scout", "mixtral-8x7b", "jamba-1.5-mini", "mistral-7b-v0.1", "whisper-large-v3", "falcon-7b", "bloom-176b",
    "mamba-130m", "gemma-3n-e4b", "zamba2-7b", "llama-3.2-11b-vision", "mimo-v2-flash",
)  # fmt: skip
SCHEMES = (
    None, None, None, "cla:2", "mqa", "streaming:sinks=4,window=1020", "kivi:2", "chunk:4096", "quest:k=1024",
    "nsa:block=16,select=64,count=16,window=512", "dsa:k=2048,dim=128,heads=64", "lckv:w=2", "window:1024",
    "landmark:block=50", "topk:512,index=32", "sparsek:k=512,window=512", "budget:2048", "offload:cpu=0.5,disk=0.2",
)  # fmt: skip


def said(report: kvplan.Report) -> dict[str, Any]:
    """A plan's answer under the names of columns."""
    a, t = report.answer, report.answer.times
    contract: dict[str, dict[str, Any]] = {
        "model": {"parameters": a.profile.parameters, "active_parameters": a.profile.active_parameters},
        "kv": report.kv,
        "weights": {"bytes": a.weights.total if a.weights else None, "bytes_per_gpu": a.weights_per_gpu},
        "capacity": report.capacity._asdict() if report.capacity else {},
        "time": {
            "prefill_s": t.prefill.seconds,
            "decode_step_s": t.decode.seconds,
            "tokens_per_s": t.tokens_per_s,
            "prefill_bound": t.prefill.side,
            "decode_bound": t.decode.side,
        }
        if t
        else {},
    }
    point = {name: contract[section].get(field) for name, (section, field) in SECTIONS.items()}
    for phase, flops in (("prefill", a.prefill), ("decode", a.decode)):
        point[f"{phase}_flops"] = flops.linear + flops.attention + flops.logits
        for part in ("linear", "attention", "logits"):
            point[f"{phase}_{part}_flops"] = getattr(flops, part)
    # a plan's ledger holds its activations where there is a memory for them
    if a.capacity and not a.served:
        (point["activations_bytes_per_gpu"],) = (t.value for t in report.terms if t.path == "activations/peak")
    point["used_bytes_per_gpu"] = sum(size for _, size in report.memory()) if a.weights else None
    return point


def close(name: str, expected: Any, actual: Any) -> bool:
    """Floats to 1e-12, everything else equal, types apart."""
    if COLUMNS[name].kind == "real" and expected is not None and actual is not None:
        return math.isclose(expected, actual, rel_tol=1e-12)
    return bool(expected == actual)


def drawn(random_: random.Random, most: int) -> list[int]:
    """A few counts, some at powers of two and their neighbours."""
    near = [2 ** random_.randrange(most.bit_length()) + random_.choice((-1, 0, 1)) for _ in range(5)]
    return sorted({max(1, n) for n in (*near, *(random_.randrange(1, most) for _ in range(5)))})


def test_the_list_of_columns_is_complete() -> None:
    """Every column but the keys is compared below."""
    made = {*SECTIONS, "activations_bytes_per_gpu", "used_bytes_per_gpu"}
    made |= {
        f"{phase}{part}_flops" for phase in ("prefill", "decode") for part in ("", "_linear", "_attention", "_logits")
    }
    assert set(COLUMNS) == made | set(KEYS)


@pytest.mark.parametrize("seed", range(10))
def test_a_sweep_equals_a_plan_at_every_point(seed: int) -> None:
    """10,000 random points in all: models, schemes, formats, engines, GPUs and ranks at random, every column."""
    random_ = random.Random(seed)
    compared = on_arrays = 0
    while compared < POINTS // 10:
        model, scheme = random_.choice(MODELS), random_.choice(SCHEMES)
        flags = {
            "scheme": scheme,
            "kv_dtype": random_.choice((None, None, "fp8", "int4", "q8_0", "int2:g=32,residual=128")),
            "weight_dtype": random_.choice((None, None, "fp8", "int4")),
            "engine": random_.choice(("ideal", "ideal", "transformers")),
            "gpu": random_.choice((None, "h100-80gb-sxm", "h200-141gb-sxm", "rtx-4090", "b200")),
            "tp": random_.choice((1, 1, 2, 8)),
            "pp": random_.choice((1, 1, 2, 3)),
            "dp": random_.choice((1, 1, 2, 3)),
            "attention_flops": random_.choice(("causal", "full")),
            "logits": random_.choice(("last", "all")),
            "encoder_context": random_.choice((0, 0, 1500)),
        }
        if flags["engine"] == "ideal":
            flags["block_size"] = random_.choice((None, None, 16))
        flags = {name: value for name, value in flags.items() if value is not None}
        # whole matrices of scores at a million tokens are more bytes than a column that may be empty holds (2**53)
        most = 2**14 if flags["engine"] == "transformers" else 2**20
        contexts, batches = drawn(random_, most), drawn(random_, 1024)
        try:
            kvplan.plan(model, context=1, **flags)
        except UnknownName:
            raise
        except kvplan.KvplanError:
            continue  # what cannot be is tested on its own
        asked = kvplan.sweep(model, context=contexts, batch=batches, columns=list(COLUMNS), **flags)
        cell = asked.grid.cell(0)
        on_arrays += suits(cell) and Surface(cell, *(_floats(v) for v in (contexts, batches))).exact()
        rows = asked.rows()
        assert len(rows) == len(contexts) * len(batches)
        for row in random_.sample(rows, min(50, len(rows))):
            report = kvplan.plan(model, context=row["context"], batch=row["batch"], **flags)
            expected = said(report)
            wrong = {n: (v, row[n]) for n, v in expected.items() if not close(n, v, row[n])}
            assert not wrong, (model, flags, row["context"], row["batch"])
            compared += 1
    assert compared >= POINTS // 10
    assert on_arrays >= 5  # else nothing was compared with anything


def _floats(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, dtype="f8")


@pytest.mark.parametrize("engine", [name for name in ENGINES if find_engine(name).policy is not None])
def test_engines_with_rules_of_their_own_answer_as_in_a_plan(engine: str) -> None:
    """They are asked point by point: every column equal, floats too."""
    flags: dict[str, Any] = {"engine": engine, "gpu": "h100-80gb-sxm", "tp": 2}
    rows = kvplan.sweep("gemma-3-12b", context=[1000, 4096], batch=[1, 3], columns=list(COLUMNS), **flags).rows()
    assert 4 == len(rows)
    for row in rows:
        expected = said(kvplan.plan("gemma-3-12b", context=row["context"], batch=row["batch"], **flags))
        assert expected == {name: row[name] for name in expected}
        assert (engine, "h100-80gb-sxm", 2) == (row["engine"], row["gpu"], row["tp"])


@pytest.mark.parametrize("engine", ["ideal", "transformers"])
def test_every_preset_equals_its_plan(engine: str) -> None:
    """Every model that ships, around windows and at odd batches: whole numbers equal, floats to 1e-12."""
    columns = [name for name in COLUMNS if name not in KEYS]
    contexts = [1, 127, 128, 129, 1023, 1024, 1025, 4097, 131072]
    on_arrays = 0
    for model in model_names():
        asked = kvplan.sweep(
            model, context=contexts, batch="1,7,64", columns=columns, gpu="h200-141gb-sxm", engine=engine
        )
        on_arrays += suits(asked.grid.cell(0))
        rows = asked.rows()
        for row in (rows[0], rows[13], rows[26], *random.Random(model).sample(rows, 3)):
            expected = said(
                kvplan.plan(model, context=row["context"], batch=row["batch"], gpu="h200-141gb-sxm", engine=engine)
            )
            wrong = {n: (v, row[n]) for n, v in expected.items() if not close(n, v, row[n])}
            assert not wrong, (model, row["context"], row["batch"])
    assert on_arrays == len(model_names())


def test_a_plan_that_is_refused_at_some_points_is_skipped_there() -> None:
    """llama.cpp with its own ctx_size holds what was allocated for: points that contradict it have a reason."""
    flags: dict[str, Any] = {"engine": "vllm", "engine_options": {"max_model_len": 2048}}
    asked = kvplan.sweep("llama-3.1-8b", context="1k..4k", columns="kv_bytes", **flags)
    kept = [row["context"] for row in asked.rows()]
    answered = []
    for context in (1024, 2048, 4096):
        try:
            kvplan.plan("llama-3.1-8b", context=context, **flags)
            answered.append(context)
        except kvplan.KvplanError:
            continue
    assert answered == kept
    assert 3 - len(kept) == sum(points for _, points in asked.skipped.values())
    assert 0 < len(kept) < 3


def test_buffers_that_fill_and_empty_are_walked_back_as_in_a_plan() -> None:
    """DeepSeek-V4 in transformers: memory falls when a group closes, so a larger context may fit where a smaller does not."""
    weights = kvplan.plan("deepseek-v4-pro").answer.weights
    assert weights
    for step in range(24):
        memory = weights.total + 16 * 2**30 + step * 2**20  # five prompts' scores among it
        flags: dict[str, Any] = {"engine": "transformers", "memory": memory, "runtime_overhead": 0, "context": 1}
        for row in kvplan.sweep("deepseek-v4-pro", batch="1,2,5", columns="max_context", **flags).rows():
            plan = kvplan.plan("deepseek-v4-pro", batch=row["batch"], **flags)
            assert plan.capacity
            assert plan.capacity.max_context == row["max_context"]
            assert row["max_context"] > 1000


def test_tokens_of_a_pool_that_float64_would_round_up() -> None:
    """A pool of which all but one byte in 2**36 makes a whole token more: the product passes 2**53."""
    context = 999_983  # a prime, so that a pool with any remainder exists
    bare = kvplan.plan("gemma-3-12b", context=context, memory="200GiB")
    assert bare.capacity
    need = bare.kv["bytes_per_sequence"]
    pool = need + -pow(context, -1, need) % need
    memory = 200 * 2**30 - bare.capacity.kv_pool_bytes + pool
    expected = pool * context // need
    assert need - 1 == pool * context % need
    assert expected + 1 == int(float(pool) * context / need)
    (row,) = kvplan.sweep("gemma-3-12b", context=context, memory=memory, columns="kv_tokens,kv_pool_bytes").rows()
    assert (pool, expected) == (row["kv_pool_bytes"], row["kv_tokens"])
