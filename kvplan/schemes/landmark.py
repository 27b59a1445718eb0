"""The tokens axis: a landmark after every block of tokens."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Factored, Growth, ModelSpec, Sparse, replace


@scheme(
    "landmark",
    "landmark:block=50[,k=4]",
    "tokens",
    "one landmark entry per block beside its tokens; with k, a step reads the landmarks and k blocks",
    "Landmark attention, Mohtashami and Jaggi 2023, arXiv 2305.16300",
    also=lambda arguments: "reads" if "k" in arguments.named else "",
)
def landmark(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Landmark attention: every complete block of tokens carries a landmark token, which gates the block.

    Formula: S + floor(S / block) entries: residence rises by 1/block. With ``k`` a decode step reads the landmarks, the
    best k blocks and the newest one: (k + 1) block + S / block entries. Without it every entry is read. The prompt is
    attended to in full either way; the landmarks' own passes through the layers (1/block of the prompt's linear FLOPs)
    are not counted. Parameters: one embedding row, not counted. Layers with a window of their own stay as they are.
    Source: arXiv 2305.16300 (block 50; k = 4 in Table 1).

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="landmark:block=50", context=5000).kv["bytes"] // 524_288
    5100
    """
    arguments.only("block", "k", bare=True)
    block = arguments.count("block", bare=True, default=50, least=2)
    blocks = arguments.count("k", default=0, least=0)
    # of block + 1 entries one is a landmark
    sparse = Sparse((blocks + 1) * block, block + 1) if blocks else None

    def change(layer: int, mixer: Own) -> Own:
        if mixer_growth(mixer).kind != "full":
            return mixer
        if sparse is not None and not isinstance(mixer, Factored) and mixer.indexer is not None:
            raise InvalidInput("scheme", arguments.text, "no k on a model that selects what it reads already")
        return replace(mixer, keep=Growth("landmark", block), sparse=sparse)

    return change_attention(spec, arguments.text, change, weights=False)
