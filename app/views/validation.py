"""Validation: what runs measured, and what engines printed, beside what was predicted."""

import question
import show
import streamlit as st

from kvplan import page


def view() -> None:
    """Draws the page."""
    show.heading("Measured beside predicted")
    wanted = st.text_input("Only cases that contain, e.g. cla, mla, int4", key="cases", **question.LINK)
    records = page.matching(page.measured(), wanted)
    rows = page.shown(records)
    if not rows:
        st.info("No case contains that.")
        return
    for record in records:
        st.caption(page.provenance(record))
    show.picture(page.figures.measured(records, question.look()), "measured")
    show.table(rows, "measured-rows")
    st.subheader("What engines printed")
    printed = page.printed()
    show.table(printed, "printed-rows")
    show.table(page.counted((row["engine"], row["outcome"]) for row in printed), "printed-outcomes", width="content")
    show.foot("kvplan validate --suite ci --device cpu && kvplan reproduce engines")
