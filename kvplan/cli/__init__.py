"""The command line. Commands parse, call and render; stdout is data, stderr is talk.

Exit codes: 0 yes, 1 it does not fit or a check failed, 2 bad input. Every error is one line.
"""

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from kvplan.cli.machinery import COMMANDS, WIDEST, Command, Group, as_stdout_can, command, warn
from kvplan.cli.options import (
    ActiveExperts,
    AsCsv,
    AsJson,
    AsMarkdown,
    AttentionFlops,
    BandwidthEfficiency,
    Batch,
    BlockSize,
    ComputeEfficiency,
    Context,
    DiskBandwidth,
    Dp,
    Dtype,
    EncoderContext,
    EngineName,
    EngineNames,
    EngineOption,
    EngineVersion,
    Experts,
    Ffn,
    GpuName,
    HeadDim,
    Heads,
    Hidden,
    HostBandwidth,
    KvDtype,
    KvHeads,
    Layers,
    Logits,
    Memory,
    Model,
    Overhead,
    Pp,
    SchemeText,
    SchemeTexts,
    Text,
    Tied,
    Tp,
    TypeK,
    TypeV,
    Utilization,
    Vocab,
    WeightDtype,
    Window,
)
from kvplan.errors import InvalidInput
from kvplan.text import to_json
from kvplan.version import __version__

__all__ = ["COMMANDS", "app", "flags_of", "main", "screen"]

app = typer.Typer(
    name="kvplan",
    cls=Group,
    help="KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network.",
    epilog="Exit codes: 0 yes, 1 it does not fit or is wrong, 2 bad input, 3 incomplete (validate). 8k is 8192; GiB is 2**30.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kvplan {__version__}")
        raise typer.Exit(0)


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network."""


def screen() -> tuple[int, bool]:
    """Columns, and whether to colour: only on a terminal, and not under NO_COLOR."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST), color


def flags_of(given: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as keyword arguments of the API."""
    flags = {name: value for name, value in given.items() if value is not None and value is not False}
    for name in ("model", "as_json", "as_csv", "as_markdown", "term", "latex"):
        flags.pop(name, None)
    if "engine_option" in flags:
        flags["engine_options"] = _pairs(flags.pop("engine_option"))
    return flags


def _pairs(items: Sequence[str]) -> dict[str, Any]:
    """``name=value`` items; true/false and on/off are booleans, digits are numbers, a name given twice must agree."""
    words: dict[str, Any] = {"true": True, "on": True, "false": False, "off": False}
    pairs: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise InvalidInput("--engine-option", item, "name=value")
        value = words.get(
            text.strip().lower(), int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text
        )
        name = name.strip().replace("-", "_")
        if name in pairs and pairs[name] != value:
            raise InvalidInput("--engine-option", item, f"one value per option ({name}={pairs[name]} was given too)")
        pairs[name] = value
    return pairs


@command
def plan(
    model: Model = None,
    context: Context = None,
    batch: Batch = None,
    encoder_context: EncoderContext = None,
    scheme: SchemeText = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    cache_type_k: TypeK = None,
    cache_type_v: TypeV = None,
    weight_dtype: WeightDtype = None,
    engine: EngineName = None,
    engine_version: EngineVersion = None,
    engine_option: EngineOption = None,
    gpu: GpuName = None,
    memory: Memory = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    gpu_memory_utilization: Utilization = None,
    block_size: BlockSize = None,
    runtime_overhead: Overhead = None,
    attention_flops: AttentionFlops = None,
    logits: Logits = None,
    compute_efficiency: ComputeEfficiency = None,
    bandwidth_efficiency: BandwidthEfficiency = None,
    host_bandwidth: HostBandwidth = None,
    disk_bandwidth: DiskBandwidth = None,
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
    as_markdown: AsMarkdown = False,
) -> None:
    """Bytes, FLOPs, capacity and time bounds of one model on one setup.

    Example: kvplan plan llama-3.1-8b --gpu h100-80gb-sxm --context 8k
    """
    flags = flags_of(locals())
    import kvplan

    report = kvplan.plan(model, **flags)
    if as_json:
        print(as_stdout_can(report.to_json()))
    else:
        print(report.to_markdown() if as_markdown else report.to_text(*screen()), end="")
    raise typer.Exit(1 if report.fits is False else 0)


@command
def compare(
    model: Model = None,
    scheme: SchemeTexts = None,
    context: Context = None,
    batch: Batch = None,
    encoder_context: EncoderContext = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    cache_type_k: TypeK = None,
    cache_type_v: TypeV = None,
    weight_dtype: WeightDtype = None,
    engine: EngineNames = None,
    engine_option: EngineOption = None,
    gpu: GpuName = None,
    memory: Memory = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    gpu_memory_utilization: Utilization = None,
    runtime_overhead: Overhead = None,
    attention_flops: AttentionFlops = None,
    logits: Logits = None,
    compute_efficiency: ComputeEfficiency = None,
    bandwidth_efficiency: BandwidthEfficiency = None,
    host_bandwidth: HostBandwidth = None,
    disk_bandwidth: DiskBandwidth = None,
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
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Ways of keeping the cache side by side, one row each; the first is the model as published.

    Example: kvplan compare llama-2-7b -s gqa:8 -s mqa -s mqa+cla:2 --gpu a100-80gb -c 4k
    """
    flags = flags_of(locals())
    import kvplan

    rows = kvplan.compare(model, **flags)
    if as_json or as_csv or as_markdown:
        print(
            as_stdout_can(rows.to_json()) + "\n" if as_json else rows.to_csv() if as_csv else rows.to_markdown(),
            end="",
        )
        return
    print(rows.to_text(*screen()), end="")


def with_flags_of(other: Command) -> Callable[[Command], Command]:
    """A command that takes its own parameters and, as keywords, every flag of another that asks about a model.

    Typer reads a signature: this builds the one that the two together have, in the order model, own, others.
    """

    def decorate(function: Command) -> Command:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own} | {"as_json", "as_csv", "as_markdown"}
        theirs = [p for p in inspect.signature(other).parameters.values() if p.name not in names]
        merged = own + theirs
        function.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]  # what inspect itself reads
        function.__annotations__ = {p.name: p.annotation for p in merged}
        return function

    return decorate


