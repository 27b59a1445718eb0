"""``kvplan validate``: predictions against memory that torch, and other people's classes, really allocate."""

from typing import Annotated, Any

import typer

from kvplan.cli.machinery import as_stdout_can, command
from kvplan.cli.options import (
    ActiveExperts,
    AsJson,
    Batch,
    Context,
    Dtype,
    Experts,
    Ffn,
    HeadDim,
    Heads,
    Hidden,
    KvDtype,
    KvHeads,
    Layers,
    Model,
    SchemeText,
    Text,
    Tied,
    TypeK,
    TypeV,
    Vocab,
    Window,
)
from kvplan.errors import InvalidInput, MissingExtra

__all__ = ["validate"]

RUN = "what runs"


@command
def validate(
    model: Model = None,
    suite: Annotated[Text, typer.Option(help="ci, full, gpu, lckv, parallel or types.", rich_help_panel=RUN)] = None,
    reference: Annotated[
        Text,
        typer.Option(
            help="transformers: the config's own class, on the meta device. llama.cpp, vllm or mlx: random models.",
            rich_help_panel=RUN,
        ),
    ] = None,
    count: Annotated[str, typer.Option(help="Random models of such an engine.", rich_help_panel=RUN)] = "500",
    seed: Annotated[str, typer.Option(help="What they are drawn from.", rich_help_panel=RUN)] = "0",
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=RUN)] = "cpu",
    minutes: Annotated[
        Text,
        typer.Option(help="Time that --suite gpu may take (7); what does not fit is not run.", rich_help_panel=RUN),
    ] = None,
    steps: Annotated[str, typer.Option(help="Tokens decoded after the prompt.", rich_help_panel=RUN)] = "4",
    types: Annotated[Text, typer.Option(help="Model types of --suite types, with commas.", rich_help_panel=RUN)] = None,
    jobs: Annotated[int, typer.Option(help="Processes at once, on a CPU.", rich_help_panel=RUN)] = 2,
    record: Annotated[Text, typer.Option(help="File of the JSON record.", rich_help_panel=RUN)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what the record holds.", rich_help_panel=RUN)] = False,
    junit: Annotated[Text, typer.Option(help="File of a JUnit report.", rich_help_panel=RUN)] = None,
    show: Annotated[
        Text, typer.Option(help="Print a record, and run nothing; exit code 0 whatever it says.", rich_help_panel=RUN)
    ] = None,
    context: Context = None,
    batch: Batch = None,
    scheme: SchemeText = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    cache_type_k: TypeK = None,
    cache_type_v: TypeV = None,
    layers: Layers = None,
    hidden: Hidden = None,
    heads: Heads = None,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = None,
    ffn: Ffn = None,
    vocab: Vocab = None,
    window: Window = None,
    experts: Experts = None,
    active_experts: ActiveExperts = None,
    tied: Tied = False,
    as_json: AsJson = False,
) -> None:
    """Run a configuration with torch, measure what its cache takes, and compare.

    Examples: kvplan validate --layers 4 --hidden 256 --heads 4 --scheme mqa+cla:2 -c 300;
    kvplan validate config.json --reference transformers; kvplan validate --suite ci;
    kvplan validate --reference llama.cpp --count 100;
    kvplan validate --suite gpu --device cuda --minutes 7 --record gpu.json; kvplan validate --show gpu.json

    Exit codes: 0 everything holds, 1 something is wrong, 2 bad input, 3 nothing is wrong but --minutes ran out.
    """
    given = {name: value for name, value in locals().items() if value is not None and value is not False}
    from kvplan.cli import screen

    front = _front()
    if show is not None:
        beside = [name for name in given if name not in ("show", "as_json", "device", "jobs", "steps", "count", "seed")]
        if beside:
            raise InvalidInput("--show", show, f"alone or with --json, not with {beside[0].replace('_', '-')}")
        print(as_stdout_can(front.show(show, screen()[0], as_json=as_json)), end="")
        raise typer.Exit(0)
    for name in ("as_json", "model"):
        given.pop(name, None)
    given["types"] = [name.strip() for name in (given.pop("types", None) or "").split(",") if name.strip()]
    result = front.validate(model, junit_path=given.pop("junit", None), **given)
    print(as_stdout_can(result.record.to_json()) if as_json else result.text(screen()[0]), end="")
    raise typer.Exit(result.code)


def _front() -> Any:
    """The validation package, which needs torch."""
    try:
        from kvplan.validate import front
    except ModuleNotFoundError as e:
        if e.name and e.name.startswith("kvplan"):
            raise
        raise MissingExtra("kvplan validate", "validate") from None
    return front
