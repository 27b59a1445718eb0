"""Sizes of the pieces that towers are built of, as torch counts their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from kvplan.importers.config import Config

__all__ = ["Size", "block", "conv", "linear", "mlp", "norm", "part", "stack", "table"]


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters: ``matrices`` of linear layers, which a quantiser may touch, and everything else."""

    matrices: int = 0
    vectors: int = 0  # norms, biases, tables, convolutions

    def __add__(self, other: Size) -> Size:
        """Both together."""
        return Size(self.matrices + other.matrices, self.vectors + other.vectors)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.matrices + self.vectors


def stack(count: int, size: Size) -> Size:
    """``count`` equal pieces."""
    return Size(count * size.matrices, count * size.vectors)


def linear(inputs: int, outputs: int, bias: bool = True) -> Size:
    """A linear layer."""
    return Size(inputs * outputs, outputs if bias else 0)


def norm(width: int, bias: bool = True) -> Size:
    """A LayerNorm; without bias an RMSNorm."""
    return Size(0, width * (2 if bias else 1))


def table(*shape: int) -> Size:
    """Learned positions, class tokens, gates: anything that no token multiplies."""
    return Size(0, prod(shape))


def conv(inputs: int, outputs: int, *kernel: int, bias: bool = True) -> Size:
    """A convolution, mostly the one that makes patches."""
    return Size(0, inputs * outputs * prod(kernel) + (outputs if bias else 0))


def block(
    width: int,
    inner: int,
    *,
    bias: str = "qkvoud",
    norm_bias: bool = True,
    gated: bool = False,
    queries: int | None = None,
    keys: int | None = None,
) -> Size:
    """An encoder layer: attention, MLP and a norm for each.

    ``bias`` says which of q, k, v, o, up (and gate) and down carry one; ``queries`` and ``keys`` are the widths of q
    and of k and v where they are not ``width``.
    """
    queries = width if queries is None else queries
    keys = queries if keys is None else keys
    size = linear(width, queries, "q" in bias) + linear(queries, width, "o" in bias)
    size += linear(width, keys, "k" in bias) + linear(width, keys, "v" in bias)
    size += stack(2 if gated else 1, linear(width, inner, "u" in bias)) + linear(inner, width, "d" in bias)
    return size + stack(2, norm(width, norm_bias))


def mlp(inputs: int, inner: int, outputs: int, bias: bool = True) -> Size:
    """Two linear layers, the usual projector."""
    return linear(inputs, inner, bias) + linear(inner, outputs, bias)


def part(c: Config, key: str, default: dict[str, Any] | None = None) -> Config:
    """The nested config of a tower, ``default`` where the file has none.

    Read apart from the decoder's configs, without the check for unread keys: nothing of a tower is ever cached.
    """
    return Config(c.get(key, {} if default is None else default), c.where, f"{c.path}{key}.")
