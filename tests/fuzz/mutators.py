"""Inputs made of honest ones: edits that keep the form of a file, so that they reach what stands behind its parser.

Every mutator takes bytes and gives bytes; what it cannot parse it edits byte by byte.
"""

from __future__ import annotations

import json
import re
import shlex
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlencode

from kvplan import listings, page
from tests.fuzz.guard import LARGEST
from tests.fuzz.targets import ASK, COLUMNS, FIELDS, folder, packed_folder
from tests.support import CONFIGS, DATA

__all__ = ["LINES", "MUTATORS", "Mutator", "mutated", "seeds"]

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (
    "0", "1", "-1", "2", "3", "7", "8", "16", "17", "64", "100", "127", "128", "1024", "4096", "65536", "1000000",
    "2147483648", "4294967295", "9007199254740993", "9223372036854775808", "18446744073709551616", "281474976710656",
    "1e9", "1e-9", "0.5", "1.5", "-0.0", "1e308", "1e400", "0.1", "1" + "0" * 40, "1" + "0" * 400, "9" * 4299,
    "9" * 5000, "1e99999", "0x10", "1_000", "08", "NaN", "Infinity", "+5", "-9223372036854775809",
)  # fmt: skip
TEXTS = (
    "", " ", "a", "None", "null", "auto", "none", "as is", "\0", "\n", "\r\n", "\t", "\x1b[2J\x1b[31m", "\x7f", "\x9b1m",
    "\u202e\u2066", "\ud800", "\ufeff", "\u2028", "ﷺ", "é" * 30, "日本語", "🏔️", "![x](http://a/b.png)", "<img src=x>",
    "a|b`c`*d*_e_", "::error::x", "\n::error::x", "=cmd()", "'\"", "$(id)", "`id`", "; rm x", "%s%n{0}", "../../x", "/",
    "/dev/null", "/dev/stdin", "~", ".", "..", "a/b", "a/b@c", "./x.gguf", "re:.*", "re:(a+)+$", "re:.?.?.?.?.?.?\\x01",
    "re:(", "re:[", "x" * 300, "x" * 5000, "a b", "-", "--", "--help", "-1", "1..2", "1..", "..", "1k..1M", "8k", "40GiB",
    "fp8", "bfloat16", "int4", "q4_k", "mxfp4", "full_attention", "sliding_attention", "linear_attention", "mamba", "attention",
    "١٢٣", "²", "１２", "1e5", "1,5", "0%", "1%", "100%",
)  # fmt: skip
CHARS = "\0\n\r\t\x1b\x7f\x85\u200b\u202e\ufffd\ud800\udc80\"'\\`$%&|<>=!?*+-_.,:;@#~^()[]{}/ 09aAzZkKmM²١é"
WORDS = re.compile(r"\w+|\s+|.", re.DOTALL)


ODD_IN_JSON = ("NaN", "Infinity", "0x10", "1_000", "08", "+5", "9" * 5000)
JSON_NUMBERS = tuple(number for number in NUMBERS if number not in ODD_IN_JSON)


def text_of(value: str) -> str:
    """A text as JSON and TOML both write it."""
    return json.dumps(value)


@cache
def deep(n: int) -> str:
    """A list in a list in a list."""
    return "[" * n + "]" * n


def raw_json(rng: Random) -> str:
    """A value that a parser takes and few expect."""
    kind = rng.randrange(24)
    if kind < 10:
        return rng.choice(JSON_NUMBERS if rng.random() < 0.99 else ODD_IN_JSON)
    if kind < 17:
        return text_of(rng.choice(TEXTS))
    if kind < 19:
        return rng.choice(("null", "true", "false", "[]", "{}", "[null]", "[[]]", '{"": null}', '[""]'))
    if kind < 22:
        item, n = (
            rng.choice((rng.choice(JSON_NUMBERS), text_of(rng.choice(TEXTS[:40])))),
            rng.choice((1, 2, 7, 33, 200)),
        )
        return f"[{','.join([item] * n)}]"
    if kind == 22:
        return deep(rng.choice((3, 50, 200, 900, 10_000)))
    if rng.random() < 0.9:
        return f'{{"{rng.choice(("a", "model_type", "quant_method"))}": {rng.choice(JSON_NUMBERS)}}}'
    n = rng.choice((5_000, 100_000))
    return rng.choice(
        (f"[{','.join(['1'] * n)}]", text_of("y" * n), "{" + ",".join(f'"{i}":{i}' for i in range(n)) + "}")
    )


# --- bytes and text ------------------------------------------------------------------------------------------------------


