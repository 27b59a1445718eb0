"""The page in a real browser: the main path, what stands on screen, the keyboard, accessibility, and nothing from elsewhere.

Screenshots of every page, light, dark and 400 pixels wide, go to the folder that KVPLAN_SCREENSHOTS names.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan import page
from tests.app.browser import ERROR, NUMBERS, WARNING, chromium, launched, served, settled

pytest.importorskip("streamlit")
pytest.importorskip("playwright")
if chromium() is None:
    pytest.skip("no Chromium on this machine (apt-get install chromium)", allow_module_level=True)

# A browser, a server and the tests share two cores in CI: what times out there is tried once more, what is wrong stays wrong.
pytestmark = pytest.mark.flaky(reruns=1)

VIEWS = ("Explore", "Compare", "Layers", "Capacity", "Roofline", "Papers", "Validation")
GPU = "h100-80gb-sxm"
CONFIG = json.dumps(
    {
        "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
    }
)  # fmt: skip
# Said by the browser or by Streamlit's own bundle about itself, not about this page.
HARMLESS = re.compile(r"iframe which has both allow-scripts and allow-same-origin|GPU stall|WebGL|GL Driver")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


class Tab:
    """A tab that remembers what it asked for and what its console said."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 900, scheme: str = "light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        self.page, self.address = self.context.new_page(), address
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))

    def open(self, query: str = "") -> Any:
        self.page.goto(f"{self.address}?{query}")
        settled(self.page)
        return self.page

    def numbers(self) -> dict[str, tuple[str, str]]:
        return {name: (value, exact) for name, (value, exact) in self.page.evaluate(NUMBERS).items()}

    def close(self) -> None:
        """Whatever the test was about: no error in the console, no request to another host, no traceback."""
        text = self.page.inner_text("body")
        self.context.close()
        assert [] == [line for line in self.said if not HARMLESS.search(line)]
        elsewhere = [url for url in self.asked if not url.startswith((self.address, "data:", "blob:", "about:"))]
        assert [] == [url for url in elsewhere if not url.startswith(self.address.replace("http", "ws"))]
        assert "Traceback" not in text


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    found = Tab(browser, address)
    yield found
    found.close()


def expected(report: kvplan.Report, units: str = "GiB") -> dict[str, tuple[str, str]]:
    return {name.strip(): (value, exact) for name, value, exact in report.rows(page.UNITS[units])}


def choose(tab: Any, label: str, text: str) -> None:
    """Types into a menu and takes what it finds, as people do."""
    box = tab.get_by_label(label, exact=True).first
    box.click()
    box.fill(text)
    tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    settled(tab)


def test_the_main_path(tab: Tab) -> None:
    """Model, GPU, format, scheme, context, tp: after each click the numbers are those of the API."""
    shown = tab.open()
    asked: dict[str, Any] = {"context": 8192}
    assert expected(kvplan.plan("llama-3.1-8b", **asked)) == tab.numbers()
    choose(shown, "Preset, type to search", "qwen3-8b")
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    choose(shown, "GPU", GPU)
    asked["gpu"] = GPU
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    assert "✔ fits on NVIDIA H100 SXM 80GB" in shown.inner_text(".verdict")
    choose(shown, "K and V", "fp8_e4m3")
    asked["kv_dtype"] = "fp8_e4m3"
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    choose(shown, "Layers", "cla:2")
    asked["scheme"] = "cla:2"
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    shown.locator(".st-key-context input[type=range]").focus()
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowRight")
    settled(shown)
    asked["context"] = 16384
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    shown.locator(".st-key-tp input[type=range]").focus()
    shown.keyboard.press("ArrowRight")
    settled(shown)
    asked["tp"] = 2
    assert expected(kvplan.plan("qwen3-8b", **asked)) == tab.numbers()
    assert "tp 2 × pp 1 × dp 1: 2 GPUs" in shown.inner_text("[data-testid=stSidebar]")
    shown.get_by_text("GB", exact=True).click()
    settled(shown)
    assert expected(kvplan.plan("qwen3-8b", **asked), "GB") == tab.numbers()
    for view in VIEWS[1:]:
        shown.locator(".st-key-view").get_by_text(view, exact=True).click()
        settled(shown)
        assert shown.locator("[data-testid=stPlotlyChart]").count() >= 1, view
        assert shown.locator("[data-testid=stAlert]").count() == 0, shown.inner_text("[data-testid=stAlert]")
    shown.locator(".st-key-view").get_by_text("Explore", exact=True).click()
    settled(shown)
    assert expected(kvplan.plan("qwen3-8b", **asked), "GB") == tab.numbers()
    assert "context=16k" in shown.url
    assert "model=qwen3-8b" in shown.url


