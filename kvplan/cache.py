"""Stores and reads: what occupies memory, and who looks at it.

Resident bytes are a sum over stores, decode traffic is a sum over reads. A layer stores KV iff some layer reads it,
so cross-layer sharing needs no code of its own: only `reads` in a mixer.
"""

from collections.abc import Callable
from typing import NamedTuple

from kvplan.errors import InvalidInput
from kvplan.specs import (
    FULL,
    Attention,
    Compressed,
    Factored,
    Growth,
    Indexer,
    Latent,
    Mixer,
    ModelSpec,
    Part,
    Recurrent,
    Sparse,
    replace,
)

__all__ = ["CachePlan", "Read", "Store", "build_plan", "longest", "mixer_growth", "mixer_parts", "targets"]


class Store(NamedTuple):
    """One cache that exists: the layer that owns it and its parts."""

    layer: int
    label: str  # global | local | chunk | latent | compressed | state | cross ...
    parts: tuple[Part, ...]


class Read(NamedTuple):
    """One mixer's look at one store. Dims are per head; prefill and decode differ where MLA is absorbed."""

    layer: int
    store: int
    growth: Growth
    heads: int
    score_dim: int
    value_dim: int
    decode_score_dim: int
    decode_value_dim: int
    top_k: int | None = None  # an indexer lets it read at most this many entries
    index_heads: int = 0
    index_dim: int = 0
    own: tuple[str, ...] = ()  # names of the parts it reads; () = all
    index_block: int = 1  # the indexer keeps whole blocks of this many entries
    index_pooled: bool = False  # and scores each of them once
    sparse: Sparse | None = None
    prefill_passes: int = 1  # as the layer's
    prefill_last: bool = False
    prompt: Growth | None = None  # what a prompt's queries look at where it is more than stays (a budget)


class CachePlan(NamedTuple):
    """The cache of a model: each store once, each read once per layer that looks."""

    stores: tuple[Store, ...]
    reads: tuple[Read, ...]


def mixer_growth(mixer: Mixer) -> Growth:
    """How far back one mixer looks."""
    if isinstance(mixer, (Attention, Latent, Factored)) and mixer.keep is not None:
        return mixer.keep
    if isinstance(mixer, Attention):
        if mixer.cross:
            return Growth("encoder")
        if mixer.chunk is not None:
            return Growth("chunk", mixer.chunk)
        if mixer.window is not None:
            return Growth("window", mixer.window)
    if isinstance(mixer, Compressed):
        return Growth("compress", mixer.ratio) if mixer.ratio else Growth("window", mixer.window)
    return FULL


def mixer_parts(mixer: Mixer) -> tuple[Part, ...]:
    """The parts one mixer would store if it owned its cache."""
    if isinstance(mixer, Recurrent):
        conv = tuple(
            Part(f"conv{i or ''}", channels, kernel - 1, "compute", Growth("constant", 1))
            for i, (channels, kernel) in enumerate(mixer.conv)
        )
        return conv + mixer.state
    if isinstance(mixer, Compressed):
        return _compressed_parts(mixer)
    growth = mixer_growth(mixer)
    parts: tuple[Part, ...]
    if isinstance(mixer, Latent):
        parts = (
            Part("latent", 1, mixer.kv_rank, mixer.latent_as, growth, "none"),
            Part("rope", 1, mixer.rope_dim, mixer.rope_as, growth, "none"),
        )
    elif isinstance(mixer, Factored):
        # the factor over heads splits with them; the factor over dims is needed whole on every rank
        parts = ()
        for name, rank in (("key", mixer.rank_k), ("value", mixer.rank_v)):
            parts += (Part(f"{name}_heads", mixer.heads, rank, name, growth),)
            parts += (Part(f"{name}_dims", rank, mixer.dim, name, growth, "none"),)
        return parts
    else:
        parts = _attention_parts(mixer, growth)
    if mixer.indexer is not None and not mixer.indexer.shares:
        if isinstance(mixer, Attention) and mixer.pool is not None:
            growth = Growth("compress", mixer.pool[0])  # an indexer scores pooled entries: one key for each
        if mixer.indexer.pooled:
            growth = Growth("compress", mixer.indexer.block)  # and the sum of the open block's keys
            parts += (Part("index_open", 1, mixer.indexer.dim, mixer.indexer.store_as, Growth("constant", 1), "none"),)
        parts += (Part("index", 1, mixer.indexer.dim, mixer.indexer.store_as, growth, "none"),)
    return parts


