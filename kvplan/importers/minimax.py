"""MiniMax-M2, the full-attention generation; the hybrids before it are in ``linear.py``."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Layer, ModelSpec, MoE


@importer("minimax_m2")
def minimax_m2(c: Config) -> ModelSpec:
    """MiniMax-M2: full attention, norms over all heads' queries and keys at once (transformers models/minimax_m2).

    Experts carry the checkpoint's name (``block_sparse_moe``), which is what quantisers' ignore-lists say.
    """
    layers, hidden = c.layers(default=62), c.int("hidden_size", 3072)
    kinds = c.ints("attn_type_list", most=1)
    if kinds is not None and 0 in kinds[:layers]:
        # what the hybrid generation before it calls a linear layer
        c.notes.append("the transformers class ignores the 0 in attn_type_list: softmax attention in every layer")
    attention = grouped_attention(c, hidden, heads=48, kv_heads=8, head_dim=128, qk_norm="all")
    experts = aliased(c, "num_local_experts num_experts", 256)
    mlp = MoE(experts, routed(c, experts, default=8), c.int("intermediate_size", 1536), module="block_sparse_moe")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=200064, positions=196608)
