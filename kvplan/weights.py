"""What a spec's facts imply for its weights: every tensor by name, counted once, and its bytes as stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kvplan.formats import FORMATS, find_format
from kvplan.specs import Attention, Dense, Latent, Layer, Mixer, ModelSpec, MoE, Quantization, Recurrent, Weight, vector

__all__ = ["WeightGroup", "active_parameters", "count_parameters", "layer_weights", "outer_weights", "stored_bits"]


def attention_weights(hidden: int, a: Attention, layer: int) -> Iterator[Weight]:
    """Projections of softmax attention; keys and values vanish in a layer that reads another layer's KV."""
    q, k, v, o = (f"{a.module}.{name}" for name in a.names.split())
    yield Weight(q, hidden, a.heads * a.key_dim, "q" in a.bias, tie=a.tie and f"{a.tie}.q")
    if a.reads is None or a.reads == layer:
        kind = "cross" if a.cross else "linear"
        source = a.cross_hidden or hidden
        yield Weight(k, source, a.kv_heads * a.key_dim, "k" in a.bias, 1, None, "kv", kind, a.tie and f"{a.tie}.k")
        if not a.value_is_key:
            yield Weight(v, source, a.kv_heads * a.value_dim, "v" in a.bias, 1, None, "kv", kind, a.tie and f"{a.tie}.v")
        yield from a.kv_extra
        if a.qk_norm:
            width = a.key_dim * (a.kv_heads if a.qk_norm == "all" else 1)
            yield vector(f"{a.module}.k_norm", width * a.qk_norm_params, a.tie and f"{a.tie}.k_norm")
    if a.qk_norm:
        width = a.key_dim * (a.heads if a.qk_norm == "all" else 1)
        yield vector(f"{a.module}.q_norm", width * a.qk_norm_params, a.tie and f"{a.tie}.q_norm")
    yield Weight(o, a.heads * a.value_dim, hidden, "o" in a.bias, tie=a.tie and f"{a.tie}.o")
    yield from a.extra
    if a.index is not None and not a.index.shares:
        yield from a.index.weights


def latent_weights(hidden: int, m: Latent, layer: int) -> Iterator[Weight]:
    """Projections of MLA: low-rank queries where there are any, the shared latent, its expansion, the output."""
    queries = m.heads * (m.nope_dim + m.rope_dim)
    if m.q_rank:
        yield Weight(f"{m.module}.q_a_proj", hidden, m.q_rank, "a" in m.bias, shard="none")
        yield vector(f"{m.module}.q_a_layernorm", m.q_rank * m.norm_params)
        yield Weight(f"{m.module}.q_b_proj", m.q_rank, queries)
    else:
        yield Weight(f"{m.module}.q_proj", hidden, queries)
    if m.reads is None or m.reads == layer:
        yield Weight(f"{m.module}.kv_a_proj_with_mqa", hidden, m.kv_rank + m.rope_dim, "a" in m.bias, shard="none")
        yield vector(f"{m.module}.kv_a_layernorm", m.kv_rank * m.norm_params)
    yield Weight(f"{m.module}.kv_b_proj", m.kv_rank, m.heads * (m.nope_dim + m.value_dim))
    yield Weight(f"{m.module}.o_proj", m.heads * m.value_dim, hidden, "o" in m.bias)
    yield from m.extra
    if m.index is not None and not m.index.shares:
        yield from m.index.weights


def mixer_weights(hidden: int, mixer: Mixer, layer: int) -> Iterator[Weight]:
    """Tensors of one mixer."""
    if isinstance(mixer, Attention):
        return attention_weights(hidden, mixer, layer)
    if isinstance(mixer, Latent):
        return latent_weights(hidden, mixer, layer)
    return iter(mixer.weights)


