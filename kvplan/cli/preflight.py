"""``kvplan preflight``: whether an engine's own command would start, without running it."""

from typing import Annotated

import typer

from kvplan.cli.machinery import as_stdout_can, command
from kvplan.cli.options import AsJson, EngineVersion, GpuName, Memory, Text

__all__ = ["preflight"]


@command
def preflight(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="The engine's command, as it would be typed.", show_default=False),
    ] = None,
    gpu: GpuName = None,
    memory: Memory = None,
    config: Annotated[
        Text, typer.Option("--config", help="config.json, folder or preset that stands for the model.")
    ] = None,
    engine_version: EngineVersion = None,
    as_json: AsJson = False,
) -> None:
    """Read an engine's own command line and say whether it will start, what it will print, and else what would do.

    Example: kvplan preflight --gpu l40s -- vllm serve Qwen/Qwen3-8B --max-model-len 32768 --kv-cache-dtype fp8
    """
    from kvplan.cli import screen
    from kvplan.launch import preflight as ask

    found = ask(words or [], gpu, memory=memory, config=config, engine_version=engine_version)
    print(as_stdout_can(found.to_json()) if as_json else found.to_text(*screen()), end="\n" if as_json else "")
    raise typer.Exit(0 if found.starts else 1)