@command
@with_flags_of(plan)
def explain(
    model: Model = None,
    term: Annotated[
        Text, typer.Argument(help="A term, part of its path, max_batch or max_context.", show_default=False)
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX instead of text.")] = False,
    **given: Any,
) -> None:
    """Every formula with the numbers put in, the change that a scheme makes, or max_batch and max_context in closed form.

    Examples: kvplan explain llama-3.1-8b max_context --gpu h100-80gb-sxm; kvplan explain --scheme cla:2
    """
    flags = flags_of(given)
    import kvplan
    from kvplan.explain import explain as explained
    from kvplan.explain import scheme_text

    if model is None and set(flags) == {"scheme"}:
        print(scheme_text(flags["scheme"]), end="")
        return
    print(explained(kvplan.plan(model, **flags), term, latex=latex), end="")


Filter = Annotated[Text, typer.Argument(help="Only names or facts that contain this.", show_default=False)]


def _listing(title: str, rows: list[dict[str, Any]], wanted: str | None, as_json: bool, shown: Sequence[str]) -> None:
    """One listing: filtered by any text in a row, as JSON or as a table. Exit code 1 where nothing matches."""
    needle = (wanted or "").lower()
    rows = [row for row in rows if needle in " ".join(str(value) for value in row.values()).lower()]
    if as_json:
        print(as_stdout_can(to_json(rows)))
    if not rows:
        warn(f"no {title} match {wanted!r}")
        raise typer.Exit(1)
    if as_json:
        return
    from kvplan.render import listing, papers

    width, color = screen()
    if not shown:  # too much for a line each
        print(papers(rows, width, color), end="")
        return
    cells = [tuple("" if row[name] is None else str(row[name]) for name in shown) for row in rows]
    header = tuple(name.replace("_", " ") for name in shown)
    # a pipe has no width: there every row is one line, for grep
    print(listing(header, cells, width if sys.stdout.isatty() else None, color), end="")


def _skipped(why: str) -> None:
    warn(f"left out: {why}")


@command
def models(wanted: Filter = None, as_json: AsJson = False) -> None:
    """List the model presets.

    Example: kvplan models mla
    """
    from kvplan.listings import list_models

    _listing(
        "models", list_models(_skipped), wanted, as_json, ("name", "attention", "parameters", "kv_bytes_per_token")
    )


@command
def gpus(wanted: Filter = None, as_json: AsJson = False) -> None:
    """List the accelerator presets.

    Example: kvplan gpus hopper
    """
    from kvplan.listings import list_gpus

    _listing(
        "GPUs",
        list_gpus(_skipped),
        wanted,
        as_json,
        ("name", "memory", "basis", "bandwidth", "bf16_tflops", "fp8_tflops"),
    )


@command
def formats(wanted: Filter = None, as_json: AsJson = False) -> None:
    """List the storage formats.

    Example: kvplan formats fp8
    """
    from kvplan.listings import list_formats

    _listing("formats", list_formats(), wanted, as_json, ("name", "bits_per_element", "block", "source"))


@command
def engines(wanted: Filter = None, as_json: AsJson = False) -> None:
    """List the engines whose rules are implemented.

    Example: kvplan engines
    """
    from kvplan.listings import list_engines

    _listing("engines", list_engines(), wanted, as_json, ("name", "version", "utilization", "summary"))


@command
def schemes(
    wanted: Filter = None,
    papers: Annotated[bool, typer.Option("--papers", help="The literature's names, and what each changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the sharing schemes, or the literature's names for them.

    Examples: kvplan schemes layers; kvplan schemes --papers eviction
    """
    from kvplan.listings import list_papers, list_schemes

    if papers:
        _listing("papers", list_papers(), wanted, as_json, ())
        return
    _listing("schemes", list_schemes(), wanted, as_json, ("notation", "axes", "summary", "source"))


@command
def reproduce(
    paper: Annotated[
        Text,
        typer.Argument(help="One paper, e.g. cla; engines or engines/vllm for printed logs.", show_default=False),
    ] = None,
    quality: Annotated[bool, typer.Option("--quality", help="KV bytes per token beside published quality.")] = False,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Published tables, or lines that engines printed, recomputed and printed side by side.

    Examples: kvplan reproduce cla --quality; kvplan reproduce engines
    """
    if paper is not None and paper.partition("/")[0] == "engines":
        _engine_logs(paper.partition("/")[2] or None, as_json, as_markdown)
    from kvplan import reproduce as published

    rows = published.reproduce(paper)
    if as_json:
        print(as_stdout_can(to_json(published.as_dicts(rows))))
    elif as_markdown:
        print(published.markdown(paper, with_quality=quality), end="")
    else:
        print(published.text(paper, *screen(), with_quality=quality), end="")
    raise typer.Exit(1 if any(row.outcome == "DIFFERS" for row in rows) else 0)


def _engine_logs(engine: str | None, as_json: bool, as_markdown: bool) -> NoReturn:
    """What became of the lines that engines printed; ends the command."""
    from kvplan import engine_logs

    rows = engine_logs.reproduce(engine)
    if as_json:
        print(as_stdout_can(to_json(engine_logs.as_dicts(rows))))
    elif as_markdown:
        print(engine_logs.markdown(rows, every=engine is not None), end="")
    else:
        print(engine_logs.text(rows, *screen(), every=engine is not None), end="")
    raise typer.Exit(1 if any(row.outcome == "DIFFERS" for row in rows) else 0)


# registered behind the commands above; what it runs is imported when it is asked for
import kvplan.cli.check  # noqa: E402
import kvplan.cli.diff  # noqa: E402
import kvplan.cli.fit  # noqa: E402
import kvplan.cli.plot  # noqa: E402
import kvplan.cli.preflight  # noqa: E402
import kvplan.cli.sweep  # noqa: E402
import kvplan.cli.validate  # noqa: E402
import kvplan.cli.web  # noqa: E402, F401


def main() -> None:
    """The console script."""
    app()
