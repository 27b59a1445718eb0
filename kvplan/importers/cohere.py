"""Cohere: Command R, R+, R7B, A, A+ and Aya."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import routed, sparse_layers, stacked
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import MLP, Attention, Dense, Layer, ModelSpec, MoE, replace


def _block(c: Config, hidden: int, attention: Attention) -> Layer:
    # attention and MLP run in parallel behind one LayerNorm without bias
    return Layer((attention,), (Dense(c.int("intermediate_size", 22528)),), norms=hidden)


@importer("cohere")
def cohere(c: Config) -> ModelSpec:
    """Command R and R+: a parallel block, in R+ a norm on each head's queries and keys (transformers models/cohere)."""
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    attention = grouped_attention(
        c,
        hidden,
        heads=64,
        bias="qkvo" if c.bool("attention_bias") else "",
        qk_norm="all" if c.bool("use_qk_norm") else "",
    )
    return decoder(c, hidden, (_block(c, hidden, attention),) * layers, vocab=256000, positions=8192, tied=True)


@importer("cohere2")
def cohere2(c: Config) -> ModelSpec:
    """Command R7B and A: three sliding layers, then a full one without positions (transformers models/cohere2)."""
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    attention = grouped_attention(c, hidden, heads=64, rounds=True, bias="qkvo" if c.bool("attention_bias") else "")
    every = c.int("sliding_window_pattern", 4)
    derived = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    block = _block(c, hidden, attention)
    stack = tuple(replace(block, mixers=(windowed(attention, window),)) for window in layer_windows(c, derived, 4096))
    return decoder(c, hidden, stack, vocab=256000, positions=8192, tied=True)


@importer("cohere_compass_text")
def cohere_compass_text(c: Config) -> ModelSpec:
    """The decoder of North Vision: Command A's, full where ``layer_types`` does not say (models/cohere_compass)."""
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    attention = grouped_attention(c, hidden, heads=64, bias="qkvo" if c.bool("attention_bias") else "")
    block = _block(c, hidden, attention)
    c.ignore("sliding_window_pattern")  # the class has filled layer_types before it would look
    windows = layer_windows(c, ["full_attention"] * layers, 4096)
    stack = tuple(replace(block, mixers=(windowed(attention, window),)) for window in windows)
    return decoder(c, hidden, stack, vocab=256000, positions=8192, tied=True)


@importer("cohere2_moe")
def cohere2_moe(c: Config) -> ModelSpec:
    """Command A+: Command A's parallel block with experts, behind dense layers if any (transformers models/cohere2_moe).

    Dense layers may have a pattern of windows and a width of their own; by default all of them see everything.
    """
    hidden, layers = c.int("hidden_size", 8192), c.layers(default=40)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=64, head_dim=128, bias=bias)
    first = c.int("first_k_dense_replace", 0, least=0)
    prefix, every = c.int("prefix_dense_sliding_window_pattern", 1), c.int("sliding_window_pattern", 4)
    slides = [(i + 1) % prefix != 0 if i < first else (i - first + 1) % every != 0 for i in range(layers)]
    derived = ["sliding_attention" if local else "full_attention" for local in slides]
    windows = layer_windows(c, derived, 4096)
    width, experts = c.int("intermediate_size", 22528), c.int("num_experts", 8)
    shared = width * c.int("num_shared_experts", 0, least=0)
    moe = MoE(experts, routed(c, experts, default=2), width, shared_width=shared)
    dense = Dense(c.int("prefix_dense_intermediate_size", width))
    sparse = sparse_layers(c, layers, [i >= first for i in range(layers)])
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse]
    # one norm for both halves, with a weight alone whether it is a LayerNorm or an RMSNorm
    stack = stacked(hidden, [windowed(attention, window) for window in windows], mlps, norms=1)
    return decoder(c, hidden, stack, vocab=256000, positions=8192, tied=True)
