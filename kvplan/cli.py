"""The command line. Commands parse, call and render; stdout is data, stderr is talk.

Exit codes: 0 yes, 1 it does not fit or a check failed, 2 bad input. Every error is one line.
"""

import codecs
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.units import parse_count
from kvplan.version import __version__

__all__ = ["app", "main"]

# Typer carries its own copy of click since 0.28 and used the package before: take the base class from what it exports.
ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


Command = Callable[..., None]
COMMANDS: dict[str, Command] = {}


def command(function: Command) -> Command:
    """Registers a command under its function's name."""
    COMMANDS[function.__name__] = function
    return function


class Subcommand(TyperCommand):
    """A command that refuses a setting given twice with two values, where click would silently take the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's parsing, after a look at every value that was given."""
        if not ctx.resilient_parsing and sum(arg.startswith("-") for arg in args) > 1:
            self._refuse_contradictions(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_contradictions(self, ctx: Any, args: list[str]) -> None:
        parser: Any = type(self.make_parser(ctx))(ctx)
        add = parser.add_option

        def collect(*names: Any, action: str | None = None, **kwargs: Any) -> None:
            add(*names, action={"store": "append", "store_const": "append_const"}.get(action or "", action), **kwargs)

        parser.add_option = collect
        params = self.get_params(ctx)
        for param in params:
            param.add_to_parser(parser, ctx)
        given = parser.parse_args(args=list(args))[0]
        if "help" in given:
            return
        for param in params:
            values = given.get(param.name)
            if param.param_type_name == "option" and not param.multiple and isinstance(values, list):
                other = next((value for value in values if not _same(value, values[0])), None)
                if other is not None:
                    raise InvalidInput(param.opts[0], other, f"one value ({values[0]} was given too)")
        outputs = [param.opts[0] for param in params if param.name in OUTPUTS and param.name in given]
        if len(outputs) > 1:
            raise InvalidInput("output", " ".join(outputs), "one of them")


OUTPUTS = ("as_json", "as_csv", "as_markdown", "latex")


def _same(a: Any, b: Any) -> bool:
    """Whether two values say the same: 8k is 8192."""
    if a == b:
        return True
    try:
        return parse_count(a, "") == parse_count(b, "")
    except InvalidInput:
        return False


class Group(TyperGroup):
    """Builds a command's parser when it is asked for, and turns every expected error into one line and an exit code.

    Typer builds all parsers at start, and `plan` alone has forty options: lazily, one command pays for one parser.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of this file."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The parser of one command; raises UnknownName with the nearest ones."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell asks what could follow
                return None
            raise UnknownName("command", cmd_name, COMMANDS)
        if cmd_name not in self.commands:
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name, cls=Subcommand)(COMMANDS[cmd_name])
            built = typer.main.get_command(alone)
            built.context_settings["help_option_names"] = ["-h", "--help"]
            self.commands[cmd_name] = built
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Click's entry point; bugs keep their traceback, everything else is a line."""
        if sys.stdout is None:
            sys.exit(_fail("cannot write the answer: stdout is closed", 2))
        _never_fail_on_a_character()
        try:
            result = super().main(*args, **(kwargs | {"standalone_mode": False}))
            code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except KvplanError as e:
            code = _fail(str(e), e.exit_code)
        except typer.Abort:
            code = _fail("interrupted", 130)
        except ClickError as e:
            message = " ".join(e.format_message().split())
            code = _fail(message, 2) if message else 2  # no message: the help was printed instead
        except OSError as e:
            if e.filename is not None:  # of a file that was opened, not of the answer that was written
                raise
            # the reader has gone (`| head`): say nothing
            code = 0 if isinstance(e, BrokenPipeError) else _fail(f"cannot write the answer: {e.strerror}", 2)
            # keep Python's last flush from complaining
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if standalone_mode:
            sys.exit(code)
        return code


def _fail(message: str, code: int) -> int:
    _warn(message)
    return code


def _warn(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(f"kvplan: {' '.join(message.split())}", file=sys.stderr)


# What stands for a character that the terminal's encoding lacks; of others, their letters without accents, or "?".
PLAIN = {
    "█": "#", "▓": "=", "▒": "-", "░": ".", "▕": "|", "▏": "|", "✔": "", "✘": "", "●": "*", "·": "-", "…": "...",
    "×": "x", "−": "-", "–": "-", "—": "-", "±": "+-", "≥": ">=", "≤": "<=", "→": "->", "←": "<-", "↓": "down",
    "↑": "up", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")", "µ": "u", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler behind PLAIN; a mark that is left out takes the blank behind it along."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from unicodedata import normalize

    text, end = "", error.end
    for char in error.object[error.start : end]:
        plain = PLAIN.get(char)
        text += normalize("NFKD", char).encode("ascii", "ignore").decode() or "?" if plain is None else plain
    if not text and error.object[end : end + 1] == " ":
        end += 1
    return text, end


def _never_fail_on_a_character() -> None:
    """Makes stdout and stderr replace what their encoding lacks (LC_ALL=C, latin-1, cp1252) instead of raising."""
    codecs.register_error("kvplan", _plain)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="kvplan")


def _json(text: str) -> str:
    """JSON as stdout can carry it: where its encoding lacks a character, all but ASCII is escaped, and the data stay."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), indent=2)
    return text


app = typer.Typer(
    name="kvplan",
    cls=Group,
    help="KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network.",
    epilog="Exit codes: 0 yes, 1 it does not fit, 2 bad input. 8k is 8192; GiB is 2**30.",
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


def _screen() -> tuple[int, bool]:
    """Columns, and whether to colour: only on a terminal, and not under NO_COLOR."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return shutil.get_terminal_size((80, 24)).columns, color


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
EngineName = Annotated[Text, _option("--engine", "-e", help="ideal or transformers.", panel=PLACE, values=_engines)]
EngineNames = Annotated[
    list[str] | None,
    _option("--engine", "-e", help="ideal or transformers; may be repeated.", panel=PLACE, values=_engines),
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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV: exact numbers, one line per row.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]


def _flags(given: dict[str, Any]) -> dict[str, Any]:
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
    flags = _flags(locals())
    import kvplan

    report = kvplan.plan(model, **flags)
    if as_json:
        print(_json(report.to_json()))
    else:
        print(report.to_markdown() if as_markdown else report.to_text(*_screen()), end="")
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
    flags = _flags(locals())
    import kvplan

    rows = kvplan.compare(model, **flags)
    if as_json or as_csv or as_markdown:
        print(_json(rows.to_json()) + "\n" if as_json else rows.to_csv() if as_csv else rows.to_markdown(), end="")
        return
    print(rows.to_text(*_screen()), end="")


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
    flags = _flags(given)
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
        print(_json(json.dumps(rows, indent=2, ensure_ascii=False)))
    if not rows:
        _warn(f"no {title} match {wanted!r}")
        raise typer.Exit(1)
    if as_json:
        return
    from kvplan.render import listing, papers

    width, color = _screen()
    if not shown:  # too much for a line each
        print(papers(rows, width, color), end="")
        return
    cells = [tuple("" if row[name] is None else str(row[name]) for name in shown) for row in rows]
    header = tuple(name.replace("_", " ") for name in shown)
    # a pipe has no width: there every row is one line, for grep
    print(listing(header, cells, width if sys.stdout.isatty() else None, color), end="")


def _skipped(why: str) -> None:
    _warn(f"left out: {why}")


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
    paper: Annotated[Text, typer.Argument(help="One paper, e.g. cla; all without it.", show_default=False)] = None,
    quality: Annotated[bool, typer.Option("--quality", help="KV bytes per token beside published quality.")] = False,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Published tables, recomputed and printed side by side.

    Example: kvplan reproduce cla --quality
    """
    from kvplan import reproduce as published

    rows = published.reproduce(paper)
    if as_json:
        print(json.dumps(published.as_dicts(rows), indent=2, ensure_ascii=False))
    elif as_markdown:
        print(published.markdown(paper, with_quality=quality), end="")
    else:
        print(published.text(paper, *_screen(), with_quality=quality), end="")
    raise typer.Exit(1 if any(row.outcome == "DIFFERS" for row in rows) else 0)


def main() -> None:
    """The console script."""
    app()
