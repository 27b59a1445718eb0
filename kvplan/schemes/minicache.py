"""The bits axis across layers: MiniCache merges what neighbouring layers cache."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, Growth, ModelSpec, Part, replace

SIDES = ("lower", "upper")


def _parts(a: Attention, every: int) -> dict[str, tuple[Part, ...]]:
    """What a pair keeps for each of its layers beside the shared directions."""
    kept = Growth("compress", every)
    parts: dict[str, tuple[Part, ...]] = {}
    for side in SIDES:
        parts[side] = (Part(f"{side}_magnitude", 1, 2, "compute", shard="none"),)
        if every:
            parts[side] += (
                Part(f"{side}_retained_key", a.kv_heads, a.key_dim, "key", kept),
                Part(f"{side}_retained_value", a.kv_heads, a.value_dim, "value", kept),
            )
    return parts


@scheme(
    "minicache",
    "minicache[:from=0.5,retain=0.05]",
    "tokens layers",
    "from the middle on, pairs of layers share directions and keep a magnitude each, and some tokens unmerged",
    "MiniCache, Liu et al. 2024, arXiv 2405.14366",
)
def minicache(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """MiniCache: neighbouring layers store one shared direction per token and a magnitude each.

    Formula, per pair of layers and token: keys and values once (the directions), 2 magnitudes (one of K, one of V) per
    layer, and of ``retain`` of the tokens both layers' keys and values as they were: of a whole model of width d
    (3.1 d + 2) / (4 d). Pairs start at the share ``from`` of the attention layers; a layer left over stays alone.
    Traffic: every layer reads the directions, its own magnitudes and its own retained tokens, a little more than before.
    Parameters and FLOPs stay: every layer still projects its own keys and values (merging and rescaling are not counted).
    Source: arXiv 2405.14366, appendix (from the middle, 5 % retained).

    >>> from kvplan.api import plan
    >>> merged, plain = (plan("llama-2-7b", scheme=s, context=4000).kv["bytes"] for s in ("minicache", None))
    >>> merged / plain == (3.1 * 4096 + 2) / (4 * 4096)
    True
    """
    text = arguments.text
    arguments.only("from", "retain")
    retain = arguments.share("retain", "0.05")
    every = round(1 / retain) if retain else 0
    if every == 1 or (retain and abs(retain * every - 1) > 1e-6):
        raise InvalidInput("scheme", text, "retain as one token of n: 0, 0.5, 0.1, 0.05, 0.04, 0.02, 0.01 ...")
    layers = attention_layers(spec)
    first = int(arguments.share("from", "0.5") * len(layers))
    pairs: dict[int, tuple[str, int]] = {}  # layer -> its side, and the layer that stores
    for lower, upper in zip(layers[first::2], layers[first + 1 :: 2], strict=False):
        pairs |= {lower: (SIDES[0], lower), upper: (SIDES[1], lower)}
    shapes: dict[int, tuple[int, int, int]] = {}

    def change(layer: int, mixer: Own) -> Own:
        if layer not in pairs:
            return mixer
        if not isinstance(mixer, Attention) or mixer.rank_k or mixer.rank_v or mixer.indexer is not None:
            raise InvalidInput("scheme", text, "a model with per-head keys and values")
        if mixer_growth(mixer).kind != "full" or mixer.reads not in (None, layer):
            raise InvalidInput("scheme", text, "merged layers that keep every token and read their own cache")
        side, owner = pairs[layer]
        shape = (mixer.kv_heads, mixer.key_dim, mixer.value_dim)
        if shapes.setdefault(owner, shape) != shape:
            raise InvalidInput("scheme", text, "pairs of layers with equal KV heads and head dims")
        parts = _parts(mixer, every)
        seen = ("key", "value", *(part.name for part in parts[side]))
        return replace(
            mixer,
            reads=None if owner == layer else owner,
            merged=owner != layer,
            extra_parts=(*mixer.extra_parts, *parts["lower"], *parts["upper"]),
            seen=seen,
        )

    return change_attention(spec, text, change, weights=False)
