"""Text from outside in a real browser: every field of a link and every text of a config is shown as text.

What is asked for goes to the page's own host, whatever the text looks like.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from kvplan import page
from tests.app.browser import ERROR, WARNING, chromium, launched, served, settled

pytest.importorskip("streamlit")
pytest.importorskip("playwright")
if chromium() is None:
    pytest.skip("no Chromium on this machine (apt-get install chromium)", allow_module_level=True)

pytestmark = pytest.mark.flaky(reruns=1)

VIEWS = ("Explore", "Compare", "Layers", "Capacity", "Roofline", "Papers", "Validation")
# Short, so that a clause about them shows them whole.
TEXTS = (
    "![i](http://evil.example/i.png)", "<img src=http://evil.example/h>", ":material/home: :smile: :red[x]",
    r"$\url{http://evil.example/k}$", "[a](http://evil.example/a)", "http://evil.example/ :streamlit:",
    "www.evil.example a@evil.example", "2**48 __b__ `c` <b>d</b> a -> b",
)  # fmt: skip
LONG = r"$$\includegraphics{http://evil.example/l}$$ \href{http://evil.example/m}{n} "
# Whatever would load or lead to somewhere else.
EVIL = """[...document.querySelectorAll('*')].filter(e => ['src', 'href', 'srcset', 'data', 'poster', 'action', 'xlink:href'].some(
    name => { try { return new URL(e.getAttribute(name), location).host.includes('evil') } catch { return false } })
    || (e.getAttribute('style') || '').includes('evil')).map(e => e.outerHTML)"""
SMALL: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip
# Texts of a config that say nothing about its cache, and those that do, which no model may have.
FREE = (
    "_name_or_path", "name_or_path", "architectures", "hidden_act", "auto_map", "transformers_version", "position_embedding_type",
    "tokenizer_class", "attn_implementation", "initializer_range", "bos_token_id",
)  # fmt: skip
READ = ("model_type", "torch_dtype", "layer_types", "head_dim")


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    """What the page takes from a link."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "app"))
        found: dict[str, Any] = importlib.import_module("question").FIELDS
    return found


class Visitor:
    """One tab that opens links, and remembers where its requests went."""

    def __init__(self, browser: Any, address: str):
        self.tab, self.address = browser.new_context().new_page(), address
        self.hosts: set[str] = set()
        self.tab.on("request", lambda r: self.hosts.add(urlsplit(r.url).netloc))

    def open(self, asked: dict[str, Any]) -> str:
        """All text of the page under this link, after what holds of every page was asserted."""
        self.hosts.clear()
        self.tab.goto(f"{self.address}?{urlencode(asked, doseq=True)}")
        settled(self.tab)
        assert {urlsplit(self.address).netloc, ""} >= self.hosts
        assert [] == self.tab.evaluate(EVIL)
        assert 0 == self.tab.locator("[data-testid=stException]").count()
        text: str = self.tab.inner_text("body")
        assert "the server's log says why" not in text
        return text

    def said(self, kind: str) -> str:
        """The messages of a kind, and that nothing in them is drawn."""
        found = self.tab.locator(kind)
        assert 0 == found.locator("a, img, b, strong, em, code, .katex, [role=img]").count()
        return "\n".join(found.all_inner_texts())


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    with served() as (address, _), launched() as browser:
        yield Visitor(browser, address)


def is_in(text: str, said: str) -> bool:
    """Whether a text is there as it is, or as Python writes it."""
    return text in said or repr(text)[1:-1] in said


def test_a_power_is_no_bold_number(visitor: Visitor) -> None:
    visitor.open({"source": "config.json", "context": "2**48"})
    said = visitor.said(WARNING)
    assert "got '2**48', allowed: a whole number from 1 to 2**48" in said


def test_every_field_that_cannot_be_is_said_as_text(visitor: Visitor, fields: dict[str, Any]) -> None:
    """Three to a link, as many as one sentence names; without a config the page draws nothing else."""
    closed = [name for name, allowed in fields.items() if allowed is not None and allowed != page.Several(None, 6)]
    closed += [text.replace("&", "") for text in TEXTS]  # names of fields too
    closed.remove("source")
    for i in range(0, len(closed), 3):
        asked = {name: TEXTS[(i + k) % len(TEXTS)] for k, name in enumerate(closed[i : i + 3])}
        visitor.open({"source": "config.json", **asked})
        said = visitor.said(WARNING)
        for name, text in asked.items():
            assert is_in(text, said) or is_in(name, said), (name, said)
            assert is_in(text, said) or "is no field" in said, (text, said)


