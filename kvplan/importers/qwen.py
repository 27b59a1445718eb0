"""Qwen: the first generation from its authors' code, the second and third from transformers."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.specs import Attention, Dense, Layer, ModelSpec


@importer("qwen")
def qwen(c: Config) -> ModelSpec:
    """Qwen 1: multi-head attention with a biased fused QKV; ``intermediate_size`` counts gate and up together.

    Source: the authors' modeling_qwen.py (remote code, no transformers class).
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    heads, dim = c.int("num_attention_heads", 32), c.int("kv_channels", 128)
    others = "" if c.bool("no_bias", True) else "o"
    attention = Attention(
        heads, heads, dim, dim, bias="qkv" + others, module="attn", names="c_attn c_attn c_attn c_proj"
    )
    both = c.int("intermediate_size", 22016)
    if both % 2:
        raise c.error("intermediate_size", both, "an even number: gate and up together")
    mlp = Dense(both // 2, bias="ud" if others else "", names="w2 w1 c_proj")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    notes: tuple[str, ...] = ()
    if c.bool("use_cache_quantization"):
        notes = ("use_cache_quantization keeps K and V in int8: say so with --kv-dtype",)
    positions = c.maybe_int("seq_length")
    return decoder(
        c, hidden, (layer,) * layers, vocab=151936, positions=positions or 8192, prefix="transformer.h", notes=notes
    )


@importer("qwen2")
def qwen2(c: Config) -> ModelSpec:
    """Qwen 1.5 to 2.5 and QwQ: biased queries, keys and values whatever the file says (transformers models/qwen2)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, bias="qkv")
    return _decoder(c, layers, hidden, attention)


@importer("qwen3")
def qwen3(c: Config) -> ModelSpec:
    """Qwen 3 dense: normed queries and keys, head_dim 128 whatever hidden / heads is (transformers models/qwen3)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, head_dim=128, bias=bias, qk_norm="head")
    return _decoder(c, layers, hidden, attention)


def qwen_windows(c: Config, layers: int) -> list[int | None]:
    """The window of each layer: from ``max_window_layers`` on, and nowhere without ``use_sliding_window``."""
    window = c.maybe_int("sliding_window")
    if "sliding_window" not in c.raw:
        window = 4096
    first = c.int("max_window_layers", 28, least=0)
    if not c.bool("use_sliding_window"):
        window = None
    return layer_windows(c, layers, window, lambda i: window is not None and i >= first)


def _decoder(c: Config, layers: int, hidden: int, attention: Attention) -> ModelSpec:
    mlp = Dense(c.int("intermediate_size", 22016))
    windows = qwen_windows(c, layers)
    stack = tuple(Layer((windowed(attention, w),), (mlp,), norms=2 * hidden) for w in windows)
    return decoder(c, hidden, stack, vocab=151936, positions=32768)
