"""A model from plain numbers: the way out where no config exists or none is understood."""

from __future__ import annotations

from typing import Any

from kvplan.errors import InvalidInput
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, vector
from kvplan.units import parse_count

__all__ = ["from_numbers"]

LIMITS = {"layers": 4096, "heads": 2**20, "kv_heads": 2**20}


def from_numbers(
    *,
    layers: int | str | None = None,
    hidden: int | str | None = None,
    heads: int | str | None = None,
    kv_heads: int | str | None = None,
    head_dim: int | str | None = None,
    ffn: int | str | None = None,
    vocab: int | str | None = None,
    window: int | str | None = None,
    experts: int | str | None = None,
    active_experts: int | str | None = None,
    tied: bool = False,
) -> ModelSpec:
    """A decoder in the Llama shape (gated MLP, RMSNorms, no biases) from its numbers.

    ``kv_heads`` defaults to ``heads``, ``head_dim`` to hidden / heads, ``ffn`` to 4 x hidden, ``vocab`` to 32,000;
    ``window`` makes every layer slide; ``experts`` with ``active_experts`` makes each MLP a mixture of that many
    experts of width ``ffn``. Raises InvalidInput for a number that cannot be.
    """
    given: dict[str, Any] = {"layers": layers, "hidden": hidden, "heads": heads}
    for name, value in given.items():
        if value is None:
            raise InvalidInput(name, "missing", "a whole number; --layers, --hidden and --heads describe a model")

    def number(name: str, value: int | str | None, default: int) -> int:
        n = default if value is None else parse_count(value, name)
        limit = LIMITS.get(name, 2**40)
        if n > limit:
            raise InvalidInput(name, value, f"at most {limit:,}")
        return n

    width, n = number("hidden", hidden, 0), number("heads", heads, 0)
    kv = number("kv_heads", kv_heads, n)
    if n % kv:
        raise InvalidInput("kv_heads", kv, f"a divisor of heads ({n})")
    if head_dim is None and width % n:
        raise InvalidInput("heads", n, f"a divisor of hidden ({width}), or give --head-dim")
    dim = number("head_dim", head_dim, width // n)
    inner = number("ffn", ffn, 4 * width)
    attention = Attention(n, kv, dim, dim, window=None if window is None else number("window", window, 1))
    mlp: Dense | MoE = Dense(inner)
    if experts is not None or active_experts is not None:
        total = number("experts", experts, 0) if experts is not None else 0
        active = number("active_experts", active_experts, 1)
        if active > total:
            raise InvalidInput("active_experts", active, f"at most experts ({total})")
        mlp = MoE(total, active, inner)
    layer = Layer((attention,), (mlp,), norms=2 * width)
    count = number("layers", layers, 0)
    return ModelSpec(
        "numbers",
        "numbers",
        width,
        number("vocab", vocab, 32000),
        (layer,) * count,
        tied=bool(tied),
        final=(vector("norm", width),),
        notes=() if vocab is not None else ("vocabulary of 32,000 assumed; give --vocab",),
    )
