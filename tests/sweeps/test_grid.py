"""Chunks and tiles: every point of a grid once, in order, however it is cut."""

from __future__ import annotations

from typing import Any

import pytest

import kvplan
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.sweeps import sweep

SMALL: dict[str, Any] = {"context": "1..64:3", "batch": "1..9:1", "tp": "1,2", "kv_dtype": "bf16,fp8"}


def keys(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["kv_dtype"], row["tp"], row["context"], row["batch"]) for row in rows]


@pytest.mark.parametrize("chunk", [1, 2, 8, 9, 10, 17, 100, 10**6])
def test_every_point_once_and_in_order(chunk: int) -> None:
    """The batch runs fastest, then the context, then the ranks, then the formats."""
    asked = sweep("llama-3.1-8b", columns="kv_bytes", chunk=chunk, **SMALL)
    expected = [
        (name, tp, context, batch)
        for name in ("bf16", "fp8_e4m3")
        for tp in (1, 2)
        for context in range(1, 65, 3)
        for batch in range(1, 10)
    ]
    assert asked.points == len(expected)
    assert expected == keys(asked.rows())
    tiles = [tile for number in range(asked.grid.chunks) for tile in asked.grid.tiles(number)]
    assert asked.points == sum(tile.points for tile in tiles)
    assert all(chunk >= points or points == 9 for points in map(len, (c["batch"] for c in asked.chunks())))


def test_columns() -> None:
    """The axes that vary come first; without --columns a model and the sizes that people ask for."""
    asked = sweep("llama-3.1-8b", columns=["fits", "model"], gpu="rtx-4090,h100-80gb-sxm", context=[1, 2])
    assert ("gpu", "context", "fits", "model") == asked.columns
    assert ("model", "context", "batch") == sweep("llama-3.1-8b").columns[:3]
    assert "fits" not in sweep("llama-3.1-8b").columns
    assert "fits" in sweep("llama-3.1-8b", memory="80GiB").columns


def test_what_cannot_be_is_skipped_and_counted() -> None:
    """tp=3 divides no 32 heads: its points are left out with the reason that a plan gives."""
    asked = sweep("llama-3.1-8b", tp="1,3,8", context="1k..4k", batch="1,2", columns="kv_bytes_per_gpu")
    assert {1, 8} == {row["tp"] for row in asked.rows()}
    with pytest.raises(KvplanError) as e:
        kvplan.plan("llama-3.1-8b", tp=3)
    assert {str(e.value): (1, 6)} == asked.skipped


def test_a_scheme_that_does_not_apply_is_skipped() -> None:
    """gqa:5 divides no 32 heads; the cell is counted once although it lies in several chunks."""
    asked = sweep("llama-3.1-8b", scheme=["gqa:5", "mqa"], context="1k..8k", columns="kv_bytes", chunk=3)
    assert [1, 2, 4, 8] == [row["kv_bytes"] // (32 * 2 * 128 * 2 * 1024) for row in asked.rows()]
    ((reason, counted),) = asked.skipped.items()
    assert (1, 4) == counted
    assert "gqa:5" in reason


def test_strict_stops() -> None:
    """The first combination that cannot be is the error."""
    with pytest.raises(InvalidInput, match=r"^tp: got 3"):
        sweep("llama-3.1-8b", tp="1,3", strict=True)


def test_nothing_that_can_be_is_an_error() -> None:
    """All skipped: bad input, with the reason."""
    with pytest.raises(InvalidInput, match=r"at least one that can be.*tp: got 3"):
        sweep("llama-3.1-8b", tp="3,5").rows()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"gpu": "h100-80gb-sxn"}, "nearest: h100-80gb-sxm"),
        ({"engine": "ideall"}, "nearest: ideal"),
        ({"kv_dtype": "bf17"}, "nearest: bf16"),
        ({"scheme": "mqqa"}, "nearest: mqa"),
        ({"columns": "kv_byte"}, "nearest: kv_bytes"),
        ({"contxt": 3}, "nearest: context"),
        ({"where": "max_bach > 3"}, "nearest: max_batch"),
        ({"top": 3, "by": "token_per_s"}, "nearest: tokens_per_s"),
    ],
)
def test_a_name_that_nobody_knows_is_an_error_before_any_work(flags: dict[str, Any], text: str) -> None:
    """A typing error is never counted as a combination that cannot be."""
    with pytest.raises(UnknownName, match=text):
        sweep("llama-3.1-8b", **flags)


