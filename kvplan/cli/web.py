"""``kvplan app``: the what-if page, served by Streamlit."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kvplan.cli.machinery import command
from kvplan.errors import InvalidInput, MissingExtra

__all__ = ["app"]

# What the page is served with: nothing is sent anywhere, no traceback is shown, and an upload is a config.json.
SERVED = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "server.maxUploadSize": "1",
    "server.fileWatcherType": "none",
    # a full collection after every move of a slider would cost more than the move; the ordinary ones go on
    "runner.postScriptGC": "false",
    "server.showEmailPrompt": "false",
    "global.developmentMode": "false",
    # the figures' own grounds, and blues that read at 4.5 to 1 on them
    "theme.light.primaryColor": "#005A9C",
    "theme.light.backgroundColor": "#FFFFFF",
    "theme.dark.primaryColor": "#7CC4F0",
    "theme.dark.backgroundColor": "#15181C",
    "theme.dark.secondaryBackgroundColor": "#23282E",
}


@command
def app(
    port: Annotated[str, typer.Option(help="Port to listen on.")] = "8501",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "localhost",
    browser: Annotated[bool, typer.Option("--browser", help="Open a browser too.")] = False,
) -> None:
    """The what-if page in a browser: explore, compare, see which layer keeps what.

    Example: kvplan app --port 8501
    """
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise InvalidInput("port", port, "1 to 65535")
    try:
        from streamlit.web import cli
    except ModuleNotFoundError as e:
        if e.name != "streamlit":
            raise
        raise MissingExtra("kvplan app", "app") from None
    settings = {**SERVED, "server.port": port, "server.address": host, "server.headless": str(not browser).lower()}
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    sys.argv = ["streamlit", "run", str(page_file()), *flags]
    raise typer.Exit(cli.main(standalone_mode=False) or 0)


def page_file() -> Path:
    """The page's script: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    return next(path for path in (here / "app" / "main.py", here.parent / "app" / "main.py") if path.is_file())
