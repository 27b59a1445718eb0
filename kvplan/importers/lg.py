"""EXAONE: the third generation from its authors' code, the fourth and K-EXAONE from transformers."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import routed, sparse_layers, stacked
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.specs import MLP, Dense, Layer, ModelSpec, MoE


@importer("exaone")
def exaone(c: Config) -> ModelSpec:
    """EXAONE 3 and 3.5: Llama's layer under GPT-2's names; the logits are tied unless the file says otherwise.

    Source: the authors' modeling_exaone.py (remote code, no transformers class); 3.5 7.8B has 7,818,448,896 parameters.
    """
    layers = c.layers("num_layers" if c.has("num_layers") else "num_hidden_layers", 32)
    hidden = c.int("hidden_size", 2048)
    attention = grouped_attention(c, hidden, heads=32, module="attn.attention", names="q_proj k_proj v_proj out_proj")
    mlp = Dense(c.int("intermediate_size", 4 * hidden), names="c_fc_0 c_fc_1 c_proj")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=102400, positions=2048, tied=True, prefix="transformer.h")


@importer("exaone4")
def exaone4(c: Config) -> ModelSpec:
    """EXAONE 4: three local layers to a global one, normed queries and keys (transformers models/exaone4)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    window = c.maybe_int("sliding_window")
    if "sliding_window" not in c.raw:
        window = 4096
    windows = layer_windows(c, layers, window, _pattern(c, window))
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, qk_norm="head")
    mlp = Dense(c.int("intermediate_size", 16384))
    stack = tuple(Layer((windowed(attention, w),), (mlp,), norms=2 * hidden) for w in windows)
    return decoder(c, hidden, stack, vocab=102400, positions=2048)


@importer("exaone_moe")
def exaone_moe(c: Config) -> ModelSpec:
    """K-EXAONE: EXAONE 4's attention, experts and a shared one behind dense layers (transformers models/exaone_moe)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    window = c.int("sliding_window", 4096)
    windows = layer_windows(c, layers, window, _pattern(c, window))
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, rounds=True, qk_norm="head")
    experts, width = c.int("num_experts", 64), c.int("moe_intermediate_size", 1024)
    shared = width * c.int("num_shared_experts", 1, least=0)
    moe = MoE(experts, routed(c, experts, default=8), width, shared_width=shared)
    dense = Dense(c.int("intermediate_size", 16384))
    first = c.int("first_k_dense_replace", 1, least=0)
    sparse = sparse_layers(c, layers, [i >= first for i in range(layers)])
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse]
    stack = stacked(hidden, [windowed(attention, w) for w in windows], mlps)
    return decoder(c, hidden, stack, vocab=102400, positions=2048)


def _pattern(c: Config, window: int | None) -> Callable[[int], bool]:
    if window is None or c.has("layer_types"):
        c.ignore("sliding_window_pattern")  # layer_types has the last word; without a window nothing slides
        return lambda i: False
    if isinstance(c.get("sliding_window_pattern"), str):
        # "LLLG" is documentation to the class, which cannot derive layers from it
        raise c.error("sliding_window_pattern", c.get("sliding_window_pattern"), "a number, or layer_types beside it")
    every = c.int("sliding_window_pattern", 4)
    return lambda i: (i + 1) % every != 0
