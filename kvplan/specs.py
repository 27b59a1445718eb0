"""Facts about a model, layer by layer. No arithmetic: ``weights.py`` and ``cache.py`` say what the facts imply.

A layer is its mixers (attention, latent attention, recurrent state; several where a layer runs them side by side or
one after another), its MLP, and the small tensors around them. Every class here is a
named tuple: immutable, hashable, and quick to define (a frozen dataclass costs a millisecond of start-up each).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from kvplan.text import printable

__all__ = [
    "PLAIN",
    "Attention",
    "Compressed",
    "Dense",
    "Factored",
    "Growth",
    "Indexer",
    "Latent",
    "Layer",
    "MoE",
    "ModelSpec",
    "Offload",
    "Part",
    "QuantRule",
    "Quantization",
    "Recurrent",
    "Sparse",
    "Storage",
    "Tower",
    "Weight",
    "replace",
    "vector",
]


class Weight(NamedTuple):
    """One weight tensor of a layer, or ``copies`` equal ones (experts).

    A ``linear`` is a matrix ``inputs x outputs`` that every token multiplies (2 * inputs * outputs FLOPs a token);
    ``vector`` is anything counted but not multiplied (norms, biases, sinks, learned constants: ``outputs`` elements);
    ``lookup`` is a table that is only indexed; ``conv`` is a short convolution kernel (2 * elements FLOPs a token);
    ``cross`` is a matrix that multiplies the encoder's tokens, once per sequence.
    """

    module: str  # the module's path inside the layer as the class names it, e.g. "self_attn.q_proj"
    inputs: int
    outputs: int
    bias: bool = False  # outputs more elements, one per output
    copies: int = 1
    visited: int | None = None  # copies that one token visits; None = all; 0: the class builds what no checkpoint holds
    shard: str = "tp"  # tp: split over tensor-parallel ranks; kvN: split like N KV heads; none: on every rank
    kind: str = "linear"  # linear | vector | lookup | conv | cross
    tie: str = ""  # tensors with the same non-empty tie are one tensor (weights shared between layers)
    fused: bool = False  # experts held as one 3-D parameter: quantisers that walk nn.Linear skip it
    pieces: int = 1  # matrices that the outputs are cut into where a checkpoint stores each on its own
    asks_encoder: bool = False  # multiplies tokens only where there are encoder tokens to look at
    cached: bool = False  # makes what the cache holds: gone where another layer's KV is read, else run on every token
    steps: int = 1  # times that a decode step multiplies it per new token; 0: reads count it, per cached token

    @property
    def elements(self) -> int:
        """Elements of all copies, biases included."""
        return self.copies * (self.inputs * self.outputs + (self.outputs if self.bias else 0))


def vector(module: str, elements: int, tie: str = "") -> Weight:
    """A counted tensor that no token multiplies: a norm, a free bias, a learned constant; replicated over ranks."""
    return Weight(module, 1, elements, shard="none", kind="vector", tie=tie)


class Growth(NamedTuple):
    """How many entries a cache part holds after S tokens, and which of them a query may look at.

    kind: ``full`` S | ``window`` min(S, limit) | ``chunk`` min(S, limit), attention restarts every ``limit`` tokens |
    ``compress`` one entry per ``limit`` tokens, complete groups only | ``constant`` ``limit`` entries whatever S is |
    ``encoder`` one entry per encoder token | ``budget`` min(S, limit) after a prompt that was attended to in full (H2O, SnapKV) |
    ``landmark`` S and one more per complete block of ``limit``. Of a compressor's rolling buffer, as transformers keeps it:
    ``remainder`` S mod limit tokens of the open group | ``last_group`` the newest complete group, ``limit`` tokens.
    """

    kind: str = "full"
    limit: int = 0
    sinks: int = 0  # of a window's entries, the first tokens, which stay for good (StreamingLLM)


FULL = Growth()


class Part(NamedTuple):
    """One named tensor of a cache entry: ``heads`` rows of ``width`` elements per entry."""

    name: str  # key, value, latent, rope, index, conv, recurrent ...
    heads: int
    width: int
    store_as: str = "key"  # key | value | latent (--kv-dtype), compute (--dtype), or the name of a format
    growth: Growth = FULL
    shard: str = "heads"  # heads: split over tensor-parallel ranks; none: on every rank


class Indexer(NamedTuple):
    """A lightning indexer beside attention: it scores every cached token and lets the layer read ``top_k``."""

    heads: int
    dim: int
    top_k: int
    weights: tuple[Weight, ...] = ()
    store_as: str = "compute"
    block: int = 1  # tokens that share one selection
    shares: bool = False  # uses an earlier layer's selection: no key, no weights, no scores of its own
    pooled: bool = False  # a complete block is scored once, by the mean of its keys (QSA)


class Sparse(NamedTuple):
    """Reading little of a cache that keeps everything: some entries always, and one more per ``stride`` entries.

    Quest, NSA, SparseK: a query reads min(n, fixed + ceil(n / stride)) of n entries; stride 0 adds none.
    """

    fixed: int
    stride: int = 0
    prefill: bool = False  # the prompt's queries read sparsely too


class Attention(NamedTuple):
    """Softmax attention with per-head keys and values."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None  # sees the last `window` tokens, itself included
    chunk: int | None = None  # sees its own chunk of `chunk` tokens only
    reads: int | None = None  # index of the layer whose KV it reads; None = its own
    bias: str = ""  # which of q, k, v, o carry a bias
    qk_norm: str = ""  # "": none, "head": one vector of head_dim each, "all": one of heads * head_dim each
    qk_norm_params: int = 1  # 2 where the norm has a bias beside its weight
    value_is_key: bool = False  # no value projection: values are made from the keys' projection (both are cached)
    cross: bool = False  # reads the encoder's tokens, not its own
    cross_hidden: int | None = None  # width of the encoder's tokens where it differs
    extra: tuple[Weight, ...] = ()  # gates, sinks, relative position tables ...
    kv_extra: tuple[Weight, ...] = ()  # small tensors that vanish with the KV projections
    module: str = "self_attn"
    names: str = "q_proj k_proj v_proj o_proj"
    tie: str = ""
    cached: bool = True  # False: encoder-like attention that keeps nothing
    indexer: Indexer | None = None
    input_hidden: int | None = None  # width that q, k and v multiply where it is not the model's (concatenated inputs)
    transformers_keeps_all: bool = False  # the class's cache keeps every token although the layer sees a window
    expanded: bool = False  # the transformers class repeats keys and values per query head before it caches them
    keep: Growth | None = None  # what a scheme on the tokens axis keeps, instead of window and chunk
    pool: tuple[int, int] | None = None  # (tokens pooled into one entry, window of single tokens beside them)
    sparse: Sparse | None = None
    rank_k: int = 0  # keys are cached as this many elements per token, expanded when read; 0: as they are
    rank_v: int = 0
    extra_parts: tuple[Part, ...] = ()  # beside keys and values in the same store
    merged: bool = False  # reads another layer's store but keeps its own projections (MiniCache)
    seen: tuple[str, ...] = ()  # names of the parts it reads where that is not all of the store (MiniCache)
    key_norm_stays: bool = False  # the class builds the key norm even where another layer's keys are read
    passes: int = 1  # times that a query looks at the cache (differential attention: twice)
    experts: tuple[int, int] | None = None  # (number, visited): query and output projections are experts (JetMoE)
    # What the transformers class caches when it is not keys and values: hidden states (XLNet), or nothing (XLM).
    transformers_parts: tuple[Part, ...] | None = None


