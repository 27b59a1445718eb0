"""What a page shows beside plans: menus, worked formulas, published and measured rows, and the command line it equals."""

from __future__ import annotations

import json
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from kvplan import figures, listings
from kvplan.api import plan
from kvplan.comparison import Comparison
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.explain import explain
from kvplan.figures.checks import BAD
from kvplan.importers.files import parse_object, read_bytes
from kvplan.report import Report
from kvplan.reproduce import Row, reproduce
from kvplan.text import cell, markdown, printable, shell
from kvplan.units import (
    BINARY,
    DECIMAL,
    LARGEST_COUNT,
    format_bytes,
    format_count,
    format_parameters,
    format_seconds,
    format_si,
    parse_count,
)

__all__ = [
    "BATCHES", "CONTEXTS", "DIGITS", "MENU", "NOTHING", "UNITS", "WORDS", "Several", "as_html", "as_link", "as_text", "cells",
    "chain", "clauses", "command_line", "config", "count", "counted", "denied", "device", "facts", "figures", "fits",
    "headroom", "link", "listing", "matching", "measured", "members", "named", "naming", "on_gpus", "options", "packed",
    "printable", "printed", "provenance", "published", "ranks", "read_link", "rows", "short", "shown", "unpacked", "worked",
]  # fmt: skip

UNITS = {"GiB": BINARY, "GB": DECIMAL}
NOTHING = ("as is", "none")  # what a menu shows where nothing was picked
WORDS = {"fits": "✔ fits", "tight": "● tight", "no": "✘ no"}
# Stops of the sliders: a factor of 3/2 or 4/3 apart, so that they are logarithmic.
CONTEXTS = tuple(n << k for k in range(8, 22) for n in (2, 3))
BATCHES = (1, *(n << k for k in range(10) for n in (2, 3)))
DIGITS = range(LARGEST_COUNT + 1)  # what a box for a number takes: digits, no "8k"
LARGEST_CONFIG = 2**20  # bytes: published ones have up to 0.2 MB
LARGEST_RECORD = 2**23  # bytes of a committed record; an H100's has 0.9 MB
LONGEST_LINK = 12_000  # characters of a packed config that a link may carry: servers take 16 KiB and more
LARGEST_LINKED = 200_000  # bytes of such a config when it is read: a text area takes twice that
LONGEST_FIELD = 1000  # characters of any other field of a link

# Members of a chain that a menu offers on each axis; any other may be written instead.
MENU: dict[str, tuple[str, ...]] = {
    "heads": ("mha", "gqa:8", "gqa:4", "gqa:2", "mqa"),
    "layers": (
        "cla:2", "cla:3", "cla:4", "lckv:w=2", "mlkv:layers=8,heads=4", "shared-last:8", "pizza:l=8", "sandwich:l=8",
        "lasagna:l=8", "yoco:window=1024", "minicache",
    ),
    "tokens": (
        "window:4096", "window:1024@5:1", "chunk:8192@3:1", "streaming:sinks=4,window=1020", "budget:1024",
        "pyramid:mean=1024", "compress:m=16,window=512", "linear", "infini:segment=2048",
    ),
    "rank": ("mla:latent=512,rope=64", "tpa:q=6,k=2,v=2", "lowrank:k=512,v=512"),
    "bits": ("fp8", "q8_0", "q4_0", "int4", "kivi:2", "kvquant:3"),
    "reads": ("topk:256", "quest:k=1024", "sparsek:k=512,window=512", "dsa:k=2048,dim=128,heads=64"),
    "place": ("offload:cpu=0.5", "offload:cpu=0.9", "offload:cpu=0.5,disk=0.4"),
}  # fmt: skip
# What a link written by hand may call a field: the command line's longer flags.
SYNONYMS = {
    "max_model_len": "context", "max_num_seqs": "batch", "tensor_parallel_size": "tp", "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp", "kv_cache_dtype": "kv_dtype", "quantization": "weight_dtype",
}  # fmt: skip
# What a command line calls a keyword of ``plan`` that is not its name with dashes.
SEVERAL = {"schemes": "scheme", "engines": "engine", "gpus": "gpu"}


