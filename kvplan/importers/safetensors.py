"""Bytes of a checkpoint's tensors, from the headers of its safetensors files; the tensors are never read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from kvplan.errors import InvalidInput
from kvplan.importers.files import open_file, parse_object, read_bytes, unreadable

__all__ = ["FolderWeights", "folder_weight_bytes", "header_bytes", "index_bytes", "read_header"]

# What published checkpoints have is reckoned from their shapes and names, not measured on their files.
# Bytes of one header: shards of published checkpoints name up to some 5,000 tensors in 170 bytes each (0.9 MB), files of
# a small mixture that is one file 19,000 (3 MB). The format itself allows 100 MB.
HEADER_LIMIT = 16 * 2**20
# Bytes of all headers of a folder. The largest checkpoints (Kimi K3: 494,592 tensors of experts) take 72 MB.
HEADERS_LIMIT = 96 * 2**20
# Bytes of an index: 110 for each tensor, so that those checkpoints take 54 MB; DeepSeek V3's has 9 MB.
INDEX_LIMIT = 80 * 2**20
INDEX = "model.safetensors.index.json"
TENSOR_LIMIT = 600_000  # of all headers of a folder; those checkpoints have some 500,000
FILE_LIMIT = 2_000  # shards of one checkpoint; published ones have up to 191 (DeepSeek R1 and its kin: 163)

DTYPE_LENGTH, DTYPE_LIMIT = 32, 100  # characters of a dtype's name, and how many a file has; the format knows 21
MOST_DIMENSIONS = 16
LARGEST = 2**60

# Bits of one element. The format packs FP4 and FP6 elements without gaps.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class FolderWeights(NamedTuple):
    """Bytes of all tensors, bytes per safetensors dtype (empty where only an index was read), and where from."""

    bytes: int
    by_dtype: dict[str, int]
    source: str


def folder_weight_bytes(folder: str | os.PathLike[str]) -> FolderWeights | None:
    """Bytes of the tensors of a checkpoint folder, or None where it holds neither safetensors files nor their index.

    Where the index names shards, exactly those count, so that a second copy of the weights beside them (Mistral's
    ``consolidated.safetensors``) does not; shards that are absent make ``metadata.total_size`` the answer. Raises
    InvalidInput for a header or index that is broken.
    """
    place = Path(folder)
    index = place / INDEX
    try:
        names = sorted(entry for entry in os.listdir(place) if entry.endswith(".safetensors"))
        indexed = os.path.lexists(index)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or "not a path"
        raise InvalidInput("weights", str(place), f"a readable folder ({reason})") from None
    if indexed:
        raw = parse_object(read_bytes(index, "index", INDEX_LIMIT), "index", str(index), table=True)
        shards = _shards(raw, str(index))
        if not shards or not shards <= set(names):
            return FolderWeights(index_bytes(raw, str(index)), {}, f"metadata.total_size of {INDEX}")
        names = sorted(shards)
    elif "model.safetensors" in names:
        names = ["model.safetensors"]
    elif any(name.startswith("model-") for name in names):
        names = [name for name in names if name.startswith("model-")]
    if not names:
        return None
    if len(names) > FILE_LIMIT:
        raise InvalidInput("weights", f"{len(names)} safetensors files", f"at most {FILE_LIMIT}", str(place))
    _complete(names, str(place))
    try:
        by_dtype = _all_headers(place, names)
    except _TooMany:
        if not indexed:
            raise
        return FolderWeights(index_bytes(raw, str(index)), {}, f"metadata.total_size of {INDEX}")
    plural = f"{len(names)} safetensors files" if len(names) > 1 else names[0]
    return FolderWeights(sum(by_dtype.values()), by_dtype, f"tensor headers of {plural}")


class _TooMany(InvalidInput):
    """More headers than a folder's bounds: its index says the sum, where it has one."""


def _all_headers(place: Path, names: list[str]) -> dict[str, int]:
    """Bytes per dtype of all these files."""
    by_dtype: dict[str, int] = {}
    left, tensors = HEADERS_LIMIT, 0
    for name in names:
        header, length = _header(place / name, left)
        left, tensors = left - length, tensors + len(header)
        if tensors > TENSOR_LIMIT:
            raise _TooMany("headers", f"{tensors:,} tensors", f"at most {TENSOR_LIMIT:,} in a folder", str(place))
        for dtype, amount in header_bytes(header, str(place / name)).items():
            by_dtype[dtype] = by_dtype.get(dtype, 0) + amount
    return by_dtype


