"""What one matrix takes: packed elements, and the scales beside them per group, tile, output, input or tensor."""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.specs import Storage

__all__ = [
    "FP8",
    "FP8_CHANNEL",
    "FP8_TILES",
    "MXFP4",
    "MXFP8",
    "NVFP4",
    "bits_of",
    "group_of",
    "grouped",
    "words",
]


def bits_of(c: Config, key: str, default: int | None, allowed: tuple[int, ...]) -> int:
    """A number of bits, one of those that the method has."""
    value = c.int(key, default)
    if value not in allowed:
        raise c.error(key, value, "one of " + ", ".join(map(str, allowed)))
    return value


def group_of(c: Config, key: str, default: int) -> int:
    """A group size; -1 and 0 mean one group per row, given back as 0."""
    return max(c.int(key, default, least=-1, most=2**20), 0)


def grouped(storage: Storage, group: int, bits: int) -> Storage:
    """Adds ``bits`` per group of inputs, or per output where one group is the whole row."""
    if group:
        return storage._replace(group=group, group_bits=storage.group_bits + bits)
    return storage._replace(output_bits=storage.output_bits + bits)


def words(bits: int, dense: bool = False) -> Storage:
    """Integers packed in 32-bit words; ``dense`` lets a value straddle words (3 bits: 32 values in 3 words)."""
    if dense or 32 % bits == 0:
        return Storage(f"int{bits}", 32, 32 * bits) if 32 % bits else Storage(f"int{bits}", 32 // bits, 32)
    return Storage(f"int{bits}", 32 // bits, 32)


FP8 = Storage("fp8_e4m3", 1, 8)
FP8_CHANNEL = FP8._replace(output_bits=32)
FP8_TILES = FP8._replace(tile=(128, 128), tile_bits=32)
MXFP8 = Storage("mxfp8", 32, 256, 32, 8)
MXFP4 = Storage("mxfp4", 32, 128, 32, 8)
NVFP4 = Storage("nvfp4", 16, 64, 16, 8, tensor_bits=32)  # E4M3 per 16 and one fp32 for the tensor
