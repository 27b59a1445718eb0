"""Where the small transformer keeps its cache: torch tensors, allocated by ordinary torch operations.

How many bytes something takes is nowhere computed here: entries are appended, packed, dropped and moved, and what that
allocates is measured from outside. A column is one named part of a cache, ``[rows, entries, width]`` where a row is one
head of one sequence; a store is the columns of one layer and the rule by which entries go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from kvplan.errors import Unsupported
from kvplan.formats import find_format
from kvplan.specs import Growth

__all__ = ["Column", "Packed", "Placed", "Plain", "State", "Store", "column"]

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


class Column(Protocol):
    """One part of a cache: what every way of keeping it can do."""

    def append(self, new: Tensor) -> None:
        """Adds entries ``[rows, n, width]`` at the end."""

    def read(self) -> Tensor:
        """All entries ``[rows, entries, width]`` in the compute dtype."""

    def keep(self, positions: Tensor) -> None:
        """Drops all entries but those at ``positions``: ``[n]`` for all rows alike, or ``[rows, n]``, in order."""

    def tensors(self) -> Iterator[Tensor]:
        """What lies in memory."""


class Plain:
    """Entries as they are, in one dtype; with ``reserve`` in a buffer of that many entries, allocated at once."""

    def __init__(self, dtype: torch.dtype, reserve: int = 0) -> None:
        self.dtype, self.reserve, self.entries = dtype, reserve, 0
        self.held: Tensor | None = None
        self.compute = torch.float32

    def append(self, new: Tensor) -> None:
        """Adds entries; past a reserved buffer's end they take the place of the oldest."""
        self.compute = new.dtype
        new = new.to(self.dtype)
        if self.reserve:
            self._write(new)
        else:
            # cat knows no 8-bit floats on every device: their bytes travel as integers
            self.held = new.clone() if self.held is None else _cat(self.held, new)

    def _write(self, new: Tensor) -> None:
        if self.held is None:
            self.held = torch.zeros(new.shape[0], self.reserve, new.shape[2], dtype=self.dtype, device=new.device)
        first = max(new.shape[1] - self.reserve, 0)
        at = torch.arange(self.entries + first, self.entries + new.shape[1], device=new.device) % self.reserve
        _bits(self.held)[:, at] = _bits(new[:, first:])
        self.entries += new.shape[1]

    def allocate(self, rows: int, width: int, like: Tensor, tokens: int) -> None:
        """The whole reserved buffer at once, its entries random: zeros could be read faster than real ones."""
        self.compute = like.dtype
        self.held = torch.empty(rows, self.reserve, width, dtype=self.dtype, device=like.device)
        for row in _bits(self.held):
            row.random_(0, 60) if row.dtype == torch.uint8 else row.normal_()
        self.entries = tokens

    def read(self) -> Tensor:
        """Entries in the compute dtype; a reserved buffer that went round is not in order (see ``in_order``)."""
        assert self.held is not None, "nothing was cached yet"
        held = self.held[:, : min(self.entries, self.reserve)] if self.reserve else self.held
        return held.to(self.compute)

    def with_place(self) -> Tensor | None:
        """All entries and a zero behind them, without a copy; None where the buffer has no place left."""
        if self.held is None or not self.entries < self.reserve:
            return None
        _bits(self.held)[:, self.entries].zero_()
        return self.held[:, : self.entries + 1].to(self.compute)

    def in_order(self) -> Tensor:
        """Entries from the oldest to the newest."""
        held = self.read()
        return held.roll(-(self.entries % self.reserve), 1) if self.reserve and self.entries > self.reserve else held

    def keep(self, positions: Tensor) -> None:
        """Copies what stays, so that the rest is freed; a reserved buffer overwrites instead."""
        if self.reserve:
            return
        assert self.held is not None
        held = _bits(self.held)
        if positions.dim() == 1:
            kept = held[:, positions]
        else:
            kept = held.gather(1, positions[:, :, None].expand(-1, -1, held.shape[2]))
        self.held = kept.view(self.dtype)

    def tensors(self) -> Iterator[Tensor]:
        """The one tensor."""
        if self.held is not None:
            yield self.held


