"""Cross-layer attention: groups of consecutive layers share the KV of their first one."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.num import ceildiv
from kvplan.schemes import Arguments, attention_layers, scheme, share
from kvplan.specs import ModelSpec

__all__ = ["cla"]

VARIANTS = ("keep-ends", "dense-front", "dense-back")


@scheme(
    "cla",
    "cla:F[,ends=first|last][,variant=keep-ends|dense-front|dense-back]",
    "layers",
    "groups of F layers read the KV of their first layer",
    "Brandon et al. 2024, arXiv 2405.12981",
)
def cla(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Cross-layer attention: each group of F consecutive layers reads the KV of its first layer.

    Formula: ceil(L / F) of L layers keep KV, 2 x ceil(L / F) x n_kv x h elements per token. Where F does not divide L,
    the first group is the short one (the paper's Figure 2: layer 0 alone) or, with ``ends=last``, the last.
    Variants keep n = 2 + ceil((L - 2) / F) KV layers, 11 of 20 at F = 2: ``keep-ends`` leaves the first and last layer
    alone and groups those between; in ``dense-front`` n - 1 layers keep their own, the rest but the last read the last
    of them, and the last keeps its own; in ``dense-back`` two keep their own, a run of L - n reads the second, and n - 2
    keep their own (the paper's prose says a run of 10 in 20 layers, which would make 21: it is 9).

    Parameters and FLOPs: W_K and W_V vanish in each layer that reads another's: 2 x d x n_kv x h parameters and twice as
    many FLOPs per token. Residence falls to about 1 / F. Traffic and the FLOPs of attention stay: every layer still
    reads keys and values (section 2.3). Prefill is one pass.
    Source: Brandon et al. 2024, arXiv 2405.12981.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> [layer.mixers[0].reads for layer in apply(load("llama-2-7b"), "cla:3").layers[:6]]
    [None, 0, None, 2, 2, None]
    """
    arguments.only("ends", "variant", bare=True)
    factor, count = arguments.count("F", bare=True), len(attention_layers(spec))
    ends, variant = arguments.named.get("ends", "first"), arguments.named.get("variant")
    if ends not in ("first", "last"):
        raise InvalidInput("scheme", arguments.text, "ends=first or ends=last")
    if variant is None:
        return share(spec, arguments.text, _grouped(count, factor, ends))
    if "ends" in arguments.named and variant != "keep-ends":
        raise InvalidInput("scheme", arguments.text, f"no ends= beside variant={variant}: its groups do not fall short")
    if variant not in VARIANTS:
        raise InvalidInput("scheme", arguments.text, f"variant={' or '.join(VARIANTS)}")
    if count < 3:
        raise InvalidInput("scheme", arguments.text, "a variant on 3 attention layers or more")
    kept = 2 + ceildiv(count - 2, factor)
    if variant == "keep-ends":
        inner = _grouped(count - 2, factor, ends)
        owners = [0, *(1 + owner for owner in inner), count - 1]
    elif variant == "dense-front":
        owners = [*(min(i, kept - 2) for i in range(count - 1)), count - 1]
    else:
        run = count - kept
        owners = [0, 1, *[1] * run, *range(2 + run, count)]
    return share(spec, arguments.text, owners)


def _grouped(count: int, factor: int, ends: str) -> list[int]:
    """Owner of each of ``count`` layers in groups of ``factor``; the group that falls short stands first or last.

    >>> _grouped(10, 3, "first"), _grouped(5, 2, "last")
    ([0, 1, 1, 1, 4, 4, 4, 7, 7, 7], [0, 0, 2, 2, 4])
    """
    short = count % factor if ends == "first" else 0
    return [0 if i < short else short + (i - short) // factor * factor for i in range(count)]
