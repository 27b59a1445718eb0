"""What the page computes beside plans: links, menus, tables, tests without Streamlit."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

import kvplan
from kvplan import InvalidInput, page
from kvplan.cli.web import SERVED


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
