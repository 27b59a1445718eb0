"""``kvplan diff``: two models, or one and a scheme, term by term."""

from typing import Annotated, Any

import typer

from kvplan.cli import flags_of, plan, screen, with_flags_of
from kvplan.cli.machinery import as_stdout_can, command
from kvplan.cli.options import AsCsv, AsJson, AsMarkdown, Model, Text

__all__ = ["diff"]


@command
@with_flags_of(plan)
def diff(
    model: Model = None,
    after: Annotated[
        Text, typer.Argument(help="What it is compared with: a model as above, or a scheme.", show_default=False)
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when anything moved.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    **given: Any,
) -> None:
    """What moves from one model to another, or under a scheme: only what is not equal, with before, after and ratio.

    Examples: kvplan diff gemma-2-9b gemma-3-12b -c 32k; kvplan diff llama-2-7b mqa+cla:2 --gpu l4
    """
    flags = flags_of(given)
    import kvplan

    found = kvplan.diff(model, after, **flags)
    if as_json:
        print(as_stdout_can(found.to_json()))
    elif as_csv:
        print(found.to_csv(), end="")
    else:
        print(found.to_markdown() if as_markdown else found.to_text(*screen()), end="")
    raise typer.Exit(1 if exit_code and found.moved else 0)
