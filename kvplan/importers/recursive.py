"""Models that run the same layers several times: weights exist once, the cache once per run."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import agree
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Weight, vector


@importer("hrm_text")
def hrm_text(c: Config) -> ModelSpec:
    """HRM-Text: a low and a high stack; L, ``L_cycles`` times, then H, all ``H_cycles`` times (models/hrm_text).

    Each run caches keys and values of its own. Files of transformers write the number of runs as
    ``num_hidden_layers`` and a stack's depth as ``num_layers_per_stack``; without that key the former is the depth.
    """
    hidden, heads = c.int("hidden_size", 1536), c.int("num_attention_heads", 12)
    dim, biased = c.int("head_dim", 128), c.bool("attention_bias")
    agree(c, "num_key_value_heads", heads)  # the class has as many as heads
    high, low = c.int("H_cycles", 2, most=LAYER_LIMIT), c.int("L_cycles", 3, most=LAYER_LIMIT)
    runs = high * (low + 1)
    stated = c.layers(default=16)
    depth = c.layers("num_layers_per_stack", stated)
    if depth * runs > LAYER_LIMIT or (c.has("num_layers_per_stack") and stated != depth * runs):
        rule = f"num_layers_per_stack * H_cycles * (L_cycles + 1), here {depth * runs}, at most {LAYER_LIMIT}"
        raise c.error("num_hidden_layers", stated, rule)
    width, mlp_bias = c.int("intermediate_size", 4096), "ud" if c.bool("mlp_bias") else ""

    def layer(stack: str, index: int) -> Layer:
        tie = f"{stack}.{index}"
        gate = Weight("self_attn.gate_proj", hidden, heads * dim, biased, tie=f"{tie}.gate")
        attention = Attention(heads, heads, dim, dim, bias="qkvo" if biased else "", extra=(gate,), tie=tie)
        return Layer((attention,), (Dense(width, bias=mlp_bias, tie=f"{tie}.mlp"),))

    stacks = {name: tuple(layer(name, i) for i in range(depth)) for name in ("L_module", "H_module")}
    cycle = stacks["L_module"] * low + stacks["H_module"]
    start = (vector("z_L_init", hidden),)
    # norms have no weights
    return decoder(c, hidden, cycle * high, vocab=151808, positions=2048, final_norm=0, extra=start)