class Latent(NamedTuple):
    """Multi-head latent attention (MLA): one compressed latent and one rotary key per token, for all heads."""

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: str = ""  # which of a (q_a and kv_a), o carry a bias
    indexer: Indexer | None = None
    reads: int | None = None
    norm_params: int = 1
    extra: tuple[Weight, ...] = ()
    module: str = "self_attn"
    # What the transformers class caches when it is not latent + rope: e.g. expanded per-head keys and values.
    transformers_parts: tuple[Part, ...] | None = None
    keep: Growth | None = None
    sparse: Sparse | None = None
    latent_as: str = "latent"  # how each part is stored: see Part.store_as
    rope_as: str = "latent"


class Factored(NamedTuple):
    """Tensor-product attention: a token's keys are ``rank_k`` products of a vector over heads and one over dims.

    Cached per token: (rank_k + rank_v) * (heads + dim) elements (TPA, arXiv 2501.06425).
    """

    heads: int
    dim: int
    rank_q: int
    rank_k: int
    rank_v: int
    bias: str = ""
    reads: int | None = None
    keep: Growth | None = None
    sparse: Sparse | None = None
    extra: tuple[Weight, ...] = ()
    module: str = "self_attn"


class Recurrent(NamedTuple):
    """A mixer with a state of fixed size: SSM, gated delta rule, linear attention, short convolution, RWKV.

    ``conv`` lists (channels, kernel) of each convolution state: ideal keeps kernel - 1 columns, transformers keeps
    kernel. ``state`` lists the other parts, one entry per sequence (growth ``constant``).
    """

    kind: str
    weights: tuple[Weight, ...]
    conv: tuple[tuple[int, int], ...] = ()
    state: tuple[Part, ...] = ()
    mix_flops: int = 0  # FLOPs per token of the recurrence itself, matmuls aside: an estimate
    conv_heads: int = 1  # units the convolution state splits into over tensor-parallel ranks
    scan_bytes: int = 0  # per prompt token, what the scan holds at its peak in plain torch, in float32: an estimate
    transformers_parts: tuple[Part, ...] | None = None