@pytest.mark.parametrize("view", VIEWS)
def test_a_link_opened_elsewhere_shows_the_same(browser: Any, address: str, view: str) -> None:
    """The address after clicking, and the link below the page, each in a new session."""
    first = Tab(browser, address)
    shown = first.open(f"view={view}&gpu=h100&context=12288&scheme=mqa%2Bcla%3A2&batch=3")
    shown.locator(".st-key-batch input[type=range]").focus()
    shown.keyboard.press("ArrowRight")
    settled(shown)
    links = [shown.url, shown.get_by_role("link", name="Link to what you see").get_attribute("href")]
    words = shown.inner_text("[data-testid=stMain]")
    first.close()
    for link in links:
        second = Tab(browser, address)
        again = second.open(link.partition("?")[2])
        assert words == again.inner_text("[data-testid=stMain]"), link
        assert again.locator(".st-key-batch input[type=range]").get_attribute("aria-valuetext") == "4"
        second.close()


def test_command_line_words_in_a_link_stay_in_the_address(tab: Tab) -> None:
    shown = tab.open("model=meta-llama/Llama-3.1-8B&gpu=h100&kv_dtype=fp8&max-model-len=32k")
    report = kvplan.plan("llama-3.1-8b", gpu=GPU, kv_dtype="fp8", context="32k")
    assert expected(report) == tab.numbers()
    assert "gpu=h100-80gb-sxm" in shown.url
    assert "context=32k" in shown.url
    assert 0 == shown.locator(WARNING).count()


def test_a_hand_edited_link_gets_one_sentence(tab: Tab) -> None:
    shown = tab.open("gpu=%3Cscript%3Ealert(1)%3C/script%3E&context=-1&tp=x&n_layers=1e9&foo[]=%00")
    assert 1 == shown.locator(WARNING).count()
    assert "context: got '-1'" in shown.inner_text(WARNING)
    assert 0 == shown.locator(ERROR).count()
    assert "KV per token" in tab.numbers()


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "nobody"}', '{"a": 1}', "\ud7ff" * 10, "{" * 50_000])
def test_broken_json_gets_one_sentence(tab: Tab, text: str) -> None:
    shown = tab.open("source=config.json")
    shown.get_by_label("or paste it").fill(text)
    shown.keyboard.press("Control+Enter")
    settled(shown)
    said = {alert.inner_text().strip() for alert in shown.locator(ERROR).all()}
    assert 1 == len(said)
    assert 10 < len(said.pop()) < 400


def test_a_pasted_and_an_uploaded_config(tab: Tab, tmp_path: Path) -> None:
    """Layers x 2 x KV heads x head_dim x 2 bytes."""
    shown = tab.open("source=config.json")
    shown.get_by_label("or paste it").fill(CONFIG)
    shown.keyboard.press("Control+Enter")
    settled(shown)
    assert f"{3 * 2 * 2 * 16 * 2:,} B" == tab.numbers()["KV per token"][1]
    link = shown.get_by_role("link", name="Link to what you see").get_attribute("href")
    tab.open(link.partition("?")[2])
    assert f"{3 * 2 * 2 * 16 * 2:,} B" == tab.numbers()["KV per token"][1]
    file = tmp_path / "config.json"
    file.write_text(CONFIG.replace('"num_hidden_layers": 3', '"num_hidden_layers": 5'))
    shown.locator("input[type=file]").set_input_files(file)
    settled(shown)
    assert f"{5 * 2 * 2 * 16 * 2:,} B" == tab.numbers()["KV per token"][1]


