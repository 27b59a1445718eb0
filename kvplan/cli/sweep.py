"""``kvplan sweep``: a grid of questions to a file, a stream or a table."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kvplan.cli.machinery import command, warn
from kvplan.cli.options import (
    ActiveExperts,
    AsCsv,
    AttentionFlops,
    BandwidthEfficiency,
    BlockSize,
    ComputeEfficiency,
    DiskBandwidth,
    Dtype,
    EncoderContext,
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
    Overhead,
    SchemeTexts,
    Text,
    Tied,
    TypeK,
    TypeV,
    Utilization,
    Vocab,
    WeightDtype,
    Window,
)
from kvplan.errors import InvalidInput

__all__ = ["sweep"]

ROWS, RUN = "which rows", "how it runs"


def _axis(*names: str, help: str, panel: str = "axes") -> Any:  # noqa: A002  (the word that Typer uses)
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


def _columns(wanted: bool) -> None:
    """Prints what may stand in --columns, --where and --by."""
    if not wanted:
        return
    _needed()
    from kvplan.cli import screen
    from kvplan.render import listing
    from kvplan.sweeps import COLUMNS

    types = {"whole": "integer", "whole?": "integer or missing", "real": "float", "truth": "boolean", "text": "text"}
    width, color = screen()
    rows: list[tuple[str, ...]] = [(column.name, types[column.kind], column.says) for column in COLUMNS.values()]
    print(listing(("column", "type", "what"), rows, width if sys.stdout.isatty() else None, color), end="")
    raise typer.Exit(0)


@command
def sweep(
    models: Annotated[
        list[str] | None, typer.Argument(help="Presets, paths or Hub ids; commas may separate.", show_default=False)
    ] = None,
    context: Annotated[
        Text, _axis("--context", "-c", "--max-model-len", help="Tokens: 1k..1M, 1k..64k:4k, 8k,32k. Default 1k..1M.")
    ] = None,
    batch: Annotated[Text, _axis("--batch", "-b", "--max-num-seqs", help="Sequences: 1..256, 1..64:1, 1,8.")] = None,
    tp: Annotated[Text, _axis("--tp", "--tensor-parallel-size", help="Tensor-parallel ranks: 1..8.")] = None,
    pp: Annotated[Text, _axis("--pp", "--pipeline-parallel-size", help="Pipeline stages.")] = None,
    dp: Annotated[Text, _axis("--dp", "--data-parallel-size", help="Data-parallel replicas.")] = None,
    output: Annotated[
        Text, _axis("--output", "-o", help="FILE.parquet, .csv or .jsonl; goes on after a kill.", panel=RUN)
    ] = None,
    columns: Annotated[Text, _axis("--columns", help="Names with commas; see --list-columns.", panel=ROWS)] = None,
    where: Annotated[Text, _axis("--where", help='E.g. "max_batch >= 32 and kv_bytes < 40GiB".', panel=ROWS)] = None,
    top: Annotated[Text, _axis("--top", help="Keep this many rows.", panel=ROWS)] = None,
    by: Annotated[Text, _axis("--by", help="Column that ranks them, largest first; NAME:asc.", panel=ROWS)] = None,
    scheduler: Annotated[Text, _axis("--scheduler", help="Address of a Dask cluster, tcp://…", panel=RUN)] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at what cannot be, instead of skipping it.", rich_help_panel=RUN)
    ] = False,
    list_columns: Annotated[
        bool,
        typer.Option("--list-columns", help="Print the columns and exit.", callback=_columns, rich_help_panel=ROWS),
    ] = False,
    encoder_context: EncoderContext = None,
    scheme: SchemeTexts = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    cache_type_k: TypeK = None,
    cache_type_v: TypeV = None,
    weight_dtype: WeightDtype = None,
    engine: EngineNames = None,
    engine_version: EngineVersion = None,
    engine_option: EngineOption = None,
    gpu: GpuName = None,
    memory: Memory = None,
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
    as_csv: AsCsv = False,
    as_json: Annotated[bool, typer.Option("--jsonl", help="Print JSON lines.")] = False,
) -> None:
    """A grid of models, schemes, formats, engines, GPUs, ranks, contexts and batches, streamed to a file or a table.

    Examples: kvplan sweep gemma-3-12b -c 1k..1M -b 1..256 --kv-dtype bf16,fp8 -g h100-80gb-sxm -o grid.parquet;
    kvplan sweep llama-3.1-8b,qwen3-8b -g rtx-4090 -b 1..256 --where "fits and context >= 32k" --top 20 --by tokens_per_s
    """
    given = {name: value for name, value in locals().items() if name not in ("as_csv", "as_json", "list_columns")}
    from kvplan.cli import flags_of, screen

    _needed()
    from kvplan import sweeps
    from kvplan.sweeps import text

    path, asked_models = given.pop("output"), given.pop("models")
    if path is not None and (as_csv or as_json):
        raise InvalidInput("output", f"{path} and a stream", "one of -o, --csv and --jsonl")
    found = sweeps.sweep(asked_models or None, **flags_of(given), progress=True)
    if path is not None:
        found.write(Path(path))
    elif as_csv or as_json:
        sys.stdout.flush()
        for piece in found.lines("csv" if as_csv else "jsonl"):
            sys.stdout.buffer.write(piece)
    else:
        rows = text.first_rows(found, text.SHOWN + 1)
        width, color = screen()
        if rows:
            print(text.text(rows[: text.SHOWN], found.columns, width if sys.stdout.isatty() else None, color), end="")
        if len(rows) > text.SHOWN:
            warn(f"the first {text.SHOWN} rows; -o FILE.parquet, --csv or --jsonl give all")
    for line in text.skipped(found):
        warn(line)
    if path is not None:
        warn(f"{found.rows_written:,} rows of {found.points:,} points in {path}")


def _needed() -> None:
    """Raises MissingExtra where NumPy is not there."""
    import kvplan.sweeps  # noqa: F401
