"""The small transformer's caches against its definition and the prediction; planted faults; committed records replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kvplan.specs import Growth
from kvplan.validate import checks
from kvplan.validate.allocator import cuda_segments
from kvplan.validate.cases import SHAPE, Case, ci_cases
from kvplan.validate.checks import check
from kvplan.validate.records import BAD, Record, environment, read, replay
from kvplan.validate.transformer import Recurrence, Transformer

RECORDS = sorted((Path(__file__).parents[1] / "records").glob("*.json"))


def case(scheme: str | None, context: int = 9) -> Case:
    return Case({**SHAPE, "scheme": scheme, "dtype": "fp32", "batch": 2}, context)


def bad(scheme: str | None, change: Any = None) -> set[str]:
    return {row.quantity for row in check(case(scheme), change=change) if row.verdict in BAD}


def test_the_suite_is_large() -> None:
    """At least 120 configurations, each with a name of its own."""
    names = [c.name for c in ci_cases()]
    assert len(names) == len(set(names)) > 120


@pytest.mark.parametrize("each", list(ci_cases())[::9], ids=lambda c: c.name)
def test_a_sample_holds(each: Case) -> None:
    """Right logits, exact bytes, equal FLOPs; CI runs all of them."""
    assert not [row for row in check(each) if row.verdict in BAD]


@pytest.mark.parametrize("record", RECORDS, ids=lambda p: p.name)
def test_records_replay(record: Path) -> None:
    """Today's formulas still predict what the record holds."""
    assert not list(replay(read(record)))


def test_a_store_that_is_one_short_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An off-by-one window in what runs breaks the logits."""
    longest = Transformer._longest
    monkeypatch.setattr(Transformer, "_longest", lambda self, owner: Growth("window", longest(self, owner).limit - 1))
    assert bad("window:8") == {"correct"}


@pytest.mark.parametrize(
    ("scheme", "predicted"),
    [("window:8", "window:7"), ("gqa:2", "gqa:1"), ("cla:2", "owners:0_0_2_2_2_2"), ("linear", "mha")],
)
def test_a_wrong_prediction_is_caught(scheme: str, predicted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An off-by-one window, a wrong head count, a missing layer, a cache for a state: bytes differ."""
    plan = checks.plan
    monkeypatch.setattr(checks, "plan", lambda **asked: plan(**{**asked, "scheme": predicted}))
    assert "kv.bytes_per_gpu" in bad(scheme)


def test_a_wrong_owner_is_caught() -> None:
    """A layer that reads another layer than the scheme says, on the cached side alone, breaks the bytes or the logits."""

    def change(model: Transformer) -> None:
        model.read.discard(2)

    with pytest.raises((KeyError, AssertionError)):
        bad("cla:2", change)


def test_half_precision_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state kept in fp16 is neither as exact nor as large as one in fp32."""
    forward = Recurrence.forward

    def rounded(self: Any, x: Any, state: Any) -> Any:
        out = forward(self, x, state)
        state.held = state.held.half()
        return out

    monkeypatch.setattr(Recurrence, "forward", rounded)
    assert bad("linear")


def test_segments_follow_the_allocator() -> None:
    """c10/cuda/CUDACachingAllocator.cpp: 2 MiB for up to 1 MiB, 20 MiB for up to 10 MiB, else rounded to 2 MiB."""
    mib = 2**20
    assert cuda_segments([mib, mib, 1]) == {2 * mib: 2}
    assert cuda_segments([11 * mib]) == {12 * mib: 1}


def test_a_record_survives(tmp_path: Path) -> None:
    """Written whole after each case, and read back."""
    place = tmp_path / "r.json"
    record = Record(environment("cpu", "ci"), place)
    record.add(check(case("mqa", 3)))
    assert Record(environment("cpu", "ci"), place, resume=True).done(case("mqa", 3).name)
    assert torch.__version__ == read(place)["torch"]