def _bits(tensor: Tensor) -> Tensor:
    """8-bit floats as the integers of their bytes, which every device can index; others as they are."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def _cat(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([_bits(a), _bits(b)], 1).view(a.dtype)


class Packed:
    """Entries quantised in groups along their width, codes packed into bytes; the newest ``residual`` stay plain.

    With ``zero`` a group has an fp16 scale and zero point (KIVI, HQQ), without one an fp16 scale (ggml's q8_0, q4_0).
    """

    def __init__(self, bits: int, group: int, residual: int, zero: bool) -> None:
        self.bits, self.group, self.residual, self.zero = bits, group, residual, zero
        self.codes: Tensor | None = None
        self.scales: Tensor | None = None
        self.zeros: Tensor | None = None
        self.tail: Tensor | None = None
        self.width = 0

    def append(self, new: Tensor) -> None:
        """Adds plain entries and quantises what is no longer among the newest ``residual``."""
        self.width = new.shape[2]
        tail = new.clone() if self.tail is None else torch.cat([self.tail, new], 1)
        old = max(tail.shape[1] - self.residual, 0)
        if old:
            packed = self.pack(tail[:, :old])
            held = (self.codes, self.scales, self.zeros)
            joined = [b if a is None or b is None else torch.cat([a, b], 1) for a, b in zip(held, packed, strict=True)]
            self.codes, self.scales, self.zeros = joined
        self.tail = tail[:, old:].clone()

    def pack(self, plain: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes in bytes, scales and zero points of plain entries; a row's last group is padded to its size."""
        groups = torch.nn.functional.pad(plain.float(), (0, -plain.shape[2] % self.group))
        groups = groups.unflatten(2, (-1, self.group))
        top = 2**self.bits - 1
        if self.zero:
            low, high = groups.amin(-1), groups.amax(-1)
            scale, zero = ((high - low) / top).clamp_min(1e-6).half(), low.half()
            codes = (groups - zero.float()[..., None]) / scale.float()[..., None]
        else:
            scale, zero = (groups.abs().amax(-1) / (top // 2)).clamp_min(1e-6).half(), None
            codes = groups / scale.float()[..., None] + (top // 2 + 1)
        codes = codes.round().clamp(0, top).to(torch.uint8).flatten(2).unflatten(2, (-1, 8 // self.bits))
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8, device=plain.device)
        return (codes << shifts).sum(-1, dtype=torch.uint8), scale, zero

    def unpack(self, codes: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The entries that ``pack`` made, as near as their bits allow."""
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8, device=codes.device)
        groups = ((codes[..., None] >> shifts) & (2**self.bits - 1)).flatten(2).unflatten(2, (-1, self.group)).float()
        if zero is None:
            plain = (groups - 2 ** (self.bits - 1)) * scale.float()[..., None]
        else:
            plain = groups * scale.float()[..., None] + zero.float()[..., None]
        return plain.flatten(2)[..., : self.width].to(dtype)

    def read(self) -> Tensor:
        """What was quantised, expanded, and the plain entries behind it."""
        assert self.tail is not None, "nothing was cached yet"
        if self.codes is None or self.scales is None:
            return self.tail
        return torch.cat([self.unpack(self.codes, self.scales, self.zeros, self.tail.dtype), self.tail], 1)

    def keep(self, positions: Tensor) -> None:
        """Drops entries of either kind; per row only where all are quantised."""
        assert self.tail is not None
        quantised = 0 if self.codes is None else self.codes.shape[1]
        if positions.dim() == 2:
            if self.tail.shape[1]:
                raise Unsupported("a budget over a cache with a residual window is not run: give residual=0")
            rows = torch.arange(len(positions), device=positions.device)[:, None]
            self._each(lambda held: held[rows, positions])
            return
        self._each(lambda held: held[:, positions[positions < quantised]])
        self.tail = self.tail[:, positions[positions >= quantised] - quantised]

    def _each(self, change) -> None:  # type: ignore[no-untyped-def]
        held = (self.codes, self.scales, self.zeros)
        self.codes, self.scales, self.zeros = (None if t is None else change(t) for t in held)

    def tensors(self) -> Iterator[Tensor]:
        """Codes, scales, zero points and the plain tail."""
        yield from (t for t in (self.codes, self.scales, self.zeros, self.tail) if t is not None)


class Placed:
    """Some rows on the device, the rest in host memory (FlexGen): read back at every step."""

    def __init__(self, near: Column, far: Column, share: float) -> None:
        self.near, self.far, self.share = near, far, share
        self.rows = 0
        self.device: torch.device | None = None  # where what is computed lies

    def append(self, new: Tensor) -> None:
        """Parts the rows between the two places."""
        self.device = new.device
        self.rows = round(new.shape[0] * (1 - self.share))
        if abs(self.rows - new.shape[0] * (1 - self.share)) > 1e-6:
            raise Unsupported(
                f"an offloaded share of {self.share} needs rows (batch x heads, here {new.shape[0]}) that part"
            )
        if self.rows:
            self.near.append(new[: self.rows])
        if self.rows < new.shape[0]:
            self.far.append(new[self.rows :].cpu())

    def read(self) -> Tensor:
        """All rows on the device."""
        pieces = [self.near.read()] if self.rows else []
        if next(self.far.tensors(), None) is not None:
            pieces.append(self.far.read().to(self.device))
        return torch.cat(pieces)

    def keep(self, positions: Tensor) -> None:
        """The same on both sides."""
        for side, rows in ((self.near, slice(0, self.rows)), (self.far, slice(self.rows, None))):
            if next(side.tensors(), None) is not None:
                own = positions if positions.dim() == 1 else positions[rows]
                side.keep(own.to(next(side.tensors()).device))

    def tensors(self) -> Iterator[Tensor]:
        """What lies on the device; ``far.tensors()`` is what lies on the host."""
        yield from self.near.tensors()


def column(name: str, compute: torch.dtype, reserve: int = 0) -> Column:
    """A column that stores elements in the format of this name; raises Unsupported where none of these does."""
    found = find_format(name)
    if found.name in DTYPES:
        return Plain(DTYPES[found.name], reserve)
    if reserve:
        raise Unsupported(f"a cache of {name} allocated at full length is not run: only plain dtypes are")
    base = found.name.partition(":")[0]
    if base in ("int8", "int4", "int2") and found.block > 1 and not found.spread[0]:
        scales = (found.block_bits - found.block * found.element_bits) // 16
        if scales in (1, 2) and found.block * found.element_bits % 8 == 0:
            return Packed(found.element_bits, found.block, found.residual, zero=scales == 2)
    if base in ("q8_0", "q4_0"):
        return Packed(found.element_bits, found.block, 0, zero=False)
    raise Unsupported(f"a cache stored as {name} is not run: {', '.join(DTYPES)}, int8, int4, int2, q8_0 and q4_0 are")


class Store:
    """The cache of one layer: its columns, and which entries stay after each append.

    ``growth`` is the rule of its longest reader. ``window`` keeps the newest ``limit``, the first ``sinks`` among them
    for good; ``chunk`` likewise, as a rolling buffer; ``budget`` keeps the entries that were looked at most.
    """

    def __init__(
        self, growth: Growth, formats: dict[str, str], compute: torch.dtype, share: float, reserve: int
    ) -> None:
        self.growth, self.formats, self.compute, self.share, self.reserve = growth, formats, compute, share, reserve
        self.columns: dict[str, Column] = {}
        self.seen = 0
        self.batch = 1
        self.victim: Tensor | None = None  # [rows]: the entry that goes when a full budget takes another

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            limit = self.growth.limit
            reserve = min(self.reserve, limit) if limit and self.growth.kind != "compress" else self.reserve
            if reserve and (self.share or self.growth.kind not in ("full", "window", "chunk") or self.growth.sinks):
                raise Unsupported(f"a {self.growth.kind} cache allocated at full length is not run")
            made = column(self.formats.get(name, "fp32"), self.compute, reserve)
            if self.share:
                made = Placed(made, column(self.formats.get(name, "fp32"), self.compute), self.share)
            self.columns[name] = made
        return self.columns[name]

    def append(self, parts: dict[str, Tensor]) -> None:
        """Adds the entries of new tokens, ``[batch, heads, tokens, width]`` for each part, and drops what must go."""
        tokens = 0
        for name, new in parts.items():
            self.batch, tokens = new.shape[0], new.shape[2]
            self._column(name).append(new.flatten(0, 1))
        before, self.seen = self.seen, self.seen + tokens
        kind, limit = self.growth.kind, self.growth.limit
        if kind in ("window", "chunk") and self.seen > limit and not self.reserve:
            held = min(before, limit) + tokens
            sinks = self.growth.sinks
            kept = torch.cat([torch.arange(sinks), torch.arange(held - limit + sinks, held)])
            self._keep(kept)
        elif kind == "budget" and self.victim is not None and min(before, limit) + tokens > limit:
            # a full budget forgets one entry for the new one
            all_but = torch.arange(limit + 1, device=self.victim.device).expand(len(self.victim), -1)
            self._keep(all_but[all_but != self.victim[:, None]].view(len(self.victim), limit))

    def allocate(self, shapes: dict[str, Tensor], tokens: int) -> None:
        """Whole buffers of random entries, ``tokens`` of which count; ``shapes`` are parts without entries."""
        for name, like in shapes.items():
            held = self._column(name)
            if not isinstance(held, Plain) or not held.reserve:
                raise Unsupported(
                    f"a {self.growth.kind} cache of {self.formats.get(name)} allocated at full length is not run"
                )
            self.batch = like.shape[0]
            held.allocate(like.shape[0] * like.shape[1], like.shape[3], like, tokens)
        self.seen = tokens

    def choose(self, weights: Tensor) -> None:
        """A budget's choice after a query: ``weights [batch, heads, entries]`` are how much it looked at each entry.

        Cuts a prompt to the budget, then marks the entry that goes next; the newest entry always stays.
        """
        rows = weights.flatten(0, 1).clone()
        rows[:, -1] = float("inf")
        if rows.shape[1] > self.growth.limit:
            best = rows.topk(self.growth.limit, 1).indices.sort(1).values
            self._keep(best)
            rows = rows.gather(1, best)
        self.victim = rows.argmin(1)

    def _keep(self, positions: Tensor) -> None:
        for held in self.columns.values():
            device = next((t.device for t in held.tensors()), positions.device)
            held.keep(positions.to(device))

    def read(self, last: int | None = None, sinks: int = 0) -> dict[str, Tensor]:
        """Parts ``[batch, heads, entries, width]``: all, or ``last`` of them, the first ``sinks`` and the newest."""
        found: dict[str, Tensor] = {}
        for name, held in self.columns.items():
            entries = held.read()
            if last is not None and last < entries.shape[1]:
                entries = held.in_order() if isinstance(held, Plain) else entries
                newest = entries[:, entries.shape[1] - (last - sinks) :]
                entries = torch.cat([entries[:, :sinks], newest], 1) if sinks else newest
            found[name] = entries.unflatten(0, (self.batch, -1))
        return found

    def read_with_place(self) -> dict[str, Tensor] | None:
        """All entries and a zero for the token that is not there yet, where that needs no copy."""
        places = {name: held.with_place() if isinstance(held, Plain) else None for name, held in self.columns.items()}
        found = {name: place.unflatten(0, (self.batch, -1)) for name, place in places.items() if place is not None}
        return found if len(found) == len(places) else None

    def tensors(self) -> Iterator[Tensor]:
        """What lies on the device."""
        for held in self.columns.values():
            yield from held.tensors()

    def host_tensors(self) -> Iterator[Tensor]:
        """What lies in host memory."""
        for held in self.columns.values():
            if isinstance(held, Placed):
                yield from held.far.tensors()


class State:
    """A state of fixed size: one tensor that every token changes."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        """The state."""
        if self.held is not None:
            yield self.held

    def host_tensors(self) -> Iterator[Tensor]:
        """None: states stay on the device."""
        yield from ()
