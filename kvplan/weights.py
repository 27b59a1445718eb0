"""What a spec's facts imply for its weights: every tensor by name, counted once, and its bytes as stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from kvplan import patterns
from kvplan.cache import targets
from kvplan.formats import find_format
from kvplan.num import ceildiv
from kvplan.specs import (
    PLAIN,
    Attention,
    Compressed,
    Dense,
    Factored,
    Indexer,
    Latent,
    Layer,
    Mixer,
    ModelSpec,
    MoE,
    Quantization,
    QuantRule,
    Recurrent,
    Storage,
    Tower,
    Weight,
    vector,
)

__all__ = [
    "active_parameters",
    "count_parameters",
    "layer_weights",
    "makes_logits",
    "named_layer_weights",
    "outer_weights",
    "owns_kv",
    "storage_bits",
    "storage_of",
    "stored_bits",
    "tower_bits",
]


def attention_weights(hidden: int, a: Attention, owns: bool) -> Iterator[Weight]:
    """Projections of softmax attention; keys and values vanish in a layer that reads another layer's KV."""
    q, k, v, o = (f"{a.module}.{name}" for name in a.names.split())
    width_in = a.input_hidden or hidden
    copies, visited = a.experts or (1, None)
    heads = a.heads // (visited or 1)  # of one expert, where queries have experts
    queries = Weight(q, width_in, heads * a.key_dim, "q" in a.bias, copies, visited, fused=visited is not None)
    yield queries._replace(tie=a.tie and f"{a.tie}.q", asks_encoder=a.cross)
    if owns or a.merged:
        source = a.cross_hidden or width_in
        plain = Weight("", source, 0, shard=f"kv{a.kv_heads}", kind="cross" if a.cross else "linear", cached=True)
        sides = [(k, "k", a.kv_heads * a.key_dim, a.rank_k)]
        if not a.value_is_key:
            sides.append((v, "v", a.kv_heads * a.value_dim, a.rank_v))
        for module, letter, width, rank in sides:
            whole = plain._replace(
                module=module, outputs=width, bias=letter in a.bias, tie=a.tie and f"{a.tie}.{letter}"
            )
            if rank:
                down = whole._replace(module=f"{module}.down", outputs=rank, bias=False, shard="none")
                yield down._replace(tie=whole.tie and f"{whole.tie}.down")
                # a step expands every cached key, which reads count, and weighed values once per query head
                steps = 0 if letter == "k" else a.heads // a.kv_heads
                whole = whole._replace(module=f"{module}.up", inputs=rank, steps=steps)
            yield whole
        yield from a.kv_extra
    if a.qk_norm:
        if owns or a.merged or a.key_norm_stays:
            width = a.key_dim * (a.kv_heads if a.qk_norm == "all" else 1)
            yield vector(f"{a.module}.k_norm", width * a.qk_norm_params, a.tie and f"{a.tie}.k_norm")
        width = a.key_dim * (a.heads if a.qk_norm == "all" else 1)
        yield vector(f"{a.module}.q_norm", width * a.qk_norm_params, a.tie and f"{a.tie}.q_norm")
    output = Weight(o, heads * a.value_dim, hidden, "o" in a.bias, copies, visited, fused=visited is not None)
    yield output._replace(tie=a.tie and f"{a.tie}.o", asks_encoder=a.cross)
    yield from a.extra
    yield from _indexer_weights(a.indexer, owns)


def _indexer_weights(index: Indexer | None, owns: bool) -> Iterator[Weight]:
    """Queries and gates of an indexer; its keys are cached beside the layer's KV and vanish with them."""
    if index is not None and not index.shares:
        yield from (w for w in index.weights if owns or not w.cached)


