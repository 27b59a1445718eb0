"""A chart as a file: SVG and PNG without a browser of the machine's own, HTML without a network, CSV and JSON of its rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import b64decode
from html import escape
from pathlib import Path
from typing import Any

from kvplan.errors import InvalidInput, MissingExtra, Unsupported
from kvplan.figures.chart import EXTRA, Chart
from kvplan.importers.files import write_whole

__all__ = ["SUFFIXES", "rendered", "write"]

SUFFIXES = (".svg", ".png", ".html", ".csv", ".json")
WIDTH = 800  # pixels of a picture whose look says none
DENSITY = 2  # pixels of a PNG per pixel of the layout
PATIENCE, TRIES = 15, 4  # seconds that a picture may take (1 where nothing else runs), and how often it is tried
# The browser of a reader is told what the page needs: nothing from anywhere.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>body {{ margin: 0; background: {ground}; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def rendered(chart: Chart, suffix: str) -> bytes:
    """The chart in the format of a suffix (with its dot or without); PNG has two pixels per pixel of the layout.

    Raises InvalidInput for another suffix, MissingExtra where plotly or kaleido is not installed, Unsupported where
    the installed kaleido needs a browser that it does not find.
    """
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    if suffix not in SUFFIXES:
        raise InvalidInput("output", suffix, f"a file name that ends in {', '.join(SUFFIXES)}")
    if suffix == ".csv":
        return chart.to_csv().encode()
    if suffix == ".json":
        return (chart.to_json() + "\n").encode()
    return _html(chart) if suffix == ".html" else _image(chart, suffix[1:])


def write(chart: Chart, path: str | Path) -> Path:
    """Writes the chart whole or not at all, in the format that the file's suffix names: a temporary file, then renamed.

    Raises InvalidInput for a suffix of no format or a place that cannot be written to.
    """
    path = Path(path)
    data = rendered(chart, path.suffix.lower())
    write_whole(path, data, "output", "a file in a folder that can be written to")
    return path


def _html(chart: Chart) -> bytes:
    try:
        from plotly.io import to_html
    except ModuleNotFoundError:
        raise MissingExtra("a figure as HTML", EXTRA) from None
    body = to_html(
        chart.to_dict(),
        config={"displaylogo": False, "responsive": True, "plotlyServerURL": ""},
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        validate=False,
        div_id="figure",
        default_height=f"{chart.layout['height']}px",
    )
    page = PAGE.format(policy=POLICY, title=escape(chart.title), ground=chart.layout["paper_bgcolor"], body=body)
    return page.encode()


def _image(chart: Chart, format_: str) -> bytes:
    size = {"width": chart.layout.get("width", WIDTH), "height": chart.layout["height"]}
    size["scale"] = DENSITY if format_ == "png" else 1
    if not _found("plotly") or not _found("kaleido"):
        raise MissingExtra(f"a figure as {format_.upper()}", EXTRA, "HTML needs plotly alone, CSV and JSON nothing")
    try:
        arguments = _arguments()
    except ModuleNotFoundError:
        return _with_browser(chart, format_, **size)
    request = json.dumps({"format": format_, **size, "data": chart.to_dict()}) + "\n"
    why = "it did not start"
    for _ in range(TRIES):
        answer = _drawn(arguments, request.encode())
        if answer is None:
            why = f"no answer in {PATIENCE} s"
            continue
        if answer.get("code") == 0 and answer.get("result"):
            result: str = answer["result"]
            return result.encode() if format_ == "svg" else b64decode(result)
        why = str(answer.get("message") or why).splitlines()[0]
    raise Unsupported(f"kaleido cannot draw here ({why}); write .html instead")


def _found(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _arguments() -> list[str]:
    """The command line of the browser that kaleido 0.2.1 brings along, with the plotly.js of the installed plotly.

    It is run here and not by plotly, because plotly 7 no longer calls it, and not by kaleido, which waits for ever for a
    browser that hangs: of 60 starts on a busy machine 14 did, with --single-process 1 of 65, hence PATIENCE and TRIES.
    MathJax is off: it would be fetched.
    """
    import plotly
    from kaleido.scopes.plotly import PlotlyScope

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    flags = (*PlotlyScope.default_chromium_args(), "--single-process")
    scope = PlotlyScope(plotlyjs=str(script), mathjax=False, chromium_args=flags)
    arguments: list[str] = scope._build_proc_args()
    return arguments


def _drawn(arguments: list[str], request: bytes) -> dict[str, Any] | None:
    """One picture from one process: the last line that it prints is the answer; None where it hangs."""
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            said, talk = process.communicate(request, timeout=PATIENCE)
        except BaseException as e:
            if hasattr(os, "killpg"):  # what it started too, which holds the pipes open
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.communicate()
            if isinstance(e, subprocess.TimeoutExpired):
                return None
            raise
    try:
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        lines = talk.decode(errors="replace").strip().splitlines()
        return {"code": 1, "message": lines[-1] if lines else ""}
    return answer


def _with_browser(chart: Chart, format_: str, width: int, height: int, scale: int) -> bytes:
    """Kaleido 1 drives a Chrome of the machine's own, where there is one."""
    try:
        image: bytes = chart.figure().to_image(format=format_, width=width, height=height, scale=scale)
    except Exception as e:  # kaleido, choreographer and plotly each raise their own
        if isinstance(e, MissingExtra):
            raise
        raise Unsupported(
            f"the installed kaleido draws {format_.upper()} with Chrome and finds none: pip install 'kvplan[{EXTRA}]' "
            "brings the one that needs none, or write .html instead"
        ) from None
    return image
