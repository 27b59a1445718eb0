"""More families near Llama: MLPs without a gate, norms without weights, differential and dynamically masked attention."""

from __future__ import annotations

from math import isqrt

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import routed
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Dense, Layer, ModelSpec, Weight, replace, vector


def _bias(c: Config, *, default: bool = False) -> str:
    return "qkvo" if c.bool("attention_bias", default) else ""


def _mlp(c: Config, width: int, *, gated: bool = True, biased: bool = False) -> Dense:
    return Dense(c.int("intermediate_size", width), gated, bias="ud" if c.bool("mlp_bias", biased) else "")


@importer("arcee")
def arcee(c: Config) -> ModelSpec:
    """Arcee's AFM: Llama with a squared ReLU and no gate (transformers models/arcee)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 2560)
    attention = grouped_attention(c, hidden, heads=32, bias=_bias(c))
    layer = Layer((attention,), (_mlp(c, 18432, gated=False),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=4096)


@importer("jais2")
def jais2(c: Config) -> ModelSpec:
    """Jais 2: a squared ReLU without a gate, LayerNorms, biases everywhere (transformers models/jais2)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 3328)
    attention = grouped_attention(c, hidden, heads=26, bias=_bias(c, default=True))
    layer = Layer((attention,), (_mlp(c, 26624, gated=False, biased=True),), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=150272, positions=8192, final_norm=2 * hidden)


@importer("nanochat")
def nanochat(c: Config) -> ModelSpec:
    """nanochat: a squared ReLU without a gate, and norms without a single weight (transformers models/nanochat)."""
    layers, hidden = c.layers(default=12), c.int("hidden_size", 768)
    attention = grouped_attention(c, hidden, heads=6, bias=_bias(c))
    mlp = Dense(c.int("intermediate_size", 8192), gated=False, names="fc1 fc1 fc2")
    return decoder(c, hidden, (Layer((attention,), (mlp,)),) * layers, vocab=50304, positions=2048, final_norm=0)


@importer("hyperclovax")
def hyperclovax(c: Config) -> ModelSpec:
    """HyperCLOVA X: Llama with a norm behind attention and MLP too (transformers models/hyperclovax)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias=_bias(c))
    norms = 4 if c.bool("use_post_norm", True) else 2
    layer = Layer((attention,), (_mlp(c, 11008),), norms=norms * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)


@importer("iquestcoder")
def iquestcoder(c: Config) -> ModelSpec:
    """IQuest-Coder: Llama's class under defaults of its own (transformers models/iquestcoder)."""
    if c.bool("use_sliding_window"):
        raise c.error("use_sliding_window", True, "false: the class refuses windows")
    layers, hidden = c.layers(default=80), c.int("hidden_size", 5120)
    # an explicit null means hidden / heads, a missing key means 128
    dim = None if "head_dim" in c.raw else 128
    window = c.maybe_int("sliding_window")  # unused by published files; the cache of the class heeds it all the same
    attention = grouped_attention(c, hidden, heads=40, kv_heads=8, head_dim=dim, bias=_bias(c), window=window)
    layer = Layer((attention,), (_mlp(c, 27648),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=76800, positions=131072)


@importer("granite_swa")
def granite_swa(c: Config) -> ModelSpec:
    """Granite with windows in all layers but 0, 4, 8 …, and a sink per head (transformers models/granite_swa)."""
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2560)
    full = grouped_attention(c, hidden, heads=20, kv_heads=4, bias=_bias(c))
    full = replace(full, extra=(vector("self_attn.sinks", full.heads),))
    mlp = _mlp(c, 8192)
    derived = ["sliding_attention" if i % 4 else "full_attention" for i in range(layers)]
    windows = layer_windows(c, derived, 128)
    stack = tuple(Layer((windowed(full, window),), (mlp,), norms=2 * hidden) for window in windows)
    return decoder(c, hidden, stack, vocab=100352, positions=8192, tied=True)


@importer("diffllama")
def diffllama(c: Config) -> ModelSpec:
    """DiffLlama: the difference of two softmaxes, four vectors that weigh them (transformers models/diffllama).

    The cache is Llama's. Each half of the values is weighted once by all heads, so that scores are computed twice.
    """
    layers, hidden = c.layers(default=16), c.int("hidden_size", 2048)
    attention = grouped_attention(c, hidden, heads=32, bias=_bias(c))
    if attention.kv_heads % 2:
        raise c.error("num_key_value_heads", attention.kv_heads, "an even number: values are halved by KV heads")
    attention = replace(attention, passes=2, extra=(vector("self_attn.lambda", 4 * attention.key_dim),))
    mlp = Dense(c.int("intermediate_size", 8192))
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)


@importer("doge")
def doge(c: Config) -> ModelSpec:
    """Doge: values mask keys, weighted residuals, and in Doge-MoE thousands of experts of one neuron (models/doge).

    A window, where the file has one, covers every layer.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 1024)
    bias = _bias(c)
    # more keys than this are masked down to as many, after all of them were scored
    c.ignore("keep_window_size")
    attention = grouped_attention(c, hidden, heads=8, bias=bias, qk_norm="head", window=c.maybe_int("sliding_window"))
    values = attention.kv_heads * attention.value_dim
    mask = Weight("self_attn.dt_proj", values, attention.kv_heads, bool(bias), shard="none")
    attention = replace(attention, extra=(vector("self_attn.A", attention.kv_heads), mask))
    mlp = _mlp(c, 2048)
    if c.bool("is_moe"):
        mlp = replace(mlp, extra=_neurons(c, hidden))
    # a learned scale of each residual beside each norm
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32768, positions=2048)


def _neurons(c: Config, hidden: int) -> tuple[Weight, ...]:
    """Experts of one neuron beside the dense MLP, found by product keys: two tables of which few rows are visited."""
    experts = c.int("num_experts", 16384, most=2**30)
    keys = isqrt(experts)
    active = routed(c, keys * keys, default=64)
    row = Weight("mlp.down_embed", hidden, 1, copies=experts, visited=active, fused=True)
    return (
        Weight("mlp.router_gate", hidden, 2 * keys, shard="none"),
        row,
        row._replace(module="mlp.up_embed", inputs=1, outputs=hidden),
    )
