"""The tokens axis: a state of fixed size instead of a cache, or beside one."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, Growth, Mixer, ModelSpec, Part, Recurrent, Weight, replace, vector

ONE = Growth("constant", 1)
# FLOPs per element of the state and token: plus key times value: 2, times query summed: 2
STATE_FLOPS = 4


def _softmax(mixer: Own, text: str) -> Attention:
    if not isinstance(mixer, Attention):
        raise InvalidInput("scheme", text, "a model with per-head keys and values")
    return mixer


def _projections(hidden: int, a: Attention) -> tuple[Weight, ...]:
    """The attention's own projections and small tensors, as ``weights.attention_weights`` names them."""
    q, k, v, o = (f"{a.module}.{name}" for name in a.names.split())
    width, shard = a.input_hidden or hidden, f"kv{a.kv_heads}"

    def tie(letter: str) -> str:
        return a.tie and f"{a.tie}.{letter}"

    weights = [
        Weight(q, width, a.heads * a.key_dim, "q" in a.bias, tie=tie("q")),
        Weight(k, width, a.kv_heads * a.key_dim, "k" in a.bias, shard=shard, tie=tie("k")),
        Weight(o, a.heads * a.value_dim, hidden, "o" in a.bias, tie=tie("o")),
    ]
    if not a.value_is_key:
        weights.append(Weight(v, width, a.kv_heads * a.value_dim, "v" in a.bias, shard=shard, tie=tie("v")))
    for letter, heads in (("q", a.heads), ("k", a.kv_heads)) if a.qk_norm else ():
        size = a.key_dim * (heads if a.qk_norm == "all" else 1) * a.qk_norm_params
        weights.append(vector(f"{a.module}.{letter}_norm", size, tie(f"{letter}_norm")))
    return (*weights, *a.kv_extra, *a.extra)


