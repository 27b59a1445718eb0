"""Kinds of input from outside, each with a function of bytes that asks kvplan about it and looks at every answer.

An input is what a user would have: the text of a config.json, a GGUF file, a command. Several files in one stand behind
marks (``folder``), and ``ASK`` begins the question that is asked of a model: words ``name=value``, flags of
``kvplan.plan`` and ``as=``, how the answer is rendered. Only a KvplanError may come out, as one printable line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import kvplan
from kvplan import budgets, page
from kvplan.errors import KvplanError, Unsupported
from kvplan.explain import explain
from kvplan.importers.files import parse_object
from kvplan.importers.gguf import spec_from_gguf
from kvplan.importers.safetensors import folder_weight_bytes
from kvplan.launch import preflight
from kvplan.sweeps.columns import COLUMNS
from kvplan.sweeps.ranges import counts, names
from kvplan.sweeps.where import condition
from kvplan.units import parse_bytes, parse_count
from tests.fuzz.guard import WrongOutput
from tests.support import config_text

__all__ = ["ASK", "FILE", "TARGETS", "folder", "packed_folder"]

ASK = b"\0\0ask:"
FILE = b"\0\0file:"
LONGEST_ERROR = 2000
DEFAULTS = ("kvplan.toml", "model.safetensors.index.json")  # what files without a mark are


# --- what an answer must be --------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """Text for people: nothing but printable characters and line ends."""
    if not isinstance(text, str):
        raise WrongOutput(f"no text: {type(text).__name__}")
    if not text.replace("\n", "").isprintable():
        bad = next(char for char in text if char != "\n" and not char.isprintable())
        at = text.index(bad)
        raise WrongOutput(f"not printable: {bad!a} in {text[max(at - 60, 0) : at + 60]!a}")
    return text


def as_json(text: str) -> Any:
    """JSON that reads back, without infinities."""

    def refuse(constant: str) -> None:
        raise WrongOutput(f"not JSON: {constant}")

    shown(text)
    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as e:
        raise WrongOutput(f"not JSON: {e}") from e


def as_xml(text: str) -> None:
    """XML that reads back."""
    shown(text)
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError as e:
        raise WrongOutput(f"not XML: {e}") from e


def one_line(text: str, longest: int = LONGEST_ERROR) -> None:
    """A message as people see it."""
    shown(text)
    if not text.strip() or "\n" in text or len(text) > longest:
        raise WrongOutput(f"not one short line: {len(text)} characters: {text[:200]!a}")


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Lets a KvplanError pass, and nothing else, after a look at its message."""
    try:
        yield
    except KvplanError as e:
        try:
            one_line(str(e))
        except WrongOutput as wrong:
            raise wrong from e


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Says of a complaint what it is about, so that one is kept of each."""
    try:
        yield
    except WrongOutput as e:
        raise WrongOutput(f"{what} {e.args[0]}") from e.__cause__


# --- several files in one, and questions ---------------------------------------------------------------------------------


def packed_folder(files: dict[str, bytes]) -> bytes:
    """Files in one: each behind a mark and its name."""
    return b"".join(FILE + name.encode() + b"\n" + data for name, data in files.items())


def folder(data: bytes, default: str) -> dict[str, bytes]:
    """The files that ``packed_folder`` put together; what stands before the first mark is the default one."""
    first, *others = data.split(FILE)
    files = {default: first} if first or not others else {}
    for other in others[:32]:
        name, _, content = other.partition(b"\n")
        files[_file_name(name)] = content
    return files


def _file_name(name: bytes) -> str:
    text = "".join(char for char in name.decode("utf-8", "replace") if char not in "/\\\0")[:80]
    return text if text.strip(". ") else "model.safetensors"


def asked(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The input itself, and the words of the question behind it."""
    content, _, question = data.partition(ASK)
    words = (word.partition("=") for word in question.decode("utf-8", "replace").split(" "))
    return content, {name: value for name, equals, value in words if equals and name}


def flags(question: dict[str, str]) -> dict[str, Any]:
    """A question as keywords of ``kvplan.plan``."""
    found: dict[str, Any] = {}
    for name, value in question.items():
        if name.startswith("opt."):
            digits = value.isascii() and value.isdigit() and len(value) < 20
            found.setdefault("engine_options", {})[name[4:]] = int(value) if digits else value
        elif name in ("gpu_memory_utilization", "compute_efficiency", "bandwidth_efficiency"):
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = value
        elif name not in ("as", "model"):
            found[name] = value
    return found