@pytest.mark.parametrize(
    "flags",
    [{"top": 3}, {"by": "kv_bytes"}, {"top": 0, "by": "kv_bytes"}, {"top": 1, "by": "model"}, {"top": "1,2", "by": "kv_bytes"},
     {"top": 2, "by": "kv_bytes:up"}, {"chunk": 0}, {"columns": ""}, {"columns": []}, {"columns": [3]}],
)  # fmt: skip
def test_bad_settings(flags: dict[str, Any]) -> None:
    """One line each."""
    with pytest.raises(InvalidInput):
        sweep("llama-3.1-8b", **flags)


def test_no_model() -> None:
    """Plain numbers describe one, as in a plan."""
    with pytest.raises(InvalidInput, match="model"):
        sweep()
    (row,) = sweep(layers=2, hidden=64, heads=4, vocab=100, ffn=128, context=10, columns="kv_bytes").rows()
    assert 10 * 2 * 2 * 64 * 2 == row["kv_bytes"]


def test_several_models() -> None:
    """Lists and commas; the model is then a column."""
    rows = sweep("llama-3.1-8b,llama-2-7b", context=1, columns="kv_bytes").rows()
    assert [("llama-3.1-8b", 131072), ("llama-2-7b", 524288)] == [(row["model"], row["kv_bytes"]) for row in rows]
    assert rows == sweep(["llama-3.1-8b", kvplan.load("llama-2-7b")], context=1, columns="kv_bytes").rows()


@pytest.mark.parametrize("order", ["", ":desc", ":asc"])
def test_top(order: str) -> None:
    """The same rows as sorting all of them; equal ones keep the grid's order."""
    grid: dict[str, Any] = {
        "context": "1k..64k",
        "batch": "1..64",
        "gpu": "rtx-4090",
        "tp": "1,2",
        "columns": "max_batch,fits",
    }
    rows = [row for row in sweep("llama-3.1-8b", **grid).rows() if row["max_batch"] is not None]
    rows.sort(key=lambda row: row["max_batch"], reverse=order != ":asc")
    assert rows[:7] == sweep("llama-3.1-8b", top=7, by=f"max_batch{order}", chunk=5, **grid).rows()


def test_integers_beyond_float64_are_asked_point_by_point() -> None:
    """2**45 tokens of 131,072 bytes are 2**62 bytes: exact in int64, not in float64; 2**63 and more are refused."""
    rows = sweep("llama-3.1-8b", context=[2**45 + 1], columns="kv_bytes").rows()
    assert [(2**45 + 1) * 131072] == [row["kv_bytes"] for row in rows]
    asked = sweep("llama-3.1-8b", context=[1, 2**46], columns="kv_bytes")
    assert [131072] == [row["kv_bytes"] for row in asked.rows()]
    assert "less than 2**63" in next(iter(asked.skipped))


def test_chunks_are_numpy() -> None:
    """Types as documented, equal lengths, missing and unbounded told apart."""
    np = pytest.importorskip("numpy")
    (chunk,) = sweep(
        "mamba-130m", gpu="none,rtx-4090", context="1,2", columns="fits,max_context,kv_bytes,binding"
    ).chunks()
    assert [False] * 2 + [True] * 2 == [bool(v) for v in chunk["fits"]]
    assert [None, None, True, True] == chunk["fits"].tolist()
    assert np.isnan(chunk["max_context"][:2]).all()
    assert np.isinf(chunk["max_context"][2:]).all()
    assert "i8" == chunk["kv_bytes"].dtype.str[1:]
    assert [None, None, "unbounded", "unbounded"] == chunk["binding"].tolist()
    assert {4} == {len(values) for values in chunk.values()}