def of_bytes(data: bytes, rng: Random) -> bytes:
    """A few bytes changed, put in, left out, repeated."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 8))))
        elif kind == 2:
            del found[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            found[at:at] = found[at : at + rng.choice((4, 32, 256))]
        elif kind == 4 and len(found) > 8:
            packed = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(20))))
            found[at : at + rng.choice((4, 8))] = packed[: rng.choice((4, 8))]
        elif found:
            found[at % len(found)] = rng.choice((0, 1, 127, 128, 255))
    return bytes(found)


def edited(text: str, rng: Random, words: Sequence[str]) -> str:
    """A few words or characters changed, put in, left out, moved, repeated."""
    parts = WORDS.findall(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(parts) + 1)
        kind = rng.randrange(12)
        if kind < 3 and parts:
            parts[at % len(parts)] = rng.choice(words)
        elif kind == 3:
            parts.insert(at, rng.choice(words))
        elif kind == 4:
            del parts[at : at + rng.choice((1, 1, 2, 6))]
        elif kind == 5:
            parts[at:at] = parts[max(at - rng.choice((1, 2, 5)), 0) : at]
        elif kind == 6 and parts:
            other = rng.randrange(len(parts))
            parts[at % len(parts)], parts[other] = parts[other], parts[at % len(parts)]
        elif kind == 7:
            parts.insert(at, rng.choice(CHARS))
        elif kind == 8:
            parts.insert(at, rng.choice(NUMBERS))
        elif kind == 9 and parts:
            parts[at % len(parts)] = rng.choice(NUMBERS)
        elif kind == 10:
            parts.insert(at, rng.choice(TEXTS))
        elif parts and rng.random() < 0.3:
            parts[at % len(parts)] *= rng.choice((2, 20, 500, 3000))
        elif parts and parts[at % len(parts)]:
            word = parts[at % len(parts)]
            place = rng.randrange(len(word))
            parts[at % len(parts)] = word[:place] + rng.choice(CHARS) + word[place + 1 :]
    return "".join(parts)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass") if "\ud800" in text else text.encode("utf-8", "surrogateescape")


def _safe(text: str) -> bytes:
    try:
        return _encoded(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


# --- JSON ----------------------------------------------------------------------------------------------------------------


@cache
def published() -> tuple[dict[str, Any], ...]:
    """Published configs; those that plan fast, that is, of few layers, stand in it more often."""
    found = []
    for path in sorted(CONFIGS.glob("*.json")):
        text = path.read_text()
        raw = json.loads(text)
        found += [raw] * (1 + 2 * (len(text) < 1500) + 2 * (len(text) < 600))
    return tuple(found)


@cache
def known_keys() -> tuple[tuple[str, Any], ...]:
    """Every key of a published config with one of its values, nested ones too."""
    found: dict[str, Any] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                found.setdefault(key, item)
                walk(item)
        elif isinstance(value, list):
            for item in value[:2]:
                walk(item)

    for raw in published():
        walk(raw)
    return tuple(found.items())


def _places(value: Any, found: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of a long list a few."""
    if depth > 20 or len(found) > 2000:
        return found
    if isinstance(value, dict):
        for key, item in value.items():
            found.append((value, key))
            _places(item, found, depth + 1)
    elif isinstance(value, list):
        for i in (*range(min(len(value), 3)), *([len(value) - 1] if len(value) > 3 else [])):
            found.append((value, i))
            _places(value[i], found, depth + 1)
    return found


class _Raws:
    """JSON with pieces of text in it that ``json.dumps`` would not write: marks stand for them until it has written."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        self.texts.append(text)
        return f"@@raw{len(self.texts) - 1}@@"

    def written(self, value: Any, rng: Random) -> str:
        text = json.dumps(value, indent=rng.choice((None, None, 1)), ensure_ascii=rng.random() < 0.5)
        for i, raw in reversed(list(enumerate(self.texts))):
            text = text.replace(f'"@@raw{i}@@"', raw)
        return text


def of_json(data: bytes, rng: Random, others: Callable[[Random], Any]) -> bytes:
    """A JSON value with a few of its members replaced, renamed, left out, added, taken from another one."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        value = others(rng) if rng.random() < 0.3 else None
    if not isinstance(value, (dict, list)) or rng.random() < 0.02:
        return of_bytes(data, rng)
    raws = _Raws()
    try:
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
            _edit(value, rng, raws, others)
        text = raws.written(value, rng)
    except (RecursionError, ValueError):  # what an earlier change made too deep, or too long a number, to be written
        return of_bytes(data, rng)
    if rng.random() < 0.01:
        text = edited(text, rng, TEXTS)
    return _safe(text)