def _complete(names: list[str], where: str) -> None:
    """Raises InvalidInput where shards name themselves `-00001-of-00002` and some of them are absent."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in names:
        head, of, count = name.removesuffix(".safetensors").rpartition("-of-")
        if of and count.isascii() and count.isdigit() and len(count) <= 5:
            families.setdefault((head.rpartition("-")[0], count), []).append(name)
    for (_, count), shards in families.items():
        if len(shards) != int(count):
            raise InvalidInput(
                "weights", f"{len(shards)} shards", f"all {int(count)} that {shards[0]} speaks of", where
            )


def _shards(raw: dict[str, object], where: str) -> set[str]:
    """File names that an index maps tensors to."""
    mapped = raw.get("weight_map", {})
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        raise InvalidInput("weight_map", mapped, "an object of tensor names and file names", where)
    return set(mapped.values())


def index_bytes(raw: dict[str, object], where: str) -> int:
    """``metadata.total_size`` of a parsed index: bytes of all tensors."""
    metadata = raw.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)  # some tools write 1.6e10
    if isinstance(total, bool) or not isinstance(total, int) or not 0 <= total < 2**60:
        raise InvalidInput("metadata.total_size", total, "a number of bytes", where)
    return total


def read_header(path: Path) -> dict[str, int]:
    """Bytes per dtype of one safetensors file: 8 bytes of length, then that much JSON; nothing behind it is read."""
    return header_bytes(_header(path, HEADERS_LIMIT)[0], str(path))


def _header(path: Path, left: int) -> tuple[dict[str, object], int]:
    """The parsed header of a file and its length, where other headers of its folder have ``left`` so much."""
    where = str(path)
    file, size = open_file(path, "weights")
    try:
        with file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > left and len(start) == 8 and length <= min(HEADER_LIMIT, size - 8):
                raise _TooMany("headers", f"{length:,} bytes more", f"at most {HEADERS_LIMIT:,} in a folder", where)
            if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
                at_most = max(min(HEADER_LIMIT, size - 8), 0)
                raise InvalidInput(
                    "header", f"{length} bytes long", f"a safetensors header of at most {at_most}", where
                )
            data = file.read(length)
    except OSError as e:
        raise unreadable(e, path, "weights") from None
    if len(data) < length:
        raise InvalidInput("header", f"{len(data)} bytes", f"all of its {length} bytes", where)
    return parse_object(data, "header", where, table=True), length


def header_bytes(header: dict[str, object], where: str) -> dict[str, int]:
    """Bytes per dtype of a parsed header: the sum of ``data_offsets``, which must agree with dtype and shape."""
    found: dict[str, int] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        facts = entry if isinstance(entry, dict) else {}
        dtype, offsets, shape = facts.get("dtype"), facts.get("data_offsets"), facts.get("shape")
        if type(dtype) is not str or len(dtype) > DTYPE_LENGTH or type(offsets) is not list or type(shape) is not list:
            raise InvalidInput(name[:100], entry, "an object with dtype, shape and data_offsets", where)
        elements = 1
        for extent in shape if len(shape) <= MOST_DIMENSIONS else (-1,):
            if type(extent) is not int or not 0 <= extent < LARGEST:
                raise InvalidInput(f"{name[:100]}.shape", shape, f"up to {MOST_DIMENSIONS} whole numbers", where)
            elements *= extent
            if elements > LARGEST:
                raise InvalidInput(f"{name[:100]}.shape", shape, "fewer than 2^60 elements", where)
        begin, end = offsets if len(offsets) == 2 else (None, None)
        if type(begin) is not int or type(end) is not int or not 0 <= begin <= end < LARGEST:
            raise InvalidInput(f"{name[:100]}.data_offsets", offsets, "where the bytes begin and where they end", where)
        bits = DTYPE_BITS.get(dtype)
        if bits is not None and 8 * (end - begin) != -(-elements * bits // 8) * 8:
            raise InvalidInput(f"{name[:100]}.data_offsets", offsets, f"the bytes of {dtype} {shape}"[:100], where)
        found[dtype] = found.get(dtype, 0) + end - begin
        if len(found) > DTYPE_LIMIT:
            raise InvalidInput(f"{name[:100]}.dtype", dtype, f"at most {DTYPE_LIMIT} dtypes in a file", where)
    return found
