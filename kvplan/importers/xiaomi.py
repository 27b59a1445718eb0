"""Xiaomi's MiMo-V2-Flash."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, vector

KINDS = ("full_attention", "sliding_attention")


def _attention(c: Config, sliding: bool, bias: str) -> Attention:
    """Attention of one kind. Sliding layers have twice the KV heads.

    Where a file gives ``swa_*`` keys those count: the class ignores them, the authors' code and engines do not.
    Published files agree with the class.
    """
    heads = c.int("num_attention_heads", 64)
    kv_heads = c.int("num_key_value_heads", 4)
    key_dim, value_dim = c.int("head_dim", 192), c.int("v_head_dim", 128)
    field = "num_key_value_heads"
    sinks = c.bool("add_full_attention_sink_bias")
    window = None
    if sliding:
        field = "swa_num_key_value_heads"
        heads = c.int("swa_num_attention_heads", heads)
        kv_heads = c.int(field, 2 * kv_heads)
        key_dim, value_dim = c.int("swa_head_dim", key_dim), c.int("swa_v_head_dim", value_dim)
        sinks = c.bool("add_swa_attention_sink_bias", True)
        window = c.int("sliding_window", 129)
        # counts the tokens before the query, so the window is one more
        earlier = c.maybe_int("sliding_window_size")
        if earlier is not None:
            window = earlier + 1
    c.divides(field, heads, kv_heads, "the number of query heads")
    extra = (vector("self_attn.sinks", heads),) if sinks else ()
    return Attention(heads, kv_heads, key_dim, value_dim, window=window, bias=bias, extra=extra)


@importer("mimo_v2_flash")
def mimo_v2_flash(c: Config) -> ModelSpec:
    """MiMo-V2-Flash: five sliding layers to one full, keys of 192, values of 128 (transformers models/mimo_v2_flash).

    Published files say ``sliding_window`` 128 and ``sliding_window_size`` 128; the class counts the latter without
    the query, so a layer sees 129 tokens and caches 128.
    """
    layers, hidden = c.layers(default=48), c.int("hidden_size", 4096)
    c.ignore("attention_chunk_size")  # equals the window in published files; nothing is chunked
    bias = "qkv" if c.bool("attention_bias") else ""
    full, sliding = _attention(c, False, bias), _attention(c, True, bias)
    kinds = c.strings("layer_types", layers, KINDS)
    pattern = c.ints("hybrid_layer_pattern", layers, most=1)
    if kinds is None and pattern is not None:
        kinds = [KINDS[flag] for flag in pattern]
    if kinds is None:
        kinds = [KINDS[i > 0 and (i + 1) % 6 > 0] for i in range(layers)]
    experts = aliased(c, "n_routed_experts num_local_experts", 256)
    moe = MoE(experts, routed(c, experts, default=8), c.int("moe_intermediate_size", 2048))
    dense = Dense(c.int("intermediate_size", 16384))
    flags = c.ints("moe_layer_freq", layers, most=1) if isinstance(c.get("moe_layer_freq"), list) else None
    sparse = sparse_layers(c, layers, [i > 0 for i in range(layers)] if flags is None else [f == 1 for f in flags])
    stack = tuple(
        Layer((sliding if kind == "sliding_attention" else full,), (moe if is_sparse else dense,), norms=2 * hidden)
        for kind, is_sparse in zip(kinds, sparse, strict=True)
    )
    return decoder(c, hidden, stack, vocab=152576, positions=131072)
