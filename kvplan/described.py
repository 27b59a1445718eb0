"""What a model already does to its cache, in the notation of schemes: the way back from facts to words.

A chain without ``mixed`` can be applied to the model and changes nothing (a test does that), but for members that make
one kind of attention of another (``mla``, ``dsa``) and refuse a model that has it already, and chunks in some layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.errors import KvplanError
from kvplan.specs import Attention, Compressed, Factored, Latent, Layer, Mixer, ModelSpec, Recurrent, replace

__all__ = ["described_scheme", "shown_scheme"]

OwnMixer = Attention | Latent | Compressed | Factored


def described_scheme(spec: ModelSpec) -> str:
    """The model's own scheme as a short chain: heads or rank, windows, whose KV is read, indexers, formats, place.

    ``mixed`` stands where layers differ in a way that no member of the chain says; "" where nothing is attended to.

    >>> from kvplan.catalog import load
    >>> [described_scheme(load(name)) for name in ("llama-2-7b", "gemma-3-12b", "deepseek-v3", "mamba-130m")]
    ['mha', 'gqa:8+window:1024@5:1', 'mla:latent=512,rope=64,q=1536', '']
    """
    memo: dict[str, str] = spec.__dict__.setdefault("_described", {})
    if "chain" not in memo:
        found = [(i, own) for i, layer in enumerate(spec.layers) if (own := _own(layer)) is not None]
        mixers = [mixer for _, mixer in found]
        parts = [_entry(mixers), _tokens(mixers), _owners(spec, found), _reads(mixers)] if found else []
        parts += [_bits(spec), _place(spec)]
        memo["chain"] = "+".join(part for part in parts if part)
    return memo["chain"]


def shown_scheme(spec: ModelSpec) -> str:
    """The same for a line of text: an owner map names every layer, so a long chain is cut."""
    chain = described_scheme(spec)
    return chain if len(chain) <= SHOWN else chain[: SHOWN - 1] + "…"


SHOWN = 48


def _own(layer: Layer) -> OwnMixer | None:
    """The mixer that looks at the layer's own tokens: what schemes count."""
    for mixer in layer.mixers:
        if not isinstance(mixer, Recurrent) and not (
            isinstance(mixer, Attention) and (mixer.cross or not mixer.cached)
        ):
            return mixer
    return None


def _entry(mixers: Sequence[OwnMixer]) -> str:
    """The heads axis or the rank axis."""
    words = {_entry_of(mixer) for mixer in mixers}
    if len(words) == 1:
        return words.pop()
    kinds = {word.partition(":")[0] for word in words}
    return "gqa:mixed" if kinds <= {"mha", "mqa", "gqa"} else f"{'/'.join(sorted(kinds))}:mixed"


def _entry_of(m: OwnMixer) -> str:
    if isinstance(m, Attention):
        if m.rank_k or m.rank_v:
            return f"lowrank:k={m.rank_k},v={m.rank_v}"
        return "mha" if m.kv_heads == m.heads else "mqa" if m.kv_heads == 1 else f"gqa:{m.kv_heads}"
    if isinstance(m, Latent):
        return f"mla:latent={m.kv_rank},rope={m.rope_dim}" + (f",q={m.q_rank}" if m.q_rank else "")
    if isinstance(m, Factored):
        return f"tpa:q={m.rank_q},k={m.rank_k},v={m.rank_v}"
    return "mqa"  # one pooled vector is key and value for all heads


def _owners(spec: ModelSpec, found: Sequence[tuple[int, OwnMixer]]) -> str:
    """The layers axis: a scheme whose owner map is this one, else the map itself."""
    place = {layer: i for i, (layer, _) in enumerate(found)}
    owners = [place.get(layer if m.reads is None else m.reads, -1) for layer, m in found]
    if owners == list(range(len(found))):
        return ""
    if any(m.merged for _, m in found if isinstance(m, Attention)):
        return "minicache:mixed"
    # the widest group, the layers that share, and layers that keep: what the members of this axis are named by
    shared = sum(owner != i for i, owner in enumerate(owners))
    candidates = [f"cla:{max(map(owners.count, owners))}", f"shared-last:{shared}"]
    if any(layer.prefill_passes > 1 for layer in spec.layers):
        candidates = [f"lckv:w={len(owners) - shared - 1}"]
    elif any(layer.prefill_last for layer in spec.layers):
        return "yoco:mixed"
    for text in candidates:
        if _applied(spec, text) == owners:
            return text
    return "owners:mixed" if -1 in owners else f"owners:{'_'.join(map(str, owners))}"


