"""Reading a GGUF header within strict bounds: metadata and tensor descriptions, never a tensor."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kvplan.errors import InvalidInput, Unsupported
from kvplan.formats import FORMATS
from kvplan.importers.files import open_file

__all__ = ["Gguf", "Skipped", "Tensor", "read_all", "read_gguf"]

# All bounds are of one file, or of all files of a split one together. What published files have is reckoned from their
# vocabularies (Gemma 3: 262,144 tokens, 514,906 merges) and layers, not measured on a collection of files.
READ_LIMIT = 48 * 2**20  # bytes of header; the largest published ones have some 15 MB
ITEM_LIMIT = 1_600_000  # strings walked over in arrays; those have 777,000
KEEP_LIMIT = 8192  # longer arrays (vocabularies, merges) are skipped and only their length is kept
KEPT_LIMIT = 65_536  # items of all arrays that are kept: a number per layer for a dozen keys is some 1,500
ENTRY_LIMIT = 4096  # metadata entries; published files have up to some 80
TENSOR_LIMIT = 32_768  # published files have up to some 2,500 (mixtures of before experts were stacked)
NAME_LIMIT = 1024
TEXT_LIMIT = 65_536  # bytes of one string that is kept; chat templates are longer and cut
TEXTS_LIMIT = 4 * 2**20  # bytes of all strings that are kept; the others are passed over
FILE_LIMIT = 256  # files of a split model; published ones have up to some 50

# Tensor types, by the numbers of ggml.h; the removed repacked types had the sizes of Q4_0, IQ4_NL
TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "fp64",
    29: "iq1_m", 30: "bf16", 31: "q4_0", 32: "q4_0", 33: "q4_0", 34: "tq1_0", 35: "tq2_0", 36: "iq4_nl",
    37: "iq4_nl", 38: "iq4_nl", 39: "mxfp4", 40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip


class Skipped(NamedTuple):
    """An array too long to keep: how many items it has."""

    length: int


class Tensor(NamedTuple):
    """One tensor as the header describes it; ``shape`` starts with the row, as ggml writes it."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total


