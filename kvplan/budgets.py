"""Budgets of a repository, kept in a TOML file and checked in its own CI: what a model may cost, and where it must fit.

A budget is an ordinary plan (a model and keywords of ``kvplan.plan``) with assertions about its figures. pydantic reads
the file, because it is somebody else's; every error is one line that names the file, the table and the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union
from xml.etree import ElementTree

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from kvplan.api import known_flags, plan
from kvplan.catalog import model_names
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.importers.files import parse_object, parse_toml, read_bytes, read_text, write_whole
from kvplan.report import Report
from kvplan.text import markdown, printable, shorten, to_json
from kvplan.units import format_bytes, format_count, format_parameters, format_si, parse_bytes, parse_count
from kvplan.version import __version__

__all__ = ["QUANTITIES", "Checked", "Finding", "Quantity", "check"]

BASELINE = "kvplan-baseline.json"
# What a file may ask for. Budgets of a repository are some dozens, on a few GPUs each; a plan takes milliseconds.
FILE_LIMIT = 2**18  # bytes; a budget is written in some 200
BASELINE_LIMIT = 2**21  # bytes; the figures of a budget take some 700, and those of each GPU 100 more
PLANS_LIMIT = 1000
LAYERS_LIMIT = 25_000  # of the models of all plans: what a plan takes goes with them; 300 plans of 80 layers
LARGEST = 10**30  # of a figure: above every number of FLOPs, and what a float still holds


# --- what may be asserted ----------------------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """A figure of a plan: how a bound on it is written, read out of a report, and shown."""

    read: Callable[[Report], int | None]  # None: nothing bounds it
    parse: Callable[[Any, str], int]
    show: Callable[[int], str]
    what: str
    gpu: bool = False  # needs one
    sides: tuple[str, ...] = ("max", "")  # assertions about it: max_, min_, and its own name alone for equal


def _prefixed(value: Any, field: str, rule: str, units: dict[str, int], ends: str) -> int:
    """A whole number, or text such as 17.5G with a decimal prefix of ``units`` and perhaps a unit behind it."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST:
        return value
    match = re.fullmatch(
        rf"(\d{{1,20}}(?:\.\d{{1,12}})?)\s*([a-zA-Z]?)(?:{ends})?", value.strip() if isinstance(value, str) else ""
    )
    if match is None or match[2] not in units:
        raise InvalidInput(field, value, rule)
    return int(Fraction(match[1]) * units[match[2]])


def parse_parameters(value: Any, field: str) -> int:
    """A number of parameters; ``8.5B`` is 8,500,000,000."""
    rule = "a whole number, or one with M, B or T, e.g. 8030261248 or 8.1B"
    return _prefixed(value, field, rule, {"": 1, "M": 10**6, "B": 10**9, "T": 10**12}, "")


def parse_flops(value: Any, field: str) -> int:
    """A number of FLOPs; ``17.5 GFLOP`` is 17,500,000,000."""
    rule = "a whole number, or one with k, M, G, T, P or E, e.g. 17.5 GFLOP"
    units = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
    return _prefixed(value, field, rule, units, "FLOPs?")


