"""Papers: what was published beside what kvplan answers to the same question."""

import question
import show
import streamlit as st

from kvplan import page


def view() -> None:
    """Draws the page."""
    show.heading("Published numbers, computed again")
    every = page.published()
    left, right = st.columns(2)
    paper = left.selectbox("Paper", ["all", *dict.fromkeys(row.paper for row in every)], key="paper", **question.LINK)
    words = right.text_input("Only rows that contain, e.g. cla, mqa, window", key="rows", **question.LINK)
    rows = page.naming([row for row in every if paper in ("all", row.paper)], words)
    if not rows:
        st.info("No row contains that.")
        return
    show.picture(page.figures.published(rows, question.look()), "published")
    show.table([row._asdict() for row in rows], "published-rows")
    show.table(page.counted(row.outcome for row in rows), "outcomes", width="content")
    show.foot(page.command_line("reproduce", None if paper == "all" else paper))
