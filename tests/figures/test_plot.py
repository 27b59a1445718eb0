"""``kvplan plot``: each figure in each format is a valid file, whole or not there, and bad input is one line."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan import figures
from kvplan.cli import app
from kvplan.cli.plot import FIGURES
from kvplan.errors import MissingExtra, Unsupported
from kvplan.figures import files

ROOT = Path(__file__).parents[2]
ASKED = {
    "kv": "kv llama-3.1-8b -s gqa:2 -s cla:2 --context 1k..1M",
    "capacity": "capacity llama-3.1-8b --gpu h100 --context 1k..32k --batch 1..64",
    "frontier": "frontier llama-3.1-8b -s mqa --gpu h100 --gpu t4",
    "roofline": "roofline llama-3.1-8b --gpu h100 -c 4k",
    "schemes": "schemes llama-2-7b -s gqa:8 -s mqa+cla:2 -c 4k",
    "memory": "memory gemma-3-12b --gpu rtx-4090",
    "owners": "owners gemma-3n-e4b",
    "gpus": "gpus llama-3.1-8b --gpu h100 --gpu t4",
    "bounds": "bounds llama-3.1-8b --gpu h100 --batch 1..64",
    "published": "published mistral-7b",
    "measured": f"measured {ROOT / 'tests/records/ci-cpu.json'}",
    "quality": "quality cla",
}


def plot(arguments: str, output: Path, *more: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = CliRunner().invoke(app, ["plot", *arguments.split(), "-o", str(output), *more])
    return result.exit_code, result.stdout, result.stderr


def test_every_figure_is_asked_here() -> None:
    """The tests below leave none out."""
    assert set(FIGURES) == set(ASKED)


@pytest.mark.parametrize("figure", ASKED)
def test_data(figure: str, tmp_path: Path) -> None:
    """CSV and JSON need no extra, hold rows, and stdout names the file."""
    path = tmp_path / f"{figure}.json"
    code, out, err = plot(ASKED[figure], path)

    assert (0, f"{path}\n", "") == (code, out, err)
    whole = json.loads(path.read_text())
    assert (figure, 1) == (whole["figure"], whole["schema"])
    assert whole["rows"]
    assert 0 == plot(ASKED[figure], tmp_path / "a.csv")[0]
    assert len(whole["rows"]) < len((tmp_path / "a.csv").read_text().splitlines()) + 1
    assert ["a.csv", f"{figure}.json"] == sorted(p.name for p in tmp_path.iterdir())  # nothing temporary stays


@pytest.mark.parametrize("figure", ASKED)
def test_svg(figure: str, tmp_path: Path) -> None:
    """An SVG that an XML parser takes, as wide as asked for, that fetches nothing."""
    pytest.importorskip("kaleido")
    path = tmp_path / "a.svg"
    assert 0 == plot(ASKED[figure], path, "--width", "420")[0]

    root = ElementTree.parse(path).getroot()
    assert "{http://www.w3.org/2000/svg}svg" == root.tag
    assert "420" == root.get("width")
    text = path.read_text()
    links = re.findall(r'(?:xlink:)?href="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert all(link.strip("'\"&quot;").startswith(("#", "data:")) for link in links)
    assert "@import" not in text


@pytest.mark.parametrize("figure", ["kv", "owners"])
def test_png(figure: str, tmp_path: Path) -> None:
    """PNG's signature, and two pixels for each that was asked for."""
    pytest.importorskip("kaleido")
    path = tmp_path / "a.png"
    assert 0 == plot(ASKED[figure], path, "--width", "400", "--height", "500", "--dark")[0]

    data = path.read_bytes()
    assert b"\x89PNG\r\n\x1a\n" == data[:8]
    assert (800, 1000) == struct.unpack(">II", data[16:24])
    assert len(data) > 10_000