def parse_share(value: Any, field: str) -> Fraction:
    """A percentage as a share of 1; ``1%`` is 1/100."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*%", value.strip() if isinstance(value, str) else "")
    if match is None:
        raise InvalidInput(field, value, "a percentage in quotes, e.g. '0%' or '2.5%'")
    return Fraction(match[1]) / 100


def _bytes(what: str, read: Callable[[Report], int | None], **more: Any) -> Quantity:
    return Quantity(
        read, parse_bytes, lambda n: f"{format_bytes(n)} ({n:,} B)" if n >= 1024 else f"{n} B", what, **more
    )


def _flops(what: str, read: Callable[[Report], int | None]) -> Quantity:
    return Quantity(read, parse_flops, lambda n: f"{format_si(n, 'FLOP')} ({n:,})", what)


def _parameters(what: str, read: Callable[[Report], int | None]) -> Quantity:
    return Quantity(read, parse_parameters, lambda n: f"{format_parameters(n)} ({n:,})", what, sides=("max", "min", ""))


def _kv(name: str) -> Callable[[Report], int]:
    return lambda report: report.kv[name]


def _limit(name: str) -> Callable[[Report], int | None]:
    def read(report: Report) -> int | None:
        assert report.capacity is not None
        value: int | None = getattr(report.capacity, name)
        return value

    return read


def _free(report: Report) -> int:
    assert report.capacity is not None
    return report.capacity.usable_bytes - sum(size for _, size in report.memory())


QUANTITIES: dict[str, Quantity] = {
    "kv_bytes_per_token": _bytes("KV cache of one more token below every window", _kv("bytes_per_token")),
    "kv_bytes_per_sequence": _bytes("KV cache of one sequence at this context", _kv("bytes_per_sequence")),
    "kv_bytes": _bytes("KV cache of all sequences", _kv("bytes")),
    "kv_bytes_per_gpu": _bytes("KV cache on the fullest GPU", _kv("bytes_per_gpu")),
    "kv_bytes_read_per_step": _bytes("KV read by one decode step of the batch", _kv("bytes_read_per_step")),
    "weights_bytes": _bytes("weights", lambda r: r.answer.weights.total if r.answer.weights else None),
    "weights_bytes_per_gpu": _bytes("weights on the fullest GPU", lambda r: r.answer.weights_per_gpu),
    "parameters": _parameters("parameters", lambda r: r.answer.profile.parameters),
    "active_parameters": _parameters("parameters that a token visits", lambda r: r.answer.profile.active_parameters),
    # linear in the batch: the division leaves nothing
    "flops_per_token": _flops("FLOPs of one new token", lambda r: r.answer.decode.total // r.answer.settings.batch),
    "prefill_flops": _flops("FLOPs of the prefill of the batch", lambda r: r.answer.prefill.total),
    "decode_flops": _flops("FLOPs of a decode step of the batch", lambda r: r.answer.decode.total),
    "batch": Quantity(
        _limit("max_batch"),
        parse_count,
        format_count,
        "the largest batch that fits",
        True,
        ("min",),
    ),
    "context": Quantity(
        _limit("max_context"),
        parse_count,
        format_count,
        "the longest context that fits",
        True,
        ("min",),
    ),
    "free_bytes": _bytes("memory left free on the fullest GPU", _free, gpu=True, sides=("min",)),
}
ASSERTIONS: dict[str, tuple[str, str]] = {
    f"{side}_{name}" if side else name: (side, name) for name, q in QUANTITIES.items() for side in q.sides
}
# Plan keywords with a type of their own; what is left takes whole numbers and texts such as 8k.
TEXTS = "dtype kv_dtype cache_type_k cache_type_v weight_dtype scheme engine engine_version gpu attention_flops logits"
SHARES = "gpu_memory_utilization compute_efficiency bandwidth_efficiency"


# --- the file ------------------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    """No unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class File(Strict):
    """What stands at the top of the file; tables are checked one by one, so that errors can name them."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1, description="1")] = 1
    baseline: Annotated[str, Field(min_length=1, description="the path of a JSON file, from this one's folder")] = (
        BASELINE
    )
    defaults: Annotated[dict[str, Any], Field(description="a table of plan keywords")] = {}
    budget: Annotated[list[dict[str, Any]], Field(min_length=1, description="tables [[budget]], at least one")]


Kinds = dict[str, tuple[Any, Any]]


def _plan_fields() -> Kinds:
    """A field for every keyword of a plan."""
    text = Annotated[str | None, Field(description="a text in quotes")]
    share = Annotated[Union[float, int, None], Field(description="a share of 1, e.g. 0.9")]  # noqa: UP007
    number = Annotated[Union[int, str, None], Field(description="a whole number, or a text such as '8k' or '40GiB'")]  # noqa: UP007
    kinds: dict[str, Any] = dict.fromkeys(TEXTS.split(), text) | dict.fromkeys(SHARES.split(), share)
    kinds["tied"] = Annotated[bool | None, Field(description="true or false")]
    kinds["engine_options"] = Annotated[
        dict[str, Any] | None, Field(description="a table of the engine's own flag names")
    ]
    return {name: (kinds.get(name, number), None) for name in sorted({*known_flags(), "scheme"})}


@lru_cache(maxsize=1)
def _models() -> tuple[type[BaseModel], type[BaseModel]]:
    """What [defaults] and [[budget]] may hold."""
    fields = _plan_fields()
    asserted: Kinds = {}
    for key, (_, name) in ASSERTIONS.items():
        parse = QUANTITIES[name].parse
        asserted[key] = (Annotated[int | None, BeforeValidator(lambda v, p=parse, k=key: p(v, k))], None)
    asserted["within"] = (Annotated[Any, BeforeValidator(lambda v: parse_share(v, "within"))], None)
    gpus = Annotated[
        Union[str, list[str], None], Field(min_length=1, description="the name of a GPU, or a list of names")  # noqa: UP007
    ]
    text = Annotated[str | None, Field(min_length=1, max_length=200, description="a text of 1 to 200 characters")]
    more: Kinds = {"name": (text, None), "model": (text, None), "fits_on": (gpus, None)}
    defaults: Any = create_model("Defaults", __base__=Strict, **fields)  # type: ignore[call-overload]
    budget: Any = create_model("Budget", __base__=Strict, **fields, **asserted, **more)  # type: ignore[call-overload]
    return defaults, budget


def _checked(model: type[BaseModel], raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The keys that were given, checked; raises for the first that cannot be."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    try:
        found = model.model_validate(raw)
    except ValidationError as e:
        first = min(e.errors(), key=lambda error: error["type"] != "extra_forbidden")
        name = str(first["loc"][0]) if first["loc"] else "table"
        if first["type"] == "extra_forbidden":
            raise UnknownName(f"key in {where}:", name, fields) from None
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InvalidInput):
            raise InvalidInput(cause.field, cause.value, cause.rule, where) from None
        known = fields.get(name)
        rule = (known.description if known else None) or first["msg"].removeprefix("Input should be ").lower()
        raise InvalidInput(name, None if first["type"] == "missing" else raw.get(name), rule, where) from None
    return {name: value for name, value in found if name in found.model_fields_set and value is not None}


class Budget(NamedTuple):
    """One checked table: a plan and what is asserted of it."""

    name: str
    table: str  # for errors: [[budget]] 2 (chat)
    model: str | None
    flags: dict[str, Any]
    gpus: tuple[str, ...]
    fits: bool  # asserted
    bounds: dict[str, int]
    within: Fraction | None
    lines: dict[str, int]  # key -> line of the file; "" is the table's own


def _read(path: Path) -> tuple[list[Budget], Path]:
    """The budgets of a file and its baseline's path. Raises InvalidInput or UnknownName, naming file, table and key."""
    where = str(path)
    text = read_text(path, "file", FILE_LIMIT)
    raw = parse_toml(text, "file", where)
    top = _checked(File, raw, where)
    for_defaults, for_budget = _models()
    defaults = _checked(for_defaults, top.get("defaults", {}), f"{where}, [defaults]")
    lines = _lines(text, len(top["budget"]))
    budgets: list[Budget] = []
    names: set[str] = set()
    plans = 0
    for number, table in enumerate(top["budget"], 1):
        called = table.get("name") or table.get("model") or ""
        title = f"{where}, [[budget]] {number}"
        if isinstance(called, str) and called:
            title += f" ({printable(called, 80)})"
        given = _checked(for_budget, table, title)
        budget = _budget(path, title, defaults, given, lines[number - 1])
        if budget.name in names:
            raise InvalidInput("name", budget.name, "a name that no other budget has", title)
        names.add(budget.name)
        plans += max(len(budget.gpus), 1)
        if plans > PLANS_LIMIT:
            raise InvalidInput("budget", f"{plans:,} plans", f"at most {PLANS_LIMIT:,}, one per budget and GPU", where)
        budgets.append(budget)
    return budgets, path.parent / top.get("baseline", BASELINE)


