"""One cell on arrays: the formulas of a plan with contexts down and batches across, each term at its natural rank.

A cache's bytes depend on the context alone, a linear layer's decode FLOPs on the batch alone: those are computed once per
tile, as a column or a row, and meet only in the last product. Nothing here knows a formula: ``costs``, ``planner`` and
``roofline`` are called with arrays where a plan calls them with ints. FLOPs, reads and caches are exactly linear in the
number of sequences, so they are asked for one and multiplied late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kvplan.costs import Flops, Profile, decode_flops, prefill_flops, profile, read_bytes
from kvplan.planner import (
    WIGGLES,
    activation_peak,
    growing,
    per_sequence,
    rank_work,
    sequence_bytes,
    usable_bytes,
    weights_of,
    whole_model,
)
from kvplan.roofline import sides
from kvplan.settings import Settings
from kvplan.sweeps.columns import Words
from kvplan.sweeps.grid import Cell
from kvplan.sweeps.inverse import largest

__all__ = ["EXACT", "Surface", "suits"]

Array = Any  # float64: (contexts, 1), (1, batches), both, or a number where neither matters

# Float64 counts whole numbers below 2**53; bits of a cache are eight times its bytes.
EXACT = 2.0**50
BLOCK = 2**14  # points whose temporaries stay in a core's cache together


class once:  # noqa: N801  (used like property)
    """An attribute of a surface, computed when first asked for; a block cuts what its tile has already."""

    def __init__(self, compute: Callable[[Surface], Any]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, surface: Surface | None, owner: type | None = None) -> Any:
        if surface is None:
            return self
        memo = surface.memo
        if self.name not in memo:
            tile = surface.tile
            memo[self.name] = self.compute(surface) if tile is None else surface.cut(getattr(tile, self.name))
        return memo[self.name]


class each:  # noqa: N801  (used like property)
    """An attribute that depends on context and batch alike: computed block by block, never for a whole tile."""

    def __init__(self, compute: Callable[[Surface], Any]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, surface: Surface | None, owner: type | None = None) -> Any:
        if surface is None:
            return self
        if self.name not in surface.memo:
            surface.memo[self.name] = self.compute(surface)
        return surface.memo[self.name]


def suits(cell: Cell) -> bool:
    """Whether a cell may be asked on arrays: no rules in ints of an engine's own, no millionths of an offload."""
    wiggles = any(h.growth.kind in WIGGLES for stage in cell.stages for h in stage.held)
    return (
        cell.settings.engine.policy is None and max(cell.spec.offload) == 0 and not (wiggles and len(cell.stages) > 1)
    )


