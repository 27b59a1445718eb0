"""Compare: two to six schemes, engines or GPUs side by side."""

import question
import show
import streamlit as st

from kvplan import compare, page, plan

ONE = {"schemes": "scheme", "engines": "engine", "GPUs": "gpu"}
LEAST = {"schemes": 1, "engines": 2, "GPUs": 2}  # the model as published stands beside schemes
START = {
    "schemes": ["gqa:4", "mqa", "cla:2", "lckv:w=2"],
    "engines": ["ideal", "transformers", "vllm", "llama.cpp"],
    "GPUs": ["l4-24gb", "l40s-48gb", "h100-80gb-sxm", "h200-141gb-sxm"],
}


def view() -> None:
    """Draws the page."""
    kind = st.segmented_control("Side by side", list(ONE), default="schemes", required=True, key="by", **question.LINK)
    offered = _offered(kind)
    rows = st.multiselect(
        "Two to six; the model as published stands first" if kind == "schemes" else "Two to six", offered,
        [name for name in START[kind] if name in offered], max_selections=6, accept_new_options=kind == "schemes",
        key=f"row_{kind}", **question.LINK,
    )  # fmt: skip
    mine = question.flags().get("scheme")
    if kind == "schemes" and mine:  # what the sidebar builds is compared too
        rows = list(dict.fromkeys([mine, *rows]))
    if len(rows) < LEAST[kind]:
        st.info("Choose what to put side by side.")
        return
    show.heading(f"{kind.capitalize() if kind != 'GPUs' else kind} side by side")
    apart = ("engine", "engine_version") if kind == "engines" else (ONE[kind],)
    flags, look = question.flags(*apart), question.look()
    if kind == "GPUs":
        reports = [plan(question.model(), gpu=name, **flags) for name in rows]
        show.fits(reports, "gpus")
        spare = {name: value for name, value in flags.items() if name != "context"}
        command = page.command_line("plot kv", question.model(), gpus=rows, **spare, output="kv.svg")
    else:
        compared = compare(question.model(), **{kind: rows}, **flags)
        reports = list(compared.reports)
        show.table(page.rows(compared, question.units()), "rows", ["max batch", "max context"])
        command = page.command_line("compare", question.model(), **{kind: rows}, **flags)
    show.picture(page.figures.kv(reports, None, look), "kv")
    if kind != "GPUs":
        show.picture(page.figures.schemes(compared, look), "residence")
    if all(report.capacity for report in reports):
        show.picture(page.figures.frontier(reports, None, look), "frontier")
        show.picture(page.figures.memory(reports, look), "memories")
    else:
        st.info("Choose a GPU for the largest batch at each context.")
    if kind != "GPUs":
        st.markdown("\n".join(f"- {page.as_text(note)}" for note in compared.notes()))
    show.foot(command)


def _offered(kind: str) -> list[str]:
    if kind == "schemes":
        return [member for members in page.MENU.values() for member in members]
    return [row["name"] for row in page.listing(kind.lower())]