def _applied(spec: ModelSpec, text: str) -> list[int] | None:
    """The owner map of a scheme on this model, its own sharing undone; None where the scheme does not apply."""
    # imported where a model shares: there are many small files, and most models need none
    from kvplan.schemes import apply

    def alone(mixer: Mixer) -> Mixer:
        return mixer if isinstance(mixer, Recurrent) else replace(mixer, reads=None)

    layers = tuple(replace(layer, mixers=tuple(alone(m) for m in layer.mixers)) for layer in spec.layers)
    try:
        changed = apply(replace(spec, layers=layers), text)
    except KvplanError:
        return None
    found = [(i, own) for i, layer in enumerate(changed.layers) if (own := _own(layer)) is not None]
    place = {layer: i for i, (layer, _) in enumerate(found)}
    return [place.get(layer if m.reads is None else m.reads, -1) for layer, m in found]


def _tokens(mixers: Sequence[OwnMixer]) -> str:
    """The tokens axis: full is nothing to say; else one limit for all, or for L of every L + G layers."""
    words = [_tokens_of(mixer) for mixer in mixers]
    kinds = set(words) - {""}
    if not kinds:
        return ""
    if len(kinds) > 1:
        return f"{'/'.join(sorted({word.partition(':')[0] for word in kinds}))}:mixed"
    (word,) = kinds
    local = [bool(w) for w in words]
    if all(local):
        return word
    first = local.index(False)
    rest = local[first:]
    full = rest.index(True) if True in rest else len(rest)
    if first and all(slides == (i % (first + full) < first) for i, slides in enumerate(local)):
        return f"{word}@{first}:{full}"
    return f"{word}@mixed"


def _tokens_of(m: OwnMixer) -> str:
    if isinstance(m, Compressed):
        return f"compress:m={m.ratio},window={m.window}" if m.ratio else f"window:{m.window}"
    if m.keep is not None:
        if isinstance(m, Attention) and any(part.name == "memory" for part in m.extra_parts):
            return f"infini:segment={m.keep.limit}"
        kind = {"full": "", "landmark": "landmark:block=", "constant": "constant:"}.get(m.keep.kind, f"{m.keep.kind}:")
        return f"{kind}{m.keep.limit}" if kind else ""
    if not isinstance(m, Attention):
        return ""
    if m.pool is not None:
        return f"compress:m={m.pool[0]},window={m.pool[1]}"
    if m.chunk is not None:
        return f"chunk:{m.chunk}"
    return f"window:{m.window}" if m.window is not None else ""


def _reads(mixers: Sequence[OwnMixer]) -> str:
    """The reads axis: an indexer that lets a layer read its best entries only."""
    found = {getattr(mixer, "indexer", None) for mixer in mixers}
    if found == {None}:
        patterns = {getattr(mixer, "sparse", None) for mixer in mixers}
        if patterns == {None}:
            return ""
        if len(patterns) > 1 or any(p and (p.prefill or p.stride) for p in patterns):
            return "sparse:mixed"  # which of Quest, NSA, SparseK ... the numbers alone do not tell
        (pattern,) = patterns
        return f"topk:{pattern.fixed}" if pattern else ""
    indexers = {(x.top_k, x.dim, x.heads, x.shares, x.block) if x else None for x in found}
    if len(indexers) > 1:
        return "dsa:mixed"
    ((top_k, dim, heads, shares, block),) = indexers  # type: ignore[misc]  # not None: that was looked at above
    return "dsa:mixed" if shares or block > 1 else f"dsa:k={top_k},dim={dim},heads={heads}"


def _bits(spec: ModelSpec) -> str:
    """The bits axis: formats that a scheme asked for, not those of the checkpoint."""
    k, v = spec.cache_type_k, spec.cache_type_v
    if not (k or v):
        return ""
    return str(k) if k == v else f"kv:k={k},v={v}"


def _place(spec: ModelSpec) -> str:
    shares = [f"{name}={share:g}" for name, share in zip(("cpu", "disk"), spec.offload, strict=True) if share]
    return f"offload:{','.join(shares)}" if shares else ""