def latent_weights(hidden: int, m: Latent, owns: bool) -> Iterator[Weight]:
    """Projections of MLA: low-rank queries where there are any, the shared latent, its expansion, the output."""
    queries = m.heads * (m.nope_dim + m.rope_dim)
    if m.q_rank:
        yield Weight(f"{m.module}.q_a_proj", hidden, m.q_rank, "a" in m.bias, shard="none")
        yield vector(f"{m.module}.q_a_layernorm", m.q_rank * m.norm_params)
        yield Weight(f"{m.module}.q_b_proj", m.q_rank, queries)
    else:
        yield Weight(f"{m.module}.q_proj", hidden, queries)
    if owns:
        latent = Weight(f"{m.module}.kv_a_proj_with_mqa", hidden, m.kv_rank + m.rope_dim, "a" in m.bias, shard="none")
        yield latent._replace(cached=True)
        yield vector(f"{m.module}.kv_a_layernorm", m.kv_rank * m.norm_params)
    yield Weight(f"{m.module}.kv_b_proj", m.kv_rank, m.heads * (m.nope_dim + m.value_dim))
    yield Weight(f"{m.module}.o_proj", m.heads * m.value_dim, hidden, "o" in m.bias)
    yield from m.extra
    yield from _indexer_weights(m.indexer, owns)


def factored_weights(hidden: int, f: Factored, owns: bool) -> Iterator[Weight]:
    """Projections of TPA: per rank one vector over heads and one over dims for queries, keys and values (Table 1)."""
    ranks = [("q", f.rank_q)]
    if owns:
        ranks += [("k", f.rank_k), ("v", f.rank_v)]
    for letter, rank in ranks:
        cached = letter != "q"
        yield Weight(f"{f.module}.{letter}_heads", hidden, rank * f.heads, cached=cached)
        yield Weight(f"{f.module}.{letter}_dims", hidden, rank * f.dim, shard="none", cached=cached)
    yield Weight(f"{f.module}.o_proj", f.heads * f.dim, hidden, "o" in f.bias)
    yield from f.extra


def mixer_weights(hidden: int, mixer: Mixer, owns: bool) -> Iterator[Weight]:
    """Tensors of one mixer; ``owns`` says whether it makes the keys and values of a cache."""
    if isinstance(mixer, Attention):
        return attention_weights(hidden, mixer, owns)
    if isinstance(mixer, Latent):
        return latent_weights(hidden, mixer, owns)
    if isinstance(mixer, Compressed):
        made = tuple(w._replace(cached=True) for w in mixer.kv_weights) if owns else ()
        return iter(mixer.weights + made)
    if isinstance(mixer, Factored):
        return factored_weights(hidden, mixer, owns)
    return iter(mixer.weights)


def owns_kv(spec: ModelSpec, layer: int, position: int, mixer: Mixer) -> bool:
    """Whether a mixer makes keys and values: for itself, or, though it reads another's, for those that read its own."""
    if isinstance(mixer, Recurrent) or mixer.reads is None or mixer.reads == layer:
        return True
    return (layer, position) in targets(spec)


