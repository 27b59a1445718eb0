"""Roofline: how many FLOPs a byte pays for in prefill and decode, and the bounds on time that follow."""

import question
import show
import streamlit as st

from kvplan import page, plan


def view() -> None:
    """Draws the page."""
    report = plan(question.model(), **question.flags())
    show.heading(report.headline())
    if report.answer.times is None:
        st.info("Choose a GPU with stated rates in the sidebar: a roofline is a GPU's.")
        show.foot(question.given("plan"), report)
        return
    show.picture(page.figures.roofline(report, look=question.look()), "roofline")
    show.picture(page.figures.bounds([report], look=question.look()), "bounds")
    st.caption("Times are bounds: no step can be faster, and real ones are slower. They are never predictions.")
    show.foot(question.given("plot roofline", "batch", output="roofline.svg"), report)