class Gguf(NamedTuple):
    """The header of one file, or of all files of a split one."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    missing: int = 0  # files of a split model that are absent


SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class _Left:
    """What may still be read, walked over and kept, of all files of a model."""

    def __init__(self) -> None:
        self.bytes, self.items, self.kept, self.texts = READ_LIMIT, ITEM_LIMIT, KEPT_LIMIT, TEXTS_LIMIT
        self.entries, self.tensors = ENTRY_LIMIT, TENSOR_LIMIT


class _Reader:
    """A bounded cursor over the head of a file."""

    def __init__(self, file: BinaryIO, size: int, where: str, left: _Left) -> None:
        self.file, self.where = file, where
        self.bounds = left
        self.left = min(size, left.bytes)  # in this file

    def error(self, field: str, value: object, rule: str) -> InvalidInput:
        return InvalidInput(field, value, rule, self.where)

    def take(self, count: int, field: str) -> bytes:
        self._spend(count, field)
        data = self.file.read(count)
        if len(data) < count:
            raise self.error(field, "the file ends here", "a complete GGUF header")
        return data

    def skip(self, count: int, field: str) -> None:
        self._spend(count, field)
        if count < 4096:
            self.file.read(count)
        else:
            self.file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int, field: str) -> None:
        if count > self.left:
            raise self.error(field, f"{count} bytes more", f"a complete GGUF header of at most {READ_LIMIT} bytes")
        self.left -= count
        self.bounds.bytes -= count

    def number(self, kind: str, field: str) -> Any:
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind), field))
        return value

    def text(self, field: str, limit: int = NAME_LIMIT) -> str:
        length = self.number("<Q", field)
        if length > limit:
            raise self.error(field, f"{length} characters", f"at most {limit}")
        try:
            return self.take(length, field).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(field, "bytes that are not UTF-8", "UTF-8 text") from None

    def value(self, kind: int, field: str) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind], field)
        if kind == STRING:
            length = self.number("<Q", field)
            kept = self.take(min(length, TEXT_LIMIT, self.bounds.texts), field)
            self.bounds.texts -= len(kept)
            self.skip(length - len(kept), field)
            return kept.decode("utf-8", errors="replace")
        if kind == ARRAY:
            return self.array(field)
        raise self.error(field, f"value type {kind}", "one of the 13 value types of GGUF")

    def array(self, field: str) -> Any:
        kind, length = self.number("<I", field), self.number("<Q", field)
        if kind in SCALARS:
            width = struct.calcsize(SCALARS[kind])
            if length > min(KEEP_LIMIT, self.bounds.kept):
                self.skip(length * width, field)
                return Skipped(length)
            self.bounds.kept -= length
            data = self.take(length * width, field)
            return [value for (value,) in struct.iter_unpack(SCALARS[kind], data)]
        if kind != STRING:
            raise self.error(field, f"an array of type {kind}", "an array of numbers, booleans or strings")
        if length > self.bounds.items or 8 * length > self.left:
            raise self.error(field, f"{length} strings", "a complete array that a vocabulary could be")
        self.bounds.items -= length
        if length > min(KEEP_LIMIT, self.bounds.kept):
            self._pass(length, field)
            return Skipped(length)
        self.bounds.kept -= length
        return [self.value(STRING, field) for _ in range(length)]

    def _pass(self, count: int, field: str) -> None:
        """Passes over so many strings; written out, as a vocabulary has half a million of them."""
        file, left, size = self.file, self.left, struct.Struct("<Q").unpack
        for _ in range(count):
            head = file.read(8)
            if len(head) < 8:
                raise self.error(field, "the file ends here", "a complete GGUF header")
            (length,) = size(head)
            left -= 8 + length
            if left < 0:
                self._spend(self.left + 1, field)
            if length < 4096:
                file.read(length)
            else:
                file.seek(length, os.SEEK_CUR)
        self._spend(self.left - left, field)


def read_gguf(path: str | os.PathLike[str]) -> Gguf:
    """Metadata and tensor descriptions of one GGUF file (version 2 or 3, little-endian).

    At most 48 MiB are read, tensors never. Raises InvalidInput for a file that is not a GGUF or is cut short,
    Unsupported for an older version, the other byte order or a tensor type without a known size.
    """
    return _read_file(Path(path), _Left())


def _read_file(place: Path, left: _Left) -> Gguf:
    file, size = open_file(place, "gguf")
    with file:
        try:
            return _read(_Reader(file, size, str(place), left))
        except OSError as e:
            raise InvalidInput("gguf", str(place), f"a readable file ({e.strerror})") from None


def _read(reader: _Reader) -> Gguf:
    if reader.left < 4 or reader.take(4, "magic") != b"GGUF":
        raise reader.error("magic", "not GGUF", "a GGUF file")
    version = reader.number("<I", "version")
    if version not in (2, 3):
        what = "big-endian GGUF" if version & 0xFFFF == 0 else f"GGUF version {version}"
        raise Unsupported(f"{reader.where}: {what} cannot be read; versions 2 and 3, little-endian, can")
    tensor_count, entry_count = reader.number("<Q", "tensor_count"), reader.number("<Q", "metadata_kv_count")
    bounds = reader.bounds
    for field, count, limit, least in (
        ("metadata_kv_count", entry_count, bounds.entries, 13),
        ("tensor_count", tensor_count, bounds.tensors, 24),
    ):
        if count > min(limit, reader.left // least):
            raise reader.error(field, count, f"at most {limit}, and no more than the file has room for")
    bounds.entries, bounds.tensors = bounds.entries - entry_count, bounds.tensors - tensor_count
    metadata: dict[str, Any] = {}
    for i in range(entry_count):
        key = reader.text(f"metadata[{i}].key")
        if key in metadata:
            raise reader.error(key[:100], "twice", "each key once")
        metadata[key] = reader.value(reader.number("<I", key[:100]), key[:100])
    tensors, names = [], set()
    for i in range(tensor_count):
        tensor = _tensor(reader, i)
        if tensor.name in names:
            raise reader.error(tensor.name[:100], "twice", "each tensor once")
        names.add(tensor.name)
        tensors.append(tensor)
    return Gguf(version, metadata, tuple(tensors))


def _tensor(reader: _Reader, index: int) -> Tensor:
    name = reader.text(f"tensor[{index}].name")
    field = name[:100] or f"tensor[{index}]"
    dims = reader.number("<I", field)
    if dims > 8:
        raise reader.error(f"{field}.n_dims", dims, "at most 8")
    shape = tuple(reader.number("<Q", field) for _ in range(dims)) or (1,)
    elements = 1
    for extent in shape:
        elements *= extent
        if not 0 < elements < 2**56:
            raise reader.error(f"{field}.shape", shape, "positive extents, fewer than 2^56 elements")
    kind = reader.number("<I", field)
    reader.number("<Q", field)  # where the data lies
    if kind not in TYPES:
        raise Unsupported(f"{reader.where}: tensor {field} has ggml type {kind}, whose size is not known here")
    format_ = FORMATS[TYPES[kind]]
    if shape[0] % format_.block:
        raise reader.error(f"{field}.shape", shape, f"rows that are a multiple of {format_.block} ({format_.name})")
    return Tensor(name, shape, format_.name, elements // format_.block * format_.block_bits // 8)


SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


def read_all(path: Path) -> Gguf:
    """The header of a file, with the tensors of its sisters where the model is split over several."""
    match = SPLIT.match(path.name)
    if match is None:
        return read_gguf(path)
    count = int(match[3])
    if count > FILE_LIMIT:
        raise InvalidInput("gguf", path.name, f"a model split over at most {FILE_LIMIT} files", str(path))
    sisters = [path.with_name(f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf") for i in range(count)]
    present = [sister for sister in sisters if os.path.lexists(sister)]
    left = _Left()
    first = _read_file(sisters[0] if sisters and sisters[0] in present else path, left)
    tensors = list(first.tensors)
    names = {tensor.name for tensor in tensors}
    for sister in present:
        if sister != sisters[0]:
            for tensor in _read_file(sister, left).tensors:
                if tensor.name in names:
                    raise InvalidInput(
                        tensor.name[:100], "twice", "each tensor in one file of a split model", str(sister)
                    )
                names.add(tensor.name)
                tensors.append(tensor)
    return Gguf(first.version, first.metadata, tuple(tensors), count - len(present))
