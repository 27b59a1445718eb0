"""GGUF headers written by hand: what the format's specification says, nothing of kvplan."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """A value with its type: bool, int (u32), float (f32), str, or a list of one of these."""
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    encoded = [value(one) for one in item]
    kind = encoded[0][:4] if encoded else struct.pack("<I", U32)
    return struct.pack("<I", ARRAY) + kind + struct.pack("<Q", len(encoded)) + b"".join(one[4:] for one in encoded)


def tensor(name: str, shape: Iterable[int], kind: int = 1, offset: int = 0) -> bytes:
    """A tensor description; ``shape`` starts with the row."""
    extents = tuple(shape)
    return text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)


def header(metadata: Mapping[str, Any], tensors: Iterable[bytes] = (), version: int = 3) -> bytes:
    described = list(tensors)
    entries = [text(key) + value(item) for key, item in metadata.items()]
    start = b"GGUF" + struct.pack("<IQQ", version, len(described), len(entries))
    return start + b"".join(entries) + b"".join(described)


def write(path: Path, arch: str, keys: Mapping[str, Any], tensors: Iterable[bytes] = (), **general: Any) -> Path:
    """A file of this architecture; keys without a dot-prefix of their own belong to it."""
    metadata: dict[str, Any] = {"general.architecture": arch}
    metadata.update({f"general.{key}": item for key, item in general.items()})
    for key, item in keys.items():
        metadata[key if key.startswith("tokenizer.") else f"{arch}.{key}"] = item
    path.write_bytes(header(metadata, tensors))
    return path