def answer(model: object, question: dict[str, str]) -> None:
    """Plans a model and renders the answer as the question says."""
    how, given = question.get("as", ""), flags(question)
    report = kvplan.plan(model, **given)
    if how == "text":
        shown(report.to_text(80, False))
        shown(report.to_text(40, False))
    elif how == "markdown":
        shown(report.to_markdown())
    elif how == "explain":
        shown(explain(report, None, latex=False))
    elif how == "latex":
        shown(explain(report, None, latex=True))
    elif how in ("max_batch", "max_context", "kv"):
        shown(explain(report, how, latex=False))
    elif how == "compare":
        rows = kvplan.compare(model, ["mqa", "cla:2"], **given)
        shown(rows.to_text(80, False))
        shown(rows.to_markdown())
        shown(rows.to_csv())
        as_json(rows.to_json())
    elif how == "diff":
        moved = kvplan.diff("gpt2", model, **given)
        shown(moved.to_text(80, False))
        shown(moved.to_markdown())
        as_json(moved.to_json())
    elif how == "fit":
        plain = {name: value for name, value in given.items() if name not in ("memory", "pp", "dp")}
        found = kvplan.fit(model, **({"gpu": ["h100", "t4"]} | plain))
        shown(found.to_text(80, False))
        shown(found.to_markdown())
        as_json(found.to_json())
    else:
        as_json(report.to_json())


# --- the targets -------------------------------------------------------------------------------------------------------


def config(data: bytes) -> None:
    """The text of a config.json."""
    text, question = asked(data)
    with refused():
        if question.get("from") == "file":
            question.pop("from")
            with _written({"config.json": text}) as place:
                answer(str(place / "config.json"), question)
        else:
            question.pop("from", None)
            answer(parse_object(text, "config", "config.json"), question)


def gguf(data: bytes) -> None:
    """A GGUF file."""
    content, question = asked(data)
    with _written({"model.gguf": content}) as place, refused():
        answer(spec_from_gguf(place / "model.gguf"), question)


def safetensors(data: bytes) -> None:
    """A checkpoint's folder: config.json, the index, shards."""
    content, question = asked(data)
    with _written(folder(content, "model.safetensors.index.json")) as place, refused():
        weights = folder_weight_bytes(place)
        if weights is not None:
            shown(weights.source)
            if not 0 <= weights.bytes:
                raise WrongOutput(f"negative: {weights.bytes} bytes")
        if (place / "config.json").exists():
            answer(str(place), question)


@contextlib.contextmanager
def _written(files: dict[str, bytes]) -> Iterator[Path]:
    place = Path("folder")
    place.mkdir(exist_ok=True)
    for name, content in files.items():
        with contextlib.suppress(OSError, ValueError):
            (place / name).write_bytes(content)
    place = place.resolve()
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextlib.contextmanager
def _desk() -> Iterator[None]:
    """A folder to work in, with a config and a budget file that commands may name."""
    here = os.getcwd()
    with _written(_honest()) as place:
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir(here)


@cache
def _honest() -> dict[str, bytes]:
    return {
        "config.json": config_text("EleutherAI__pythia-14m").encode(),
        "kvplan.toml": b'[[budget]]\nmodel = "gpt2"\nmax_kv_bytes_per_token = "64 KiB"\nwithin = "1%"\n',
    }


def scheme(data: bytes) -> None:
    """The notation of a scheme."""
    content, question = asked(data)
    text, model = content.decode("utf-8", "surrogateescape"), question.get("model", "llama-2-7b")
    with refused():
        answer(model, question | {"scheme": text})
    with refused():
        page.members(text)


