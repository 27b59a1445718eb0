"""OpenBMB's CPM-Ant."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import agree
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Growth, Layer, ModelSpec, Part, Weight, replace


@importer("cpmant")
def cpmant(c: Config) -> ModelSpec:
    """CPM-Ant 10B: a learned prompt stands before every text and stays in the cache (transformers models/cpmant).

    Attention is told distances by one table of biases for all layers; the logits have a matrix of their own, whatever
    the file says. The class takes the whole text at every step, and leaves out what is cached.
    """
    layers, hidden, heads = c.layers(default=48), c.int("hidden_size", 4096), c.int("num_attention_heads", 32)
    dim, prompt = c.int("dim_head", 128), c.int("prompt_length", 32, least=0)
    agree(c, "num_key_value_heads", heads)
    before = Growth("constant", prompt)
    held = (Part("prompt_key", heads, dim, "key", before), Part("prompt_value", heads, dim, "value", before))
    attention = Attention(
        heads, heads, dim, dim, module="self_att.self_attention", names="project_q project_k project_v attention_out",
        extra_parts=held if prompt else (),
    )  # fmt: skip
    mlp = Dense(c.int("dim_ff", 10240), module="ffn.ffn", names="w_in.w_0 w_in.w_1 w_out")
    segments = c.int("segment_types", 32)
    extra = (
        Weight("prompt_embedding", c.int("prompt_types", 32, least=0) * prompt, hidden, kind="lookup"),
        Weight("segment_embedding", segments, hidden, kind="lookup", shard="none"),
        Weight(
            "position_bias", segments**2 + c.int("position_bias_num_buckets", 512), heads, kind="lookup", shard="none"
        ),
    )
    c.overruled("tie_word_embeddings", False)
    note = f"a prompt of {prompt} tokens of its own stands before every text: cached, and not in the FLOPs"
    spec = decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=2 * hidden),) * layers,
        vocab=30720,
        positions=c.int("position_bias_max_distance", 2048),
        extra=extra,
        prefix="cpmant.encoder.layers",
        notes=(note,) if prompt else (),
    )
    return replace(spec, tied=False)
