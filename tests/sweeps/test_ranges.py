"""Axes: what ``1k..1M``, steps, lists and names with commas stand for, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.sweeps.ranges import MOST, counts, names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8k", (8192,)),
        (7, (7,)),
        ("1..8", (1, 2, 4, 8)),
        ("1k..1M", tuple(2**i for i in range(10, 21))),
        ("4..4", (4,)),
        ("1k..4k:1k", (1024, 2048, 3072, 4096)),
        ("1..10:4", (1, 5, 9)),
        ("3, 1,3 ,2..4", (3, 1, 2, 4)),
        (["1k", 5, "2..4"], (1024, 5, 2, 4)),
        (range(1, 4), (1, 2, 3)),
    ],
)
def test_counts(given: Any, expected: tuple[int, ...]) -> None:
    """Each value once, in the order given."""
    assert expected == counts(given, "context")


@pytest.mark.parametrize(
    "given",
    ["", "1k..", "..1k", "8..4", "1..100", "3..12", "1..2..3", "1k..64k:", "1k..64k:0", "0", "-1", "a..b", [], 1.5, True, None,
     f"1..{MOST + 1}:1", "1..4:2:1", "1,,2"],
)  # fmt: skip
def test_bad_counts_are_one_line_that_names_the_axis(given: Any) -> None:
    """No traceback, and the piece that is wrong is in it."""
    with pytest.raises(InvalidInput, match=r"^batch: ") as e:
        counts(given, "batch")
    assert "\n" not in str(e.value)


def test_numpy_counts_are_counts() -> None:
    """Arrays may be given, as from ``np.arange``."""
    np = pytest.importorskip("numpy")
    assert (2, 4) == counts(np.array([2, 4]), "batch")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("bf16,fp8", ("bf16", "fp8")),
        ("int2:g=32,residual=128,bf16", ("int2:g=32,residual=128", "bf16")),
        ("streaming:sinks=4,window=1020+mqa,gqa:8", ("streaming:sinks=4,window=1020+mqa", "gqa:8")),
        (["none", "mqa", None], (None, "mqa")),
        ("auto", (None,)),
        (None, (None,)),
    ],
)
def test_names(given: Any, expected: tuple[str | None, ...]) -> None:
    """A comma before ``name=`` belongs to the name that it follows."""
    assert expected == names(given, "scheme")


@pytest.mark.parametrize("given", ["", "a,,b", [], [3], " "])
def test_bad_names(given: Any) -> None:
    """Nothing is left out in silence."""
    with pytest.raises(InvalidInput):
        names(given, "gpu")
