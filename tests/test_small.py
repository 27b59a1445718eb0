"""The arithmetic floors: units, formats, errors, numbers, the solver."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import InvalidInput, KvplanError, MissingExtra, UnknownName, UnreadKeys, shorten
from kvplan.formats import ALIASES, FORMATS, find_format
from kvplan.num import ceil_to, ceildiv, maximum, minimum
from kvplan.solver import largest
from kvplan.units import BINARY, DECIMAL, format_bytes, format_seconds, format_si, parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 KiB", 1024), ("1KB", 1000), ("80GiB", 80 * 2**30), ("80 GB", 80 * 10**9), ("1TiB", 2**40), ("1 TB", 10**12),
        ("0.5 GiB", 2**29), ("7", 7), ("7B", 7), (12, 12), ("1pib", 2**50),
    ],
)  # fmt: skip
def test_bytes(text: str | int, size: int) -> None:
    """GiB is 2**30 and GB is 10**9, whatever the case."""
    assert size == parse_bytes(text, "memory")


@given(st.integers(0, 2**60))
def test_formatted_bytes_name_their_unit(n: int) -> None:
    """What is printed reads back to within its own rounding, in binary and in decimal units."""
    for units in (BINARY, DECIMAL):
        text = format_bytes(n, units)
        assert parse_bytes(text, "x") == pytest.approx(n, rel=6e-3, abs=1)


@pytest.mark.parametrize(
    ("text", "count"), [("8k", 8192), ("1M", 2**20), ("128K", 131072), ("4_096", 4096), (5, 5), ("1,000", 1000)]
)
def test_counts(text: str | int, count: int) -> None:
    """K and M are powers of 1024."""
    assert count == parse_count(text, "context")


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5k", "1e3", "0", "٣", "9" * 30, None, 1.0, True, [], "2**60", str(2**49)]
)
def test_counts_that_cannot_be(text: object) -> None:
    """Each names the field and what is allowed."""
    with pytest.raises(InvalidInput, match=r"context: (got .+|missing), allowed: a whole number"):
        parse_count(text, "context")  # type: ignore[arg-type]


def test_prefixes_are_decimal() -> None:
    """FLOPs and seconds."""
    assert "140.5 TFLOP" == format_si(1.405e14, "FLOP")
    assert "5.2 ms" == format_seconds(0.0052)
    assert "12 µs" == format_seconds(12e-6)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16), ("fp8", 8), ("q8_0", 8.5), ("q4_0", 4.5), ("mxfp4", 4.25), ("nvfp4", 4.5), ("nf4", 4.5), ("int8", 8.5),
        ("int4", 4.5), ("int2", 2.5), ("int4:g=128", 4.25), ("int2:g=32", 3.0), ("int8:g=0", 8), ("q6_k", 6.5625), ("iq4_xs", 4.25),
        ("int2:g=128,scale=8,zero=8", 2.125),  # SKVQ's fp8 metadata: 2.125 bits
    ],
)  # fmt: skip
def test_bits_per_element(name: str, bits: float) -> None:
    """Scales and zero points are counted (libggml's table, OCP MX, KIVI, SKVQ)."""
    assert bits == find_format(name).bits_per_element


def test_double_quantisation() -> None:
    """Bitsandbytes NF4 with double quantisation is 4.127 bits."""
    assert 4.127 == pytest.approx(find_format("nf4_dq").bits_per_element, abs=5e-4)


def test_a_row_starts_a_new_block() -> None:
    """A head of 80 elements in blocks of 32 takes three blocks."""
    assert 3 * 34 * 8 == find_format("q8_0").row_bits(80)


@pytest.mark.parametrize("name", [*FORMATS, *ALIASES])
def test_every_format_has_a_source(name: str) -> None:
    """A format is found by name and alias and says where its size is from."""
    assert find_format(name.upper()).source


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_integer_helpers_are_exact(a: int, b: int) -> None:
    """Exact at any size."""
    q = ceildiv(a, b)
    assert (q - 1) * b < a <= q * b
    assert ceil_to(a, b) == q * b
    assert (min(a, b), max(a, b)) == (minimum(a, b), maximum(a, b))


@given(st.integers(0, 10**6), st.integers(1, 10**7))
def test_largest_from_any_guess(limit: int, guess: int) -> None:
    """The answer does not depend on the guess: fits(n) and not fits(n + 1)."""
    assert limit == largest(lambda n: n <= limit, guess)


@given(st.sets(st.integers(1, 200)), st.integers(1, 300))
def test_largest_walks_back_over_wiggles(bad: set[int], guess: int) -> None:
    """Where memory wiggles, the answer is the largest n such that every n' up to n fits."""

    def fits(n: int) -> bool:
        return n <= 200 and n not in bad

    expected = next((n - 1 for n in range(1, 202) if not fits(n)), 200)
    assert expected == largest(fits, guess, wiggle=400)


def test_nothing_binds() -> None:
    """None where every n fits."""
    assert largest(lambda n: True) is None


ERRORS = [
    InvalidInput("context", 0, "at least 1", "file.json"),
    UnknownName("GPU", "h1000", ["h100", "h200"]),
    UnreadKeys("config.json", "llama", ["cla_share_factor"]),
    MissingExtra("a Hub id", "hub"),
    KvplanError("plain"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_carry_their_data(error: KvplanError) -> None:
    """They pickle, print one line and are KvplanErrors with exit code 2."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error), error.args) == (type(copy), str(copy), copy.args)
    assert "\n" not in str(error)
    assert 2 == error.exit_code


@pytest.mark.parametrize(
    "value",
    [10**5000, "x" * 10**6, list(range(10**5)), {"a": "b" * 1000}, b"\xff" * 1000],
    ids=lambda value: type(value).__name__,
)
def test_values_in_errors_are_shortened(value: object) -> None:
    """However large the value, the message stays a line."""
    assert len(shorten(value)) < 100