def mlp_weights(hidden: int, mlp: Dense | MoE) -> Iterator[Weight]:
    """Tensors of one MLP."""
    if isinstance(mlp, Dense):
        gate, up, down = (f"{mlp.module}.{name}" for name in mlp.names.split())
        if mlp.width:
            if mlp.gated:
                yield Weight(gate, hidden, mlp.width, "u" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.gate")
            yield Weight(up, hidden, mlp.width, "u" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.up")
            yield Weight(down, mlp.width, hidden, "d" in mlp.bias, tie=mlp.tie and f"{mlp.tie}.down")
        yield from mlp.extra
        return
    inner = mlp.expert_hidden or hidden
    yield Weight(f"{mlp.module}.{mlp.router}", hidden, mlp.experts, "r" in mlp.bias, shard="none")
    if mlp.router_extra:
        yield vector(f"{mlp.module}.{mlp.router}.e_score_correction_bias", mlp.router_extra)
    columns = 2 if mlp.gated else 1
    expert = f"{mlp.module}.experts"
    up_name = f"{expert}.gate_up_proj" if mlp.gated else f"{expert}.up_proj"
    yield Weight(
        up_name, inner, columns * mlp.width, "u" in mlp.bias, mlp.experts, mlp.active, fused=mlp.fused
    )
    yield Weight(
        f"{expert}.down_proj", mlp.width, inner, "d" in mlp.bias, mlp.experts, mlp.active, fused=mlp.fused
    )
    if mlp.shared_width:
        shared = f"{mlp.module}.{mlp.shared_module}"
        if mlp.gated:
            yield Weight(f"{shared}.gate_proj", hidden, mlp.shared_width, "u" in mlp.shared_bias)
        yield Weight(f"{shared}.up_proj", hidden, mlp.shared_width, "u" in mlp.shared_bias)
        yield Weight(f"{shared}.down_proj", mlp.shared_width, hidden, "d" in mlp.shared_bias)
    if mlp.shared_gate:
        yield Weight(f"{mlp.module}.shared_expert_gate", hidden, 1, shard="none")
    yield from mlp.extra


def layer_weights(spec: ModelSpec, index: int) -> list[Weight]:
    """Every tensor of layer ``index``; ties are not yet merged."""
    layer: Layer = spec.layers[index]
    weights = [w for mixer in layer.mixers for w in mixer_weights(spec.hidden, mixer, index)]
    weights += [w for mlp in layer.mlps for w in mlp_weights(spec.hidden, mlp)]
    weights += layer.extra
    if layer.norms:
        weights.append(vector("norms", layer.norms))
    return weights


def outer_weights(spec: ModelSpec) -> list[Weight]:
    """Tensors outside the layers: token table, positions, final norm, logits matrix (absent where tied)."""
    width = spec.embed_dim or spec.hidden
    weights = [Weight("embed_tokens", spec.vocab, width, kind="lookup")]
    if spec.positions:
        weights.append(Weight("positions", 1, spec.positions, kind="lookup", shard="none"))
    weights += spec.final
    if spec.has_head and not spec.tied:
        weights.append(Weight("lm_head", width, spec.vocab, spec.head_bias))
    elif spec.head_bias:
        weights.append(vector("lm_head.bias", spec.vocab))
    return weights


class WeightGroup(NamedTuple):
    """Equal tensors of equal layers: ``count`` of ``weight``, each of ``bits`` bits as stored."""

    path: str
    weight: Weight
    count: int
    bits: int


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
    idle = sum(
        w.elements // w.copies * (w.copies - w.visited) for w in _every_weight(spec) if w.visited is not None
    )
    return count_parameters(spec) - idle


def _every_weight(spec: ModelSpec) -> Iterator[Weight]:
    yield from outer_weights(spec)
    for i in range(len(spec.layers)):
        yield from layer_weights(spec, i)


def stored_bits(weight: Weight, path: str, dtype: str, quantization: Quantization | None) -> int:
    """Bits of one tensor (all copies) as the checkpoint stores it; biases and vectors stay in ``dtype``."""
    plain = find_format(dtype).element_bits
    matrix = weight.inputs * weight.outputs
    bias = weight.outputs if weight.bias else 0
    name = "dtype"
    if quantization is not None and weight.kind in ("linear", "cross"):
        name = _format_of(weight, path, quantization)
    if name == "dtype" or quantization is None:
        return weight.copies * (matrix + bias) * plain
    q = quantization
    if name == q.format and q.block_bits:
        bits = weight.outputs * -(-weight.inputs // q.group) * q.block_bits
    else:
        bits = weight.outputs * FORMATS[name].row_bits(weight.inputs)
    if name == q.format:
        bits += weight.outputs * q.column_bits + q.tensor_bits
        if q.tile_bits:
            bits += -(-weight.inputs // q.tile[0]) * -(-weight.outputs // q.tile[1]) * q.tile_bits
    return weight.copies * (bits + bias * plain)


def _format_of(weight: Weight, path: str, quantization: Quantization) -> str:
    for rule in quantization.rules:
        if re.search(rule.pattern, path):
            return rule.format
    if quantization.experts_only and weight.visited is None:
        return "dtype"
    if quantization.skips_fused and weight.fused:
        return "dtype"
    return quantization.format
