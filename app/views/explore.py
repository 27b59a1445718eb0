"""Explore: one model on one setup. Verdict and numbers first, then pictures, formulas and what was left out."""

import question
import show
import streamlit as st

from kvplan import Report, page, plan


def view() -> None:
    """Draws the page."""
    report = plan(question.model(), **question.flags())
    show.heading(report.headline())
    show.verdict(report)
    show.numbers(report)
    if report.suggestions:
        st.subheader("What to try: each of these makes it fit")
        for change in report.suggestions:
            st.code(page.printable(change), language="bash", wrap_lines=True)
    show.picture(page.figures.memory([report], question.look()), "memory")
    if report.capacity is None:
        st.info("Choose a GPU to see what fits, what binds and how fast it can be at most.")
    if report.engine["printed"]:
        st.subheader(f"What {page.as_text(report.engine['name'])} prints")
        st.code("\n".join(map(page.printable, report.engine["printed"])), language=None, wrap_lines=True)
    _formulas(report)
    left, right = st.columns(2)
    with left, st.expander("What was left out", expanded=bool(report.omitted)):
        listed = (f"- **{page.as_text(omission.path)}**: {page.as_text(omission.why)}" for omission in report.omitted)
        st.markdown("\n".join(listed) or "Nothing.")
    with right, st.expander("Notes", expanded=bool(report.notes)):
        st.markdown("\n".join(f"- {page.as_text(note)}" for note in report.notes) or "None.")
    show.foot(question.given("plan"), report)


def _formulas(report: Report) -> None:
    """The formulas with the numbers put in, of one term at a time, and all terms as a table."""
    terms = [*(["max_batch", "max_context"] if report.capacity else []), *(term.path for term in report.terms)]
    caches = [path for path in terms if path.startswith("kv/")]
    start = terms.index((caches or terms)[0])
    term = st.selectbox("Formula with the numbers put in", terms, start, key="term", **question.LINK)
    for block in page.worked(report, term).split("\n\n"):
        title, _, body = block.partition("\n")
        st.markdown(f"**{page.as_text(title.lstrip('% '))}**")
        st.latex(body)
    ledger = st.expander("All terms", key="ledger", on_change="rerun")
    if ledger.open:  # a table costs a browser more than the rest of the page
        with ledger:
            show.table([term._asdict() for term in report.terms], "terms", ["value"])