def _edit(root: Any, rng: Random, raws: _Raws, others: Callable[[Random], Any]) -> None:
    places = _places(root, [])
    if not places:
        return
    target, key = rng.choice(places)
    value = target[key]
    kind = rng.randrange(16)
    if kind < 4:
        target[key] = raws.mark(raw_json(rng))
    elif kind < 7 and isinstance(value, (int, float)) and not isinstance(value, bool):
        changed = (value + 1, value - 1, value * 2, -value, value // 2 if value else 1, value * 1000, value * 10**20)
        small = (0, 1, 2, 3, rng.randrange(1, 65))
        target[key] = rng.choice((*changed, *small, *small))
    elif kind == 7:
        del target[key]
    elif kind == 8 and isinstance(target, dict):
        target[rng.choice((*TEXTS, *(name for name, _ in rng.choices(known_keys(), k=40))))] = target.pop(key)
    elif kind < 11 and isinstance(target, dict):
        name, item = rng.choice(known_keys())
        target[name] = rng.choice((item, raws.mark(raw_json(rng))))
    elif kind == 11:
        other, its = rng.choice(_places(others(rng), []) or [(target, key)])
        target[key] = other[its]
    elif kind == 12:
        target[key] = rng.choice(
            ([value], {"a": value}, [value] * 3, [value] * rng.choice((32, 61, 128)), str(value)[:200])
        )
    elif kind == 13 and isinstance(value, str):
        target[key] = edited(value[:2000], rng, TEXTS).replace("@@raw", "")
    elif kind == 14 and isinstance(root, dict):
        donor = others(rng)
        if isinstance(donor, dict):
            for name in rng.sample(sorted(donor), min(len(donor), rng.choice((1, 3, 10)))):
                root[name] = donor[name]
    elif isinstance(target, dict) and isinstance(value, (int, str, type(None))):
        # the same key twice: the last one counts
        target[f"{key}\x02"] = value
        del target[f"{key}\x02"]
        target[key] = raws.mark(f"{json.dumps(value)}, {json.dumps(str(key))}: {raw_json(rng)}")


def _config(rng: Random) -> Any:
    return json.loads(json.dumps(rng.choice(published())))


# --- questions -----------------------------------------------------------------------------------------------------------


@cache
def names_of(kind: str) -> tuple[str, ...]:
    """Names that a listing knows."""
    if kind == "schemes":
        plain = [m for menu in page.MENU.values() for m in menu]
        notations = [re.sub(r"\[(.*?)\]", r"\1", row["notation"].split(" ")[0]) for row in listings.list_schemes()]
        return (*plain, *notations, "owners:0_0_2s_2*10", "lckv:w=2", "pizza:l=2", "sandwich:l=4", "fp8_ds_mla")
    rows = {"gpus": lambda: listings.list_gpus(lambda _: None), "formats": listings.list_formats}.get(kind)
    return tuple(row["name"] for row in (rows or listings.list_engines)())


@cache
def engine_options() -> tuple[tuple[str, str], ...]:
    """Every option of every engine."""
    from kvplan.engines import find_engine

    return tuple((name, option.name) for name in names_of("engines") for option in find_engine(name).options)


WAYS = (*[""] * 60, "text", "markdown", "explain", "latex", "max_batch", "max_context", "kv", "compare", "diff", "fit")


@cache
def plausible() -> dict[str, tuple[str, ...]]:
    """Values of the flags of a plan, as people give them, and some at the ends of what may be."""
    most = str(2**48)
    return {
        "gpu": ("h100", "h100", "t4", "rtx-4090", *names_of("gpus")),
        "engine": names_of("engines"),
        "context": ("1", "7", "1k", "8k", "128k", "1M", "100000", "2G", "0", most),
        "batch": ("1", "2", "17", "256", most),
        "tp": ("1", "2", "3", "4", "8", "64"),
        "pp": ("1", "2", "4", "7"),
        "dp": ("1", "2", "8"),
        "dtype": ("bf16", "fp16", "fp32"),
        "kv_dtype": ("fp8", "bf16", "int2:g=32,residual=128", *names_of("formats")),
        "cache_type_k": names_of("formats"),
        "cache_type_v": names_of("formats"),
        "weight_dtype": names_of("formats"),
        "scheme": tuple(name.replace(" ", "") for name in names_of("schemes")),
        "gpu_memory_utilization": ("0.9", "0.0001", "1", "1e-300", "nan", "x"),
        "compute_efficiency": ("0.5", "1", "1e-300"),
        "bandwidth_efficiency": ("0.5", "1", "1e-300"),
        "host_bandwidth": ("64GB", "1", "9PB"),
        "disk_bandwidth": ("7GB", "1", "9PB"),
        "block_size": ("1", "16", "1048576"),
        "runtime_overhead": ("0", "1GiB", "9PiB"),
        "memory": ("1MiB", "80GiB", "7PB"),
        "encoder_context": ("0", "1", "1500", most),
        "logits": ("last", "all"),
        "attention_flops": ("causal", "full"),
        "layers": ("1", "2", "32"),
        "hidden": ("64", "4096", most),
        "heads": ("1", "32"),
        "kv_heads": ("1", "8"),
        "head_dim": ("1", "128"),
        "ffn": ("0", "1", "14336"),
        "vocab": ("1", "32000"),
        "window": ("1", "4096"),
        "experts": ("8",),
        "active_experts": ("2",),
        "max_gpus": ("1", "8"),
        "by": ("gpus", "price", "headroom", "tokens_per_s", "max_batch"),
        "request_rate": ("8", "0.001", "1e9"),
        "input_len": ("1", "2k"),
        "output_len": ("1", "500"),
        "units": ("GiB", "GB"),
        "top": ("1", "20"),
        "columns": ("kv_bytes", "fits,max_batch"),
        "where": ("fits", "max_batch >= 32", "kv_bytes < 40GiB"),
        "engine_version": ("newest", "0.19", "0.6.3", "1.0"),
        "output": ("x.csv", "x.json", "x.jsonl", "x.svg", "/x.csv", "no/x.csv"),
        "config": ("llama-3.1-8b", "gpt2"),
    }


def question(rng: Random) -> bytes:
    """A question to ask of a model, mostly a plain one."""
    words = {}
    for name, share in (("gpu", 0.5), ("engine", 0.5), ("context", 0.3), ("scheme", 0.15)):
        if rng.random() < share:
            words[name] = rng.choice(plausible()[name])
    for name in (
        "batch", "tp", "pp", "dp", "kv_dtype", "weight_dtype", "cache_type_k", "gpu_memory_utilization", "block_size",
        "runtime_overhead", "memory", "encoder_context", "logits", "attention_flops", "compute_efficiency", "host_bandwidth",
    ):  # fmt: skip
        if rng.random() < 0.03:
            words[name] = rng.choice(plausible()[name])
    if rng.random() < 0.15:
        engine, option = rng.choice(engine_options())
        words["engine"] = engine
        words[f"opt.{option}"] = rng.choice(OPTION_VALUES)
    words["as"] = rng.choice(WAYS)
    if rng.random() < 0.05:
        words["from"] = "file"
    return ASK + " ".join(f"{name}={value}" for name, value in words.items() if value).encode()


OPTION_VALUES = ("0", "1", "2", "16", "1024", "true", "false", "0.5", "auto", "fp8", "x", "9" * 19)


def with_question(mutate: Mutator) -> Mutator:
    """The mutator of what stands before the question, and mostly another question."""

    def mutated(data: bytes, rng: Random) -> bytes:
        content, mark, asked = data.partition(ASK)
        if not content or rng.random() < 0.9:
            content = mutate(content, rng)
        return content + (question(rng) if rng.random() < 0.7 else mark + asked)

    return mutated


def now_and_then(mutate: Mutator, asked: bytes, share: float) -> Mutator:
    """The mutator of what stands before the question, and rarely this question."""

    def mutated(data: bytes, rng: Random) -> bytes:
        content = mutate(data.partition(ASK)[0], rng)
        return content + (ASK + asked if rng.random() < share else b"")

    return mutated


# --- files ---------------------------------------------------------------------------------------------------------------


def config(data: bytes, rng: Random) -> bytes:
    """A config.json."""
    if rng.random() < 0.3:
        data = json.dumps(rng.choice(published())).encode()
    return of_json(data, rng, _config)


def in_folder(default: str, mutators: dict[str, Mutator]) -> Mutator:
    """One or two files of a folder changed, each by the mutator of the ending of its name; or lost, or copied."""

    def mutated(data: bytes, rng: Random) -> bytes:
        files = folder(data, default)
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(sorted(files))
            kind = rng.randrange(20)
            if kind == 0 and len(files) > 1:
                del files[name]
            elif kind == 1:
                files[rng.choice(("model.safetensors", "x.safetensors", "model-00001-of-00003.safetensors", name))] = (
                    files[name]
                )
            else:
                ending = next((ending for ending in mutators if name.endswith(ending)), "")
                files[name] = mutators.get(ending, of_bytes)(files[name], rng)
        return packed_folder(files)

    return mutated


def shard(data: bytes, rng: Random) -> bytes:
    """A safetensors file: the length of its header is mended behind the edits, mostly."""
    header = of_json(data[8 : 8 + int.from_bytes(data[:8], "little")], rng, _header)
    length = len(header) if rng.random() < 0.95 else rng.choice((0, 1, 2**32, 2**63, 10**8, len(header) + 1))
    return struct.pack("<Q", length) + header


def _header(rng: Random) -> Any:
    dtypes = ("F32", "BF16", "F8_E4M3", "I64", "F4", "U8", "F6_E2M3", "C64", "X")
    return {
        f"model.layers.{i}.w": {
            "dtype": rng.choice(dtypes),
            "shape": [4, 8],
            "data_offsets": [0, rng.choice((16, 32, 64, 128))],
        }
        for i in range(3)
    }


def _index(rng: Random) -> Any:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    return {"metadata": {"total_size": 192}, "weight_map": {f"w{i}": rng.choice(names) for i in range(4)}}


@cache
def toml_keys() -> tuple[str, ...]:
    """What a budget may hold."""
    from kvplan.budgets import ASSERTIONS, known_flags

    return (*ASSERTIONS, *sorted(known_flags()), "scheme", "name", "model", "fits_on", "within", "baseline", "schema")


def toml(data: bytes, rng: Random) -> bytes:
    """Lines of a budget file changed, left out, repeated, added; a budget of its own added, mostly one that holds together."""
    lines = _decoded(data).split("\n")
    tables = [i for i, line in enumerate(lines) if line.startswith("[[budget]]")]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(lines) + 1)
        kind = rng.randrange(12)
        here = lines[at % len(lines)] if lines else ""
        name, equals, value = here.partition("=")
        if kind < 3 and equals:
            lines[at % len(lines)] = f"{name}= {_toml_value(name.strip(), rng)}"
        elif kind < 6:
            key = rng.choice(toml_keys())
            place = rng.choice(tables) + 1 if tables and rng.random() < 0.8 else at
            if rng.random() < 0.95:  # a key stands once in a table
                end = next((i for i in range(place, len(lines)) if lines[i].startswith("[")), len(lines))
                lines[place:end] = [line for line in lines[place:end] if line.partition("=")[0].strip() != key]
            lines.insert(place, f"{key} = {_toml_value(key, rng)}")
            tables = [i for i, line in enumerate(lines) if line.startswith("[[budget]]")]
        elif kind < 9:
            keys = rng.sample(toml_keys(), rng.choice((1, 2, 3)))
            lines += [
                "[[budget]]",
                'model = "gpt2"',
                f'name = "{rng.random()}"',
                *(f"{key} = {_toml_value(key, rng)}" for key in keys),
            ]
        elif kind == 9:
            del lines[at : at + 1]
        elif kind == 10 and equals:
            lines[at % len(lines)] = f"{name}={edited(value, rng, TEXTS)}"
        else:
            lines.insert(
                at, rng.choice(("[[budget]]", "[defaults]", "[budget]", "[a.b]", "[[budget.x]]", "[defaults.x]", here))
            )
    return _safe("\n".join(lines)) if rng.random() < 0.98 else of_bytes(data, rng)


