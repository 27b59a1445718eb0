"""OpenAI's GPT and GPT-2, and what was published in their shape."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, replace

FUSED = "c_attn c_attn c_attn c_proj"
CROSS = "q_attn c_attn c_attn c_proj"


@importer("gpt2", "gpt-sw3")
def gpt2(c: Config) -> ModelSpec:
    """GPT-2, Cerebras-GPT, GPT-SW3: LayerNorm, biases everywhere, a learned table of positions (transformers models/gpt2)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 768)
    attention = equal_heads(
        c, hidden, either(c, "n_head", "num_attention_heads"), 12, bias="qkvo", module="attn", names=FUSED
    )
    return gpt2_frame(c, hidden, attention)


def gpt2_frame(c: Config, hidden: int, attention: Attention) -> ModelSpec:
    """What GPT-2 and GPT-BigCode put around their attention."""
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 12)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 1024)
    mlp = Dense(c.int("n_inner", 4 * hidden), gated=False, bias="ud", names="c_fc c_fc c_proj")
    mixers: tuple[Attention, ...] = (attention,)
    if crossed := c.bool("add_cross_attention"):
        mixers += (replace(attention, cross=True, module="crossattention", names=CROSS),)
    # each mixer and the MLP have a LayerNorm of two vectors
    layer = Layer(mixers, (mlp,), norms=2 * hidden * (len(mixers) + 1))
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50257,
        positions=context,
        tied=True,
        final_norm=2 * hidden,
        prefix="transformer.h",
        encoder="encoder states" if crossed else "",
    )
    return replace(spec, positions=context * hidden)


@importer("openai-gpt")
def openai_gpt(c: Config) -> ModelSpec:
    """GPT, the first: norms after, an MLP of four times the width, none at the end (transformers models/openai)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 768)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 12)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 512)
    key = either(c, "n_head", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 12, bias="qkvo", module="attn", names=FUSED, transformers_parts=())
    c.notes.append("the transformers class takes and returns no cache: generate() runs the whole text again")
    mlp = Dense(4 * hidden, gated=False, bias="ud", names="c_fc c_fc c_proj")
    spec = decoder(
        c,
        hidden,
        (Layer((attention,), (mlp,), norms=4 * hidden),) * layers,
        vocab=40478,
        positions=context,
        tied=True,
        final_norm=0,
        prefix="transformer.h",
    )
    return replace(spec, positions=context * hidden)