# What Streamlit's Markdown reads beyond GFM, and hosts and mails that either makes a link of. Some of it is looked for in
# the text as it will stand, where a backslash is gone: icons (":material/x:"), emoji, arrows ("->"), bare addresses.
_READ = re.compile(r"(:(?! )|@|(?<=www)\.|[<>=~-]{2,}(?![\w<>=~-]))", re.IGNORECASE)


def as_text(text: str) -> str:
    r"""A text as Streamlit's Markdown that shows just that text, on one line: nothing is drawn, loaded or linked.

    A character that would begin markup stands in a span of its own, so that no pattern reaches across it.

    >>> as_text("2**48 ![x](http://a/b.png)")
    '2\\*\\*48 !\\[x\\](http:color[:]//a/b.png)'
    """
    pieces = _READ.split(printable(text).strip(" "))
    spans = ("".join(f":color[{markdown(char)}]" for char in piece) for piece in pieces[1::2])
    plain = [
        markdown(piece).replace("{", r"\{") for piece in pieces[::2]
    ]  # braces after a span would be its attributes
    return "".join(part for pair in zip(plain, (*spans, ""), strict=True) for part in pair)


def as_link(words: str, address: str) -> str:
    """A link of Markdown: ``words`` as text, and an address that cannot end early.

    >>> as_link("here", "http://localhost/a)b c?d=%29")
    '[here](http://localhost/a%29b%20c?d=%29)'
    """
    return f"[{as_text(words)}]({_quoted(address, '?')})"


def _quoted(address: str, also: str = "") -> str:
    return quote(address, safe=f":/@%[]!*+,;=&~{also}", errors="replace")


def as_html(text: object) -> str:
    """A text as HTML, in an attribute too, that shows just that text."""
    return escape(printable(str(text)))