BOUNDS = (
    "8k", "1", "1GiB", "64 KiB", "17.5 GFLOP", "1 TFLOP", "8.1B", "99999999999999999999T", "0", "1%", "0%", "2.5%",
)  # fmt: skip


def _toml_value(name: str, rng: Random) -> str:
    if rng.random() < 0.85:
        values = plausible().get(name) or {"model": ("gpt2", "./config.json", "llama-3.1-8b"), "name": ("a",)}.get(name)
        values = values or (names_of("gpus") if name == "fits_on" else BOUNDS)
        value = rng.choice(values)
        bare = re.fullmatch(r"[0-9]{1,18}|0\.[0-9]+|1e-300", value) and rng.random() < 0.8
        return value if bare else text_of(value)
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        listed = rng.choice((names_of("gpus"), names_of("formats"), names_of("engines"), names_of("schemes")))
        return text_of(rng.choice(listed))
    if kind == 3:
        return text_of(
            rng.choice(
                ("8k", "1%", "0%", "17.5 GFLOP", "64 KiB", "1e5", "8.1B", "1" * 20 + "T", "0", "gpt2", "./config.json")
            )
        )
    if kind == 4:
        return rng.choice(
            ("true", "inf", "nan", "-inf", "1979-05-27", "07:32:00", "[]", "{}", "{a=1}", '["l4", "h100"]', "0o7")
        )
    if kind == 5:
        return f'"{edited("llama-3.1-8b", rng, TEXTS)}"'
    if kind == 6:
        return f"{{{rng.choice(engine_options())[1]} = {rng.choice(NUMBERS)}}}"
    return text_of(rng.choice(TEXTS))


