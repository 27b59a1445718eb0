"""What the page computes beside plans: links, menus, tables, tests without Streamlit."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

import kvplan
from kvplan import InvalidInput, page
from kvplan.cli.web import SERVED

HOSTILE = (
    "", "\x00", "\ud800", "\u202e", "a\nb", "a" * 10**6, "9" * 5000, "-1", "1e9\x00", "+5", "![x](http://a/b)", "a+" * 5000, "+",
    "cla:", "window:" + "9" * 900, "gqa:" + "9" * 990, "(" * 900, "none", "auto",
)  # fmt: skip


@pytest.mark.parametrize("axis", page.MENU)
def test_every_member_of_a_menu_applies_and_returns_to_its_menu(axis: str) -> None:
    for member in page.MENU[axis]:
        assert {axis: member} == page.members(member)
        kvplan.plan("llama-3.1-8b", scheme=member)


def test_a_chain_returns_to_its_menus() -> None:
    chain = "mqa+cla:2+window:4096+kivi:2"
    picked = page.members(chain)
    assert {"heads": "mqa", "layers": "cla:2", "tokens": "window:4096", "bits": "kivi:2"} == picked
    assert chain == page.chain(picked.get(axis) for axis in page.MENU)


@pytest.mark.parametrize("n", [1, 768, 1024, 1536, 3072, 2**20, 2**20 + 1024, 3 * 2**19])
def test_a_short_count_is_read_back(n: int) -> None:
    assert n == page.count(page.short(n), "context")


def test_a_config_in_a_link_is_read_back() -> None:
    config = {"model_type": "llama", "num_hidden_layers": 3, "text": "ä" * 500}
    word = page.packed(config)
    assert word is not None
    assert config == json.loads(page.unpacked(word))


def test_a_config_too_long_for_a_link_is_left_out() -> None:
    import random

    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=40_000)
    assert page.packed({"model_type": "llama", "x": "".join(letters)}) is None


def bomb() -> str:
    return base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000, 9)).decode()


@pytest.mark.parametrize(
    "word",
    ["", "abc", "%%%", "é", bomb(), base64.urlsafe_b64encode(zlib.compress(b"[1]")).decode(),
     base64.urlsafe_b64encode(zlib.compress(b'{"a": 1}')[:-3]).decode()],
)  # fmt: skip
def test_a_word_that_holds_no_config_gets_one_sentence(word: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        page.unpacked(word)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_link_of_command_line_words() -> None:
    """Aliases, Hub ids, short counts, longer flags and whole chains."""
    fields = {"model": "models", "gpu": "gpus", "engine": "engines", "kv_dtype": "formats", "context": 1, "tp": 1}
    fields |= dict.fromkeys(page.MENU)
    found, wrong = page.read_link(
        {
            "model": ["meta-llama/Llama-3.1-8B"], "gpu": ["H100"], "kv-cache-dtype": ["fp8"], "max-model-len": ["128k"],
            "tensor_parallel_size": ["8"], "scheme": ["cla:2+mqa"],
        },
        fields,
    )  # fmt: skip
    assert [] == wrong
    assert {
        "model": ["llama-3.1-8b"], "gpu": ["h100-80gb-sxm"], "kv_dtype": ["fp8_e4m3"], "context": ["128k"], "tp": ["8"],
        "heads": ["mqa"], "layers": ["cla:2"],
    } == found  # fmt: skip


def fields() -> dict[str, object]:
    """One field of each kind."""
    words = {"view": ("Explore", "Compare"), "exact": lambda: ("true", "false"), "config": None, "cases": None}
    return {
        "model": "models", "gpu": "gpus", "engine": "engines", "context": 1, "n_layers": page.DIGITS,
        "row_schemes": page.Several(None, 6), "row_GPUs": page.Several("gpus", 6), **words, **dict.fromkeys(page.MENU),
    }  # fmt: skip


def test_a_link_with_empty_lists_is_one_without_them() -> None:
    found, wrong = page.read_link({"scheme": [], "config": ["+5", "1e9\x00"], "engine": [""], "gpu": []}, fields())
    assert {} == found
    assert 2 == len(wrong)


@pytest.mark.parametrize("name", [*fields(), "scheme", "nobody", "max-model-len", "\ud800", "x" * 10**6])
def test_a_field_that_cannot_be_is_a_clause(name: str) -> None:
    """Whatever is in it: no traceback, one short line, and nothing that cannot be sent to a browser."""
    for texts in ([], *([text] for text in HOSTILE), [*HOSTILE] * 50):
        found, wrong = page.read_link({name: texts}, fields())
        assert len(wrong) <= 1
        assert all(len(clause) <= 300 and clause.isprintable() for clause in wrong)
        assert all(text.isprintable() and len(text) <= 12_000 for value in found.values() for text in value)


def test_thousands_of_fields_are_three_clauses() -> None:
    found, wrong = page.read_link({f"x{n}": ["1"] for n in range(5000)}, fields())
    assert {} == found
    said = page.clauses(wrong)
    assert said.endswith("; and 4,997 more")
    assert len(said) < 200


def test_of_several_values_the_last_counts_unless_a_field_takes_several() -> None:
    given = {
        "context": ["4k", "8192"],
        "gpu": ["l4-24gb", "h100"],
        "row_GPUs": ["h100", "l4-24gb", "h100"],
        "n_layers": ["4k", "2k"],
    }
    found, wrong = page.read_link(given, fields())
    assert [] == wrong
    assert {
        "context": ["8k"], "gpu": ["h100-80gb-sxm"], "row_GPUs": ["h100-80gb-sxm", "l4-24gb"], "n_layers": ["2048"]
    } == found  # fmt: skip
    found, wrong = page.read_link({"row_schemes": [f"window:{n}" for n in range(7)]}, fields())
    assert {} == found
    assert ["allowed: at most 6 of them" in clause for clause in wrong] == [True]


@pytest.mark.parametrize(
    "text",
    ["[" * 2**20, '{"a":' * 100_000, '{"a":1' + "1" * 5000 + "}", b'{"a": "\xff"}', "\x00", "a" * 2**21, " " * 2**20, "NaN", ""],
    ids=range(9),
)  # fmt: skip
def test_a_config_that_is_none_gets_one_line(text: str | bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        page.config(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def linked(text: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text, 9)).decode()


@pytest.mark.parametrize(
    "text", [b"[" * 150_000, b'{"a":' * 30_000, b'{"a": 1' + b"1" * 5000 + b"}", b'{"a": "\xff"}', b"{" + b" " * 300_000 + b"}"],
    ids=range(5),
)  # fmt: skip
def test_a_word_that_holds_no_config_names_the_field_of_the_link(text: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        page.unpacked(linked(text))
    assert str(caught.value).startswith("config: got")
    assert str(caught.value).isprintable()


def test_deep_lists_of_a_link_are_not_spread_over_lines() -> None:
    """With a line per number and its indentation this one would be 70 MB."""
    text = b'{"a":' + b"[" * 800 + b"0," * 90_000 + b"0" + b"]" * 800 + b"}"
    found = page.unpacked(linked(text))
    assert len(found) < 2 * len(text)
    assert json.loads(text) == json.loads(found)


def test_what_cannot_be_packed_is_not_in_a_link() -> None:
    """Nested as deep as no reader takes it, or more text than a reader takes."""
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert page.packed(deep) is None
    assert page.packed({"a": " " * 300_000}) is None
    odd = {"a": "\ud800", "b": 1e999, "\x00": None}
    assert odd == json.loads(page.unpacked(page.packed(odd) or ""))


def test_an_address_cannot_leave_its_link() -> None:
    link = page.link("http://localhost:8501/a)b](x <y>#z?q=1", {"cases": "\ud800) [", "rows": ["x y", "\x00"]})
    assert "http://localhost:8501/a%29b]%28x%20%3Cy%3E?cases=%3F%29+%5B&rows=x+y&rows=%00" == link
    assert f"[see]({link})" == page.as_link("see", link)


def test_a_command_is_printable() -> None:
    assert "kvplan plan $'a\\x1b\\x0a' --gpu '$(id)'" == page.command_line("plan", "a\x1b\n", gpu="$(id)")


@pytest.mark.parametrize("text", ["=", "=1", "x" * 10**6, "a=1 b", "\x00"])
def test_options_that_are_none_get_one_line(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        page.options(text)
    assert str(caught.value).isprintable()


def test_a_table_gives_no_formula_away() -> None:
    rows = page.cells([{"name": "=1+1", "note": "a\x1b[2J\nb", "bytes": 7, "none": None}])
    assert [{"name": "'=1+1", "note": "a\\x1b[2J\\nb", "bytes": 7, "none": None}] == rows


def test_headroom_and_table_say_what_the_report_says() -> None:
    report = kvplan.plan("llama-3.1-8b", gpu="l4-24gb", context=8192)
    assert report.capacity is not None
    free = report.capacity.usable_bytes - sum(size for _, size in report.memory())
    assert f"{round(100 * free / report.capacity.usable_bytes)}%" in page.headroom(report)
    assert report.capacity.binding in page.headroom(report)
    verdicts = {row["cells"]["GPU"]: row for row in page.fits(page.on_gpus("llama-3.1-70b", context=8192, tp=2))}
    expected = {kvplan.plan("llama-3.1-70b", gpu=row["name"], context=8192, tp=2).fits for row in page.listing("gpus")}
    assert {True, False} == expected
    for row in page.listing("gpus"):
        fits = kvplan.plan("llama-3.1-70b", gpu=row["name"], context=8192, tp=2).fits
        assert fits == (verdicts[f"2 × {row['label']}"]["verdict"] != "no"), row["name"]


def test_nothing_is_sent_anywhere() -> None:
    assert "false" == SERVED["browser.gatherUsageStats"]
    assert "none" == SERVED["client.showErrorDetails"]