def cells(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table that a page shows and gives away as CSV: texts printable, none a formula."""
    return [{name: cell(value) for name, value in row.items()} for row in rows]


def chain(parts: Iterable[str | None]) -> str | None:
    """The notation of the members that were picked, or None.

    >>> chain(["mqa", None, "cla:2", ""])
    'mqa+cla:2'
    """
    return "+".join(part for part in parts if part) or None


def members(text: str | None) -> dict[str, str]:
    """The members of a chain by the menu that offers them: of several axes that one member writes, one.

    Raises what ``plan`` raises for a chain that cannot be.

    >>> members("cla:2+mqa")
    {'heads': 'mqa', 'layers': 'cla:2'}
    """
    from kvplan.schemes import parse

    found: dict[str, str] = {}
    for scheme, arguments in parse(text) if text else ():
        axes = [axis for axis in MENU if axis in scheme.axes]
        offered = [axis for axis in axes if any(m.partition(":")[0] == scheme.name for m in MENU[axis])]
        found[(offered or axes)[0]] = arguments.text
    return found


@cache
def listing(kind: str) -> tuple[dict[str, Any], ...]:
    """Rows of models, gpus, schemes, formats or engines, as the command of that name lists them."""
    # presets of a user that cannot be read are left out: the page is not the place to mend them
    kinds: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "models": lambda: listings.list_models(lambda _: None),
        "gpus": lambda: listings.list_gpus(lambda _: None),
        "schemes": listings.list_schemes,
        "formats": listings.list_formats,
        "engines": listings.list_engines,
    }
    if kind not in kinds:
        raise UnknownName("listing", kind, kinds)
    return tuple(kinds[kind]())


def named(kind: str, text: str) -> str:
    """The name in a listing that a name, an alias or a Hub id of it means; raises UnknownName with the nearest ones.

    >>> named("gpus", "H100"), named("models", "meta-llama/Llama-3.1-8B")
    ('h100-80gb-sxm', 'llama-3.1-8b')
    """
    known = _names(kind)
    if text.lower() not in known:
        raise UnknownName(kind.removesuffix("s"), text, {row["name"] for row in listing(kind)})
    return known[text.lower()]


@cache
def _names(kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in listing(kind):
        for word in (row.get("hub"), *row.get("aliases", ())):
            if word:
                found.setdefault(word.lower(), row["name"])
    return found | {row["name"].lower(): row["name"] for row in listing(kind)}


def worked(report: Report, term: str | None = None) -> str:
    """The formulas of a term (or of all) with the numbers put in, as LaTeX."""
    return explain(report, term, latex=True)


@cache
def published() -> tuple[Row, ...]:
    """Every published number on file with what kvplan answers to the same question."""
    return tuple(reproduce())


def _record(path: Path) -> dict[str, Any]:
    return parse_object(read_bytes(path, "record", LARGEST_RECORD), "record", str(path), finite=False)


@cache
def measured() -> tuple[dict[str, Any], ...]:
    """The committed records of ``kvplan validate``, newest first: device, versions, and rows of predicted and measured."""
    here = Path(__file__).parent
    folders = (here / "presets" / "records", here.parent / "tests" / "records")
    folder = next((path for path in folders if path.is_dir()), None)
    found = [_record(path) for path in sorted(folder.glob("*.json"))] if folder else []
    return tuple(sorted(found, key=lambda record: str(record["date"]), reverse=True))


def headroom(report: Report, units: str = "GiB") -> str:
    """How much of what the engine may use is free, and what stops growth first; nothing where no memory was given."""
    c = report.capacity
    if c is None:
        return ""
    free = c.usable_bytes - sum(size for _, size in report.memory())
    share = (
        f"{abs(free) / c.usable_bytes:.0%} of the {format_bytes(c.usable_bytes, UNITS[units])} that the engine may use"
    )
    said = f"Headroom {share}" if free >= 0 else f"Too much by {share}"
    return f"{said}. What binds: {c.binding}."


def ranks(tp: int, pp: int, dp: int) -> str:
    """How many GPUs a deployment takes.

    >>> ranks(4, 2, 1)
    'tp 4 × pp 2 × dp 1: 8 GPUs'
    """
    count = tp * pp * dp
    return f"tp {tp} × pp {pp} × dp {dp}: {count} GPU{'s' if count > 1 else ''}"


def count(text: str, field: str) -> int:
    """A count as people write it (``8k``). Raises InvalidInput that names the field."""
    return parse_count(text, field)


def short(n: int) -> str:
    """A count as the flags take it, and short where that is exact.

    >>> short(8192), short(1536), short(1048576)
    ('8k', '1536', '1M')
    """
    return f"{n >> 20}M" if n and not n % 2**20 else f"{n >> 10}k" if n and not n % 2**10 else str(n)


def link(address: str, fields: Mapping[str, Any]) -> str:
    """An address that holds every field, so that it opens what is seen; empty ones are left out.

    >>> link("http://localhost:8501/?view=Layers", {"context": "8k", "row_schemes": ["mqa", "cla:2"], "gpu": None})
    'http://localhost:8501/?context=8k&row_schemes=mqa&row_schemes=cla%3A2'
    """
    told = {name: value for name, value in fields.items() if value not in (None, "", [], ())}
    return f"{_quoted(re.split('[?#]', address)[0])}?{urlencode(told, doseq=True, errors='replace')}"


class Several(NamedTuple):
    """A field of a link that may be given up to ``most`` times, each time as ``allowed`` says."""

    allowed: Any
    most: int


def read_link(given: Mapping[str, Sequence[str]], fields: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """What a link asks for in the words of the page, and a clause for each field of it that cannot be.

    ``fields`` says what a field holds: the name of a listing, a least whole number, a range of numbers written in digits, a
    tuple of words (or a function that makes one), None for text, or ``Several`` of one of these. Names may be aliases, counts
    may be ``8k``, and ``scheme`` a whole chain. Of a field that is given more often than it can be, the last counts.

    >>> read_link({"gpu": ["h100"], "context": ["8192"], "foo": ["1"]}, {"gpu": "gpus", "context": 1})
    ({'gpu': ['h100-80gb-sxm'], 'context': ['8k']}, ['foo is no field of this page'])
    """
    found: dict[str, list[str]] = {}
    wrong = []
    for written, texts in given.items():
        name = written[:LONGEST_FIELD].replace("-", "_")
        name = SYNONYMS.get(name, name)
        try:
            if name != "scheme" and name not in fields:
                wrong.append(f"{printable(written, 40)} is no field of this page")
            elif not texts or (name == "scheme" and not texts[-1]):
                continue
            elif name == "scheme":
                found |= {axis: [member] for axis, member in members(_linked(name, texts[-1], None)).items()}
            else:
                found[name] = _all_linked(name, texts, fields[name])
        except KvplanError as e:
            said = f"{printable(written, 40)}={printable(texts[-1], 40)}: {e}" if isinstance(e, UnknownName) else str(e)
            wrong.append(printable(said, 300))
    return found, wrong


def _all_linked(name: str, texts: Sequence[str], allowed: Any) -> list[str]:
    if not isinstance(allowed, Several):
        return [_linked(name, texts[-1], allowed)]
    texts = list(dict.fromkeys(texts))
    if len(texts) > allowed.most:
        raise InvalidInput(name, texts, f"at most {allowed.most} of them")
    return [_linked(name, text, allowed.allowed) for text in texts]


def _linked(name: str, text: str, allowed: Any) -> str:
    longest = LONGEST_LINK if name == "config" else LONGEST_FIELD
    if len(text) > longest:
        raise InvalidInput(name, text[:40], f"at most {longest:,} characters in a link")
    if isinstance(allowed, int):
        return short(parse_count(text, name, least=allowed))
    if isinstance(allowed, range):
        return str(parse_count(text, name, least=allowed.start))
    words = allowed() if callable(allowed) else allowed
    if isinstance(words, str):
        return text if text in NOTHING else NOTHING[0] if text == "auto" else named(words, text)
    if words is None and not text.isprintable():
        raise InvalidInput(name, text, "text on one line")
    if words is None or text in words:
        return text
    raise UnknownName(name, text, words)


def clauses(said: Sequence[str], most: int = 3) -> str:
    """The first of many clauses, and how many more there are.

    >>> clauses(["a", "b", "c"], 1)
    'a; and 2 more'
    """
    more = [f"and {len(said) - most:,} more"] if len(said) > most else []
    return "; ".join([*said[:most], *more])


def packed(config: Mapping[str, Any]) -> str | None:
    """A config as a word for a link, or None where it is too long for one."""
    try:
        text = json.dumps(config, separators=(",", ":")).encode()
    except RecursionError:  # nested as deep as could just be read
        return None
    if len(text) > LARGEST_LINKED:
        return None
    word = urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")
    return word if len(word) <= LONGEST_LINK else None


def unpacked(word: str) -> str:
    """The text of a config that a link carries, a line per key. Raises InvalidInput, in one line, for what ``packed`` never made."""
    rule = "a config as a link of this page carries it"
    if len(word) > LONGEST_LINK:
        raise InvalidInput("config", word[:40], rule)
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(urlsafe_b64decode(word + "=" * (-len(word) % 4)), LARGEST_LINKED + 1)
        if not reader.eof or len(text) > LARGEST_LINKED:
            raise InvalidInput("config", word[:40], rule)
        # a line per number would be a text of hundreds of megabytes where lists nest deep
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in config(text).items())
        return f"{{\n{lines}\n}}"
    except (zlib.error, ValueError, RecursionError):  # InvalidInput of any field is a ValueError
        raise InvalidInput("config", word[:40], rule) from None


def command_line(command: str, model: object = None, **flags: Any) -> str:
    """The command that asks the same in a terminal; a model that was pasted stands as ``./config.json``.

    >>> command_line("plan", "llama-3.1-8b", context=8192, scheme="cla:2", gpu=None, engine_options={"swa_full": True})
    'kvplan plan llama-3.1-8b --context 8192 --scheme cla:2 --engine-option swa_full=true'
    """
    words = ["kvplan", *command.split()]
    if model is not None:
        words.append(model if isinstance(model, str) else "./config.json")
    for name, value in flags.items():
        flag = f"--{SEVERAL.get(name, name).replace('_', '-')}"
        if name == "engine_options":
            for option, given in (value or {}).items():
                words += ["--engine-option", f"{option}={str(given).lower() if isinstance(given, bool) else given}"]
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [word for item in value if item for word in (flag, str(item))]
        elif value not in (None, ""):
            words += [flag, str(value)]
    return shell(words)


def config(text: str | bytes) -> dict[str, Any]:
    """A pasted or uploaded ``config.json``. Raises InvalidInput, in one line, for anything that is none."""
    rule = "the text of a published config.json, a JSON object"
    if len(text) > LARGEST_CONFIG:
        raise InvalidInput("config.json", f"{len(text):,} bytes", f"at most {LARGEST_CONFIG:,} bytes of it")
    if not text.strip():
        raise InvalidInput("config.json", None, rule)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as e:
        raise InvalidInput("config.json", text[:40], f"{rule} (line {e.lineno}, column {e.colno}: {e.msg})") from None
    except UnicodeError:
        raise InvalidInput("config.json", text[:40], f"{rule}, in UTF-8") from None
    except RecursionError:
        raise InvalidInput("config.json", text[:40], f"{rule}, nested less deep") from None
    except ValueError:  # what Python says of it names its own settings
        raise InvalidInput("config.json", text[:40], f"{rule}, integers of at most 4,300 digits") from None
    if not isinstance(found, dict):
        raise InvalidInput("config.json", found, rule)
    return found


def options(text: str) -> dict[str, str]:
    """Engine options as they are typed: ``name=value`` with blanks between. Raises InvalidInput."""
    found = {}
    for item in text.split():
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InvalidInput("engine options", item, "name=value, with blanks between several")
        found[name.replace("-", "_")] = value
    return found


def rows(comparison: Comparison, units: str = "GiB") -> list[dict[str, Any]]:
    """A comparison as a page shows it: one row per scheme and engine, bytes in ``units`` (GiB or GB)."""
    sizes = UNITS[units]
    return [
        {
            "scheme": row.label,
            "engine": row.engine,
            "KV per token": format_bytes(row.kv_bytes_per_token, sizes),
            "KV per sequence": format_bytes(row.kv_bytes_per_sequence, sizes),
            "KV ×": row.kv_ratio,
            "KV, batch": format_bytes(row.kv_bytes, sizes),
            "read per step": format_bytes(row.bytes_read_per_step, sizes),
            "read ×": row.read_ratio,
            "Pareto": row.pareto,
            "prefill": format_si(row.prefill_flops, "FLOP"),
            "decode": format_si(row.decode_flops, "FLOP"),
            "parameters": format_parameters(row.parameters),
            "fits": row.fits,
            "max batch": row.max_batch,
            "max context": row.max_context,
        }
        for row in comparison.rows
    ]


def fits(reports: Sequence[Report], units: str = "GiB") -> list[dict[str, Any]]:
    """A table of GPUs, the figure's rows in words: verdict (fits, tight, no), GPU, memory, what is free, what would fit."""
    sizes = UNITS[units]
    return [
        {
            "verdict": row["verdict"],
            "cells": {
                "GPU": row["label"],
                "fits": WORDS[row["verdict"]],
                "memory": format_bytes(row["memory_bytes"], sizes),
                "free": format_bytes(row["free_bytes"], sizes).replace("-", "−"),
                "max batch": _count(row["max_batch"]),
                "max context": _count(row["max_context"]),
                "binds": row["binding"],
            },
        }
        for row in figures.gpus(reports).rows
    ]


def _count(n: int | None) -> str:
    return "unbounded" if n is None else format_count(n)


def on_gpus(model: object, **flags: Any) -> list[Report]:
    """The same question on every accelerator that it can be asked of."""
    reports = []
    for row in listing("gpus"):
        try:
            reports.append(plan(model, gpu=row["name"], **flags))
        except KvplanError:  # an accelerator that the question cannot be asked of, e.g. offload on shared memory
            continue
    return reports


@cache
def printed() -> tuple[dict[str, Any], ...]:
    """Every line of an engine's log on file with what kvplan answers for its settings, one or both ends of a range."""
    from kvplan import engine_logs

    return tuple(
        {**row, "predicted": " to ".join(f"{float(n):,.{row['decimals']}f}" for n in row["predicted"])}
        for row in engine_logs.as_dicts(engine_logs.reproduce())
    )


def matching(records: Iterable[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Records with those rows alone whose case contains every word."""
    wanted = words.lower().split()
    return [
        {**record, "rows": [row for row in record["rows"] if all(word in row["case"].lower() for word in wanted)]}
        for record in records
    ]


def naming(rows: Iterable[Row], words: str) -> list[Row]:
    """Published rows whose paper, quantity, place or note contain every word."""
    wanted = words.lower().split()
    said = [(row, f"{row.paper} {row.id} {row.quantity} {row.where} {row.note}".lower()) for row in rows]
    return [row for row, text in said if all(word in text for word in wanted)]


def shown(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of records as a table, those that say no first: what was asked is in the case's name already."""
    found = [(device(record), row) for record in records for row in record["rows"]]
    stages = ("stage",) if any(row.get("stage") for _, row in found) else ()
    columns = (*stages, "case", "quantity", "predicted", "measured", "ratio", "verdict", "note")
    return [
        {**{name: row.get(name, "") for name in columns}, "device": where}
        for where, row in sorted(found, key=lambda pair: pair[1]["verdict"] not in BAD)
    ]


def denied(records: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows that say no, in words: what was compared where, and what the run noted about it."""
    return [
        {"said": _said(row, device(record)), "note": row["note"]}
        for record in records
        for row in record["rows"]
        if row["verdict"] in BAD
    ]


def _said(row: dict[str, Any], where: str) -> str:
    numbers = [f"{name} {_number(row[name])}" for name in ("predicted", "measured") if row[name] is not None]
    compared = f"{row['quantity']}: {', '.join(numbers)}" if numbers else row["quantity"]
    stage = f", stage {row['stage']}" if row.get("stage") else ""
    return f"{row['verdict']} · {row['case']} · {compared} ({where}{stage})"


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def device(record: dict[str, Any]) -> str:
    """What a record was made on: the name of its accelerator, where it has one."""
    return str(record.get("device_name") or record["device"])


def facts(record: dict[str, Any], units: str = "GiB") -> list[dict[str, str]]:
    """What a record measured of its device itself, as a table; empty where it has no facts.

    >>> facts({"notes": {"facts": {"rate/copy": {"value": 2.978e12, "unit": "bytes/s", "source": "15 copies"}}}})
    [{'path': 'rate/copy', 'value': '2.98', 'unit': 'TB/s', 'source': '15 copies'}]
    """
    found = record.get("notes", {}).get("facts", {})
    table = []
    for path, fact in found.items():
        value, unit = _readable(fact["value"], fact["unit"], UNITS[units])
        table.append({"path": path, "value": value, "unit": unit, "source": fact["source"]})
    return table


def _readable(value: Any, unit: str, sizes: dict[str, int]) -> tuple[str, str]:
    """A number and its unit for people: 85017493504 bytes are 79.18 GiB."""
    if not isinstance(value, (int, float)):
        return ("" if value is None else str(value)), unit
    if unit == "bytes":
        text = format_bytes(int(value), sizes)
    elif unit.endswith("/s"):
        text = format_si(value, unit.replace("bytes", "B"))
    elif unit in ("s", "seconds"):
        text = format_seconds(value)
    else:
        return _number(value), unit
    number, _, named_unit = text.rpartition(" ")
    return number, named_unit


def provenance(record: dict[str, Any]) -> str:
    """Where and with what a record was made, and how many of its rows say what, in one line."""
    labels = {"driver": "driver", "cuda": "CUDA", "torch": "torch"}
    made = [f"suite {record['suite']} on {device(record)}", record["date"]]
    made += [f"{label} {record[key]}" for key, label in labels.items() if record.get(key)]
    made += [f"commit {record['git'][:12]}"] if record.get("git") else []
    verdicts = Counter(row["verdict"] for row in record["rows"]).most_common()
    n_rows = len(record["rows"])
    said = f"{', '.join(made)}: {n_rows:,} row{'s' if n_rows != 1 else ''} shown"
    return ", ".join([said, *(f"{n:,} {verdict}" for verdict, n in verdicts)])


def counted(values: Iterable[Any]) -> list[dict[str, Any]]:
    """How often each value occurs, most first; a tuple's parts are columns."""
    counts = Counter(value if isinstance(value, tuple) else (value,) for value in values)
    heads = {1: ("outcome",), 2: ("engine", "outcome")}
    return [{**dict(zip(heads[len(v)], v, strict=True)), "rows": n} for v, n in counts.most_common()]