class Compressed(NamedTuple):
    """Attention over a window of tokens and over pooled entries further back (DeepSeek-V4's CSA and HCA).

    One vector of ``dim`` per entry is key and value for all heads. The newest ``window`` tokens are kept one by one;
    ``ratio`` tokens are pooled into each entry of the second branch. Its compressor keeps the projections (value and
    gate) of the tokens that it still needs: up to ratio - 1 of the open group, and with ``overlap``, where an entry
    also pools the group before its own and projections are twice as wide, half of each token of the last group.
    """

    heads: int
    dim: int
    window: int
    ratio: int = 0  # tokens pooled into one entry; 0: a window and nothing else
    overlap: bool = False
    indexer: Indexer | None = None  # scores pooled entries and keeps top_k of them; it pools keys of its own
    reads: int | None = None
    weights: tuple[Weight, ...] = ()
    kv_weights: tuple[Weight, ...] = ()  # those that vanish with the KV: key projection and compressor
    mix_flops: int = 0  # FLOPs per token of what surrounds the mixer without weights (mixing of residual streams)
    entry_as: str = "latent"  # how an entry is stored: see Part.store_as
    rope_dim: int = 0  # of an entry's dim, those stored apart in the compute dtype


Mixer = Attention | Latent | Recurrent | Compressed | Factored


class Dense(NamedTuple):
    """A dense MLP: up and down, and a gate where ``gated``."""

    width: int
    gated: bool = True
    bias: str = ""  # which of u (up and gate), d (down) carry a bias
    module: str = "mlp"
    names: str = "gate_proj up_proj down_proj"
    tie: str = ""
    extra: tuple[Weight, ...] = ()


class MoE(NamedTuple):
    """A mixture of experts: a router, ``experts`` of which a token visits ``active``, and shared experts for all."""

    experts: int
    active: int
    width: int
    shared_width: int = 0  # summed over shared experts
    gated: bool = True
    bias: str = ""  # u, d, r (router)
    shared_bias: str = ""
    shared_gate: bool = False  # a linear hidden -> 1 that scales the shared experts
    router_extra: int = 0  # elements of a correction bias that is a parameter, not a buffer
    router_weights: tuple[Weight, ...] | None = None  # of a router that is more than one matrix, in its place
    module: str = "mlp"
    router: str = "gate"
    shared_module: str = "shared_experts"
    fused: bool = True  # transformers 5 holds experts as 3-D parameters
    extra: tuple[Weight, ...] = ()
    expert_hidden: int | None = None  # experts work on a projected input of this width (latent MoE)


MLP = Dense | MoE


class Layer(NamedTuple):
    """One layer: mixers, MLPs, and the small tensors around them."""

    mixers: tuple[Mixer, ...] = ()
    mlps: tuple[MLP, ...] = ()
    norms: int = 0  # elements of all norms outside mixers and MLPs
    extra: tuple[Weight, ...] = ()
    mix_flops: int = 0  # FLOPs per token of products between activations, where no weight takes part (AltUp)
    prefill_passes: int = 1  # times a prompt runs through it (LCKV's iterated block)
    prefill_last: bool = False  # a prompt's last token alone runs through it (YOCO's cross-decoder)


class Storage(NamedTuple):
    """How a checkpoint stores one matrix of K inputs and N outputs: its elements, and what lies beside them.

    Bits of the matrix: ``N * ceil(K / pack) * pack_bits`` of elements
    ``+ N * ceil(K / group) * group_bits`` (scales and zero points of a group of inputs)
    ``+ ceil(K / tile[0]) * ceil(N / tile[1]) * tile_bits`` (scales of rectangular tiles)
    ``+ ceil(K * N / block) * bits`` for each (block, bits) of ``flat`` (blocks that run on over rows)
    ``+ N * output_bits + K * input_bits + tensor_bits``.
    """

    format: str  # what the elements are: mostly a name of formats.FORMATS; "dtype" unquantised, "" unknown
    pack: int = 1  # elements along the inputs that are padded and packed together
    pack_bits: int = 0
    group: int = 0  # 0: no groups
    group_bits: int = 0
    tile: tuple[int, int] = (0, 0)  # (inputs, outputs)
    tile_bits: int = 0
    flat: tuple[tuple[int, int], ...] = ()
    output_bits: int = 0
    input_bits: int = 0
    tensor_bits: int = 0