def baseline(data: bytes, rng: Random) -> bytes:
    """A baseline."""
    return of_json(data, rng, lambda _: json.loads((DATA / "kvplan-baseline.json").read_text()))


# --- GGUF ----------------------------------------------------------------------------------------------------------------

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise ValueError("short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def text(self) -> bytes:
        return self.take(self.number(8))

    def value(self, kind: int) -> bytes:
        start = self.at
        if kind in SIZES:
            self.take(SIZES[kind])
        elif kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, length = self.number(4), self.number(8)
            if inner in SIZES:
                self.take(SIZES[inner] * length)
            else:
                for _ in range(length):
                    self.value(inner)
        else:
            raise ValueError("kind")
        return self.data[start : self.at]


Entry = tuple[bytes, int, bytes]
Tensor = tuple[bytes, list[int], int, int]


def _parsed(data: bytes) -> tuple[int, list[Entry], list[Tensor]]:
    reader = _Reader(data)
    reader.take(4)
    version, n_tensors, n_entries = reader.number(4), reader.number(8), reader.number(8)
    entries = []
    for _ in range(min(n_entries, 3000)):
        name, kind = reader.text(), reader.number(4)
        entries.append((name, kind, reader.value(kind)))
    tensors = []
    for _ in range(min(n_tensors, 3000)):
        name, rank = reader.text(), reader.number(4)
        tensors.append((name, [reader.number(8) for _ in range(rank)], reader.number(4), reader.number(8)))
    return version, entries, tensors


def _gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@cache
def gguf_keys() -> tuple[str, ...]:
    """What stands behind the architecture in a key."""
    from kvplan.importers import gguf as package

    found = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        found |= set(re.findall(r'"([a-z_]+(?:\.[a-z0-9_]+)*)"', path.read_text()))
    return tuple(sorted(found))


WHOLE = (0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 100, 128, 1000, 4096, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


def _gguf_value(rng: Random) -> tuple[int, bytes]:
    kind = rng.choice((4, 4, 4, 4, 5, 6, 7, STRING, STRING, ARRAY, ARRAY, 10, 11, 12, 0, 13))
    if kind == STRING:
        return kind, _gguf_text(_safe(rng.choice((*TEXTS, *NUMBERS[:9]))))
    if kind == ARRAY:
        inner = rng.choice((4, 4, 4, 5, 7, 7, STRING, 6, 10))
        n = rng.choice((0, 1, 2, 24, 32, 36, 48, 61, 200, 9000))
        if inner == STRING:
            items = _gguf_text(b"x") * n
        else:
            few = [rng.choice(WHOLE[:8]).to_bytes(SIZES[inner], "little") for _ in range(3)]
            items = b"".join(few[i % 3] for i in range(n))
        claimed = n if rng.random() < 0.95 else rng.choice((0, n + 1, 2**32, 2**63, 2**64 - 1))
        return kind, struct.pack("<IQ", inner, claimed) + items
    if kind == 6:
        return kind, struct.pack("<f", rng.choice((0.0, 1.0, -1.0, float("inf"), float("nan"), 1e-30, 3e38, 0.5)))
    if kind == 12:
        return kind, struct.pack("<d", rng.choice((0.0, 1.0, -1.0, float("inf"), float("nan"), 1e300, 0.5)))
    size = SIZES.get(kind, 4)
    return kind, (rng.choice((*WHOLE, 2**63, 2**64 - 1)) % (1 << 8 * size)).to_bytes(size, "little")


def gguf(data: bytes, rng: Random) -> bytes:
    """A GGUF file with a few keys or tensors changed; its counts are mended, mostly."""
    try:
        version, entries, tensors = _parsed(data)
    except (ValueError, MemoryError, OverflowError):
        return of_bytes(data, rng)
    if rng.random() < 0.03:
        return of_bytes(data, rng)
    arch = next(
        (value[8:] for name, kind, value in entries if name == b"general.architecture" and kind == STRING), b"llama"
    )
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        _edit_gguf(entries, tensors, arch, rng)
    version = version if rng.random() < 0.99 else rng.choice((0, 1, 2, 4, 2**24 * 3))
    counts = [len(tensors), len(entries)]
    if rng.random() < 0.01:
        counts[rng.randrange(2)] = rng.choice((0, 1, 2**20, 2**32, 2**63))
    parts = [b"GGUF", struct.pack("<IQQ", version & 0xFFFFFFFF, *counts)]
    parts += [_gguf_text(name) + struct.pack("<I", kind) + value for name, kind, value in entries]
    for name, shape, kind, offset in tensors:
        extents = [extent % 2**64 for extent in shape]
        parts.append(
            _gguf_text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset % 2**64)
        )
    return b"".join(parts)


def _edit_gguf(entries: list[Entry], tensors: list[Tensor], arch: bytes, rng: Random) -> None:
    kind = rng.randrange(14)
    at = rng.randrange(len(entries) + 1)
    if kind < 5 and entries:
        entries[at % len(entries)] = (entries[at % len(entries)][0], *_gguf_value(rng))
    elif kind < 8:
        entries.insert(at, (arch + b"." + rng.choice(gguf_keys()).encode(), *_gguf_value(rng)))
    elif kind == 8 and entries:
        del entries[at % len(entries)]
    elif kind == 9 and entries:
        name = rng.choice(
            (b"general.name", b"general.file_type", b"split.count", b"general.type", b"tokenizer.ggml.tokens")
        )
        entries.insert(at, (name, *_gguf_value(rng)))
    elif kind == 10:
        layer = f"blk.{rng.randrange(40)}"
        name = rng.choice(
            (
                "token_embd.weight",
                "output.weight",
                f"{layer}.attn_q.weight",
                f"{layer}.ffn_up.weight",
                rng.choice(TEXTS),
            )
        )
        shape = [
            rng.choice((1, 32, 256, 1000, 4096, 2**31, 2**62)) for _ in range(rng.choice((0, 1, 2, 2, 2, 3, 4, 5)))
        ]
        tensors.append((_safe(name), shape, rng.choice((*range(40), 2**31)), rng.choice((0, 0, 32, 2**63))))
    elif kind == 11 and tensors:
        name, shape, format_, offset = rng.choice(tensors)
        changed = [rng.choice((extent, extent * 2, extent + 1, 0, 2**40)) for extent in shape]
        tensors[rng.randrange(len(tensors))] = (name, changed, rng.choice((format_, 0, 1, 12, 30, 39)), offset)
    elif kind == 12 and entries:
        for i, (name, type_, _) in enumerate(entries):
            if name == b"general.architecture":
                from kvplan.importers.gguf import architectures

                other = rng.choice(architectures()).encode()
                entries[i] = (name, type_, _gguf_text(other))
                entries[:] = [(n.replace(arch + b".", other + b"."), t, v) for n, t, v in entries]
                break
    elif entries:
        entries.insert(at, entries[at % len(entries)])


# --- lines of text -------------------------------------------------------------------------------------------------------


def of_lines(*words: Callable[[], Sequence[str]]) -> Mutator:
    """Text with words of its own kind."""

    def mutated(data: bytes, rng: Random) -> bytes:
        own = rng.choice(words)()
        return _safe(edited(_decoded(data), rng, own if rng.random() < 0.9 else TEXTS))

    return mutated


def where_words() -> tuple[str, ...]:
    """What a condition is made of."""
    operators = (
        "<", "<=", ">", ">=", "==", "!=", "=", "and", "or", "not", "(", ")", "+", "-", "*", "/", "**", "%", "in",
        "is",
    )  # fmt: skip
    odd = (
        "lambda", ":=", "if", "else", "[1]", "x.y", "f(1)", "{1}", "1j", "...", "True", "None", '"h100"', "'none'",
        "40GiB", "20ms",
    )  # fmt: skip
    return (*operators, *odd, *COLUMNS, *(" ",) * 8)


@cache
def _columns_of(kind: str) -> tuple[str, ...]:
    return tuple(column.name for column in COLUMNS.values() if column.kind.startswith(kind))


def _number_part(rng: Random, depth: int) -> str:
    kind = rng.randrange(8)
    if kind < 4 or depth > 3:
        return rng.choice((*_columns_of("whole"), *_columns_of("real")))
    if kind < 6:
        return rng.choice((*NUMBERS[:30], "40GiB", "8k", "20ms", "1.5 GB", "7us", "3M", "1_000"))
    if kind == 6:
        return f"-{_number_part(rng, depth + 1)}"
    return f"({_number_part(rng, depth + 1)} {rng.choice('+-*/')} {_number_part(rng, depth + 1)})"


def _truth_part(rng: Random, depth: int = 0) -> str:
    kind = rng.randrange(10)
    if kind < 5 or depth > 4:
        more = f" {rng.choice(('<', '<='))} {_number_part(rng, depth)}" if kind == 4 else ""
        return f"{_number_part(rng, depth)} {rng.choice(('<', '<=', '>', '>=', '==', '!='))} {_number_part(rng, depth)}{more}"
    if kind == 5:
        quoted = rng.choice(('"h100-80gb-sxm"', "'none'", "'gpt2'", "'bf16'", "'weights'", f"'{rng.choice(CHARS)}'"))
        return f"{rng.choice(_columns_of('text'))} {rng.choice(('==', '!='))} {quoted}"
    if kind == 6:
        return rng.choice(("fits", "true", "false", "not fits"))
    if kind == 7:
        return f"not ({_truth_part(rng, depth + 1)})"
    return f"({_truth_part(rng, depth + 1)}) {rng.choice(('and', 'or'))} {_truth_part(rng, depth + 1)}"


def condition(data: bytes, rng: Random) -> bytes:
    """A condition: one that holds together, or words of one that was."""
    if rng.random() < 0.5:
        return _truth_part(rng).encode("utf-8", "replace")
    return of_lines(where_words)(data, rng)


def range_words() -> tuple[str, ...]:
    """What a range is made of."""
    return (
        "..", ":", ",", "k", "M", "G", "1", "2", "8", "64", "1k", "1M", "GiB", "KB", "%", "T", "P", " ", "_", "mqa",
        "none", "=",
    )  # fmt: skip


def scheme_words() -> tuple[str, ...]:
    """What a chain is made of."""
    names = names_of("schemes")
    return (
        *names,
        *("+", ":", "=", ",", "_", "*", "@", "s", "0", "1", "2", "0.5", "-", "w", "k", "v", "layers", "heads", "g", "r", ),
    )  # fmt: skip


MODELS = (
    "llama-2-7b", "llama-3.1-8b", "gemma-3-12b", "deepseek-v3", "gpt2", "qwen3-next-80b", "mamba-130m",
    "whisper-tiny",
)  # fmt: skip


def scheme_asked(data: bytes, rng: Random) -> bytes:
    """A chain, and the model that it is asked of: one or a few members with other numbers, or words of one."""
    if rng.random() < 0.5:
        members = [rng.choice(names_of("schemes")) for _ in range(rng.choice((1, 1, 2, 3)))]
        small = ("0", "1", "2", "3", "4", "8", "16", "31", "32", "64", "100", "1024", "0.5", "1.0", *NUMBERS)
        chain = re.sub(r"\d+", lambda number: rng.choice(small) if rng.random() < 0.3 else number[0], "+".join(members))
        content = chain.encode("utf-8", "replace")
    else:
        content = of_lines(scheme_words)(data.partition(ASK)[0], rng)
    asked = question(rng) if rng.random() < 0.2 else ASK
    return content + asked + f" model={rng.choice(MODELS)}".encode()


def link(data: bytes, rng: Random) -> bytes:
    """A query with values changed in their own words, and configs packed as the page packs them."""
    pairs = parse_qsl(_decoded(data), keep_blank_values=True) or [("model", "gpt2")]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(pairs))
        name, value = pairs[at]
        kind = rng.randrange(10)
        if kind < 3:
            pairs[at] = (
                name,
                edited(value[:5000], rng, rng.choice((TEXTS, NUMBERS, scheme_words(), names_of("engines")))),
            )
        elif kind < 5:
            pairs.append(
                (
                    rng.choice((*FIELDS, "scheme", "foo", "max-model-len", "config[]", "scheme[]", "gpu[]")),
                    _link_value(rng),
                )
            )
        elif kind == 5:
            pairs[at] = (name, _link_value(rng))
        elif kind == 6 and len(pairs) > 1:
            del pairs[at]
        elif kind == 7:
            pairs[at] = (f"{name}[]", value)
        elif kind == 8:
            pairs[at] = (edited(name, rng, TEXTS), value)
        else:
            pairs.append(("config", _packed(rng)))
    return _safe(urlencode([(_printed(name), _printed(value)) for name, value in pairs]))