def _attention_parts(a: Attention, growth: Growth) -> tuple[Part, ...]:
    if a.pool is not None:
        growth = Growth("window", a.pool[1])
    key = Part("key", a.kv_heads, a.key_dim, "key", growth)
    value = Part("value", a.kv_heads, a.value_dim, "value", growth)
    if a.rank_k:
        key = Part("key", 1, a.rank_k, "key", growth, "none")
    if a.rank_v:
        value = Part("value", 1, a.rank_v, "value", growth, "none")
    parts = (key, value, *a.extra_parts)
    if a.pool is not None:
        entry = Growth("compress", a.pool[0])
        parts += (key._replace(name="pooled_key", growth=entry), value._replace(name="pooled_value", growth=entry))
    return parts


def _compressed_parts(m: Compressed) -> tuple[Part, ...]:
    parts = _entry(m, "window", Growth("window", m.window))
    if not m.ratio:
        return parts
    entry, once = Growth("compress", m.ratio), Growth("constant", 1)
    parts += _entry(m, "compressed", entry)
    parts += (Part("compressor", 1, _compressor_width(m, m.dim), "compute", once, "none"),)
    if m.indexer is not None and not m.indexer.shares:
        parts += (Part("index", 1, m.indexer.dim, m.indexer.store_as, entry, "none"),)
        parts += (Part("index_compressor", 1, _compressor_width(m, m.indexer.dim), "compute", once, "none"),)
    return parts


def _entry(m: Compressed, name: str, growth: Growth) -> tuple[Part, ...]:
    """One vector per entry, or two where its rotary dims are stored in another format."""
    whole = Part(name, 1, m.dim - m.rope_dim, m.entry_as, growth, "none")
    return (whole, Part(f"{name}_rope", 1, m.rope_dim, "compute", growth, "none")) if m.rope_dim else (whole,)


def _compressor_width(m: Compressed, dim: int) -> int:
    """Elements a compressor of entries of ``dim`` keeps at its fullest: value and gate of every token it still needs.

    That is the moment before a group closes. A buffer of fixed size is what serving code allocates, and the bytes of
    a sequence then never shrink as it grows.
    """
    open_group = 2 * (m.ratio - 1) * dim
    return 2 * open_group + 2 * m.ratio * dim if m.overlap else open_group


def longest(a: Growth, b: Growth) -> Growth:
    """The growth that holds what both readers need.

    >>> longest(Growth("window", 512), Growth("full"))
    Growth(kind='full', limit=0, sinks=0)
    >>> longest(Growth("window", 512), Growth("window", 1024)).limit
    1024
    """
    if a == b:
        return a
    if a.kind == "full" or b.kind == "full":
        return FULL
    bounded = {"window", "chunk", "window_transformers", "budget"}
    if a.kind in bounded and b.kind in bounded:
        return a if a.limit >= b.limit else b
    raise InvalidInput("sharing", f"{a.kind} with {b.kind}", "layers that share a cache must grow alike")


def _label(mixer: Mixer, growth: Growth) -> str:
    if isinstance(mixer, Recurrent):
        return "state"
    if isinstance(mixer, Compressed) and mixer.ratio:
        return "compressed"
    if growth.kind == "full":
        return "latent" if isinstance(mixer, Latent) else "global"
    return {"window": "local", "chunk": "chunk", "encoder": "cross"}.get(growth.kind, growth.kind)


