"""GLM: ChatGLM 2 and 3 and GLM-4 from their authors' code, the later ones from transformers."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Attention, Dense, Layer, ModelSpec, vector

FUSED = "gate_up_proj gate_up_proj down_proj"  # gate and up are one matrix


@importer("chatglm")
def chatglm(c: Config) -> ModelSpec:
    """ChatGLM 2, ChatGLM 3 and GLM-4 9B with remote code: multi-query groups, untied logits, keys of its own.

    The cache holds the groups before they are repeated. Source: the authors' modeling_chatglm.py (no transformers
    class); ChatGLM3 6B has 6,243,584,000 parameters, GLM-4 9B has 9,399,951,360.
    """
    layers, hidden = c.layers("num_layers", 28), c.int("hidden_size", 4096)
    heads, dim = c.int("num_attention_heads", 32), c.int("kv_channels", 128)
    groups = c.int("multi_query_group_num", 1)
    kv_heads = groups if c.bool("multi_query_attention") else heads
    c.divides("multi_query_group_num", heads, kv_heads, "num_attention_heads")
    linear_bias = c.bool("add_bias_linear")
    bias = ("qkv" if c.bool("add_qkv_bias") or linear_bias else "") + ("o" if linear_bias else "")
    names = "query_key_value query_key_value query_key_value dense"
    attention = Attention(heads, kv_heads, dim, dim, bias=bias, module="self_attention", names=names)
    mlp = Dense(
        c.int("ffn_hidden_size", 13696),
        bias="ud" if linear_bias else "",
        names="dense_h_to_4h dense_h_to_4h dense_4h_to_h",
    )
    norm = hidden if c.bool("rmsnorm", True) else 2 * hidden
    layer = Layer((attention,), (mlp,), norms=2 * norm)
    return ModelSpec(
        name="",
        model_type="chatglm",
        hidden=hidden,
        vocab=c.int("padded_vocab_size", 65024),
        layers=(layer,) * layers,
        tied=c.bool("tie_word_embeddings"),
        final=(vector("final_layernorm", norm),) if c.bool("post_layer_norm", True) else (),
        max_context=c.int("seq_length", 2048),
        prefix="transformer.encoder.layers",
    )


@importer("glm")
def glm(c: Config) -> ModelSpec:
    """GLM-4 9B and GLM-Edge: biased queries, keys and values, gate and up in one matrix (transformers models/glm)."""
    return _glm(c, norms=2)


@importer("glm4")
def glm4(c: Config) -> ModelSpec:
    """GLM-4-0414: GLM with norms after attention and MLP too (transformers models/glm4)."""
    return _glm(c, norms=4)


def _glm(c: Config, *, norms: int) -> ModelSpec:
    layers, hidden = c.layers(default=40), c.int("hidden_size", 4096)
    bias = "qkv" if c.bool("attention_bias", True) else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=2, head_dim=128, bias=bias)
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 13696), names=FUSED),), norms=norms * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=151552, positions=131072)