def test_an_upload_of_fifty_megabytes_gets_one_sentence(tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as large:
        large.truncate(50_000_000)
    shown = tab.open("source=config.json")
    shown.locator("input[type=file]").set_input_files(file)
    said = shown.locator("[data-testid=stFileUploader]").get_by_text(re.compile("must be .* or smaller"))
    said.wait_for(timeout=20_000)
    assert 1 == said.count()
    assert "\n" not in said.inner_text().strip()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_every_page_is_accessible_and_fits_its_window(
    browser: Any, address: str, view: str, width: int, scheme: str
) -> None:
    """axe-core finds nothing serious or critical; nothing scrolls sideways; the screenshot is kept."""
    from axe_playwright_python.sync_playwright import Axe

    tab = Tab(browser, address, width, 900, scheme)
    shown = tab.open(f"view={view}&model=gemma-3-12b&gpu=h100&context=32k&batch=4")
    dark = shown.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme] == dark
    drawn = shown.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map(p => p.layout.paper_bgcolor)")
    assert {{"light": "#FFFFFF", "dark": "#15181C"}[scheme]} == set(drawn)
    sizes = shown.evaluate(
        """[document.documentElement, document.querySelector('[data-testid=stMain]')].map(e => [e.scrollWidth, e.clientWidth])"""
    )
    assert all(inner <= outer for inner, outer in sizes), sizes
    outside = shown.evaluate(
        f"""[...document.querySelectorAll('[data-testid=stMain] .js-plotly-plot, .numbers, .verdict, .heading')]
        .map(e => e.getBoundingClientRect()).filter(r => r.right > {width} + 1 || r.left < 0).length"""
    )
    assert 0 == outside
    found = Axe().run(shown).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [] == [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in serious]
    folder = os.environ.get("KVPLAN_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tall = shown.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        shown.set_viewport_size({"width": width, "height": min(max(tall, 900), 8000)})
        settled(shown)
        shown.screenshot(path=Path(folder) / f"{view.lower()}-{width}-{scheme}.png")
    tab.close()


def test_the_sidebar_opens_at_400_pixels(browser: Any, address: str) -> None:
    """The controls are one button away, and work there."""
    tab = Tab(browser, address, 400, 800)
    shown = tab.open("gpu=h100")
    shown.get_by_test_id("stExpandSidebarButton").click()
    slider = shown.locator(".st-key-context input[type=range]")
    slider.focus()
    shown.keyboard.press("ArrowRight")
    settled(shown)
    assert expected(kvplan.plan("llama-3.1-8b", gpu=GPU, context=12288)) == tab.numbers()
    folder = os.environ.get("KVPLAN_SCREENSHOTS")
    if folder:
        shown.screenshot(path=Path(folder) / "sidebar-400-light.png")
    tab.close()


def test_everything_is_reached_and_changed_by_keyboard(tab: Tab) -> None:
    """Tab from the top: views by arrows, menus by typing, sliders by arrows; no pointer is used."""
    shown = tab.open("gpu=h100")
    focused = """(() => { const e = document.activeElement;
    return e.closest('[class*=st-key-]')?.className.match(/st-key-(\\w+)/)?.[1] || e.tagName })()"""
    wanted = {
        "source", "model", "context", "batch", "heads", "layers", "tokens", "rank", "bits", "kv_dtype", "weight_dtype", "engine",
        "gpu", "tp", "pp", "dp", "units", "exact", "view", "memory_download", "term",
    }  # fmt: skip
    reached: list[str] = []
    for _ in range(120):
        shown.keyboard.press("Tab")
        name = shown.evaluate(focused)
        if not reached or reached[-1] != name:
            reached.append(name)
        if name == "context" and "context" not in reached[:-1]:
            shown.keyboard.press("ArrowRight")
            settled(shown)
            assert expected(kvplan.plan("llama-3.1-8b", gpu=GPU, context=12288)) == tab.numbers()
        if name == "kv_dtype" and "kv_dtype" not in reached[:-1]:
            shown.keyboard.type("fp8_e5m2")
            shown.keyboard.press("Enter")
            settled(shown)
            assert expected(kvplan.plan("llama-3.1-8b", gpu=GPU, context=12288, kv_dtype="fp8_e5m2")) == tab.numbers()
        if wanted <= set(reached):
            break
    assert set() == wanted - set(reached)
    for _ in range(200):
        if shown.evaluate(focused) == "view":
            break
        shown.keyboard.press("Tab")
    for _ in range(8):
        if shown.evaluate("document.activeElement.innerText.trim()") == "Layers":
            break
        shown.keyboard.press("ArrowRight")
        if shown.evaluate(focused) != "view":
            break
    shown.keyboard.press("Space")
    settled(shown)
    assert "view=Layers" in shown.url
    assert shown.locator(".st-key-owners_picture").count() == 1


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_gives_its_data_and_picture_away(tab: Tab, view: str) -> None:
    """CSV, JSON and HTML hold what the figure holds; PNG is one where it can be drawn."""
    shown = tab.open(f"view={view}&gpu=h100&context=4k")
    shown.locator("[data-testid=stPopover] button").first.click()
    got: dict[str, bytes] = {}
    for label in ("CSV", "JSON", "HTML", "PNG"):
        with shown.expect_download(timeout=120_000) as waiting:
            shown.get_by_role("button", name=label, exact=True).first.click()
        got[label] = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename.endswith(f".{label.lower()}")
    rows = json.loads(got["JSON"])["rows"]
    assert rows
    assert len(rows) == len(list(csv.DictReader(io.StringIO(got["CSV"].decode()))))
    assert got["PNG"].startswith(b"\x89PNG")
    assert b"plotly" in got["HTML"].lower()
    assert b'src="http' not in got["HTML"]


def test_a_line_under_the_pointer_stands_out(tab: Tab) -> None:
    """Over the legend and over the line itself the others fade, and come back."""
    shown = tab.open("view=Compare&gpu=h100")
    faded = "[...document.querySelector('.js-plotly-plot').querySelectorAll('.scatterlayer .trace')].map(t => getComputedStyle(t).opacity)"
    assert {"1"} == set(shown.evaluate(faded))
    shown.locator(".js-plotly-plot").first.locator(".legend .traces .legendtoggle").nth(1).hover()
    shown.wait_for_timeout(100)
    assert 1 == shown.evaluate(faded).count("1")
    assert "1" == shown.evaluate(faded)[1]
    shown.locator("h1").hover()
    shown.wait_for_timeout(100)
    assert {"1"} == set(shown.evaluate(faded))
    spot = shown.evaluate(
        """(() => {
            const line = document.querySelector('.js-plotly-plot').querySelectorAll('.scatterlayer .trace')[2];
            const p = line.querySelectorAll('.point')[3].getBoundingClientRect();
            return [p.x + p.width / 2, p.y + p.height / 2] })()"""
    )
    shown.mouse.move(spot[0] - 40, spot[1] - 30)
    shown.mouse.move(*spot, steps=5)
    shown.wait_for_timeout(300)
    assert 1 == shown.evaluate(faded).count("1")
    assert "1" == shown.evaluate(faded)[2]


def test_exact_bytes_are_under_the_pointer(tab: Tab) -> None:
    shown = tab.open("gpu=h100")
    cell = shown.locator(".numbers div", has_text="KV per token").locator("dd").first
    assert "131,072 B" == cell.get_attribute("title")
    assert "help" == cell.evaluate("e => getComputedStyle(e).cursor")
    shown.get_by_text("Exact numbers beside the rounded ones").click()
    settled(shown)
    assert "131,072 B" in shown.inner_text(".numbers")
