"""Xiaomi's MiMo-V2-Flash."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, vector

KINDS = ("full_attention", "sliding_attention")


def _attention(c: Config, sliding: bool) -> Attention:
    """Attention of one kind: sliding layers have twice the KV heads, and a sink per head."""
    heads, kv_heads = c.int("num_attention_heads", 64), c.int("num_key_value_heads", 4)
    kv_heads *= 2 if sliding else 1
    key_dim, value_dim = c.int("head_dim", 192), c.int("v_head_dim", 128)
    window = None
    if sliding:
        window = c.int("sliding_window", 129)
        # counts the tokens before the query, so the window is one more
        earlier = c.maybe_int("sliding_window_size")
        if earlier is not None:
            window = earlier + 1
    c.divides("num_key_value_heads", heads, kv_heads, "the number of query heads")
    extra = (vector("self_attn.sinks", heads),) if sliding else ()
    bias = "qkv" if c.bool("attention_bias") else ""
    return Attention(heads, kv_heads, key_dim, value_dim, window=window, bias=bias, extra=extra)


def _not_read(c: Config, sliding: Attention, sparse: list[bool], kinds: list[str]) -> None:
    """Keys of published files that the class does not look at; a note where they say something else than it builds."""
    c.overruled("swa_num_attention_heads", sliding.heads)
    c.overruled("swa_num_key_value_heads", sliding.kv_heads)
    c.overruled("swa_head_dim", sliding.key_dim)
    c.overruled("swa_v_head_dim", sliding.value_dim)
    c.overruled("add_swa_attention_sink_bias", True)
    c.overruled("add_full_attention_sink_bias", False)
    built = {"hybrid_layer_pattern": [KINDS.index(kind) for kind in kinds], "moe_layer_freq": [int(s) for s in sparse]}
    for key, flags in built.items():
        stated = c.get(key)
        if isinstance(stated, list) and stated[: len(flags)] != flags:
            c.notes.append(f"the transformers class ignores {key} and builds {flags}; counted so here")


@importer("mimo_v2_flash")
def mimo_v2_flash(c: Config) -> ModelSpec:
    """MiMo-V2-Flash: five sliding layers to one full, keys of 192, values of 128 (transformers models/mimo_v2_flash).

    Published files say ``sliding_window`` 128 and ``sliding_window_size`` 128; the class counts the latter without
    the query, so a layer sees 129 tokens and caches 128. It reads none of the ``swa_*`` keys, flags of sinks and layer
    patterns of those files, which say what it builds.
    """
    layers, hidden = c.layers(default=48), c.int("hidden_size", 4096)
    c.ignore("attention_chunk_size")  # equals the window in published files; nothing is chunked
    full, sliding = _attention(c, False), _attention(c, True)
    kinds = c.strings("layer_types", layers, KINDS) or [KINDS[i > 0 and (i + 1) % 6 > 0] for i in range(layers)]
    experts = aliased(c, "n_routed_experts num_local_experts", 256)
    moe = MoE(experts, routed(c, experts, default=8), c.int("moe_intermediate_size", 2048))
    dense = Dense(c.int("intermediate_size", 16384))
    sparse = sparse_layers(c, layers, [i > 0 for i in range(layers)])
    _not_read(c, sliding, sparse, kinds)
    stack = tuple(
        Layer((sliding if kind == "sliding_attention" else full,), (moe if is_sparse else dense,), norms=2 * hidden)
        for kind, is_sparse in zip(kinds, sparse, strict=True)
    )
    return decoder(c, hidden, stack, vocab=152576, positions=131072)
