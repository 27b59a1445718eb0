"""Validation: what runs measured, and what engines printed, beside what was predicted."""

import question
import show
import streamlit as st

from kvplan import page

COMMAND = "kvplan validate --suite ci --device cpu && kvplan validate --show tests/records/h100.json && kvplan reproduce engines"


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
        st.caption(page.as_text(page.provenance(record)))
    denied(page.denied(records))
    show.picture(page.figures.measured(records, question.look()), "measured")
    show.table(rows, "measured-rows")
    for record in records:
        facts(page.facts(record, question.units()), page.device(record))
    st.subheader("What engines printed")
    printed = page.printed()
    show.table(printed, "printed-rows")
    show.table(page.counted((row["engine"], row["outcome"]) for row in printed), "printed-outcomes", width="content")
    show.foot(COMMAND)


def denied(rows: list[dict[str, str]]) -> None:
    """What says no, each with its note in full, so that nobody searches the table for it."""
    if not rows:
        return
    st.subheader("Rows that say no")
    region(
        "Rows that say no",
        "".join(
            f'<div class="verdict no">✘ {page.as_html(row["said"])}<small>{page.as_html(row["note"])}</small></div>'
            for row in rows
        ),
    )


def facts(rows: list[dict[str, str]], device: str) -> None:
    """What was measured of a device itself."""
    if not rows:
        return
    st.subheader(f"Measured of {page.as_text(device)}")
    # lines break, so that a phone shows the values beside their names
    cell = "style='text-align: left; white-space: normal'"
    head = "".join(f"<th scope='col' {cell}>{page.as_html(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td {cell}>{page.as_html(text)}</td>' for text in row.values())}</tr>" for row in rows
    )
    region(
        f"Measured of {device}",
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        "max-height: none",
    )


def region(label: str, body: str, look: str = "") -> None:
    """A part of the page that scrolls by itself, with the keyboard too."""
    st.html(
        f'<div class="scroll" style="{look}" tabindex="0" role="region" aria-label="{page.as_html(label)}">{body}</div>'
    )