def _printed(text: str) -> bytes:
    return _safe(text)


def _link_value(rng: Random) -> str:
    lists = (
        TEXTS, NUMBERS, names_of("gpus"), names_of("engines"), names_of("formats"), names_of("schemes"),
        ("gpt2", "llama-3.1-8b"),
    )  # fmt: skip
    return rng.choice(rng.choice(lists))


def _packed(rng: Random) -> str:
    import zlib
    from base64 import urlsafe_b64encode

    text = config(json.dumps(rng.choice(published())).encode(), rng)
    if rng.random() < 0.02:
        text = b'{"a":"' + b"a" * rng.choice((10**5, 2 * 10**6)) + b'"}'
    word = urlsafe_b64encode(zlib.compress(text[: LARGEST // 2], 9)).decode().rstrip("=")
    return word if rng.random() < 0.95 else edited(word[:3000], rng, TEXTS)


@cache
def engine_flags() -> tuple[str, ...]:
    """Flags of engines that kvplan reads, from the tables of its readers."""
    from kvplan import launch

    found: set[str] = set()
    for path in Path(launch.__file__).parent.glob("*.py"):
        found |= set(re.findall(r"--?[a-z][a-z0-9-]+", path.read_text()))
    return tuple(sorted(found))


def command_words() -> tuple[str, ...]:
    """What the command line of an engine is made of."""
    few = (
        " ", " ", " ", "=", "8192", "32k", "auto", "fp8", "0.9", "2", "-tp", "-m", "-c", "-ngl", "'{\"a\": 1}'", '"',
        "|", "&&", "\\\n",
    )  # fmt: skip
    models = (
        "llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-8B", "gpt2", "./config.json", "x-Q4_K_M.gguf",
    )  # fmt: skip
    return (*few * 4, *models * 4, *(f" {flag} " for flag in engine_flags()))


FLAG_VALUES = (
    "1",
    "2",
    "8",
    "8192",
    "32k",
    "32K",
    "0.9",
    "auto",
    "fp8",
    "q8_0",
    "on",
    "off",
    "40G",
    "true",
    "{}",
    "'{\"a\": 1}'",
) * 2


def command(data: bytes, rng: Random) -> bytes:
    """The command line of an engine, and what is asked of it."""
    content, _, _ = data.partition(ASK)
    if rng.random() < 0.4:
        content = of_lines(command_words)(content, rng)
    else:
        words = _decoded(content).split(" ")
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = rng.choice((*FLAG_VALUES, shlex.quote(rng.choice(TEXTS)), rng.choice(NUMBERS)))
            at = rng.randrange(min(2, len(words)), len(words) + 1)
            kind = rng.randrange(4)
            if kind < 2:
                words[at:at] = [rng.choice(engine_flags()), value][: rng.choice((1, 2, 2))]
            elif kind == 2:
                words.insert(at, f"{rng.choice(engine_flags())}={value}")
            else:
                words[at - 1 : at] = [value]
        content = _safe(" ".join(words))
    gpu = rng.choice(("h100", "l40s", "rtx-4090", "h200", rng.choice(names_of("gpus"))))
    asked = f"{'as=text ' if rng.random() < 0.15 else ''}gpu={gpu}"
    if rng.random() < 0.3:
        asked += " config=llama-3.1-8b"
    if rng.random() < 0.1:
        asked += f" engine_version={rng.choice(('0.6.3', '0.19', '1.0', 'newest', 'x', 'b5000'))}"
    return content + ASK + asked.encode()


@cache
def cli_words() -> tuple[str, ...]:
    """Commands and flags of kvplan."""
    from tests.fuzz.targets import LEFT_OUT, _group

    found = []
    group = _group()
    import typer

    context = typer.Context(group, info_name="kvplan")
    for name in group.list_commands(context):
        if name not in LEFT_OUT:
            found += [f"{name} ", f"{name} "]
            for param in group.get_command(context, name).params:
                found += [f" {opt} " for opt in param.opts if opt.startswith("-")]
    few = (
        " ", " ", " ", "=", "'", '"', "gpt2 ", "llama-3.1-8b ", "llama-2-7b ", "./config.json ", "8k ", "1..64 ",
        "h100 ",
    )  # fmt: skip
    named = [f"{name} " for kind in ("gpus", "formats", "engines", "schemes") for name in names_of(kind)[:12]]
    return (*few * 4, *found, *named)


@cache
def _options() -> dict[str, tuple[tuple[str, str, bool], ...]]:
    """Of every command: the flags, what each is called in Python, and whether it takes a value."""
    import typer

    from tests.fuzz.targets import LEFT_OUT, _group

    group = _group()
    context = typer.Context(group, info_name="kvplan")
    return {
        name: tuple(
            (opt, str(param.name), not getattr(param, "is_flag", False))
            for param in group.get_command(context, name).params
            for opt in param.opts
            if opt.startswith("-")
        )
        for name in group.list_commands(context)
        if name not in LEFT_OUT
    }


def cli(data: bytes, rng: Random) -> bytes:
    """A command line of kvplan: one with more flags and other values, or words of one."""
    kind = rng.random()
    if kind < 0.4:
        return of_lines(cli_words, cli_words, cli_words, lambda: NUMBERS)(data, rng)
    text = _decoded(data)
    words = text.removeprefix("kvplan ").split(" ")
    command = words[0] if words[0] in _options() else rng.choice(sorted(_options()))
    if kind < 0.5:
        words = [
            command,
            rng.choice(("gpt2", "llama-3.1-8b", "gemma-3-12b", "mamba-130m", "whisper-tiny", "kimi-linear-48b-a3b")),
        ]
    for _ in range(rng.choice((1, 1, 2, 3))):
        option, name, valued = rng.choice(_options()[command])
        values = plausible().get(name, ("1", "8k", "x", rng.choice(TEXTS), rng.choice(NUMBERS)))
        if name == "engine_option":
            values = tuple(f"{given}={rng.choice(OPTION_VALUES)}" for _, given in engine_options())
        value = rng.choice(values)
        at = rng.randrange(1, len(words) + 1)
        words[at:at] = [option, shlex.quote(value)] if valued else [option]
    return _safe("kvplan " + " ".join(words))


def _baseline_or_config(data: bytes, rng: Random) -> bytes:
    return config(data, rng) if b"model_type" in data else baseline(data, rng)


_SAFETENSORS: dict[str, Mutator] = {
    "index.json": lambda data, rng: of_json(data, rng, _index),
    ".json": config,
    ".safetensors": shard,
}
_BUDGET: dict[str, Mutator] = {".toml": toml, ".json": _baseline_or_config}

MUTATORS: dict[str, Mutator] = {
    "config": with_question(config),
    "gguf": with_question(gguf),
    "safetensors": with_question(in_folder("model.safetensors.index.json", _SAFETENSORS)),
    "scheme": scheme_asked,
    "ranges": of_lines(range_words, lambda: NUMBERS, scheme_words),
    "where": now_and_then(condition, b"as=sweep", 0.02),
    "budget": now_and_then(in_folder("kvplan.toml", _BUDGET), b"update=1", 0.1),
    "link": link,
    "command": command,
    "cli": cli,
}


# --- seeds -----------------------------------------------------------------------------------------------------------------


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Honest inputs of a target, and hostile ones that once did harm: the files of its folder, and the published configs."""
    place = Path(__file__).parent / "corpus" / target
    paths = sorted(place.iterdir())
    # what is refused as it stands is a start for less
    paths += 2 * [path for path in paths if not path.name.startswith("hostile")]
    found = [path.read_bytes() for path in paths]
    found = [seed for data in found for seed in (data.splitlines() if target in LINES else [data])]
    if target == "config":
        found += [json.dumps(raw).encode() for raw in published()]
    return tuple(found)


LINES = ("scheme", "ranges", "where", "link", "command", "cli")  # a corpus file of these holds an input per line


def mutated(target: str, data: bytes, rng: Random) -> bytes:
    """One more input of a target, of at most ``LARGEST`` bytes."""
    found = MUTATORS[target](data, rng)
    return found if len(found) <= LARGEST else data
