"""The Llama shape: pre-norm, gated MLP, RoPE, grouped queries. The plainest importer, and the one to copy from."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec


@importer("llama")
def llama(c: Config) -> ModelSpec:
    """Llama 1 to 3 and everything published in their shape (transformers models/llama)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("attention_bias") else "")
    mlp = Dense(c.int("intermediate_size", 11008), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)