def mlp_weights(hidden: int, mlp: Dense | MoE) -> Iterator[Weight]:
    """Tensors of one MLP."""
    if isinstance(mlp, Dense):
        gate, up, down = (f"{mlp.module}.{name}".lstrip(".") for name in mlp.names.split())
        if mlp.width:
            if mlp.gated:
                yield Weight(gate, hidden, mlp.width, "u" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.gate")
            yield Weight(up, hidden, mlp.width, "u" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.up")
            yield Weight(down, mlp.width, hidden, "d" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.down")
        yield from mlp.extra
        return
    inner = mlp.expert_hidden or hidden
    inside = f"{mlp.module}." if mlp.module else ""  # "": router and experts hang on the layer itself (Gemma 4)
    if mlp.router_weights is None:
        yield Weight(f"{inside}{mlp.router}", hidden, mlp.experts, "r" in mlp.bias, shard="none")
    else:
        yield from mlp.router_weights
    if mlp.router_extra:
        yield vector(f"{inside}{mlp.router}.e_score_correction_bias", mlp.router_extra)
    columns = 2 if mlp.gated else 1
    expert = f"{inside}experts"
    up_name = f"{expert}.gate_up_proj" if mlp.gated else f"{expert}.up_proj"
    yield Weight(
        up_name, inner, columns * mlp.width, "u" in mlp.bias, mlp.experts, mlp.active, fused=mlp.fused, pieces=columns
    )
    yield Weight(f"{expert}.down_proj", mlp.width, inner, "d" in mlp.bias, mlp.experts, mlp.active, fused=mlp.fused)
    if mlp.shared_width:
        shared = f"{inside}{mlp.shared_module}"
        if mlp.gated:
            yield Weight(f"{shared}.gate_proj", hidden, mlp.shared_width, "u" in mlp.shared_bias)
        yield Weight(f"{shared}.up_proj", hidden, mlp.shared_width, "u" in mlp.shared_bias)
        yield Weight(f"{shared}.down_proj", mlp.shared_width, hidden, "d" in mlp.shared_bias)
    if mlp.shared_gate:
        yield Weight(f"{inside}shared_expert_gate", hidden, 1, shard="none")
    yield from mlp.extra


def layer_weights(spec: ModelSpec, index: int) -> list[Weight]:
    """Every tensor of layer ``index``; ties are not yet merged."""
    return [weight for _, weight in named_layer_weights(spec, index)]


def named_layer_weights(spec: ModelSpec, index: int) -> list[tuple[str, Weight]]:
    """Every tensor of layer ``index`` with what it belongs to: attention, recurrent, mlp, norms and others.

    Most layers of a model are one and the same object: what one of them holds is remembered on the spec.
    """
    layer: Layer = spec.layers[index]
    owns = tuple(owns_kv(spec, index, position, mixer) for position, mixer in enumerate(layer.mixers))
    memo: dict[object, list[tuple[str, Weight]]] = spec.__dict__.setdefault("_layer_weights", {})
    key = (id(layer), owns)
    if key not in memo:
        memo[key] = list(_named_weights(spec, layer, owns))
    return memo[key]


def _named_weights(spec: ModelSpec, layer: Layer, owns: tuple[bool, ...]) -> Iterator[tuple[str, Weight]]:
    for mixer, makes_kv in zip(layer.mixers, owns, strict=True):
        name = "recurrent" if isinstance(mixer, Recurrent) else "attention"
        for weight in mixer_weights(spec.hidden, mixer, makes_kv):
            yield name, weight
    # a layer that looks at nothing but the encoder is skipped as a whole where there are no encoder tokens
    skipped = bool(layer.mixers) and all(isinstance(mixer, Attention) and mixer.cross for mixer in layer.mixers)
    for mlp in layer.mlps:
        for weight in mlp_weights(spec.hidden, mlp):
            yield "mlp", weight._replace(asks_encoder=True) if skipped else weight
    for weight in layer.extra:
        yield "norms and others", weight
    if layer.norms:
        yield "norms and others", vector("norms", layer.norms)


def outer_weights(spec: ModelSpec) -> list[Weight]:
    """Tensors outside the layers: token table, positions, final norm, logits matrix (absent where tied)."""
    width = spec.embed_dim or spec.hidden
    weights = [Weight("embed_tokens", spec.vocab, width, kind="lookup")]
    if spec.positions:
        weights.append(Weight("positions", 1, spec.positions, kind="lookup", shard="none"))
    weights += spec.final
    if spec.has_head and not spec.tied:
        weights.append(Weight("lm_head", spec.head_width or width, spec.vocab, spec.head_bias))
    elif spec.head_bias:
        weights.append(vector("lm_head.bias", spec.vocab))
    return weights


def makes_logits(weight: Weight) -> bool:
    """Whether only tokens whose logits are asked for multiply it: the logits matrix, and what a class puts before it."""
    return weight.kind == "linear" and f"{weight.module}.".startswith("lm_head.")


def count_parameters(spec: ModelSpec) -> int:
    """Parameters as the transformers class counts them: tied tensors once, towers that the class builds included."""
    seen: set[str] = set()
    total = sum(tower.parameters for tower in spec.towers if tower.counted)
    for weight in _every_weight(spec):
        if weight.tie:
            if weight.tie in seen:
                continue
            seen.add(weight.tie)
        total += weight.elements
    return total


def active_parameters(spec: ModelSpec) -> int:
    """All parameters less the routed experts that a token does not visit."""
    idle = sum(w.elements // w.copies * (w.copies - w.visited) for w in _every_weight(spec) if w.visited is not None)
    return count_parameters(spec) - idle


def _every_weight(spec: ModelSpec) -> Iterator[Weight]:
    yield from outer_weights(spec)
    for i in range(len(spec.layers)):
        yield from layer_weights(spec, i)


def storage_bits(storage: Storage, inputs: int, outputs: int) -> int:
    """Bits of one quantised matrix with its scales, zero points and indices; ``Storage`` says the sum.

    >>> storage_bits(Storage("int4", 8, 32, 128, 20), 4096, 4096) / 4096**2  # AWQ: 4 + (16 + 4) / 128
    4.15625
    """
    bits = outputs * ceildiv(inputs, storage.pack) * storage.pack_bits
    if storage.group:
        bits += outputs * ceildiv(inputs, storage.group) * storage.group_bits
    if storage.tile_bits:
        bits += ceildiv(inputs, storage.tile[0]) * ceildiv(outputs, storage.tile[1]) * storage.tile_bits
    bits += sum(ceildiv(inputs * outputs, block) * block_bits for block, block_bits in storage.flat)
    return int(bits + outputs * storage.output_bits + inputs * storage.input_bits + storage.tensor_bits)


def stored_bits(weight: Weight, path: str, dtype: str, quantization: Quantization | None) -> int:
    """Bits of one tensor (all copies) as the checkpoint stores it; biases and vectors stay in ``dtype``.

    ``path`` is the module's full path (``model.layers.3.self_attn.q_proj``, ``lm_head``), which rules are searched in.
    Only for a quantisation that is ``known``.
    """
    plain = find_format(dtype).element_bits
    storage = storage_of(weight, path, quantization)
    if storage.format == "dtype":
        return weight.elements * plain
    assert storage.format, "the storage of an unknown quantisation has no size"
    inputs, outputs = weight.inputs, weight.outputs
    if weight.kind == "lookup":
        inputs, outputs = outputs, inputs  # a row is a token's vector, and groups lie inside rows
    pieces = weight.pieces if outputs % weight.pieces == 0 else 1
    bits = pieces * storage_bits(storage, inputs, outputs // pieces)
    return weight.copies * (bits + (weight.outputs * plain if weight.bias else 0))


def storage_of(weight: Weight, path: str, quantization: Quantization | None) -> Storage:
    """How a checkpoint stores one tensor: the first rule that matches, else what the method does to such a tensor."""
    quantised = ("linear", "cross", "lookup") if quantization and quantization.lookups else ("linear", "cross")
    if quantization is None or weight.kind not in quantised or weight.module == "positions":
        return PLAIN
    if quantization.rules:
        rule = first_rule(_Rules.of(quantization), _spellings(path, quantization.method == "mlx"))
        if rule is not None:
            return rule.storage
    if quantization.experts_only and weight.visited is None:
        return PLAIN
    if quantization.skips_fused and weight.fused:
        return PLAIN
    return quantization.storage


DEEPEST = 20  # steps of a module's path, wrappers and all; a name of more names nothing


class _Rules(NamedTuple):
    """Rules made ready: which is the first for a name, so that any number of names costs no more than one."""

    rules: tuple[QuantRule, ...]
    names: dict[str, int]  # module path -> the first rule that names it
    depths: tuple[int, ...]  # how many steps these have
    starts: dict[str, int]
    lengths: tuple[int, ...]  # how many characters these have
    ends: dict[str, int]
    patterns: tuple[int, ...]  # rules that are expressions

    @classmethod
    def of(cls, quantization: Quantization) -> _Rules:
        """Those of a quantisation, made once for as long as it is looked at."""
        key = id(quantization)
        if key not in _READY or _READY[key][0] is not quantization:
            while len(_READY) >= 16:
                _READY.pop(next(iter(_READY)))
            _READY[key] = (quantization, cls.made(quantization.rules))
        return _READY[key][1]

    @classmethod
    def made(cls, rules: tuple[QuantRule, ...]) -> _Rules:
        """Rules in their order."""
        names: dict[str, int] = {}
        starts: dict[str, int] = {}
        ends: dict[str, int] = {}
        for i, rule in enumerate(rules):
            for words, known in ((rule.names, names), (rule.starts, starts), (rule.ends, ends)):
                for word in words:
                    known.setdefault(word, i)
        depths = tuple({name.count(".") + 1 for name in names if name.count(".") < DEEPEST})
        expressions = tuple(i for i, rule in enumerate(rules) if rule.pattern)
        return cls(rules, names, depths, starts, tuple({len(start) for start in starts}), ends, expressions)


_READY: dict[int, tuple[Quantization, _Rules]] = {}


def first_rule(ready: _Rules, spellings: Sequence[str]) -> QuantRule | None:
    """The first rule that names a module, or one around it, by one of the spellings of its full path."""
    first = len(ready.rules)
    for name in spellings:
        steps = name.split(".")
        for step in steps[1:][-2:]:
            first = min(first, ready.ends.get(step, first))
        for depth in ready.depths:
            for i in range(len(steps) - depth + 1):
                first = min(first, ready.names.get(".".join(steps[i : i + depth]), first))
        if ready.starts:
            for i in range(len(steps)):
                tail = ".".join(steps[i:])
                for length in ready.lengths:
                    if length <= len(tail):
                        first = min(first, ready.starts.get(tail[:length], first))
    for i in ready.patterns:
        if i >= first:
            break
        rule = ready.rules[i]
        if any(patterns.found(rule.pattern, name) for name in spellings) and not (
            rule.unless and any(patterns.found(rule.unless, name) for name in spellings)
        ):
            first = i
            break
    return ready.rules[first] if first < len(ready.rules) else None


def touches(rule: QuantRule, spellings: Sequence[str]) -> bool:
    """Whether a rule names a module, or one around it, by one of the spellings of its full path."""
    return first_rule(_Rules.made((rule,)), spellings) is not None


# Checkpoints and configs spell the same module in several ways; a rule written for one of them means all.
_SYNONYMS = (("mlp", "block_sparse_moe", "feed_forward", "ffn", "moe"), ("self_attn", "attn"))
_FIRST = "experts.0"  # rules are written per expert; what holds for the first holds for all
_EXPERTS = {
    "gate_up_proj": tuple(f"{_FIRST}.{name}" for name in ("gate_proj", "up_proj", "w1", "w3")),
    "up_proj": (f"{_FIRST}.up_proj",),
    "down_proj": (f"{_FIRST}.down_proj", f"{_FIRST}.w2"),
}
# MLX alone names experts so; for others the name would match rules meant for dense MLPs ("mlp\\.gate_proj")
_MLX = {"gate_up_proj": "switch_mlp.gate_proj", "up_proj": "switch_mlp.up_proj", "down_proj": "switch_mlp.down_proj"}


@lru_cache(maxsize=65536)
def _spellings(path: str, mlx: bool) -> tuple[str, ...]:
    names = [path]
    head, experts, last = path.rpartition(".experts.")
    if experts:
        names += [f"{head}.{name}" for name in _EXPERTS.get(last, ())]
        if mlx and last in _MLX:
            names.append(f"{head}.{_MLX[last]}")
    for words in _SYNONYMS:
        for word in words:
            if f".{word}." in path:
                others = [other for other in words if other != word]
                names += [name.replace(f".{word}.", f".{other}.", 1) for name in names for other in others]
                break
    return tuple(names)


def tower_bits(tower: Tower, dtype: str, quantization: Quantization | None) -> int:
    """Bits of a tower. Its shapes are not kept, so a quantised one counts its elements without row ends."""
    plain = find_format(dtype).element_bits
    if quantization is None or not quantization.towers:
        return tower.parameters * plain
    return tower.vectors * plain + storage_bits(quantization.storage, tower.parameters - tower.vectors, 1)
