"""The what-if page: a thin face over kvplan's public API; ``kvplan app`` serves it. No arithmetic happens here."""

from pathlib import Path

import streamlit as st

st.set_page_config("kvplan", Path(__file__).with_name("icon.svg"), "wide")

import question  # noqa: E402  (the page's own settings come first)
import show  # noqa: E402
from views import capacity, compare, explore, layers, papers, roofline, validation  # noqa: E402

# One address for all views: a link holds the view as it holds every other setting.
MODULES = (explore, compare, layers, capacity, roofline, papers, validation)
VIEWS = dict(zip(question.VIEWS, MODULES, strict=True))

question.check_link()
show.style()
chosen = st.segmented_control(
    "View", question.VIEWS, default="Explore", required=True, key="view", label_visibility="collapsed", **question.LINK
)
with st.sidebar:
    show.guarded(question.ask)()
show.complaint()
show.guarded(VIEWS[chosen].view)()
