"""ModernBERT's decoder (Ettin)."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, layer_windows, windowed
from kvplan.specs import Dense, Layer, ModelSpec, Weight, replace


@importer("modernbert-decoder")
def modernbert_decoder(c: Config) -> ModelSpec:
    """ModernBERT decoder: two local layers to a global one, no norm before the first (models/modernbert_decoder).

    ``local_attention`` counts both sides, as in the encoder, so that a layer looks back half of it; files that
    transformers wrote have the half as ``sliding_window`` too, which wins.
    """
    layers, hidden = c.layers(default=22), c.int("hidden_size", 768)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = equal_heads(
        c, hidden, "num_attention_heads", 12, bias=bias, module="attn", names="q_proj k_proj v_proj Wo"
    )
    # null and 0 are no window, which the class writes as -1 and runs only where every layer is global
    both = c.int("local_attention", 0 if "local_attention" in c.raw else 128, least=0)
    window = c.int("sliding_window", both // 2, least=-1)
    every = c.int("global_attn_every_n_layers", 3)
    windows = layer_windows(c, layers, window if window > 0 else None, lambda i: i % every != 0)
    norm = hidden * (2 if c.bool("norm_bias") else 1)
    width, mlp_bias = c.int("intermediate_size", 1152), "ud" if c.bool("mlp_bias") else ""
    mlp = Dense(width, bias=mlp_bias, names="Wi Wi Wo")
    stack = [Layer((windowed(attention, w),), (mlp,), norms=2 * norm) for w in windows]
    stack[0] = replace(stack[0], norms=norm)
    return decoder(
        c,
        hidden,
        tuple(stack),
        vocab=50368,
        positions=8192,
        tied=True,
        final_norm=3 * norm,  # behind the token table, the layers, and the layer before the logits
        extra=(Weight("lm_head.dense", hidden, hidden, c.bool("classifier_bias")),),
        head_bias=c.bool("decoder_bias", True),
    )
