"""``kvplan check``: the budgets of a repository, in its own CI."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kvplan.cli.machinery import as_stdout_can, command, warn
from kvplan.cli.options import AsJson, AsMarkdown, Text
from kvplan.errors import InvalidInput, KvplanError

__all__ = ["check"]


@command
def check(
    file: Annotated[str, typer.Argument(help="TOML file of budgets.")] = "kvplan.toml",
    update: Annotated[bool, typer.Option("--update", help="Rewrite the baseline that `within` compares with.")] = False,
    github: Annotated[
        bool, typer.Option("--github", help="Annotations beside the lines of the file, and a step summary.")
    ] = False,
    junit: Annotated[Text, typer.Option("--junit", help="File of a JUnit report.", show_default=False)] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Budgets: models with assertions about bytes, FLOPs and what fits where. Exit code 1 names each that is broken.

    Example: kvplan check kvplan.toml --junit budgets.xml
    """
    from kvplan import budgets
    from kvplan.importers.files import open_to_write, write_whole

    try:
        checked = budgets.check(file, update=update)
    except KvplanError as e:
        if github:
            print(budgets.annotation(str(e), Path(file)))
        raise
    if junit is not None:
        write_whole(Path(junit), checked.to_junit().encode(), "--junit", "a path that can be written")
    if as_json:
        print(as_stdout_can(checked.to_json()))
    else:
        print(checked.to_markdown() if as_markdown else checked.to_text(), end="")
    if github:
        for line in checked.annotations():
            print(line)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            try:
                with open_to_write(summary, "GITHUB_STEP_SUMMARY", "ab", follow=True) as out:
                    out.write(checked.to_markdown().encode())
            except (InvalidInput, OSError) as e:  # a picture of the answer, which stands above
                warn(str(e))
    raise typer.Exit(1 if checked.broken else 0)