@pytest.mark.parametrize("view", VIEWS)
def test_every_field_at_once(visitor: Visitor, fields: dict[str, Any], view: str) -> None:
    visitor.open(
        {name: [TEXTS[i % len(TEXTS)], LONG] for i, name in enumerate(fields)} | {"view": view, "source": "preset"}
    )


def test_every_text_that_a_link_may_hold_is_text(visitor: Visitor, fields: dict[str, Any]) -> None:
    """Members of a scheme and rows, options, filters: alone, so that each comes as far as it can."""
    free = [name for name, allowed in fields.items() if allowed is None or allowed == page.Several(None, 6)]
    shown_in = {"row_schemes": "Compare", "cases": "Validation", "rows": "Papers"}
    for i, name in enumerate(free):
        if name == "config":
            continue
        text = TEXTS[i % len(TEXTS)]
        engine = {"engine": "vllm"} if name == "options" else {}
        found = visitor.open({"view": shown_in.get(name, "Explore"), name: text, **engine})
        if name not in ("cases", "rows", "term"):  # filters, which say nothing about what they were asked
            error = visitor.said(ERROR)
            assert is_in(re.split("[: ]", text)[0], error), (name, error)
        assert "Traceback" not in found


@pytest.mark.parametrize("view", VIEWS[:5])
def test_the_texts_of_a_config_are_text(visitor: Visitor, view: str) -> None:
    """All at once, in headings, pictures, notes and omissions of a plan."""
    config = SMALL | {key: f"{key} {TEXTS[i % len(TEXTS)]} {LONG}" for i, key in enumerate(FREE)}
    config["_name_or_path"] = f"{TEXTS[1]} <a href='http://evil.example/n'>n</a>"
    if view == "Explore":  # where weights have no known size there are no pictures of what fits
        config["quantization_config"] = {"quant_method": TEXTS[0], "fmt": TEXTS[1], TEXTS[2]: TEXTS[3]}
    found = visitor.open({"source": "config.json", "config": page.packed(config), "gpu": "h100", "view": view})
    assert "" == visitor.said(ERROR)
    assert "" == visitor.said(WARNING)
    if view == "Explore":
        assert TEXTS[0] in found
        assert TEXTS[1] in visitor.tab.inner_text("h1")
    assert 1 <= visitor.tab.locator(".js-plotly-plot").count()
    if view in ("Compare", "Layers"):  # their pictures name the model, on lines that break at blanks
        drawn = visitor.tab.evaluate("document.querySelector('.js-plotly-plot').textContent")
        assert re.sub(r"\s", "", config["_name_or_path"]) in re.sub(r"\s", "", drawn)


def test_a_text_of_a_config_that_cannot_be_is_said_as_text(visitor: Visitor) -> None:
    for i, key in enumerate(READ):
        text = TEXTS[i % len(TEXTS)]
        value: Any = [text] * 3 if key == "layer_types" else text
        visitor.open({"source": "config.json", "config": page.packed(SMALL | {key: value}), "gpu": "h100"})
        said = visitor.said(ERROR)
        assert is_in(text, said) or f": {key};" in said, (key, said)


def test_the_address_bar_follows_what_is_pasted(visitor: Visitor) -> None:
    """Opened again it is the same model, or asks for the config."""
    other = SMALL | {"num_hidden_layers": 5}
    visitor.open({"source": "config.json", "config": page.packed(SMALL)})
    numbers = visitor.tab.inner_text(".numbers")
    paste(visitor.tab, json.dumps(other))
    others = visitor.tab.inner_text(".numbers")
    assert numbers != others
    visitor.tab.reload()
    settled(visitor.tab)
    assert others == visitor.tab.inner_text(".numbers")
    paste(visitor.tab, json.dumps(SMALL | {"words": [f"{n * 7919 % 99991:x}" for n in range(9000)]}))
    assert numbers == visitor.tab.inner_text(".numbers")
    assert "config=" not in visitor.tab.url
    assert "too long for an address" in visitor.tab.inner_text("[data-testid=stSidebar]")
    visitor.tab.reload()
    settled(visitor.tab)
    assert 0 == visitor.tab.locator(".numbers").count()
    assert "the address of this page holds none" in visitor.said(ERROR)


def paste(tab: Any, text: str) -> None:
    tab.get_by_label("or paste it").fill(text)
    tab.keyboard.press("Control+Enter")
    settled(tab)
