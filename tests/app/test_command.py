"""`kvplan app`: what it serves, on which port, and what it says where it cannot."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from kvplan.cli import main
from kvplan.cli.web import SERVED, page_file
from tests.app.browser import served


def said(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["kvplan", "app", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8501.5", "٣"])
def test_a_port_that_cannot_be(port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(["--port", port], monkeypatch, capsys)
    assert 2 == code
    assert "port" in text
    assert "Traceback" not in text


def test_without_the_extra_it_names_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "streamlit":
            raise ModuleNotFoundError("No module named 'streamlit'", name="streamlit")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    code, text = said([], monkeypatch, capsys)
    assert 2 == code
    assert "pip install 'kvplan[app]'" in text


def test_it_says_which_options_streamlit_knows() -> None:
    """Every setting that the page is served with is one of the installed Streamlit's."""
    config = pytest.importorskip("streamlit.config")
    known = config.get_config_options()
    assert [] == [name for name in SERVED if name not in known]
    assert page_file().is_file()


def test_it_answers_on_its_port_without_a_browser() -> None:
    pytest.importorskip("streamlit")
    with served() as (_, process):
        assert process.poll() is None
