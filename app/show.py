"""How answers are shown: one sentence for what cannot be, numbers with exact bytes behind them, pictures with downloads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import question
import streamlit as st

from kvplan import KvplanError, Report, page

__all__ = ["complaint", "fits", "foot", "guarded", "heading", "numbers", "picture", "style", "table", "verdict"]

CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d", "toImage"]}
MIME = {"csv": "text/csv", "json": "application/json", "html": "text/html", "png": "image/png"}
HERE = Path(__file__).parent
SCRIPT = f"<script>{HERE.joinpath('page.js').read_text()}</script>"


def style() -> None:
    """The page's few rules of style, and what lights up under the pointer."""
    st.html(HERE.joinpath("page.css"))
    if question.look().dark:
        st.html(HERE.joinpath("night.css"))
    st.html(SCRIPT, unsafe_allow_javascript=True)


def guarded(view: Callable[[], None]) -> Callable[[], None]:
    """A view whose errors are one sentence; what was not foreseen goes to the log, never to the page."""

    def run() -> None:
        try:
            view()
        except KvplanError as e:
            st.error(page.as_text(str(e)), icon=":material/error:")
        except Exception as e:  # a page shows no traceback
            if type(e).__module__.startswith("streamlit.runtime.scriptrunner"):
                raise  # how the server stops or restarts a run
            print(page.printable(f"kvplan app: {type(e).__name__}: {e}"), file=sys.stderr)
            st.error("This could not be worked out; the server's log says why.", icon=":material/error:")

    return run


def complaint() -> None:
    """What was wrong with the link, once."""
    said = st.session_state.pop("complaint", None)
    if said:
        st.warning(page.as_text(said), icon=":material/link_off:")


def heading(text: str) -> None:
    """What the page is about, the first heading of the document."""
    st.html(f'<h1 class="heading">{page.as_html(text)}</h1>')


def verdict(report: Report) -> None:
    """Whether it fits, by how much and what binds, in a line that a screen reader announces."""
    kind, sign = {True: ("yes", "✔ "), False: ("no", "✘ "), None: ("neither", "")}[report.fits]
    text = page.as_html(report.verdict(page.UNITS[question.units()]))
    more = page.as_html(page.headroom(report, question.units()))
    st.html(f'<div class="verdict {kind}" role="status">{sign}{text}<small>{more}</small></div>')


def numbers(report: Report) -> None:
    """Every number for people, the exact one under the pointer, or beside it where that was asked for."""
    beside = st.session_state.get("exact")
    cells = []
    for name, value, exact in report.rows(page.UNITS[question.units()]):
        title = f" title='{page.as_html(exact)}'" if exact else ""
        more = f"<small>{page.as_html(exact)}</small>" if exact and beside else ""
        cells.append(f"<div><dt>{page.as_html(name.strip())}</dt><dd{title}>{page.as_html(value)}{more}</dd></div>")
    st.html(f'<dl class="numbers">{"".join(cells)}</dl>')


def fits(reports: Iterable[Report], key: str) -> None:
    """GPUs as a table: green fits, amber is tight, red does not fit, each said in words too."""
    rows = page.fits(list(reports), question.units())
    if not rows:
        st.info("No GPU can be asked this.")
        return
    head = "".join(f"<th scope='col'>{page.as_html(name)}</th>" for name in rows[0]["cells"])
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=' + row['verdict'] if name == 'fits' else ''}>{page.as_html(text)}</td>"
            for name, text in row["cells"].items()
        )
        + "</tr>"
        for row in rows
    )
    st.html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="GPUs">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    downloads(page.figures.gpus(list(reports), question.look()), key)


def picture(chart: Any, key: str) -> None:
    """A figure, with its data and its file to take away."""
    st.plotly_chart(chart.figure(), key=f"{key}_picture", theme=None, config=CONFIG, alt=page.printable(chart.title))
    downloads(chart, key)


def downloads(chart: Any, key: str) -> None:
    """The figure's rows and its picture as files, made when they are asked for."""
    with st.popover("Download", icon=":material/download:", key=f"{key}_download"):
        for suffix in MIME:
            _file(suffix.upper(), lambda suffix=suffix: page.figures.rendered(chart, f".{suffix}"), f"{key}.{suffix}")


def _file(label: str, data: Callable[[], Any], name: str, mime: str = "") -> None:
    kind = mime or MIME[name.rpartition(".")[2]]
    st.download_button(label, data, f"kvplan-{name}", kind, key=f"file_{name}", on_click="ignore")


def table(rows: Iterable[Any], key: str, counts: Iterable[str] = (), **more: Any) -> None:
    """Rows as a table that can be sorted, searched and downloaded; ``counts`` are columns of thousands."""
    columns = {name: st.column_config.NumberColumn(format="localized") for name in counts}
    st.dataframe(page.cells(rows), hide_index=True, key=key, column_config=columns, **more)


def foot(command: str, report: Report | None = None) -> None:
    """The command line that gives the same, the link, and the whole answer as a file."""
    st.caption("The same in a terminal")
    st.code(command, language="bash", wrap_lines=True)
    link = page.as_link("Link to what you see", question.link())
    if question.carried():
        st.markdown(f"{link}, every setting included.")
    else:
        st.markdown(
            f"{link}, every setting included but the config, which is too long for it: whoever opens it is asked for it."
        )
    if report is not None:
        with st.container(horizontal=True):
            _file("JSON of all numbers", report.to_json, "plan.json")
            _file("Report as Markdown", report.to_markdown, "plan.md", "text/markdown")