def _budget(path: Path, title: str, defaults: dict[str, Any], given: dict[str, Any], lines: dict[str, int]) -> Budget:
    bounds = {key: given.pop(key) for key in ASSERTIONS if key in given}
    within, fits_on = given.pop("within", None), given.pop("fits_on", None)
    name, model = given.pop("name", None), given.pop("model", None)
    flags = {**defaults, **given}
    own = flags.pop("gpu", None)
    on = [fits_on] if isinstance(fits_on, str) else list(fits_on or ())
    gpus = list(dict.fromkeys(on)) or ([own] if own else [])
    if fits_on is not None and own is not None:
        raise InvalidInput("gpu", own, "left out beside fits_on, which names the GPUs", title)
    if within is None and not bounds and not on:
        raise InvalidInput("assertion", None, f"at least one of fits_on, within, {', '.join(ASSERTIONS)}", title)
    for key in bounds:
        if QUANTITIES[ASSERTIONS[key][1]].gpu and not gpus and "memory" not in flags:
            raise InvalidInput("gpu", None, f"one for {key}: gpu, fits_on or memory", title)
    return Budget(
        name or model or "numbers", title, _placed(path, model), flags, tuple(gpus), bool(on), bounds, within, lines
    )


def _placed(path: Path, model: str | None) -> str | None:
    """A model that names a file or folder is looked for beside the budget file, wherever the command runs."""
    if model is None or os.path.isabs(model) or model.lower() in model_names():
        return model
    beside = path.parent / model
    return str(beside) if os.path.exists(beside) or model.endswith((".json", ".gguf")) else model


