"""``kvplan fit``: which GPUs, how many, with what tp, format and engine hold a demand."""

import typer

from kvplan.cli.machinery import as_stdout_can, command
from kvplan.cli.options import (
    ActiveExperts,
    AsCsv,
    AsJson,
    AsMarkdown,
    BandwidthEfficiency,
    Batch,
    BlockSize,
    ComputeEfficiency,
    Context,
    Dtype,
    EncoderContext,
    EngineNames,
    EngineOption,
    EngineVersion,
    Experts,
    Ffn,
    GpuNames,
    HeadDim,
    Heads,
    Hidden,
    InputLen,
    KvDtypes,
    KvHeads,
    Layers,
    MaxGpus,
    Model,
    Order,
    OutputLen,
    Overhead,
    RequestRate,
    SchemeText,
    Tied,
    Top,
    TpSizes,
    TypeK,
    TypeV,
    Utilization,
    Vocab,
    WeightDtypes,
    Window,
)
from kvplan.units import parse_count

__all__ = ["fit"]


@command
def fit(
    model: Model = None,
    context: Context = None,
    batch: Batch = None,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    request_rate: RequestRate = None,
    gpu: GpuNames = None,
    engine: EngineNames = None,
    kv_dtype: KvDtypes = None,
    weight_dtype: WeightDtypes = None,
    tp: TpSizes = None,
    max_gpus: MaxGpus = None,
    by: Order = None,
    top: Top = None,
    encoder_context: EncoderContext = None,
    scheme: SchemeText = None,
    dtype: Dtype = None,
    cache_type_k: TypeK = None,
    cache_type_v: TypeV = None,
    engine_version: EngineVersion = None,
    engine_option: EngineOption = None,
    gpu_memory_utilization: Utilization = None,
    block_size: BlockSize = None,
    runtime_overhead: Overhead = None,
    compute_efficiency: ComputeEfficiency = None,
    bandwidth_efficiency: BandwidthEfficiency = None,
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
    """Which GPUs, how many, with what tp, format and engine hold a demand, in order; and why the others do not.

    Examples: kvplan fit llama-3.1-70b -c 32k -b 64 --by price; kvplan fit qwen3-8b --isl 2k --osl 500 --request-rate 8
    """
    given = locals()
    from kvplan.cli import flags_of, screen

    flags = flags_of(given)
    import kvplan

    rows = parse_count(flags.pop("top", 15), "--top")
    found = kvplan.fit(model, **flags)
    if as_json:
        print(as_stdout_can(found.to_json()))
    elif as_csv:
        print(found.to_csv(), end="")
    else:
        print(found.to_markdown(rows) if as_markdown else found.to_text(*screen(), rows), end="")
    raise typer.Exit(0 if found.rows else 1)
