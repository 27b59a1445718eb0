"""Capacity: which contexts and batches fit, per engine, and on which GPUs."""

import question
import show
import streamlit as st

from kvplan import page, plan

OWN = ("engine", "engine_version", "engine_options")


def view() -> None:
    """Draws the page."""
    report = plan(question.model(), **question.flags())
    show.heading(report.headline())
    show.verdict(report)
    if report.capacity is None:
        st.info("Choose a GPU in the sidebar for the map of contexts and batches.")
        command = question.given("fit")
    else:
        names = [row["name"] for row in page.listing("engines")]
        own = report.engine["name"]
        others = st.multiselect("Other engines", names, [], max_selections=3, key="engines", **question.LINK)
        asked = [plan(question.model(), engine=name, **question.flags(*OWN)) for name in others if name != own]
        for each in (report, *asked):
            name = each.engine["name"]
            st.subheader(f"Engine {page.as_text(name)}")
            show.picture(page.figures.capacity([each], None, (1, 256), question.look()), f"capacity-{name}")
        command = question.given("plot capacity", "context", "batch", output="capacity.svg")
    st.subheader("On which GPUs")
    st.caption("Green fits, amber fits with less than a tenth of the memory free, red does not fit.")
    show.fits(page.on_gpus(question.model(), **question.flags("gpu")), "gpus")
    show.foot(command, report)
