"""``kvplan plot``: the figures as files, in the format that the file's name ends in."""

from typing import Annotated, Any

import typer

from kvplan.cli import plan, with_flags_of
from kvplan.cli.machinery import command
from kvplan.cli.options import Batch, Context, EngineNames, GpuNames, Model, SchemeTexts, Text
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.text import printable

__all__ = ["plot"]

PICTURE = "picture"
# What each figure is asked over: ranges of contexts or batches; and whether it shows several reports.
FIGURES = {
    "kv": "KV cache against context",
    "capacity": "what fits by context and batch",
    "frontier": "largest batch against context",
    "roofline": "prefill and decode under a GPU's roofline",
    "schemes": "what is kept against what is read",
    "memory": "weights, cache, overhead and what is free",
    "owners": "which layer reads whose KV",
    "gpus": "GPUs that it fits on",
    "bounds": "time bounds by batch",
    "published": "what papers print against what is computed",
    "measured": "what runs measured against what is predicted",
    "quality": "quality that papers measured against the cache",
}
OVER_CONTEXTS = ("kv", "capacity", "frontier")
OVER_BATCHES = ("capacity", "roofline", "bounds")
OF_ONE = ("roofline", "owners", "gpus")


@command
@with_flags_of(plan)
def plot(
    figure: Annotated[str, typer.Argument(help=", ".join(FIGURES), show_default=False)],
    model: Model = None,
    output: Annotated[
        Text, typer.Option("--output", "-o", help="FILE.svg, .png, .html, .csv or .json.", rich_help_panel=PICTURE)
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light on dark.", rich_help_panel=PICTURE)] = False,
    units: Annotated[str, typer.Option(help="GiB or GB.", rich_help_panel=PICTURE)] = "GiB",
    width: Annotated[Text, typer.Option(help="Pixels.", show_default=False, rich_help_panel=PICTURE)] = None,
    height: Annotated[Text, typer.Option(help="Pixels.", show_default=False, rich_help_panel=PICTURE)] = None,
    context: Context = None,
    batch: Batch = None,
    scheme: SchemeTexts = None,
    engine: EngineNames = None,
    gpu: GpuNames = None,
    **given: Any,
) -> None:
    """A figure as SVG, PNG or self-contained HTML, or its data as CSV or JSON.

    Ranges: --context 1k..1M of kv, capacity and frontier; --batch 1..256 of capacity, roofline and bounds. MODEL is a
    paper for published and quality, and the file of a record for measured.

    Example: kvplan plot kv llama-3.1-8b -s gqa:2 -s cla:2 --context 1k..1M -o kv.svg
    """
    if figure not in FIGURES:
        raise UnknownName("figure", figure, FIGURES)
    if output is None:
        raise InvalidInput("output", None, "a file to write: -o FILE.svg, .png, .html, .csv or .json")
    # imported when it is asked for
    from kvplan import figures
    from kvplan.cli import flags_of

    if not output.lower().endswith(figures.SUFFIXES):
        raise InvalidInput("output", output, f"a file name that ends in {', '.join(figures.SUFFIXES)}")
    look = figures.Look(dark, _units(units), _pixels(width, "width"), _pixels(height, "height"))
    if look.width is None and output.lower().endswith((".svg", ".png")):
        look = look._replace(width=800)
    flags = flags_of(given)
    chart = _chart(figure, model, flags, context, batch, scheme or [], engine or [], gpu or [], look)
    print(printable(str(figures.write(chart, output))))


def _units(text: str) -> str:
    found = {"gib": "GiB", "gb": "GB"}.get(text.lower())
    if found is None:
        raise InvalidInput("units", text, "GiB or GB")
    return found


def _pixels(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 200 <= int(text[:9]) <= 10_000):
        raise InvalidInput(field, text, "pixels, from 200 to 10000")
    return int(text)


def _chart(
    figure: str,
    model: str | None,
    flags: dict[str, Any],
    context: str | None,
    batch: str | None,
    schemes: list[str],
    engines: list[str],
    gpus: list[str],
    look: Any,
) -> Any:
    from kvplan import figures

    if figure in ("published", "measured", "quality"):
        return _of_rows(figure, model, look)
    contexts = figures.parse_range(context, "context") if context and figure in OVER_CONTEXTS else None
    batches = figures.parse_range(batch, "batch") if batch and figure in OVER_BATCHES else None
    if context and contexts is None:
        flags["context"] = context
    if batch and batches is None:
        flags["batch"] = batch
    if figure == "schemes":
        import kvplan

        one(gpus, "gpu", figure)
        return figures.schemes(
            kvplan.compare(model, schemes, engines=engines, gpu=gpus[0] if gpus else None, **flags), look
        )
    if figure == "gpus":
        return figures.gpus(
            _on_gpus(model, flags, one(schemes, "scheme", figure), one(engines, "engine", figure), gpus), look
        )
    reports = _reports(figure, model, flags, schemes, engines, gpus)
    if figure == "kv":
        return figures.kv(reports, contexts, look)
    if figure == "frontier":
        return figures.frontier(reports, contexts, look)
    if figure == "capacity":
        return figures.capacity(reports, contexts, batches or (1, 256), look)
    if figure == "memory":
        return figures.memory(reports, look)
    if figure == "owners":
        return figures.owners(reports[0], look)
    if figure == "bounds":
        return figures.bounds(reports, batches or (1, 256), look)
    return figures.roofline(reports[0], batches or (1, 256), look)


def one(given: list[str], field: str, figure: str) -> str | None:
    """The one value given, or none; raises InvalidInput where there are more."""
    if len(given) > 1:
        raise InvalidInput(field, ", ".join(given), f"one for {figure}, which shows a single answer")
    return given[0] if given else None


def _reports(
    figure: str, model: str | None, flags: dict[str, Any], schemes: list[str], engines: list[str], gpus: list[str]
) -> list[Any]:
    """One answer, or with several values of a flag one for each, the model as published among them."""
    import kvplan

    single = max(len(schemes), len(engines), len(gpus)) <= 1 and (figure not in ("kv", "frontier") or not schemes)
    if single or figure in OF_ONE:
        named = {
            name: one(values, name, figure)
            for name, values in (("scheme", schemes), ("engine", engines), ("gpu", gpus))
        }
        return [kvplan.plan(model, **{name: value for name, value in named.items() if value is not None}, **flags)]
    each: list[str | None] = [*gpus] or [None]
    return [
        report for gpu in each for report in kvplan.compare(model, schemes, engines=engines, gpu=gpu, **flags).reports
    ]


def _on_gpus(
    model: str | None, flags: dict[str, Any], scheme: str | None, engine: str | None, gpus: list[str]
) -> list[Any]:
    """An answer for each GPU that is named, or for every preset; of those, the ones that the question has no answer for are
    left out.
    """
    import kvplan
    from kvplan.catalog import gpu_names

    named = {name: value for name, value in (("scheme", scheme), ("engine", engine)) if value is not None}
    first = kvplan.plan(model, **named, **flags)
    found = []
    for gpu in gpus or gpu_names():
        try:
            report = first.again(gpu=gpu)
        except KvplanError:
            if gpus:
                raise
            continue
        found.append(report)
    if not any(report.capacity for report in found):
        raise InvalidInput("model", model, "one whose weights are known (what fits is asked)")
    return found


def _of_rows(figure: str, name: str | None, look: Any) -> Any:
    from kvplan import figures

    if figure == "measured":
        if name is None:
            raise InvalidInput("record", None, "a file that kvplan validate --record wrote")
        from pathlib import Path

        from kvplan.validate.records import read

        return figures.measured([read(Path(name))], look)
    from kvplan import reproduce

    if figure == "published":
        return figures.published(reproduce.reproduce(name), look)
    if name is None:
        raise InvalidInput("paper", None, "a paper with measured quality, e.g. cla")
    rows = reproduce.quality(name)
    if not rows:
        raise InvalidInput("paper", name, "a paper with measured quality, e.g. cla")
    return figures.quality(rows, look)
