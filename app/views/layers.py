"""Layers: the owner map drawn, so that sharing across layers can be seen."""

import question
import show

from kvplan import page, plan


def view() -> None:
    """Draws the page."""
    report = plan(question.model(), **question.flags())
    show.heading(report.headline())
    owners = page.figures.owners(report, question.look())
    show.picture(owners, "owners")
    show.table(owners.rows, "layers", ["limit", "bytes"])
    show.foot(question.given("plot owners", output="owners.svg"), report)
