"""The Llama shape: pre-norm, gated MLP, RoPE, grouped queries. The plainest importer, and the one to copy from."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.specs import Dense, Layer, ModelSpec


@importer("llama")
def llama(c: Config) -> ModelSpec:
    """Llama 1 to 3 and everything published in their shape (transformers models/llama)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("attention_bias") else "")
    mlp = Dense(c.int("intermediate_size", 11008), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)


@importer("cwm")
def cwm(c: Config) -> ModelSpec:
    """Code World Model: Llama with a window in all layers but 0, 4, 8 … (transformers models/cwm)."""
    layers, hidden = c.layers(default=64), c.int("hidden_size", 6144)
    attention = grouped_attention(c, hidden, heads=48, kv_heads=8, head_dim=128)
    mlp = Dense(c.int("intermediate_size", 21504), bias="ud" if c.bool("mlp_bias") else "")
    derived = ["sliding_attention" if i % 4 else "full_attention" for i in range(layers)]
    stack = tuple(
        Layer((windowed(attention, window),), (mlp,), norms=2 * hidden) for window in layer_windows(c, derived, 8192)
    )
    return decoder(c, hidden, stack, vocab=128256, positions=131072)