def _reads(layer: int, store: int, mixer: Mixer, growth: Growth) -> list[Read]:
    if isinstance(mixer, Attention) and mixer.pool is not None:
        # two looks at one store: the window of single tokens, all of it, and the pooled entries further back, of which
        # an indexer or a sparse pattern picks
        near = _read(layer, store, replace(mixer, sparse=None, indexer=None), Growth("window", mixer.pool[1]))
        far = _read(layer, store, mixer, Growth("compress", mixer.pool[0]))
        return [near._replace(own=("key", "value")), far._replace(own=("pooled_key", "pooled_value", "index"))]
    if not isinstance(mixer, Compressed):
        return [_read(layer, store, mixer, growth)]
    dim = mixer.dim
    near = Read(layer, store, Growth("window", mixer.window), mixer.heads, dim, dim, dim, dim)
    if not mixer.ratio:
        return [near]
    # likewise: every token of the window, and the pooled entries (all, or those the indexer picks)
    far = _indexed(Read(layer, store, growth, mixer.heads, dim, dim, dim, dim), mixer.indexer)
    names = ("compressed", "compressed_rope", "compressor", "index", "index_compressor")
    return [near._replace(own=("window", "window_rope")), far._replace(own=names)]


def _indexed(read: Read, index: Indexer | None) -> Read:
    if index is None:
        return read
    scores = 0 if index.shares else index.heads
    read = read._replace(top_k=index.top_k, index_heads=scores, index_dim=index.dim, index_block=index.block)
    return read._replace(index_pooled=index.pooled)


def _read(layer: int, store: int, mixer: Attention | Latent | Recurrent | Factored, growth: Growth) -> Read:
    if isinstance(mixer, Attention):
        score, value = mixer.key_dim, mixer.value_dim
        read = Read(layer, store, growth, mixer.heads * mixer.passes, score, value, score, value)
        if mixer.rank_k or mixer.rank_v:
            # per cached token: keys are expanded for every KV head, values are weighted in their own rank (absorbed)
            expand = mixer.rank_k * mixer.kv_heads * mixer.key_dim if mixer.rank_k else 0
            weigh = mixer.rank_v or mixer.value_dim
            read = Read(
                layer, store, growth, 1, mixer.heads * score, mixer.heads * value,
                expand + mixer.heads * score, mixer.heads * weigh,
            )  # fmt: skip
    elif isinstance(mixer, Factored):
        # TPA, section 3: scores from factors cost R_Q R_K h + n R_Q R_K per key, the weighted sum n R_V h
        wide = mixer.heads * mixer.dim
        scores = mixer.rank_q * mixer.rank_k * mixer.dim + mixer.heads * mixer.rank_q * mixer.rank_k
        read = Read(layer, store, growth, 1, wide, wide, scores, mixer.rank_v * wide)
    elif isinstance(mixer, Latent):
        read = Read(
            layer,
            store,
            growth,
            mixer.heads,
            mixer.nope_dim + mixer.rope_dim,
            mixer.value_dim,
            mixer.kv_rank + mixer.rope_dim,
            mixer.kv_rank,
        )
    else:
        return Read(layer, store, growth, 0, 0, 0, 0, 0)
    read = read._replace(sparse=mixer.sparse)
    if growth.kind == "budget":
        # what a budget drops, it drops after the prompt: until then the model's own mask holds
        read = read._replace(prompt=mixer_growth(replace(mixer, keep=None)))
    if isinstance(mixer, Attention) and mixer.seen:
        read = read._replace(own=mixer.seen)
    return read if isinstance(mixer, Factored) else _indexed(read, mixer.indexer)


def targets(spec: ModelSpec) -> frozenset[tuple[int, int]]:
    """Whose KV is read by another layer: (layer, position among its mixers); remembered on the spec."""
    memo: dict[str, frozenset[tuple[int, int]]] = spec.__dict__
    if "_targets" not in memo:
        memo["_targets"] = frozenset(
            (mixer.reads, position)
            for i, layer in enumerate(spec.layers)
            for position, mixer in enumerate(layer.mixers)
            if not isinstance(mixer, Recurrent) and mixer.reads is not None and mixer.reads != i
        )
    return memo["_targets"]


