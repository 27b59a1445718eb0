"""Databricks: DBRX."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.experts import aliased
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Layer, ModelSpec, MoE


@importer("dbrx")
def dbrx(c: Config) -> ModelSpec:
    """DBRX: fine-grained experts in every layer, shapes nested in two objects (transformers models/dbrx)."""
    hidden, layers = aliased(c, "d_model hidden_size", 2048), aliased(c, "n_layers num_hidden_layers", 24)
    if layers > LAYER_LIMIT:
        raise c.error("n_layers", layers, f"a whole number from 1 to {LAYER_LIMIT}")
    heads = aliased(c, "n_heads num_attention_heads", 16)
    kv_heads = c.sub("attn_config", {}).int("kv_n_heads", 1)
    c.divides("attn_config.kv_n_heads", heads, kv_heads, "n_heads")
    c.overruled("num_key_value_heads", kv_heads)  # the class sets it to what attn_config says
    dim = c.divides("n_heads", hidden, heads, "d_model")
    attention = Attention(heads, kv_heads, dim, dim, module="norm_attn_norm.attn", names="Wqkv Wqkv Wqkv out_proj")
    ffn = c.sub("ffn_config", {})
    experts = ffn.int("moe_num_experts", 4)
    active = ffn.int("moe_top_k", 1, most=experts)
    moe = MoE(experts, active, ffn.int("ffn_hidden_size", 3584), module="ffn", router="router.layer")
    if c.bool("tie_word_embeddings"):
        raise c.error("tie_word_embeddings", True, "false: the class of this type refuses it")
    stack = (Layer((attention,), (moe,), norms=2 * hidden),) * layers
    positions = aliased(c, "max_seq_len max_position_embeddings", 2048)
    return decoder(c, hidden, stack, vocab=32000, positions=positions, prefix="transformer.blocks")