PLAIN = Storage("dtype")


class QuantRule(NamedTuple):
    """Modules that are stored as ``storage``: those that one of the four ways of naming them touches.

    ``names`` are whole steps of a module's full path, wherever in it; ``starts`` likewise, but the last step may run on
    (``layers.0.self_attn*``). ``ends`` are the last step or the one before it. ``pattern`` is an expression of a file, for
    RE2 to search, which is found only where ``unless`` is not.
    """

    storage: Storage
    names: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    pattern: str = ""
    unless: str = ""
    stated: str = ""  # where a file states the expression, for messages
    refused: str = ""  # why the expression cannot be matched


class Quantization(NamedTuple):
    """How a checkpoint stores its linear weights; the first rule that matches wins, else ``storage``."""

    method: str
    storage: Storage = Storage("")
    rules: tuple[QuantRule, ...] = ()
    experts_only: bool = False  # ``storage`` is for routed experts, the rest stays in dtype
    skips_fused: bool = False  # the quantiser walks nn.Linear and leaves 3-D expert parameters alone
    lookups: bool = False  # token tables are quantised like linear weights
    towers: bool = False  # linear weights of towers are quantised too
    why: str = ""  # no weight bytes can be said, where it is not the method that is unknown

    @property
    def format(self) -> str:
        """What most linear weights are stored as: a name, "dtype", or "" where that is unknown."""
        return self.storage.format

    @property
    def known(self) -> bool:
        """Whether weight bytes can be said; False makes them an Omission, and ``stored_bits`` must not be asked."""
        return self.storage.format != "" and all(rule.storage.format for rule in self.rules)


class Tower(NamedTuple):
    """Parameters beside the decoder: a vision or audio tower, a projector, an encoder."""

    name: str
    parameters: int
    counted: bool  # True: part of model.parameters (the class has it); False: in weights.bytes only
    vectors: int = 0  # of parameters, those that no quantiser touches


class Offload(NamedTuple):
    """Where a cache lies (FlexGen): shares of it in host memory and on disk; the rest stays on the GPU."""

    cpu: float = 0.0
    disk: float = 0.0


class _ModelFields(NamedTuple):
    name: str
    model_type: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool = False  # the logits matrix is the embedding
    embed_dim: int | None = None  # of the token table where it differs from hidden
    head_bias: bool = False
    has_head: bool = True
    positions: int = 0  # elements of learned position tables
    final: tuple[Weight, ...] = ()  # tensors outside layers: final norm, projections in and out
    towers: tuple[Tower, ...] = ()
    dtype: str = "bf16"
    quantization: Quantization | None = None
    kv_dtype: str | None = None  # what the checkpoint states
    max_context: int | None = None
    prefix: str = "model.layers"  # module path of the layers, for quantisation rules
    notes: tuple[str, ...] = ()
    weight_bytes: int | None = None  # exact, where headers of real tensors were read
    weight_source: str = ""  # of weight_bytes; without them, why bytes from shapes are an estimate
    encoder: str = ""  # what cross-attention reads, where there is any
    cache_type_k: str | None = None  # formats that a scheme on the bits axis asks for
    cache_type_v: str | None = None
    offload: Offload = Offload()
    text_type: str = ""  # the decoder's own model_type, where the config wraps one
    head_width: int | None = None  # inputs of the logits matrix where they are not the token table's width


class ModelSpec(_ModelFields):
    """A decoder, layer by layer, with what stands around it.

    A named tuple with a place to remember what was derived from it (``__dict__``): it never changes, so neither does
    that, and a copy made by ``replace`` starts anew. Its texts come from files of others: they are printable, whoever
    makes one and whatever draws it.
    """

    def __new__(cls, *values: Any, **named: Any) -> ModelSpec:
        """A spec of these fields."""
        return cls._make(_ModelFields(*values, **named))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> ModelSpec:  # type: ignore[override]  # the field types say Self
        made: ModelSpec = super()._make(iterable)
        if all(map(str.isprintable, (made.name, made.model_type, made.weight_source, *made.notes))):
            return made
        shown: dict[str, Any] = {"name": printable(made.name, 200), "notes": tuple(map(printable, made.notes))}
        shown |= {name: printable(getattr(made, name)) for name in ("model_type", "weight_source")}
        return made._replace(**shown)


Fact = TypeVar("Fact", bound=tuple[Any, ...])


def replace(fact: Fact, **changes: Any) -> Fact:
    """A copy of a spec or of a part of one with other values; raises ValueError for a field it does not have."""
    copy: Fact = fact._replace(**changes)  # type: ignore[attr-defined]  # every fact here is a named tuple
    return copy
