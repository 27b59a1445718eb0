"""Keys that go by several names, and keys that a class takes for granted: GPT-2's dialect and its relatives."""

from __future__ import annotations

from typing import Any

from kvplan.importers.config import Config
from kvplan.specs import Attention

__all__ = ["agree", "either", "equal_heads", "layer_windows"]


def either(c: Config, *keys: str) -> str:
    """Which of several names for one fact the file uses (the first where it uses none); an error where two disagree."""
    used = [key for key in keys if c.has(key)]
    for other in used[1:]:
        if c.raw[other] != c.raw[used[0]]:
            raise c.error(other, c.raw[other], f"the value of {used[0]}, which it is another name for")
    return used[0] if used else keys[0]


def agree(c: Config, key: str, fact: int) -> None:
    """A key the class never looks at: harmless where it repeats what the class does, else an error.

    For remote code, and where such a file does not run; where it does, ``Config.overruled`` counts what is built.
    """
    value = c.maybe_int(key)
    if value not in (None, fact):
        raise c.error(key, value, f"{fact} or nothing: this family's class knows no other")


def equal_heads(c: Config, hidden: int, key: str, default: int, **facts: Any) -> Attention:
    """Multi-head attention of classes that know neither grouped queries nor a head_dim of their own.

    A file that states either all the same is counted as the class builds it, with a note.
    """
    heads = c.int(key, default)
    dim = c.divides(key, hidden, heads, "the hidden size")
    c.overruled("num_key_value_heads", heads)
    c.overruled("head_dim", dim)
    return Attention(heads, heads, dim, dim, **facts)


def layer_windows(c: Config, derived: list[str], window: int) -> list[int | None]:
    """The window of each layer, None where it sees everything, from ``layer_types`` or else the ``derived`` pattern.

    ``window`` is the class's default for ``sliding_window``. A null there beside sliding layers is an error: the
    class builds no mask from it.
    """
    types = c.strings("layer_types", len(derived), ("full_attention", "sliding_attention")) or derived
    size = c.int("sliding_window", window)
    if "sliding_attention" in types and "sliding_window" in c.raw and c.raw["sliding_window"] is None:
        raise c.error("sliding_window", None, "a whole number: some layers slide")
    return [size if kind == "sliding_attention" else None for kind in types]