class Surface:
    """The answers of one cell at some contexts and batches; attributes are columns, None where there is no answer."""

    def __init__(self, cell: Cell, contexts: Array, batches: Array) -> None:
        """``contexts`` and ``batches`` are one-dimensional, float64."""
        self.cell, self.spec, self.stages = cell, cell.spec, cell.stages
        self.tile: Surface | None = None
        self.rows = self.columns = slice(None)
        self._at(contexts.reshape(-1, 1), batches.reshape(1, -1))

    def _at(self, context: Array, batch: Array) -> None:
        self.context, self.batch = context, batch
        self.shape = (context.shape[0], batch.shape[1])
        self.s: Settings = self.cell.settings._replace(context=context, batch=batch)
        self.memo: dict[str, Any] = {}

    def blocks(self) -> Iterator[tuple[slice, slice, Surface]]:
        """The tile in pieces of about BLOCK points, with their places."""
        width = min(self.shape[1], BLOCK)
        height = max(BLOCK // width, 1)
        for top in range(0, self.shape[0], height):
            for left in range(0, self.shape[1], width):
                rows, columns = slice(top, top + height), slice(left, left + width)
                block = Surface.__new__(Surface)
                block.cell, block.spec, block.stages = self.cell, self.spec, self.stages
                block.tile, block.rows, block.columns = self, rows, columns
                block._at(self.context[rows], self.batch[:, columns])
                yield rows, columns, block

    def cut(self, value: Any) -> Any:
        """The block's part of a value of its tile."""
        assert self.tile is not None
        if isinstance(value, np.ndarray):
            down, across = self.tile.shape
            rows = self.rows if down > 1 and value.shape[0] == down else slice(None)
            columns = self.columns if across > 1 and value.shape[1] == across else slice(None)
            return value[rows, columns]
        if isinstance(value, Words):
            return Words(self.cut(value.codes), value.words)
        if isinstance(value, tuple):
            parts = [self.cut(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    def exact(self) -> bool:
        """Whether float64 counts every byte of the tile exactly, at its largest context and batch."""
        sequences, batch = float(self.sequences.max()), float(self.batch.max())
        most = max(
            float(np.max(self.kv_bytes_per_sequence)) * batch,
            float(np.max(self._read)) * batch,
            *(float(np.max(need)) * sequences for need in self._needs),
            float(activation_peak(self.spec, self.s, float(self.context.max()), sequences)),
            float(self.cell.settings.memory_bytes or 0),
        )
        # the pool is multiplied by the context before it is divided by what a sequence needs
        pool = float(self.cell.settings.memory_bytes or 0) * float(self.context.max())
        return most < EXACT and pool < 2.0**62

    # --- shared by columns -------------------------------------------------------------------------------------------

    @property
    def _profile(self) -> Profile:
        return profile(self.spec, self.cell.settings.engine.parts_of)

    @once
    def sequences(self) -> Array:
        """Sequences on the fullest replica."""
        return self.s.rank_sequences

    @once
    def _caches(self) -> tuple[Array, Array, Array, Array]:
        s = self.cell.settings
        return per_sequence(whole_model(self.spec, s.engine, self._profile, s), self.s)

    @once
    def _needs(self) -> tuple[Array, ...]:
        """Bytes of one sequence on one GPU of each stage, with what the engine keeps alive behind it."""
        return tuple(sequence_bytes(self.spec, self.s, stage.lean, self.context) for stage in self.stages)

    @once
    def _read(self) -> Array:
        s = self.cell.settings
        return sum(read_bytes(group, s.formats, self.context, s.encoder_context) for group in self._profile.reads)

    @once
    def _rooms(self) -> tuple[int, ...] | None:
        """Bytes for caches and activations on one GPU of each stage; None without a GPU or known weights."""
        s = self.cell.settings
        if s.memory_bytes is None or not self.cell.weights_known:
            return None
        return tuple(usable_bytes(s) - stage.weights - s.runtime_bytes for stage in self.stages)

    @each
    def activations_bytes_per_gpu(self) -> Array:
        """Estimated transient bytes."""
        return activation_peak(self.spec, self.s, self.context, self.sequences)

    # --- facts of the cell -------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return self._profile.parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token visits."""
        return self._profile.active_parameters

    @property
    def weights_bytes(self) -> int | None:
        """Bytes of weights of the whole model."""
        return weights_of(self.spec, self.cell.settings).total if self.cell.weights_known else None

    @property
    def weights_bytes_per_gpu(self) -> int | None:
        """Bytes of weights on the fullest GPU."""
        return max(stage.weights for stage in self.stages) if self.cell.weights_known else None

    @property
    def memory_bytes(self) -> int | None:
        """Memory of one GPU."""
        return self.cell.settings.memory_bytes if self._rooms is not None else None

    @property
    def usable_bytes(self) -> int | None:
        """What the engine may use of it."""
        return usable_bytes(self.cell.settings) if self._rooms is not None else None

    # --- bytes -------------------------------------------------------------------------------------------------------

    @property
    def kv_bytes_per_token(self) -> Array:
        """Bytes of one more token below every window."""
        return self._caches[0]

    @property
    def kv_bytes_per_token_marginal(self) -> Array:
        """Bytes of one more token at this context."""
        return self._caches[1]

    @property
    def kv_bytes_per_sequence(self) -> Array:
        """Bytes cached for one sequence."""
        return self._caches[2]

    @property
    def state_bytes_per_sequence(self) -> Array:
        """Of which recurrent and convolution state."""
        return self._caches[3]

    @each
    def kv_bytes(self) -> Array:
        """Bytes cached for the batch."""
        return self.kv_bytes_per_sequence * self.batch

    @once
    def _cache_per_gpu(self) -> Array:
        sizes = [stage.lean.at(self.context) for stage in self.stages]
        return _extreme(np.maximum, sizes)

    @each
    def kv_bytes_per_gpu(self) -> Array:
        """Bytes of cache on the fullest GPU."""
        return self._cache_per_gpu * self.sequences

    @each
    def kv_bytes_read_per_step(self) -> Array:
        """Bytes that one decode step of the batch reads."""
        return self._read * self.batch

    # a cell whose cache leaves the GPU is not asked on arrays
    kv_bytes_host = kv_bytes_disk = kv_bytes_over_link_per_step = 0

    @each
    def used_bytes_per_gpu(self) -> Array:
        """Weights, cache and overhead on the fullest GPU."""
        if not self.cell.weights_known:
            return None
        filled = [need * self.sequences + stage.weights for need, stage in zip(self._needs, self.stages, strict=True)]
        overhead = self.activations_bytes_per_gpu + self.cell.settings.runtime_bytes
        return _extreme(np.maximum, filled) + overhead

    # --- FLOPs -------------------------------------------------------------------------------------------------------

    @once
    def _prefill(self) -> Flops:
        """Of one sequence."""
        s = self.cell.settings
        return prefill_flops(
            self._profile,
            self.context,
            1,
            full=s.full_attention,
            all_logits=s.all_logits,
            encoder_tokens=s.encoder_context,
        )

    @once
    def _decode(self) -> Flops:
        """Of one sequence."""
        return decode_flops(self._profile, self.context, 1, encoder_tokens=self.cell.settings.encoder_context)

    @once
    def _totals(self) -> tuple[Array, Array]:
        return self._prefill.total, self._decode.total

    @each
    def prefill_flops(self) -> Array:
        """FLOPs of the prefill of the batch."""
        return self._totals[0] * self.batch

    @each
    def prefill_linear_flops(self) -> Array:
        """Of which matrices of layers."""
        return self._prefill.linear * self.batch

    @each
    def prefill_attention_flops(self) -> Array:
        """Of which attention."""
        return self._prefill.attention * self.batch

    @each
    def prefill_logits_flops(self) -> Array:
        """Of which logits."""
        return self._prefill.logits * self.batch

    @each
    def decode_flops(self) -> Array:
        """FLOPs of one decode step of the batch."""
        return self._totals[1] * self.batch

    @each
    def decode_linear_flops(self) -> Array:
        """Of which matrices of layers."""
        return self._decode.linear * self.batch

    @each
    def decode_attention_flops(self) -> Array:
        """Of which attention."""
        return self._decode.attention * self.batch

    @each
    def decode_logits_flops(self) -> Array:
        """Of which logits."""
        return self._decode.logits * self.batch

    # --- capacity ----------------------------------------------------------------------------------------------------

    def _fit(self, needs: tuple[Array, ...], sequences: Array, activations: Array) -> Array:
        assert self._rooms is not None
        return _extreme(
            np.logical_and,
            [sequences * need + activations <= room for need, room in zip(needs, self._rooms, strict=True)],
        )

    @each
    def fits(self) -> Array:
        """Whether it fits."""
        if self._rooms is None:
            return None
        return self._fit(self._needs, self.sequences, self.activations_bytes_per_gpu)

    @once
    def max_batch(self) -> Array:
        """The largest batch that fits at each context."""
        if self._rooms is None:
            return None
        dp = self.cell.settings.dp

        def fits(batch: Array) -> Array:
            sequences = -(-batch // dp)
            return self._fit(self._needs, sequences, activation_peak(self.spec, self.s, self.context, sequences))

        least = activation_peak(self.spec, self.s, self.context, 1.0)
        guesses = [(room - least) / np.maximum(need, 1) for room, need in zip(self._rooms, self._needs, strict=True)]
        return largest(fits, _extreme(np.minimum, guesses) * dp + 0 * self.context)

    @once
    def max_context(self) -> Array:
        """The largest context that fits at each batch."""
        if self._rooms is None:
            return None
        # memory may fall as tokens are added, where buffers fill and empty: then so many steps back must fit as well
        wiggle = max((2 * h.growth.limit for h in self.stages[0].lean.others if h.growth.kind in WIGGLES), default=0)
        back = np.arange(wiggle + 1.0).reshape(-1, 1)
        width = self.shape[1] if not wiggle else 1024
        found = [self._max_context(self.sequences[:, i : i + width], back) for i in range(0, self.shape[1], width)]
        return np.concatenate(found, axis=1)

    def _max_context(self, sequences: Array, back: Array) -> Array:
        assert self._rooms is not None

        def fits(tokens: Array) -> Array:
            tokens = np.maximum(tokens - back, 1)
            needs = tuple(sequence_bytes(self.spec, self.s, stage.lean, tokens) for stage in self.stages)
            fit = self._fit(needs, sequences, activation_peak(self.spec, self.s, tokens, sequences))
            return fit.all(axis=0, keepdims=True)

        guesses = [
            stage.lean.guess(max(room // int(sequences.flat[0]), 0))
            for stage, room in zip(self.stages, self._rooms, strict=True)
        ]
        return largest(fits, float(min(guesses)) + 0 * sequences)

    @each
    def _tightest(self) -> Array:
        """Which stage's GPU has the least room."""
        assert self._rooms is not None
        spare = [room - self.sequences * need for room, need in zip(self._rooms, self._needs, strict=True)]
        return np.argmin(np.stack(np.broadcast_arrays(*spare)), axis=0)

    def _of_tightest(self, values: list[Array]) -> Array:
        found = values[0]
        for i, value in enumerate(values[1:], 1):
            found = np.where(self._tightest == i, value, found)
        return found

    @each
    def kv_pool_bytes(self) -> Array:
        """Bytes left for caches on the GPU with the least room."""
        if self._rooms is None:
            return None
        return np.maximum(self._of_tightest(list(self._rooms)) - self.activations_bytes_per_gpu, 0)

    @each
    def kv_tokens(self) -> Array:
        """Tokens that the pool holds."""
        if self._rooms is None or all(stage.lean.constant_only for stage in self.stages):
            return None
        need = np.asarray(self._of_tightest(list(self._needs)), dtype="i8")
        # in int64: the product may pass 2**53
        tokens = np.asarray(self.kv_pool_bytes, dtype="i8") * self.context.astype("i8") // np.maximum(need, 1)
        return np.where(need > 0, tokens * self.cell.settings.dp, np.nan)

    @each
    def binding(self) -> Words | None:
        """What stops growth."""
        if self._rooms is None:
            return None
        words: dict[str, int] = {}
        per_stage = []
        for stage, room in zip(self.stages, self._rooms, strict=True):
            if room <= 0:
                full = "weights" if stage.weights >= self.cell.settings.runtime_bytes else "runtime/context"
                per_stage.append(np.float64(words.setdefault(full, len(words))))
                continue
            amounts = growing(self.spec, self.s, stage, self.activations_bytes_per_gpu)
            codes = np.array([words.setdefault(path, len(words)) for path in amounts])
            most = codes[np.argmax(np.stack(np.broadcast_arrays(*amounts.values())), axis=0)]
            endless = np.isinf(self.max_batch) | np.isinf(self.max_context)
            if endless.any():
                most = np.where(endless, words.setdefault("unbounded", len(words)), most)
            per_stage.append(most)
        return Words(self._of_tightest(per_stage), tuple(words))

    # --- time --------------------------------------------------------------------------------------------------------

    def _pass(self, flops: Flops, tokens: Array, cache: Array) -> tuple[tuple[Array, Array], ...] | None:
        """Seconds of (compute, memory) of each term of a pass, one stage after another.

        ``flops`` and ``cache`` are of one sequence: terms that grow with the number of sequences come back as a column
        for one, and ``_seconds`` multiplies.
        """
        s = self.cell.settings
        if s.gpu is None or not self.cell.weights_known:
            return None
        items = rank_work(s, weights_of(self.spec, s), flops, 1, tokens, cache, 1)
        found = [sides(s.gpu, item, s.compute_efficiency, s.bandwidth_efficiency) for item in items]
        return None if None in found else tuple(side for side in found if side is not None)

    @once
    def _decode_terms(self) -> Any:
        s = self.cell.settings
        groups = self._profile.reads
        read: Array = sum(read_bytes(group, s.formats, self.context, s.encoder_context, s.tp) for group in groups)
        return self._pass(self._decode, self.sequences, read)

    def _prefill_pass(self, tokens: Array) -> Any:
        written: Array = sum(stage.lean.at(self.context) for stage in self.stages)
        return self._pass(self._prefill, tokens, written)

    @once
    def _prefill_plain(self) -> Any:
        return self._prefill_pass(1.0)

    @each
    def _prefill_terms(self) -> Any:
        # how many experts a prompt touches hangs on context and batch together; without experts, on neither
        touches = self.cell.weights_known and weights_of(self.spec, self.cell.settings).expert
        return self._prefill_pass(self.sequences * self.context) if touches else self._prefill_plain

    @once
    def _decode_overlap(self) -> Array:
        pp = self.cell.settings.pp
        return 1.0 if pp == 1 else np.minimum(pp, self.sequences)

    @each
    def _prefill_overlap(self) -> Array:
        pp = self.cell.settings.pp
        return 1.0 if pp == 1 else np.minimum(pp, self.sequences * self.context)

    def _seconds(self, terms: Any, overlap: Array) -> Array:
        if terms is None:
            return None
        # smallest rank first: what depends on the batch alone is added up before it meets the contexts
        (linear, linear_bytes), (scores, cache), (logits, logits_bytes) = terms
        total = np.maximum(logits * self.sequences, logits_bytes)
        total = total + np.maximum(linear * self.sequences, linear_bytes)
        total = total + np.maximum(scores, cache) * self.sequences
        return total if self.cell.settings.pp == 1 else total / overlap

    def _side(self, terms: Any) -> Words | None:
        if terms is None:
            return None
        (linear, linear_bytes), (scores, cache), (logits, logits_bytes) = terms
        compute: Array = 0.0
        memory: Array = 0.0
        for flops, moved in (
            (logits * self.sequences, logits_bytes),
            (linear * self.sequences, linear_bytes),
            (scores * self.sequences, cache * self.sequences),
        ):
            slower = flops >= moved
            compute = compute + np.where(slower, flops, 0.0)
            memory = memory + np.where(slower, 0.0, moved)
        return Words(np.where(compute > memory, 0, 1), ("compute", "memory"))

    @each
    def prefill_s(self) -> Array:
        """Lower bound of the prefill."""
        return self._seconds(self._prefill_terms, self._prefill_overlap)

    @each
    def decode_step_s(self) -> Array:
        """Lower bound of one decode step."""
        return self._seconds(self._decode_terms, self._decode_overlap)

    @each
    def tokens_per_s(self) -> Array:
        """Upper bound of decoded tokens per second."""
        return None if self._decode_terms is None else self.batch / self.decode_step_s

    @each
    def prefill_bound(self) -> Words | None:
        """What binds the prefill."""
        return self._side(self._prefill_terms)

    @each
    def decode_bound(self) -> Words | None:
        """What binds a decode step."""
        return self._side(self._decode_terms)


def _extreme(ufunc: Any, values: list[Array]) -> Array:
    """The elementwise extreme of one value per stage."""
    found = values[0]
    for value in values[1:]:
        found = ufunc(found, value)
    return found