@scheme(
    "linear",
    "linear",
    "tokens",
    "linear attention: one state of key_dim x value_dim per head instead of a cache",
    "Katharopoulos et al. 2020, arXiv 2006.16236",
)
def linear(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Linear attention: keys and values are summed into one matrix per query head, and the cache is gone.

    Formula: heads x key_dim x value_dim elements per layer in fp32, whatever S is; a decode step reads them. Parameters
    and linear FLOPs stay (the same q, k, v, o projections); the recurrence costs 4 FLOPs per element of the state and
    token (an estimate: chunked kernels do more), in the prompt as in a decode step. Without the normaliser of the first
    paper, which later forms drop (RetNet, lightning attention). Heads that share keys still have a state each, as a
    decay or feature map is a query head's own. Every attention layer is replaced, windowed ones too.
    Source: arXiv 2006.16236; fp32 states as transformers' classes keep them.

    >>> from kvplan.api import plan
    >>> kv = plan("llama-2-7b", scheme="linear", context=100_000).kv  # 32 layers x 32 heads x 128 x 128 x 4 bytes
    >>> kv["bytes"] == kv["state_bytes_per_sequence"] == 32 * 32 * 128 * 128 * 4
    True
    """
    arguments.only()
    return _stateful(spec, arguments.text, None)


def _stateful(spec: ModelSpec, text: str, columns: int | None) -> ModelSpec:
    """Attention layers become recurrences with ``columns`` state columns per value channel (None: key_dim of them)."""

    def change(layer: int, mixer: Own) -> Mixer:
        a = _softmax(mixer, text)
        if a.reads not in (None, layer):
            raise InvalidInput("scheme", text, "a model whose layers keep keys and values of their own")
        if a.rank_k or a.rank_v or a.indexer is not None:
            raise InvalidInput("scheme", text, "attention without low-rank entries or an indexer")
        size = (a.key_dim if columns is None else columns) * a.value_dim
        state = Part("recurrent", a.heads, size, "fp32", ONE)
        weights = _projections(spec.hidden, a)
        return Recurrent("linear_attention", weights, state=(state,), mix_flops=STATE_FLOPS * a.heads * size)

    return change_attention(spec, text, change, weights=False)


@scheme(
    "infini",
    "infini:segment=N",
    "tokens",
    "a compressive memory per head, and keys and values of the current segment of N tokens",
    "Infini-attention, Munkhdalai et al. 2024, arXiv 2404.07143",
)
def infini(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Infini-attention: tokens attend within segments of N and look everything older up in a memory of fixed size.

    Formula: heads x key_dim x (value_dim + 1) elements per layer (matrix and normaliser, fp32), and min(S, N) entries
    of the segment. A decode step reads the memory and S mod N + 1 entries; a prompt has N (N + 1) / 2 pairs per segment.
    Looking up and writing cost 4 FLOPs per element of the memory and token (an estimate). Parameters: one gate per
    head. One memory per query head, as implementations repeat shared keys before they fold them. Layers with a window
    no larger than a segment stay as they are.
    Source: arXiv 2404.07143 (Table 2: 1.6M elements for 12 layers of 8 heads of 128).

    >>> from kvplan.api import plan
    >>> shape = dict(layers=12, hidden=1024, heads=8, head_dim=128)
    >>> plan(scheme="infini:segment=2048", context=10**6, **shape).kv["state_bytes_per_sequence"] // 4
    1585152
    """
    text = arguments.text
    arguments.only("segment", bare=True)
    segment = Growth("chunk", arguments.count("segment", bare=True, default=2048))
    mixing: dict[int, int] = {}

    def change(layer: int, mixer: Own) -> Attention:
        a = _softmax(mixer, text)
        own = mixer_growth(a)
        if own.kind != "full" and own.limit <= segment.limit:
            return a
        elements = a.key_dim * (a.value_dim + 1)
        memory = Part("memory", a.heads, elements, "fp32", ONE)
        mixing[layer] = mixing.get(layer, 0) + STATE_FLOPS * a.heads * elements
        gate = vector(f"{a.module}.memory_gate", a.heads)
        return replace(a, keep=segment, extra_parts=(*a.extra_parts, memory), extra=(*a.extra, gate))

    changed = change_attention(spec, text, change, weights=True)
    layers = tuple(
        replace(layer, mix_flops=layer.mix_flops + mixing.get(i, 0)) for i, layer in enumerate(changed.layers)
    )
    return replace(changed, layers=layers)


@scheme(
    "constant",
    "constant:linear | constant:ssm,state=N | constant:infini,segment=N",
    "tokens",
    "a state of constant size instead of a growing cache: linear attention, an SSM's state, Infini-attention's memory",
    "arXiv 2006.16236, arXiv 2405.21060, arXiv 2404.07143",
)
def constant(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """The constant-size members of the tokens axis under one name: ``linear``, ``infini``, and a state-space model's.

    Formula: ``linear`` and ``infini`` say theirs; ``ssm`` keeps heads x value_dim x N elements per layer in fp32, as
    Mamba-2 keeps heads x head_dim x d_state, and costs 4 FLOPs per element and token (an estimate). Its projections
    stay those of the attention it replaces, and it has no convolution: a real hybrid is better asked for by its config.
    Source: arXiv 2405.21060 (Mamba-2) for ``ssm``.

    >>> from kvplan.api import plan
    >>> same = (plan("llama-2-7b", scheme=s, context=9).kv["bytes"] for s in ("constant:linear", "linear"))
    >>> next(same) == next(same)
    True
    """
    if arguments.bare not in ("linear", "ssm", "infini"):
        rule = "constant:linear, constant:ssm,state=N or constant:infini,segment=N"
        raise InvalidInput("scheme", arguments.text, rule)
    if arguments.bare == "ssm":
        arguments.only("state", bare=True)
        return _stateful(spec, arguments.text, arguments.count("state"))
    plain = arguments._replace(bare="")
    return linear(spec, plain) if arguments.bare == "linear" else infini(spec, plain)
