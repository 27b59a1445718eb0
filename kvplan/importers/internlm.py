"""InternLM: three generations of Llama's layer, told apart by their biases and by who fuses what."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Dense, Layer, ModelSpec


@importer("internlm")
def internlm(c: Config) -> ModelSpec:
    """InternLM 1: Llama 1 with biases on all four attention projections, unless ``bias`` is false.

    Source: the authors' modeling_internlm.py (remote code, no transformers class).
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("bias", True) else "")
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 11008)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=103168, positions=2048)


@importer("internlm2")
def internlm2(c: Config) -> ModelSpec:
    """InternLM 2 and 2.5: grouped queries, one fused wqkv; ``bias`` means the attention projections.

    Source: the authors' modeling_internlm2.py (remote code, no transformers class).
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(
        c, hidden, heads=32, bias="qkvo" if c.bool("bias", True) else "", module="attention", names="wqkv wqkv wqkv wo"
    )
    mlp = Dense(c.int("intermediate_size", 11008), module="feed_forward", names="w1 w3 w2")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=103168, positions=2048)


@importer("internlm3")
def internlm3(c: Config) -> ModelSpec:
    """InternLM 3: Llama, head_dim 128; ``qkv_bias`` and ``bias`` must agree (transformers models/internlm3)."""
    layers, hidden = c.layers(default=48), c.int("hidden_size", 4096)
    attention_bias = c.bool("attention_bias") or c.bool("qkv_bias")
    mlp_bias = c.bool("mlp_bias") or c.bool("bias")
    if attention_bias != mlp_bias:
        raise c.error("qkv_bias", attention_bias, f"equal to bias ({mlp_bias}), as the class demands")
    # an explicit null means hidden / heads, a missing key means 128
    dim = None if "head_dim" in c.raw else 128
    bias = "qkvo" if attention_bias else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=2, head_dim=dim, bias=bias)
    mlp = Dense(c.int("intermediate_size", 10240), bias="ud" if mlp_bias else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=128512, positions=32768)