def ranges(data: bytes) -> None:
    """An axis of a sweep, counts, sizes and names."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (counts, names, parse_count, parse_bytes, budgets.parse_parameters, budgets.parse_flops):
        with refused():
            read(text, "field")
    with refused():
        budgets.parse_share(text, "field")


@cache
def values() -> dict[str, Any]:
    """A few rows of every column, some of them missing."""
    import numpy as np

    from kvplan.sweeps.columns import Words

    rows: dict[str, Any] = {}
    for column in COLUMNS.values():
        if column.kind == "text":
            rows[column.name] = Words(np.array([0, 1, -1, 0]), ("llama-3.1-8b", "none"))
        elif column.kind == "truth":
            rows[column.name] = np.array([True, False, True, False])
        else:
            rows[column.name] = np.array([0.0, 1.5e300, np.nan, np.inf])
    return rows | {"kv_tokens": None, "binding": None, "prefill_bound": None, "decode_step_s": None}


def where(data: bytes) -> None:
    """The condition of a sweep."""
    content, question = asked(data)
    text = content.decode("utf-8", "surrogateescape")
    with refused():
        found = condition(text, {})
        found.keeps(values())
    if question.get("as") == "sweep":
        with refused():
            rows = kvplan.sweep("gpt2", gpu="h100", context="1k,2k", batch="1,2", where=text, columns="fits,max_batch")
            list(rows.lines("csv"))


def budget(data: bytes) -> None:
    """A budget file, and a baseline and a config beside it."""
    content, question = asked(data)
    with _written(folder(content, "kvplan.toml")) as place, refused():
        checked = budgets.check(place / "kvplan.toml", update="update" in question)
        shown(checked.to_text())
        shown(checked.to_markdown())
        as_json(checked.to_json())
        as_xml(checked.to_junit())
        for line in checked.annotations():
            one_line(line, 4 * LONGEST_ERROR)  # a message in a workflow command, which escapes


# What the fields of the page's link hold (app/question.py).
FIELDS: dict[str, Any] = {
    "view": ("Explore", "Compare"), "source": ("preset", "config.json", "numbers"), "units": tuple(page.UNITS),
    "model": "models", "gpu": "gpus", "engine": "engines", "engines": "engines", "row_engines": "engines",
    "context": 1, "batch": 1, "tp": 1, "pp": 1, "dp": 1, "n_layers": 0, "kv_dtype": "formats", "weight_dtype": "formats",
    "engine_version": lambda: ("newest", *(v for row in page.listing("engines") for v in row["versions"])),
    **dict.fromkeys((*page.MENU, "options", "row_schemes", "rows", "term", "config")),
}  # fmt: skip


def link(data: bytes) -> None:
    """A link of the page: the query of an address. A name that ends in [] stands for a field without a value."""
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(data.decode("utf-8", "surrogateescape")[:100_000], keep_blank_values=True):
        if name.endswith("[]"):
            given.setdefault(name[:-2], [])
        else:
            given.setdefault(name, []).append(value)
    found, wrong = page.read_link(given, FIELDS)
    for clause in wrong:
        one_line(clause)
    shown(page.link("http://localhost:8501/", found))
    question: dict[str, Any] = {}
    for name in ("context", "batch", "tp", "pp", "dp", "gpu", "engine", "kv_dtype", "weight_dtype"):
        if found.get(name, ["as is"])[0] not in (*page.NOTHING, "newest"):
            question[name] = found[name][0]
    with refused():
        question["scheme"] = page.chain(found[axis][0] for axis in page.MENU if found.get(axis))
        if "options" in found:
            question["engine_options"] = page.options(found["options"][0])
        model: Any = found.get("model", ["gpt2"])[0]
        if "config" in found:
            model = page.config(page.unpacked(found["config"][0]))
        shown(page.command_line("plan", model, **question))
        report = kvplan.plan(model, **question)
        shown(report.headline())
        shown(page.headroom(report))
    with refused():
        page.config(data)


def command(data: bytes) -> None:
    """The command line of an engine."""
    content, question = asked(data)
    text = content.decode("utf-8", "surrogateescape")
    with _desk(), refused():
        found = preflight(
            text,
            question.get("gpu", "h100"),
            config=question.get("config"),
            engine_version=question.get("engine_version"),
        )
        if question.get("as") == "text":
            shown(found.to_text(80, False))
        as_json(found.to_json())


MOST_POINTS = 2_000  # of a sweep: who asks for more waits longer
# Commands that start servers or run models.
LEFT_OUT = ("app", "validate")


@cache
def _group() -> Any:
    import typer

    from kvplan.cli import app

    return typer.main.get_command(app)


@contextlib.contextmanager
def _small_sweeps() -> Iterator[None]:
    from kvplan import sweeps

    def bounded(*given: Any, **more: Any) -> Any:
        found = honest(*given, **more | {"progress": False})
        if found.points > MOST_POINTS:
            raise Unsupported("a grid too large to be fuzzed")
        return found

    honest = sweeps.sweep
    sweeps.sweep = bounded
    try:
        yield
    finally:
        sweeps.sweep = honest


def cli(data: bytes) -> None:
    """The command line of kvplan, as a shell reads it."""
    if len(data) > 2**16:  # the standard library's shlex takes time as the square of a word
        return
    try:
        words = shlex.split(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    if words[:1] == ["kvplan"]:
        words = words[1:]
    if words[:1] == ["reproduce"] and all(word.startswith("-") for word in words[1:]):  # every paper is asked
        return
    if any(word in LEFT_OUT for word in words[:2]):
        return
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _small_sweeps(), _desk():
            _group().main(args=words, prog_name="kvplan")
    except SystemExit as e:
        code = e.code
    finally:
        out.flush()
        err.flush()
    said = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    talk = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if code not in (0, 1, 2, 3):
        raise WrongOutput(f"exit code {code}: {talk[-300:]!a}")
    with about(words[0] if words and words[0] in _group().commands else ""):
        shown(said)
        shown(talk)
    if code == 2:
        lines = talk.splitlines()
        if not lines and not said:
            raise WrongOutput("exit code 2 without a word")
        if len(lines) > 3:
            raise WrongOutput(f"an error of {len(lines)} lines: {talk[:300]!a}")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": config,
    "gguf": gguf,
    "safetensors": safetensors,
    "scheme": scheme,
    "ranges": ranges,
    "where": where,
    "budget": budget,
    "link": link,
    "command": command,
    "cli": cli,
}

if sys.flags.optimize:
    raise SystemExit("kvplan's own assertions are part of what is looked for: run without -O")