HEADER = re.compile(r"\s*\[\[\s*budget\s*\]\]")
KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_]+)[\"']?\s*[=.]")


def _lines(text: str, count: int) -> list[dict[str, int]]:
    """The line of every key of every [[budget]], for annotations; empty where the file is laid out some other way."""
    tables: list[dict[str, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if HEADER.match(line):
            tables.append({"": number})
        elif line.lstrip().startswith("[") and not re.match(r"\s*\[\s*budget\s*\.", line):
            tables += [{}] if tables and tables[-1] else []
        elif tables and tables[-1]:
            key = KEY.match(line)
            if key:
                tables[-1].setdefault(key[1], number)
    tables = [table for table in tables if table]
    return tables if len(tables) == count else [{}] * count


# --- the check -----------------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """One assertion and what became of it. ``predicted`` and ``allowed`` are in words; the numbers stand beside them."""

    budget: str
    key: str
    gpu: str | None
    holds: bool
    predicted: str
    allowed: str
    value: int | None
    bound: int | None
    line: int | None  # of the file

    @property
    def message(self) -> str:
        """The finding on one line."""
        where = f" on {self.gpu}" if self.gpu else ""
        return printable(f"{self.budget}: {self.key}{where}: predicted {self.predicted}, allowed {self.allowed}")


class Checked(NamedTuple):
    """Everything that was asserted in a file, in its order."""

    path: Path
    findings: tuple[Finding, ...]
    updated: str  # what --update did, in words; "" without it

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(finding for finding in self.findings if not finding.holds)

    @property
    def verdict(self) -> str:
        """How many hold."""
        total, broken = len(self.findings), len(self.broken)
        if broken:
            names = len({finding.budget for finding in self.broken})
            budgets = f"{names} budget{'s' if names > 1 else ''}"
            return printable(f"{broken} of {total} assertions broken, in {budgets} of {self.path.name}")
        return printable(f"all {total} assertions of {self.path.name} hold")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every finding, broken or not."""
        return {
            "schema": 1,
            "kvplan_version": __version__,
            "file": str(self.path),
            "holds": not self.broken,
            "findings": [finding._asdict() for finding in self.findings],
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return to_json(self.to_dict())

    def to_text(self) -> str:
        """One line per assertion, the broken ones marked, and the verdict."""
        lines = [f"{'✔' if finding.holds else '✘'} {finding.message}" for finding in self.findings]
        return "\n".join([*lines, *([self.updated] if self.updated else []), self.verdict]) + "\n"

    def to_markdown(self) -> str:
        """A table for a pull request."""
        lines = [
            f"**{markdown(self.verdict)}**",
            "",
            "| | budget | assertion | predicted | allowed |",
            "|---|---|---|---:|---:|",
        ]
        for f in self.findings:
            cells = (f.budget, f"{f.key}{f' on {f.gpu}' if f.gpu else ''}", f.predicted, f.allowed)
            shown = map(markdown, cells)
            lines.append(f"| {'✔' if f.holds else '✘'} | {' | '.join(shown)} |")
        return "\n".join(lines) + "\n"

    def to_junit(self) -> str:
        """A JUnit report: a test case per assertion."""
        suite = ElementTree.Element(
            "testsuite",
            name="kvplan check",
            tests=str(len(self.findings)),
            failures=str(len(self.broken)),
            errors="0",
            skipped="0",
        )
        for f in self.findings:
            name = printable(f"{f.key}{f' on {f.gpu}' if f.gpu else ''}")
            case = ElementTree.SubElement(
                suite, "testcase", classname=printable(f.budget), name=name, file=printable(str(self.path)), time="0"
            )
            if f.line:
                case.set("line", str(f.line))
            if not f.holds:
                ElementTree.SubElement(case, "failure", message=f.message, type="budget").text = f.message
        root = ElementTree.Element("testsuites")
        root.append(suite)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def annotations(self) -> Iterator[str]:
        """GitHub's workflow commands: an error at the line of every broken assertion."""
        for finding in self.broken:
            yield annotation(finding.message, self.path, finding.line, f"kvplan: {finding.budget}")


def annotation(message: str, path: Path, line: int | None = None, title: str = "kvplan") -> str:
    """One error in the form that GitHub shows beside a file; the path is from the workspace, as it asks for."""
    root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    try:
        place = os.path.relpath(path, root)
    except ValueError:  # another drive
        place = ".."
    if place.startswith(".."):  # not of this workspace
        place = str(path)
    properties = {"file": place, **({"line": str(line)} if line else {}), "title": title}
    words = ",".join(f"{name}={_escaped(printable(value), ':,')}" for name, value in properties.items())
    return f"::error {words}::{_escaped(printable(message))}"


def _escaped(text: str, more: str = "") -> str:
    """A text as a workflow command carries it."""
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text


def check(path: str | os.PathLike[str] = "kvplan.toml", *, update: bool = False) -> Checked:
    """Every assertion of a budget file against what kvplan predicts; with ``update`` the baseline is rewritten first.

    Paths of models and of the baseline are from the file's own folder. Raises InvalidInput or UnknownName for a file
    that cannot be read or a budget that cannot be planned, naming file, table and key.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidInput("file", path, "the path of a TOML file of budgets")
    place = Path(path)
    budgets, baseline = _read(place)
    planned, layers = [], 0
    for budget in budgets:
        plans = []
        for gpu, report in _plans(budget):
            layers += len(report.answer.spec.layers)
            if layers > LAYERS_LIMIT:
                raise InvalidInput(
                    "budget", f"{layers:,} layers", f"at most {LAYERS_LIMIT:,} in all plans", budget.table
                )
            plans.append((gpu, report))
        planned.append((budget, plans))
    figures = {budget.name: _figures(plans) for budget, plans in planned if budget.within is not None}
    updated = ""
    if update:
        if not figures:
            raise InvalidInput("within", None, "a budget with within = '0%' or more, for --update to keep", str(place))
        updated = _write(place, baseline, figures)
    known = _baseline(baseline) if figures else {}
    findings: list[Finding] = []
    for budget, plans in planned:
        findings += _found(budget, plans)
        if budget.within is not None:
            findings += _compared(budget, figures[budget.name], known.get(budget.name), baseline.name)
    return Checked(place, tuple(findings), updated)


Plans = list[tuple[str | None, Report]]


def _plans(budget: Budget) -> Iterator[tuple[str | None, Report]]:
    """The plan of a budget, on each of its GPUs where it names any; errors name the table."""
    for gpu in budget.gpus or (None,):
        try:
            report = plan(budget.model, **budget.flags, **({"gpu": gpu} if gpu else {}))
        except InvalidInput as e:
            raise InvalidInput(e.field, e.value, e.rule, ": ".join(filter(None, (budget.table, e.where)))) from None
        except UnknownName as e:
            raise UnknownName(f"{e.kind} in {budget.table}:", e.name, e.known, e.hint) from None
        except KvplanError as e:
            raise KvplanError(f"{budget.table}: {e}") from None
        if (budget.fits or "memory" in budget.flags or gpu) and report.capacity is None:
            raise InvalidInput(
                "weight_dtype", None, "a format: the bytes of this checkpoint's weights are unknown", budget.table
            )
        yield (report.answer.settings.gpu.name if report.answer.settings.gpu else None), report


def _found(budget: Budget, plans: Plans) -> Iterator[Finding]:
    """Every assertion but the baseline's: of figures that no GPU changes once, of the others on each GPU."""
    if budget.fits:
        for gpu, report in plans:
            c = report.capacity
            assert c is not None
            used = sum(size for _, size in report.memory())
            binding = "" if c.fits else f", binding {c.binding}"
            yield Finding(
                budget.name,
                "fits_on",
                gpu,
                c.fits,
                f"{format_bytes(used)}{binding}",
                f"{format_bytes(c.usable_bytes)} per GPU",
                used,
                c.usable_bytes,
                budget.lines.get("fits_on", budget.lines.get("")),
            )
    for key, bound in budget.bounds.items():
        side, name = ASSERTIONS[key]
        quantity = QUANTITIES[name]
        differs = quantity.gpu or len({quantity.read(report) for _, report in plans}) > 1
        for gpu, report in plans if differs else plans[:1]:
            value = quantity.read(report)
            if value is None:
                # weights of an unknown method are no number; a limit that nothing sets is kept
                holds, shown = quantity.gpu, "unbounded" if quantity.gpu else "unknown"
            else:
                holds = {"max": value <= bound, "min": value >= bound, "": value == bound}[side]
                shown = quantity.show(value)
            word = {"max": "at most ", "min": "at least ", "": "exactly "}[side]
            line = budget.lines.get(key, budget.lines.get(""))
            yield Finding(
                budget.name,
                key,
                gpu if differs else None,
                holds,
                shown,
                word + quantity.show(bound),
                value,
                bound,
                line,
            )


# --- the baseline --------------------------------------------------------------------------------------------------------

Figures = dict[str, int | None]


def _figures(plans: Plans) -> Figures:
    """What a baseline keeps of a budget: every figure, and what fits on each GPU behind its name."""
    figures: Figures = {}
    for gpu, report in plans:
        for name, quantity in QUANTITIES.items():
            if quantity.gpu:
                if report.capacity is not None:
                    figures[f"{name}@{gpu or 'memory'}"] = quantity.read(report)
            else:
                figures.setdefault(name, quantity.read(report))
    return figures


def _compared(budget: Budget, now: Figures, before: Figures | None, file: str) -> Iterator[Finding]:
    """The figures of a budget beside its baseline's: one finding if all are within, else one for each that is not."""
    assert budget.within is not None
    share = f"{float(budget.within * 100):g}%"
    line = budget.lines.get("within", budget.lines.get(""))

    def finding(holds: bool, predicted: str, allowed: str, value: int | None, bound: int | None) -> Finding:
        return Finding(budget.name, "within", None, holds, predicted, allowed, value, bound, line)

    if before is None:
        yield finding(False, "figures", f"a baseline in {file}: kvplan check --update writes it", None, None)
        return
    moved = 0
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new and name in before and name in now:
            continue
        if old is not None and new is not None and abs(new - old) <= budget.within * abs(old):
            continue
        moved += 1
        show = QUANTITIES[name.partition("@")[0]].show if name.partition("@")[0] in QUANTITIES else str
        change = f" ({float(Fraction(new - old, old) * 100):+.3g}%)" if old and new is not None else ""
        shown = [("none" if value is None else show(value)) for value in (new, old)]
        yield finding(False, f"{printable(name, 100)} {shown[0]}{change}", f"{shown[1]} ± {share} of {file}", new, old)
    if not moved:
        yield finding(True, f"{len(now)} figures", f"{file} ± {share}", None, None)


def _baseline(path: Path) -> dict[str, Figures]:
    """The figures of a baseline by budget; none where there is no file. Raises InvalidInput for one that is broken."""
    rule = "a file that kvplan check --update wrote"
    if not os.path.lexists(path) and "\0" not in str(path):
        return {}
    try:
        data = parse_object(read_bytes(path, "baseline", BASELINE_LIMIT), "baseline", str(path))
    except InvalidInput as e:
        found = "" if e.value == str(path) else f", not {shorten(e.value)}"
        raise InvalidInput("baseline", path.name, f"{rule}: {e.rule}{found}", str(path)) from None
    budgets = data.get("budgets")
    if not isinstance(budgets, dict) or data.get("schema") != 1:
        raise InvalidInput("baseline", path.name, rule, str(path))
    for figures in budgets.values():
        if not isinstance(figures, dict) or not all(_is_figure(value) for value in figures.values()):
            raise InvalidInput("baseline", path.name, f"{rule}: whole numbers by name", str(path))
    return budgets


def _is_figure(value: object) -> bool:
    """Whether this is a number that a figure can be; the free bytes of what does not fit are negative."""
    return value is None or (type(value) is int and abs(value) < LARGEST)


def _write(file: Path, path: Path, budgets: dict[str, Figures]) -> str:
    """Writes a baseline beside itself and renames it, so that no reader meets half of one; says what changed.

    A budget file is somebody else's, and names the baseline: what is overwritten is one already, and a new one lies in the
    file's own folder or below it.
    """
    text = to_json({"schema": 1, "kvplan_version": __version__, "budgets": budgets}) + "\n"
    if os.path.lexists(path):
        try:
            before = _baseline(path)
        except InvalidInput as e:
            raise InvalidInput(
                "baseline", path.name, f"{e.rule}; --update overwrites no other file, remove it first", str(path)
            ) from None
    else:
        before = {}
        if "\0" in str(path) or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(file.parent)):
            raise InvalidInput(
                "baseline", str(path), f"a file in the folder of {file.name}, or one that is there", str(file)
            )
    if before == budgets:
        return f"{path.name} is up to date"
    write_whole(path, text.encode(), "baseline", "a path that can be written")
    changed = sum(before.get(name) != figures for name, figures in budgets.items())
    gone = len(before.keys() - budgets.keys())
    return f"{printable(path.name)}: {changed} of {len(budgets)} budgets written{f', {gone} dropped' if gone else ''}"