@pytest.mark.parametrize("figure", ["kv", "schemes"])
def test_html(figure: str, tmp_path: Path) -> None:
    """One file: no script, style, font or picture from elsewhere, and a policy that forbids it."""
    pytest.importorskip("plotly")
    path = tmp_path / "a.html"
    assert 0 == plot(ASKED[figure], path)[0]

    text = path.read_text()
    markup = re.sub(r"<script\b([^>]*)>.*?</script>", r"<script\1></script>", text, flags=re.S)
    assert not re.search(r"<(script|link|img|iframe|source)\b[^>]*(src|href)\s*=", markup)
    assert not re.search(r"@import|url\(\s*['\"]?http", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "Content-Security-Policy\" content=\"default-src 'none';" in text
    assert len(text) > 3_000_000  # plotly.js itself
    called = re.search(r'Plotly\.newPlot\(\s*"figure",\s*(\[.*?\]),\s*\{', text, re.S)
    assert called
    assert "as published" in called[1]


def test_a_files_numbers_are_plans(tmp_path: Path) -> None:
    """The issue's own line: contexts from 1k to 1M, three ways, exact bytes."""
    assert 0 == plot(ASKED["kv"], tmp_path / "kv.json")[0]
    rows = json.loads((tmp_path / "kv.json").read_text())["rows"]

    assert ["as published", "gqa:2", "cla:2"] == list(dict.fromkeys(row["label"] for row in rows))
    assert [2**n for n in range(10, 21)] == [row["context"] for row in rows if row["label"] == "gqa:2"]
    for row in rows:
        scheme = None if row["label"] == "as published" else row["label"]
        assert kvplan.plan("llama-3.1-8b", scheme=scheme, context=row["context"]).kv["bytes"] == row["kv_bytes"]


@pytest.mark.parametrize(
    ("arguments", "output", "said"),
    [
        ("kw llama-3.1-8b", "a.svg", "unknown figure 'kw'; nearest: kv"),
        ("kv llama-3.1-8b", "a.gif", "a file name that ends in .svg, .png, .html, .csv, .json"),
        ("kv llama-3.1-8b --context 8k", "a.csv", "context: got '8k', allowed: a range LOW..HIGH"),
        ("kv llama-3.1-8b --context 8k..1k", "a.csv", "whose LOW is below its HIGH"),
        ("memory llama-3.1-8b --context 1k..8k", "a.csv", "context: got '1k..8k', allowed: a whole number"),
        ("capacity llama-3.1-8b", "a.csv", "gpu: missing"),
        ("roofline llama-3.1-8b", "a.csv", "gpu: missing"),
        ("owners llama-3.1-8b -s mqa -s cla:2", "a.csv", "one for owners"),
        ("kv llama-3.1-8b --units GHz", "a.csv", "units: got 'GHz', allowed: GiB or GB"),
        ("kv llama-3.1-8b --width 20", "a.csv", "width: got '20', allowed: pixels, from 200 to 10000"),
        ("kv llama-3.1-8b", "no/such/folder/a.csv", "a file in a folder that can be written to"),
        ("quality mistral-7b", "a.csv", "a paper with measured quality"),
        ("measured nothing.json", "a.csv", "a record that kvplan validate wrote"),
    ],
)
def test_bad_input_is_one_line(arguments: str, output: str, said: str, tmp_path: Path) -> None:
    """Exit code 2, nothing on stdout, nothing on disk."""
    code, out, err = plot(arguments, tmp_path / output)

    assert (2, "") == (code, out)
    assert said in err
    assert 1 == len(err.splitlines())
    assert not list(tmp_path.iterdir())


def test_without_a_file_it_says_so() -> None:
    """-o is asked for."""
    result = CliRunner().invoke(app, ["plot", "kv", "llama-3.1-8b"])
    assert (2, 1) == (result.exit_code, len(result.stderr.splitlines()))
    assert "output: missing, allowed: a file to write: -o FILE.svg" in result.stderr


@pytest.mark.parametrize(("suffix", "blocked"), [("svg", "kaleido"), ("png", "plotly"), ("html", "plotly")])
def test_without_the_extra(suffix: str, blocked: str, tmp_path: Path) -> None:
    """One line that names the extra; the rows as CSV need none."""
    script = (
        f"import sys\nsys.modules[{blocked!r}] = None\n"  # as if it were not installed
        "from kvplan.cli import main\nmain()"
    )
    run = [sys.executable, "-c", script, "plot", "kv", "llama-3.1-8b", "-o"]
    done = subprocess.run([*run, str(tmp_path / f"a.{suffix}")], capture_output=True, text=True, check=False, cwd=ROOT)
    data = subprocess.run([*run, str(tmp_path / "a.csv")], capture_output=True, text=True, check=False, cwd=ROOT)

    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    assert "pip install 'kvplan[plot]'" in done.stderr
    assert (0, ["a.csv"]) == (data.returncode, [p.name for p in tmp_path.iterdir()])


def test_a_browser_that_hangs_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is ended with all that it started, and after four tries the error is one line."""
    pytest.importorskip("kaleido")
    tries = tmp_path / "tries"
    monkeypatch.setattr(files, "PATIENCE", 0.5)
    monkeypatch.setattr(files, "_arguments", lambda: ["bash", "-c", f"echo x >> {tries}; sleep 60 & sleep 60"])
    chart = figures.kv([kvplan.plan("llama-3.1-8b")], (1024, 2048))

    with pytest.raises(Unsupported, match=r"no answer in 0.5 s\); write .html instead"):
        figures.rendered(chart, ".svg")
    assert 4 == len(tries.read_text().splitlines())
    monkeypatch.setattr(files, "_arguments", lambda: ["bash", "-c", "echo broken >&2; exit 1"])
    with pytest.raises(Unsupported, match="broken"):
        figures.rendered(chart, ".svg")


def test_a_figure_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API raises MissingExtra; the chart's data are there all the same."""
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    chart = figures.kv([kvplan.plan("llama-3.1-8b")], (1024, 2048))

    assert 2 == len(chart.rows)
    with pytest.raises(MissingExtra, match=r"kvplan\[plot\]"):
        chart.figure()


def test_an_old_file_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written whole or not at all."""
    path = tmp_path / "a.csv"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    code, _, err = plot(ASKED["kv"], path)
    assert (2, "before") == (code, path.read_text())
    assert "No space left on device" in err
    assert [path] == list(tmp_path.iterdir())
