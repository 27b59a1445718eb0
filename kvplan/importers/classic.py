"""The first wave of open decoders: OPT, BLOOM, MPT, Falcon, Persimmon, StableLM."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import agree, either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Weight, replace

FUSED = "query_key_value query_key_value query_key_value dense"
MLP = "dense_h_to_4h dense_h_to_4h dense_4h_to_h"


@importer("opt")
def opt(c: Config) -> ModelSpec:
    """OPT: learned positions with two spare rows, and in the 350M a narrower token table (transformers models/opt)."""
    hidden, layers = c.int("hidden_size", 768), c.layers(default=12)
    biased = c.bool("enable_bias", True)
    norm = 2 * hidden if c.bool("layer_norm_elementwise_affine", True) else 0
    attention = equal_heads(
        c, hidden, "num_attention_heads", 12, bias="qkvo" if biased else "", names="q_proj k_proj v_proj out_proj"
    )
    mlp = Dense(c.int("ffn_dim", 3072), gated=False, bias="ud" if biased else "", module="", names="fc1 fc1 fc2")
    width = c.int("word_embed_proj_dim", hidden)
    projections: tuple[Weight, ...] = ()
    if width != hidden:
        projections = (Weight("project_in", width, hidden), Weight("project_out", hidden, width))
    # the last norm exists only where norms come first; _remove_final_layer_norm keeps old fine-tunes loadable
    last = c.bool("do_layer_norm_before", True) and not c.bool("_remove_final_layer_norm")
    layer = Layer((attention,), (mlp,), norms=2 * norm)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50272,
        positions=2048,
        tied=True,
        final_norm=norm if last else 0,
        extra=projections,
        embed_dim=width,
        prefix="model.decoder.layers",
    )
    return replace(spec, positions=((spec.max_context or 2048) + 2) * hidden)


@importer("bloom")
def bloom(c: Config) -> ModelSpec:
    """BLOOM: ALiBi, biases everywhere, a LayerNorm behind the token table (transformers models/bloom)."""
    # n_embed is the older name, and the class lets it win
    hidden = c.int(either(c, "n_embed", "hidden_size"), 64)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 2)
    attention = equal_heads(
        c, hidden, either(c, "n_head", "num_attention_heads"), 8, bias="qkvo", module="self_attention", names=FUSED
    )
    layer = Layer((attention,), (Dense(4 * hidden, gated=False, bias="ud", names=MLP),), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=250880, tied=True, final_norm=4 * hidden, prefix="transformer.h")


@importer("mpt")
def mpt(c: Config) -> ModelSpec:
    """MPT: ALiBi, no bias anywhere, an MLP of four times the hidden size (transformers models/mpt).

    The class reads neither no_bias, expansion_ratio, learned_pos_emb, qk_ln nor attn_type: a file that asks there for
    another model is counted as the class builds it, and a note says so. Grouped queries (replit-code 1.5), which the
    class does not take, follow the authors' llm-foundry: the fused matrix has d_model + 2 * kv_n_heads * head_dim
    outputs.
    """
    hidden = c.int(either(c, "d_model", "hidden_size"), 2048)
    layers = c.layers(either(c, "n_layers", "num_hidden_layers"), 24)
    key = either(c, "n_heads", "num_attention_heads")
    attention = equal_heads(c, hidden, key, 16, module="attn", names="Wqkv Wqkv Wqkv out_proj")
    a = c.sub("attn_config", {})
    kind = a.str("attn_type", "multihead_attention")
    if kind == "grouped_query_attention":
        kv_heads = a.int("kv_n_heads")
        a.divides("kv_n_heads", attention.heads, kv_heads, key)
        attention = replace(attention, kv_heads=kv_heads)
    elif kind == "multiquery_attention":
        a.notes.append(
            f"the transformers class builds {kind} with {attention.heads} KV heads, counted so here; llm-foundry builds one"
        )
    elif kind != "multihead_attention":
        raise a.error("attn_type", kind, "multihead_attention, multiquery_attention or grouped_query_attention")
    a.overruled("kv_n_heads", attention.kv_heads)
    a.overruled("qk_ln", False)
    if a.get("sliding_window_size", -1) != -1:
        raise a.error("sliding_window_size", a.raw["sliding_window_size"], "-1 (none): the class has no window")
    c.overruled("expansion_ratio", 4)
    c.overruled("no_bias", True)
    mlp = Dense(4 * hidden, gated=False, module="ffn", names="up_proj up_proj down_proj")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50368,
        positions=c.int("max_seq_len", 2048),
        tied=True,
        prefix="transformer.blocks",
    )


def _flag(c: Config, key: str, default: bool) -> bool:
    """A flag whose null is false, not the default: FalconConfig allows None and its class asks only for truth."""
    return c.bool(key, default) and not (key in c.raw and c.raw[key] is None)


@importer("falcon")
def falcon(c: Config) -> ModelSpec:
    """Falcon 7B to 180B and Falcon 2 (transformers models/falcon).

    The new decoder architecture groups queries over num_kv_heads; without it multi_query decides (one KV head), and
    num_kv_heads says nothing: the 7B states 71 and has one. The class of the new architecture repeats keys and values
    per query head before it caches them.
    """
    # n_embed is the older name, and the class lets it win
    hidden = c.int(either(c, "n_embed", "hidden_size"), 4544)
    layers, heads = c.layers(default=32), c.int("num_attention_heads", 71)
    dim = c.divides("num_attention_heads", hidden, heads, "hidden_size")
    agree(c, "head_dim", dim)
    grouped, shared = _flag(c, "new_decoder_architecture", False), _flag(c, "multi_query", True)
    stated = c.int("num_kv_heads", heads)
    if grouped:
        c.divides("num_kv_heads", heads, stated, "num_attention_heads")
    elif not shared and stated != heads:
        raise c.error("num_kv_heads", stated, f"num_attention_heads ({heads}) where multi_query is false")
    kv_heads = stated if grouped else 1 if shared else heads
    biased = c.bool("bias")
    attention = Attention(
        heads, kv_heads, dim, dim, bias="qkvo" if biased else "", module="self_attention", names=FUSED, expanded=grouped
    )
    mlp = Dense(c.int("ffn_hidden_size", 4 * hidden), gated=False, bias="ud" if biased else "", names=MLP)
    # behind one LayerNorm each, or attention and MLP in parallel behind one or two
    norms = 2
    if _flag(c, "parallel_attn", True):
        norms = 2 if c.int("num_ln_in_parallel_attn", 2 if grouped else 1, least=0) == 2 else 1
    layer = Layer((attention,), (mlp,), norms=norms * 2 * hidden)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=65024,
        positions=2048,
        tied=True,
        final_norm=2 * hidden,
        prefix="transformer.h",
    )


@importer("persimmon")
def persimmon(c: Config) -> ModelSpec:
    """Persimmon: biases everywhere, a LayerNorm on each head's queries and keys (transformers models/persimmon)."""
    hidden, layers = c.int("hidden_size", 4096), c.layers(default=36)
    attention = equal_heads(
        c,
        hidden,
        "num_attention_heads",
        64,
        bias="qkvo",
        qk_norm="head" if c.bool("qk_layernorm", True) else "",
        qk_norm_params=2,
        names=FUSED,
    )
    mlp = Dense(c.int("intermediate_size", 16384), gated=False, bias="ud", names=MLP)
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=262144, positions=16384, final_norm=2 * hidden)


@importer("stablelm")
def stablelm(c: Config) -> ModelSpec:
    """StableLM 2 and 3B: Llama with LayerNorms and an optional QKV bias (transformers models/stablelm)."""
    hidden, layers = c.int("hidden_size", 2560), c.layers(default=32)
    attention = grouped_attention(
        c,
        hidden,
        heads=32,
        kv_heads=32,
        bias="qkv" if c.bool("use_qkv_bias") else "",
        qk_norm="all" if c.bool("qk_layernorm") else "",
    )
    # the class computes head_dim and knows no other
    agree(c, "head_dim", c.divides("num_attention_heads", hidden, attention.heads, "hidden_size"))
    norms = 2 if c.bool("use_parallel_residual") else 4
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 6912)),), norms=norms * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=50304, positions=4096, final_norm=2 * hidden)
