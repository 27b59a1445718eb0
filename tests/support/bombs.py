"""Files written to hurt, each as large as its kind may be or a little larger: many small objects, nests, long words.

``BOMBS`` are names with functions that write one into a folder and return the words of a command that reads it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.gguf_files import text

PYTHIA = {
    "num_hidden_layers": 6, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 50304,
    "max_position_embeddings": 512, "model_type": "gpt_neox",
}  # fmt: skip
MIB = 2**20
Bomb = Callable[[Path], list[str]]
BOMBS: dict[str, Bomb] = {}

# What one JSON text may be full of: (piece, joined by commas inside of brackets)
PIECES = {
    "lists": b"[]",
    "objects": b'{"":1}',
    "nested objects": b'{"a":{"b":{}}}',
    "short words": b'"ab"',
    "numbers": b"1000",
    "large numbers": b"1e9",
    "wide words": '"\U0001f600"'.encode(),
    "lists of numbers": b"[300,301]",
}


def bomb(name: str) -> Callable[[Bomb], Bomb]:
    def add(function: Bomb) -> Bomb:
        BOMBS[name] = function
        return function

    return add


def filled(piece: bytes, size: int) -> bytes:
    """A JSON list of so many pieces that it has about ``size`` bytes."""
    return b"[" + b",".join([piece] * (size // (len(piece) + 1))) + b"]"


def config(place: Path, more: bytes = b"null") -> list[str]:
    """A folder with a config that holds some JSON under a key that nobody reads."""
    (place / "config.json").write_bytes(json.dumps(PYTHIA)[:-1].encode() + b',"x":' + more + b"}")
    return ["plan", str(place)]


def index(place: Path, more: bytes = b"null", mapped: bytes = b"{}") -> list[str]:
    text = b'{"metadata":{"total_size":5},"weight_map":' + mapped + b',"x":' + more + b"}"
    (place / "model.safetensors.index.json").write_bytes(text)
    return config(place)


def header(place: Path, inner: bytes, name: str = "model.safetensors") -> list[str]:
    (place / name).write_bytes(struct.pack("<Q", len(inner)) + inner)
    return config(place)


def gguf(place: Path, entries: Iterable[bytes], tensors: Iterable[bytes] = (), size: int = 47 * MIB) -> list[str]:
    """A header of as many of these as ``size`` bytes hold, behind what names a small Llama."""
    start = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        *(
            text(f"llama.{key}") + struct.pack("<II", 4, n)
            for key, n in (
                ("block_count", 2),
                ("embedding_length", 256),
                ("context_length", 512),
                ("vocab_size", 100),
                ("feed_forward_length", 512),
                ("attention.head_count", 8),
            )
        ),
    ]
    kept: list[list[bytes]] = [start, []]
    left = size
    for i, items in enumerate((entries, tensors)):
        for item in items:
            left -= len(item)
            if left < 0:
                break
            kept[i].append(item)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(kept[1]), len(kept[0]))
    (place / "a.gguf").write_bytes(head + b"".join(kept[0] + kept[1]))
    return ["plan", str(place / "a.gguf")]


def array(kind: int, count: int, item: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + item * count


def _json_bombs() -> None:
    for name, piece in PIECES.items():
        bomb(f"config: {name}")(lambda place, p=piece: config(place, filled(p, 8 * MIB - 400)))
        bomb(f"config: {name}, some")(lambda place, p=piece: config(place, filled(p, 2 * MIB)))
        bomb(f"index: {name}")(lambda place, p=piece: index(place, filled(p, 79 * MIB)))
        bomb(f"index: {name}, some")(lambda place, p=piece: index(place, filled(p, 20 * MIB)))
        bomb(f"header: {name}")(lambda place, p=piece: header(place, b'{"__metadata__":' + filled(p, 15 * MIB) + b"}"))


_json_bombs()


@bomb("config: nested")
def _nested(place: Path) -> list[str]:
    return config(place, b"[" * 100_000 + b"]" * 100_000)


@bomb("config: one word")
def _word(place: Path) -> list[str]:
    return config(place, b'"' + b"a" * (8 * MIB - 400) + b'"')


@bomb("config: a number of 8 million digits")
def _digits(place: Path) -> list[str]:
    return config(place, b"1" * (8 * MIB - 400))


@bomb("config: names of modules")
def _modules(place: Path) -> list[str]:
    names = b",".join(b'"layers.%d.m%dx"' % (i % 7, i) for i in range(190_000))
    config(place)
    raw = json.dumps(PYTHIA)[:-1].encode()
    raw += b',"quantization_config":{"quant_method":"awq","bits":4,"modules_to_not_convert":[' + names + b"]}}"
    (place / "config.json").write_bytes(raw)
    return ["plan", str(place)]


@bomb("config: 1,024 layers")
def _layers(place: Path) -> list[str]:
    config(place)
    (place / "config.json").write_text(json.dumps({**PYTHIA, "num_hidden_layers": 1024}))
    return ["plan", str(place), "-e", "vllm", "--gpu", "h100", "--json"]


@bomb("index: entries")
def _entries(place: Path) -> list[str]:
    return index(place, mapped=b"{" + b",".join(b'"t%d":"f%d"' % (i, i) for i in range(3_000_000)) + b"}")


@bomb("index: some entries")
def _some_entries(place: Path) -> list[str]:
    return index(place, mapped=b"{" + b",".join(b'"t%d":"f%d"' % (i, i) for i in range(700_000)) + b"}")


@bomb("headers: many files")
def _many(place: Path) -> list[str]:
    entry = b'"a%d":{"dtype":"U8","shape":[],"data_offsets":[0,1]}'
    inner = b"{" + b",".join(entry % i for i in range(1000)) + b"}"
    for i in range(1999):
        header(place, inner, f"model-{i + 1:05d}-of-01999.safetensors")
    return config(place)


@bomb("headers: many names")
def _names(place: Path) -> list[str]:
    for i in range(20_000):
        (place / f"a{i}.safetensors").touch()
    return config(place)


@bomb("gguf: bytes in arrays")
def _u8(place: Path) -> list[str]:
    return gguf(place, (text(f"k{i}") + array(0, 8192, b"\0") for i in range(4000)))


@bomb("gguf: words in arrays")
def _words(place: Path) -> list[str]:
    return gguf(place, (text(f"k{i}") + array(8, 8192, text("ab")) for i in range(190)))


@bomb("gguf: a vocabulary of nothing")
def _vocabulary(place: Path) -> list[str]:
    return gguf(place, [text("tokenizer.ggml.tokens") + array(8, 1_590_000, text(""))])


@bomb("gguf: too large a vocabulary")
def _large(place: Path) -> list[str]:
    return gguf(place, [text("tokenizer.ggml.tokens") + array(8, 4_000_000, text(""))], size=64 * MIB)


@bomb("gguf: long words")
def _long(place: Path) -> list[str]:
    return gguf(place, (text(f"k{i}") + struct.pack("<I", 8) + text("\u00ff" * 20_000) for i in range(4000)))


@bomb("gguf: tensors")
def _tensors(place: Path) -> list[str]:
    described = (text(f"blk.{i}.x") + struct.pack("<IQIQ", 1, 32, 0, 0) for i in range(32_700))
    return gguf(place, (), described)


@bomb("gguf: 1,024 layers")
def _gguf_layers(place: Path) -> list[str]:
    gguf(place, (), (text(f"blk.{i % 1024}.t{i // 1024}") + struct.pack("<IQIQ", 1, 32, 0, 0) for i in range(32_700)))
    data = (place / "a.gguf").read_bytes()
    key = text("llama.block_count") + struct.pack("<I", 4)
    (place / "a.gguf").write_bytes(data.replace(key + struct.pack("<I", 2), key + struct.pack("<I", 1024)))
    return ["plan", str(place / "a.gguf"), "-e", "llama.cpp", "--gpu", "l4"]


@bomb("gguf: split over 256 files")
def _split(place: Path) -> list[str]:
    gguf(place, (text(f"k{i}") + array(0, 8192, b"\0") for i in range(100)))
    data = (place / "a.gguf").read_bytes()
    for i in range(256):
        (place / f"b-{i + 1:05d}-of-00256.gguf").write_bytes(data)
    return ["plan", str(place / "b-00001-of-00256.gguf")]


def budget(place: Path, toml: str) -> list[str]:
    (place / "kvplan.toml").write_text(toml)
    return ["check", str(place / "kvplan.toml")]


@bomb("budgets: tables")
def _tables(place: Path) -> list[str]:
    return budget(place, '[[budget]]\nmodel="gpt2"\nwithin="1%"\n' * 6000)


@bomb("budgets: a key of many parts")
def _parts(place: Path) -> list[str]:
    return budget(place, "a." * 100_000 + "b = 1\n")


@bomb("budgets: quoted parts of a key")
def _quoted_parts(place: Path) -> list[str]:
    return budget(place, '"a" . ' * 40_000 + "b = 1\n")


@bomb("budgets: nested")
def _nested_toml(place: Path) -> list[str]:
    return budget(place, "a = " + "[" * 100_000)


@bomb("budgets: GPUs")
def _gpus(place: Path) -> list[str]:
    gpus = ",".join(['"l4"'] * 40_000)
    return budget(place, f'[[budget]]\nmodel="gpt2"\nfits_on=[{gpus}]\n')


@bomb("budgets: the baseline")
def _baseline(place: Path) -> list[str]:
    figures = ",".join(f'"f{i}":{{"a":1}}' for i in range(120_000))
    (place / "kvplan-baseline.json").write_text(f'{{"schema":1,"budgets":{{{figures}}}}}')
    return budget(place, '[[budget]]\nmodel="gpt2"\nwithin="1%"\n')


@bomb("a record")
def _record(place: Path) -> list[str]:
    (place / "r.json").write_bytes(b'{"record":1,"rows":' + filled(b"{}", 8 * MIB - 100) + b"}")
    return ["validate", "--show", str(place / "r.json")]


@bomb("a condition")
def _condition(place: Path) -> list[str]:
    return ["sweep", "gpt2", "-c", "1k", "--where", " and ".join(["(" * 20 + "kv_bytes > 1" + ")" * 20] * 35)]


@bomb("a range")
def _range(place: Path) -> list[str]:
    return ["sweep", "gpt2", "-c", "1..1M:1,1..1M:1,1..1M:1", "--where", "kv_bytes < 0", "--columns", "kv_bytes"]


@bomb("a list")
def _list(place: Path) -> list[str]:
    return ["sweep", "gpt2", "-c", ",".join(map(str, range(1, 18_000)))]


@bomb("a scheme")
def _scheme(place: Path) -> list[str]:
    return ["plan", "gpt2", "--scheme", "+".join(["cla:2"] * 20_000)]


@bomb("an owner map")
def _owners(place: Path) -> list[str]:
    return ["plan", "gpt2", "--scheme", "owners:" + "_".join(["0*99999"] * 10_000)]
