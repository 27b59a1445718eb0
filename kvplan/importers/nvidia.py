"""NVIDIA's Nemotron 3 and 4 and Minitron."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec


@importer("nemotron")
def nemotron(c: Config) -> ModelSpec:
    """Nemotron: Llama with LayerNorms and an MLP of squared ReLUs, without a gate (transformers models/nemotron).

    The class of transformers 5.23 does not build where ``num_key_value_heads`` is missing; the code it was made of
    read that as one per query head.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 6144)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=48, rounds=True, bias=bias)
    mlp = Dense(c.int("intermediate_size", 24576), gated=False, bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=256000, positions=4096, final_norm=2 * hidden)
