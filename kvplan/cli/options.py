"""The options that commands share, each defined once, and what a shell may complete for them."""

import os
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from kvplan.errors import KvplanError

# Whether a shell asks what could follow: Typer inspects every callback's signature, which a plain start need not pay for.
COMPLETING = any(name.endswith("_COMPLETE") for name in os.environ)


def _option(
    *names: str,
    help: str,  # noqa: A002  (the word that Typer uses)
    panel: str | None = None,
    values: Callable[[str], list[str]] | None = None,
) -> Any:
    complete = values if COMPLETING else None
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, autocompletion=complete)


# --- what a shell may complete: read when it asks -----------------------------------------------------------------------


def _known(read: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    """The names that begin as the word does; nothing where they cannot be read, for a shell has no place for errors."""
    try:
        return [name for name in read() if name.startswith(incomplete.lower())]
    except KvplanError:
        return []


def _models(incomplete: str) -> list[str]:
    from kvplan.catalog import model_names

    return _known(model_names, incomplete)


def _gpus(incomplete: str) -> list[str]:
    from kvplan.catalog import known_names

    return _known(lambda: known_names("gpus"), incomplete)


def _engines(incomplete: str) -> list[str]:
    from kvplan.engines import ENGINES

    return _known(lambda: ENGINES, incomplete)


def _formats(incomplete: str) -> list[str]:
    from kvplan.formats import FORMATS

    return _known(lambda: FORMATS, incomplete)


def _schemes(incomplete: str) -> list[str]:
    """Names of schemes, for the last member of a chain."""
    from kvplan.schemes import SCHEMES

    chain, plus, last = incomplete.rpartition("+")
    return [chain + plus + name for name in _known(lambda: SCHEMES, last)]


def _words(*words: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return _known(lambda: words, incomplete)

    return complete


Text = str | None
Model = Annotated[
    Text,
    typer.Argument(
        help="Preset, config.json, folder, .gguf or org/name on the Hub.",
        show_default=False,
        autocompletion=_models if COMPLETING else None,
    ),
]
WORK, STORE, PLACE, CONVENTION, NUMBERS = (
    "workload",
    "storage",
    "engine and GPUs",
    "conventions",
    "numbers instead of MODEL",
)
Context = Annotated[
    Text, _option("--context", "-c", "--max-model-len", help="Tokens per sequence; 8k is 8192.", panel=WORK)
]
Batch = Annotated[Text, _option("--batch", "-b", "--max-num-seqs", help="Sequences.", panel=WORK)]
EncoderContext = Annotated[Text, _option("--encoder-context", help="Tokens of cross-attention.", panel=WORK)]
SchemeText = Annotated[
    Text, _option("--scheme", "-s", help="Sharing scheme, e.g. mqa+cla:2.", panel=STORE, values=_schemes)
]
SchemeTexts = Annotated[
    list[str] | None,
    _option("--scheme", "-s", help="Sharing scheme, e.g. mqa+cla:2; may be repeated.", panel=STORE, values=_schemes),
]
Dtype = Annotated[
    Text,
    _option("--dtype", help="Activations and unquantised weights.", panel=STORE, values=_words("bf16", "fp16", "fp32")),
]
KvDtype = Annotated[
    Text, _option("--kv-dtype", "--kv-cache-dtype", help="K, V and latents.", panel=STORE, values=_formats)
]
TypeK = Annotated[Text, _option("--cache-type-k", "-ctk", help="K alone.", panel=STORE, values=_formats)]
TypeV = Annotated[Text, _option("--cache-type-v", "-ctv", help="V alone.", panel=STORE, values=_formats)]
WeightDtype = Annotated[
    Text,
    _option("--weight-dtype", help="Matrices in layers, instead of the checkpoint's.", panel=STORE, values=_formats),
]
EngineName = Annotated[Text, _option("--engine", "-e", help="ideal, vllm, llama.cpp ...", panel=PLACE, values=_engines)]
EngineNames = Annotated[
    list[str] | None,
    _option("--engine", "-e", help="ideal, vllm ...; may be repeated.", panel=PLACE, values=_engines),
]
EngineVersion = Annotated[Text, _option("--engine-version", help="Version whose rules apply.", panel=PLACE)]
EngineOption = Annotated[
    list[str] | None, _option("--engine-option", help="name=value under the engine's own names.", panel=PLACE)
]
GpuName = Annotated[Text, _option("--gpu", "-g", help="A slug of `kvplan gpus`.", panel=PLACE, values=_gpus)]
Memory = Annotated[Text, _option("--memory", help="Bytes per GPU instead of the preset's, e.g. 80GiB.", panel=PLACE)]
Tp = Annotated[Text, _option("--tp", "--tensor-parallel-size", help="Tensor-parallel ranks.", panel=PLACE)]
Pp = Annotated[Text, _option("--pp", "--pipeline-parallel-size", help="Pipeline stages.", panel=PLACE)]
Dp = Annotated[Text, _option("--dp", "--data-parallel-size", help="Data-parallel replicas.", panel=PLACE)]
Utilization = Annotated[
    float | None, _option("--gpu-memory-utilization", help="Share of memory the engine may use.", panel=PLACE)
]
BlockSize = Annotated[Text, _option("--block-size", help="Tokens per cache block.", panel=PLACE)]
Overhead = Annotated[
    Text, _option("--runtime-overhead", help="Bytes of context and kernels, instead of the estimate.", panel=PLACE)
]
AttentionFlops = Annotated[
    Text, _option("--attention-flops", help="causal or full.", panel=CONVENTION, values=_words("causal", "full"))
]
Logits = Annotated[Text, _option("--logits", help="last or all.", panel=CONVENTION, values=_words("last", "all"))]
ComputeEfficiency = Annotated[
    float | None, _option("--compute-efficiency", help="Share of peak FLOP/s.", panel=CONVENTION)
]
BandwidthEfficiency = Annotated[
    float | None, _option("--bandwidth-efficiency", help="Share of peak bandwidth.", panel=CONVENTION)
]
HostBandwidth = Annotated[
    Text, _option("--host-bandwidth", help="Bytes/s of the link to the host, e.g. 63GB.", panel=PLACE)
]
DiskBandwidth = Annotated[Text, _option("--disk-bandwidth", help="Bytes/s of the disk.", panel=PLACE)]
Layers = Annotated[Text, _option("--layers", help="Layers.", panel=NUMBERS)]
Hidden = Annotated[Text, _option("--hidden", help="Hidden size.", panel=NUMBERS)]
Heads = Annotated[Text, _option("--heads", help="Query heads.", panel=NUMBERS)]
KvHeads = Annotated[Text, _option("--kv-heads", help="KV heads.", panel=NUMBERS)]
HeadDim = Annotated[Text, _option("--head-dim", help="Size of a head.", panel=NUMBERS)]
Ffn = Annotated[Text, _option("--ffn", help="MLP width (of one expert).", panel=NUMBERS)]
Vocab = Annotated[Text, _option("--vocab", help="Vocabulary.", panel=NUMBERS)]
Window = Annotated[Text, _option("--window", help="Sliding window of every layer.", panel=NUMBERS)]
Experts = Annotated[Text, _option("--experts", help="Experts per MLP.", panel=NUMBERS)]
ActiveExperts = Annotated[Text, _option("--active-experts", help="Experts a token visits.", panel=NUMBERS)]
Tied = Annotated[bool, _option("--tied", help="The logits matrix is the embedding.", panel=NUMBERS)]
# --- of kvplan fit, where one or several may be tried -------------------------------------------------------------------

Texts = list[str] | None
InputLen = Annotated[Text, _option("--input-len", "--isl", help="Tokens of a prompt.", panel=WORK)]
OutputLen = Annotated[Text, _option("--output-len", "--osl", help="Tokens of an answer.", panel=WORK)]
RequestRate = Annotated[Text, _option("--request-rate", help="Requests per second instead of --batch.", panel=WORK)]
GpuNames = Annotated[Texts, _option("--gpu", "-g", help="Only this kind; may be repeated.", panel=PLACE, values=_gpus)]
KvDtypes = Annotated[
    Texts,
    _option(
        "--kv-dtype",
        "--kv-cache-dtype",
        help="K, V and latents: auto, fp8 ...; may be repeated.",
        panel=STORE,
        values=_formats,
    ),
]
WeightDtypes = Annotated[
    Texts,
    _option("--weight-dtype", help="Matrices in layers: auto, fp8 ...; may be repeated.", panel=STORE, values=_formats),
]
TpSizes = Annotated[
    Text, _option("--tp", "--tensor-parallel-size", help="Sizes to try, with commas: 1,2,4,8.", panel=PLACE)
]
MaxGpus = Annotated[Text, _option("--max-gpus", help="GPUs of one kind at most: 64.", panel=PLACE)]
Order = Annotated[
    Text,
    _option(
        "--by",
        help="gpus, headroom, price or tokens_per_s.",
        values=_words("gpus", "headroom", "price", "tokens_per_s"),
    ),
]
Top = Annotated[Text, _option("--top", help="Rows shown: 15; --json and --csv hold all.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV: exact numbers, one line per row.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
