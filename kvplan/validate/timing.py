"""Seconds of one decode step and one prompt beside kvplan's lower bound, at the ceilings that this device really has."""

from __future__ import annotations

from typing import Any

import torch

from kvplan.api import plan
from kvplan.catalog import Gpu
from kvplan.planner import Times
from kvplan.validate.cases import Case
from kvplan.validate.checks import built
from kvplan.validate.measure import Ceilings, seconds
from kvplan.validate.records import Row

__all__ = ["bounds", "ceilings_dtype", "timed"]

RUNS, WARM = 15, 3


def ceilings_dtype(device: str) -> str:
    """The dtype of times on a device: what people serve in on a GPU, what a CPU multiplies fast."""
    return "bf16" if device == "cuda" else "fp32"


def bounds(asked: dict[str, Any], ceilings: Ceilings) -> Times:
    """Kvplan's time bounds of a plan on a device that copies and multiplies as fast as was measured."""
    answer = plan(**asked, memory=2**50).answer
    compute = answer.settings.formats.compute.name
    measured = Gpu(
        name="measured", vendor="", label="this device", aliases=(), kind="datacenter", architecture="", memory_bytes=2**50,
        memory_basis="", memory_label="", memory_source="", bandwidth_bytes_per_s=round(ceilings.copy), bandwidth_source="",
        tflops={compute: ceilings.matmul / 1e12}, tflops_source="", compute_capability="", link={},
        price_usd_per_hour=None, price_source="", checked="", notes=(),
    )  # fmt: skip
    times = answer._replace(settings=answer.settings._replace(gpu=measured)).times
    assert times is not None
    return times


def timed(asked: dict[str, Any], device: str, ceilings: Ceilings, *, prompt: bool) -> list[Row]:
    """Rows of a decode step after ``context`` tokens and, where asked for, of a prompt of as many."""
    context, batch = int(asked["context"]), int(asked["batch"])
    case = Case({k: v for k, v in asked.items() if k != "context"}, context, WARM + RUNS + 1, reserve=True)
    made = built(case, device)
    model, vocab = made.model, made.spec.vocab
    model.allocate(batch, context)
    inputs = torch.randint(0, vocab, (WARM + RUNS, batch), device=device)
    step = seconds(lambda i: model.step(inputs[i]), device, warm=WARM, runs=RUNS)
    bound = bounds(asked, ceilings)
    name = case.name.replace(f"+{case.steps} reserved", "")
    what = "lower bound at the measured ceilings, {}-bound"
    rows = [_row(name, asked, "seconds of a decode step", bound.decode.seconds, step, what.format(bound.decode.side))]
    if prompt:
        model.forget()
        prompts = torch.randint(0, vocab, (4, batch, context), device=device)
        whole = seconds(lambda i: model.prefill(prompts[i % 4]), device, warm=1, runs=3)
        rows.append(
            _row(name, asked, "seconds of a prefill", bound.prefill.seconds, whole, what.format(bound.prefill.side))
        )
    return rows


def _row(case: str, asked: dict[str, Any], quantity: str, predicted: float, measured: float, note: str) -> Row:
    # faster than the bound would refute it
    verdict = "reported" if measured >= predicted else "wrong"
    return Row(f"time: {case}", asked, quantity, predicted, measured, verdict, note)