def build_plan(spec: ModelSpec, parts_of: Callable[[Mixer], tuple[Part, ...]] = mixer_parts) -> CachePlan:
    """Stores and reads of a model, derived once from its layers; ``parts_of`` lets an engine keep other parts.

    Raises InvalidInput where layers share that cannot: other heads, other head dims, other parts.
    """
    owners: dict[tuple[int, int], int] = {}  # (layer, mixer position) -> store
    stores: list[Store] = []
    reads: list[Read] = []
    pending: list[tuple[int, int, Mixer]] = []
    unread: set[int] = set()  # stores that their own layer does not look at
    for i, layer in enumerate(spec.layers):
        for position, mixer in enumerate(layer.mixers):
            if isinstance(mixer, Attention) and not mixer.cached:
                continue
            sharing = None if isinstance(mixer, Recurrent) else mixer.reads
            if sharing is not None and sharing != i:
                pending.append((i, position, mixer))
                if (i, position) not in targets(spec):
                    continue
                unread.add(len(stores))
            owners[i, position] = len(stores)
            growth = Growth("constant", 1) if isinstance(mixer, Recurrent) else mixer_growth(mixer)
            stores.append(Store(i, _label(mixer, growth), parts_of(mixer)))
            if sharing is None or sharing == i:
                reads += _reads(i, len(stores) - 1, mixer, growth)
    for i, position, mixer in pending:
        assert not isinstance(mixer, Recurrent)
        assert mixer.reads is not None
        if not 0 <= mixer.reads < len(spec.layers):
            raise InvalidInput(f"layers[{i}].reads", mixer.reads, f"a layer index from 0 to {len(spec.layers) - 1}")
        store = owners.get((mixer.reads, position))
        if store is None:
            # a layer may mix several mixers: take the first attention-like store of the target layer
            candidates = [s for (layer_index, _), s in owners.items() if layer_index == mixer.reads]
            candidates = [s for s in candidates if stores[s].label != "state"]
            if not candidates:
                raise InvalidInput(f"layers[{i}].reads", mixer.reads, "a layer that stores keys and values")
            store = candidates[0]
        growth = mixer_growth(mixer)
        stores[store] = _lengthen(stores[store], parts_of(mixer), mixer, growth, i, store in unread)
        unread.discard(store)
        reads += _reads(i, store, mixer, growth)
    reads.sort(key=lambda read: read.layer)
    return CachePlan(tuple(stores), tuple(_as_its_layer(spec, read) for read in reads))


def _as_its_layer(spec: ModelSpec, read: Read) -> Read:
    layer = spec.layers[read.layer]
    if layer.prefill_passes == 1 and not layer.prefill_last:
        return read
    return read._replace(prefill_passes=layer.prefill_passes, prefill_last=layer.prefill_last)


def _lengthen(store: Store, wanted: tuple[Part, ...], reader: Mixer, growth: Growth, layer: int, unread: bool) -> Store:
    """The store with what one more reader needs; the first reader of an ``unread`` one says how long it is."""

    def shape(parts: tuple[Part, ...]) -> list[tuple[str, int, int]]:
        return [(p.name, p.heads, p.width) for p in parts if p.name != "index"]

    if shape(store.parts) != shape(wanted):
        raise InvalidInput(f"layers[{layer}].reads", store.layer, "a layer with equal KV heads, head dims and parts")
    own = {p.name for p in store.parts}
    if any(p.name == "index" and p.name not in own for p in wanted):
        raise InvalidInput(f"layers[{layer}].reads", store.layer, "a layer that keeps indexer keys too")
    growths = {p.name: p.growth for p in wanted}
    if unread:
        parts = tuple(p._replace(growth=growths.get(p.name, p.growth)) for p in store.parts)
        return Store(store.layer, _label(reader, growth), parts)
    try:
        parts = tuple(p._replace(growth=longest(p.growth, growths.get(p.name, p.growth))) for p in store.parts)
    except InvalidInput as error:
        raise InvalidInput(f"layers[{layer}].reads", store.layer, "a layer whose cache grows alike") from error
    label = _label(reader, growth) if parts != store.parts else store.label
    return Store(store.layer, label, parts)
