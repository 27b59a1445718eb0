"""Layer-condensed KV: the middle layers read the KV of the top one among them."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import PASSES, Arguments, attention_layers, scheme, share
from kvplan.specs import ModelSpec

__all__ = ["lckv"]


@scheme(
    "lckv",
    f"lckv:w=W[,passes={PASSES}]",
    "layers",
    "W warm-up layers keep KV, half below and half above; those between read the topmost of them",
    "Wu & Tu 2024, arXiv 2405.10637 and github.com/whyNLP/LCKV",
)
def lckv(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Layer-condensed KV cache: W / 2 layers at either end keep KV, all between read the last of them.

    Formula: W + 1 KV layers, 2 x (W + 1) x n_kv x h elements per token: ``0_20*20_21`` for 22 layers and W = 2; for
    W = 10 layers 0-4 and 17-21 and the target 16. W is even, as the repository halves it.
    Parameters: W_K and W_V vanish in L - W - 1 layers. Traffic and the FLOPs of attention stay as they are; the diagonal
    is masked in layers that read above themselves (a token's KV is not there yet), so each may look at one entry less
    than counted here.
    Prefill: a prompt runs ``passes`` times through the condensed block of L - W layers, which includes the target (m + b
    = 7 + 2 in the paper), and once through the warm-up layers: FLOPs say so. Decode is one ordinary pass. A prompt of at
    most ``passes`` tokens would run token by token instead, which is one pass; that is not modelled.
    Source: Wu & Tu 2024, arXiv 2405.10637 and github.com/whyNLP/LCKV.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> two = apply(load("llama-2-7b"), "lckv:w=2")
    >>> [(layer.mixers[0].reads, layer.prefill_passes) for layer in two.layers[::15]]
    [(None, 1), (30, 9), (None, 9)]
    """
    arguments.only("w", "passes")
    warm, count = arguments.count("w", least=0), len(attention_layers(spec))
    if warm % 2 or warm >= count > 0:
        raise InvalidInput("scheme", arguments.text, f"w as an even number below the {count} attention layers")
    low, high = warm // 2, count - warm // 2 - 1
    owners = [high if low <= i <= high else i for i in range(count)]
    return share(spec, arguments.text, owners, arguments.count("passes", default=PASSES))
