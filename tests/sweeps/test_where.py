"""``--where``: the rows that Python's own comparison of the same rows would keep, and errors of one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.sweeps import sweep

GRID: dict[str, Any] = {
    "models": ["llama-3.1-8b", "gemma-3-12b"],
    "context": "1k..64k",
    "batch": "1..64",
    "gpu": "rtx-4090,none",
    "kv_dtype": "bf16,fp8",
    "columns": "kv_bytes,kv_bytes_per_gpu,max_batch,fits,decode_step_s,decode_bound,binding",
}
ALL = sweep(GRID["models"], **{name: value for name, value in GRID.items() if name != "models"}).rows()
Row = dict[str, Any]


def few(row: Row) -> bool:
    return row["max_batch"] is not None and row["max_batch"] < 8


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("max_batch >= 8 and kv_bytes < 4GiB", lambda r: r["max_batch"] and not few(r) and r["kv_bytes"] < 2**32),
        ("fits", lambda r: r["fits"]),
        ("not fits", lambda r: not r["fits"]),
        ("fits == true", lambda r: r["fits"]),
        ("fits == false", lambda r: not r["fits"]),
        ("context == 8k or batch > 32", lambda r: r["context"] == 8192 or r["batch"] > 32),
        ("(context == 8k or batch > 32) and batch <= 4k", lambda r: r["context"] == 8192 or r["batch"] > 32),
        ("2k <= context < 16k", lambda r: 2048 <= r["context"] < 16384),
        ("kv_bytes / batch > 1.5 GiB", lambda r: r["kv_bytes"] / r["batch"] > 1.5 * 2**30),
        ("-batch + 3 * batch - 2 > 10", lambda r: 2 * r["batch"] - 2 > 10),
        ("kv_bytes < 1GB", lambda r: r["kv_bytes"] < 10**9),
        ("decode_step_s < 20ms", lambda r: r["decode_step_s"] is not None and r["decode_step_s"] < 0.02),
        ("decode_step_s * 1000 < 20", lambda r: r["decode_step_s"] is not None and r["decode_step_s"] * 1000 < 20),
        ('model == "gemma-3-12b"', lambda r: r["model"] == "gemma-3-12b"),
        ("gpu != 'none' and kv_dtype == 'fp8'", lambda r: r["gpu"] != "none" and r["kv_dtype"] == "fp8_e4m3"),
        ('"memory" == decode_bound', lambda r: r["decode_bound"] == "memory"),
        ("decode_bound != 'compute'", lambda r: r["decode_bound"] == "memory"),
        ("binding != 'weights'", lambda r: r["binding"] not in (None, "weights")),
        ("max_batch != 3", lambda r: r["max_batch"] is not None and r["max_batch"] != 3),
        ("not max_batch > 7", lambda r: r["max_batch"] is None or few(r)),
        ("1 < 2", lambda r: True),
    ],
)  # fmt: skip
def test_keeps_what_python_keeps(text: str, keeps: Callable[[Row], bool]) -> None:
    """Every condition against the same rows without one; where nothing is known a comparison is false."""
    grid = {name: value for name, value in GRID.items() if name != "models"}
    expected = [row for row in ALL if keeps(row)]
    assert expected == sweep(GRID["models"], where=text, **grid).rows()
    assert text == "1 < 2" or 0 < len(expected) < len(ALL)


def test_a_column_that_is_not_written_may_be_asked() -> None:
    """The condition looks at any column."""
    rows = sweep("llama-3.1-8b", context="1k..8k", columns="kv_bytes", where="prefill_flops > 5e13").rows()
    assert [4096, 8192] == [row["context"] for row in rows]
    assert {"context", "kv_bytes"} == set(rows[0])


def test_what_nothing_bounds_is_large() -> None:
    """A model without a growing cache holds any context; without a GPU nobody knows."""
    rows = sweep("mamba-130m", gpu="none,rtx-4090", context=1, columns="max_context", where="max_context > 1G").rows()
    assert [("rtx-4090-24gb", None)] == [(row["gpu"], row["max_context"]) for row in rows]


@pytest.mark.parametrize(
    "text",
    ["", "fits and", "batch = 3", "batch", "batch + 1", "model", "'x'", "fits > 3", "model > 'a'", "batch == 'x'", "gpu == 3",
     "__import__('os').system('x')", "batch.real > 1", "batch[0] > 1", "(lambda: 1)() == 1", "[b for b in (1,)]", "batch ** 2 > 1",
     "batch % 2 == 0", "batch // 2 == 1", "batch & 1", "batch in (1, 2)", "batch is 1", "1 if fits else 0", "f'{batch}' == 'x'",
     "~batch > 1", "(" * 300 + "fits" + ")" * 300, "fits " * 1000, "batch > 1.5k", "batch > 3 GHz", "'a' == 'b'", "model == scheme",
     "fits < true", "None == batch", "batch > 1j", "batch > (3", "batch >", "\0", 3, "fits and 3", "not batch", "batch := 3",
     "-model == 'x'", "batch == b'x'", "kv_dtype == '...'"],
)  # fmt: skip
def test_anything_else_is_one_clear_line(text: Any) -> None:
    """Nothing is run as code, nothing is ignored."""
    with pytest.raises(KvplanError) as e:
        sweep("llama-3.1-8b", where=text)
    assert "\n" not in str(e.value)
    assert isinstance(e.value, (InvalidInput, UnknownName))


@pytest.mark.parametrize(
    "text", ["gpu == 'h100-80gb-sxn'", "model == 'llama'", "kv_dtype == 'bf17'", "decode_bound == 'ram'"]
)
def test_a_quoted_name_that_no_row_can_have_is_an_error(text: str) -> None:
    """A typing error would keep no row, and say nothing."""
    with pytest.raises(UnknownName):
        sweep("llama-3.1-8b", where=text)


def test_single_equals_says_what_to_write() -> None:
    """The commonest mistake."""
    with pytest.raises(InvalidInput, match="== for equal"):
        sweep("llama-3.1-8b", where="batch = 3")


@pytest.mark.parametrize(
    "text",
    ["kv_bytes > " + "9" * 400, "kv_bytes > " + "9" * 1900, "-" * 1900 + "kv_bytes > 0", "not " * 400 + "fits",
     "+".join("1" * 900) + " > 0",
     "(" * 900 + "1" + ")" * 900 + " > 0", "kv_bytes > 1e999e", "kv_bytes > 0x" + "f" * 500],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_giants_and_nests_are_one_line(text: str) -> None:
    """Numbers that no float holds, and trees that are deeper than they can be walked."""
    with pytest.raises(InvalidInput, match="where"):
        sweep("gpt2", context="1k", where=text)
