"""Microsoft: Phi 1 to 4, Phi-3.5-MoE, Phi-4 multimodal and BitNet."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import agree, either
from kvplan.importers.config import Config
from kvplan.importers.experts import routed
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, replace, vector


@importer("phi")
def phi(c: Config) -> ModelSpec:
    """Phi 1, 1.5 and 2: attention and MLP in parallel, biases everywhere, the logits too (transformers models/phi)."""
    hidden, layers = c.int("hidden_size", 2048), c.layers(default=24)
    attention = grouped_attention(
        c,
        hidden,
        heads=32,
        bias="qkvo",
        qk_norm="head" if c.bool("qk_layernorm") else "",
        qk_norm_params=2,
        names="q_proj k_proj v_proj dense",
    )
    mlp = Dense(c.int("intermediate_size", 8192), gated=False, bias="ud", names="fc1 fc1 fc2")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=51200, positions=2048, final_norm=2 * hidden, head_bias=True)


@importer("phi-msft")
def phi_msft(c: Config) -> ModelSpec:
    """Phi 1.5 and 2 as first published, with remote code.

    Source: the authors' configuration_phi.py and modeling_phi.py beside the weights (a fused Wqkv, one LayerNorm per
    layer, vocabulary padded to a multiple of 64). Phi-2 comes to 2,779,683,840 parameters, the 5,559,367,680 bytes
    of its published fp16 files.
    """
    hidden = c.int(either(c, "n_embd", "hidden_size"), 2048)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 24)
    key = either(c, "n_head", "num_attention_heads")
    heads = c.int(key, 32)
    dim = c.divides(key, hidden, heads, "n_embd")
    kv_heads = c.int(either(c, "n_head_kv", "num_key_value_heads"), heads)
    c.divides("n_head_kv", heads, kv_heads, key)
    agree(c, "head_dim", dim)
    attention = Attention(heads, kv_heads, dim, dim, bias="qkvo", module="mixer", names="Wqkv Wqkv Wqkv out_proj")
    mlp = Dense(c.int("n_inner", 4 * hidden), gated=False, bias="ud", names="fc1 fc1 fc2")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 2048)
    spec = decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=51200,
        positions=context,
        final_norm=2 * hidden,
        head_bias=True,
        prefix="transformer.h",
    )
    multiple = c.int("pad_vocab_size_multiple", 64)
    return replace(spec, vocab=-(-spec.vocab // multiple) * multiple)


@importer("phi3")
def phi3(c: Config) -> ModelSpec:
    """Phi-3 mini and medium, Phi-4: fused QKV and gate-up matrices, one window for all (transformers models/phi3).

    A window at or above the context (262,144 in the 128k files) binds nothing before it is reached. The class reads
    no full_attn_mod, mlp_bias or lm_head_bias.
    """
    return _phi3(c)


def _phi3(c: Config, kv_heads: int | None = None, vocab: int = 32064, positions: int = 4096) -> ModelSpec:
    """The frame of Phi-3 and Phi-4 multimodal; the keywords are the defaults in which their classes differ."""
    hidden, layers = c.int("hidden_size", 3072), c.layers(default=32)
    window = c.maybe_int("sliding_window")
    attention = grouped_attention(
        c, hidden, heads=32, kv_heads=kv_heads, window=window, names="qkv_proj qkv_proj qkv_proj o_proj"
    )
    mlp = Dense(c.int("intermediate_size", 8192), names="gate_up_proj gate_up_proj down_proj")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=vocab, positions=positions)


@importer("phi4_multimodal")
def phi4_multimodal(c: Config) -> ModelSpec:
    """Phi-4 multimodal: Phi-4 mini that sees and hears; the class has no LoRA adapters (models/phi4_multimodal)."""
    from kvplan.importers.towers import towers  # text-only files never need it

    text = _phi3(c, kv_heads=8, vocab=200064, positions=131072)
    return replace(text, towers=towers(c, counted=True, hidden=text.hidden))


@importer("phi3small")
def phi3small(c: Config) -> ModelSpec:
    """Phi-3-small: grouped queries, biases everywhere, blocksparse attention in most layers.

    Source: the authors' configuration_phi3_small.py and modeling_phi3_small.py (remote code): every layer caches every
    token, so that the blocks thin out what is read and never what is held. 7,392,272,384 parameters (published: 7B).
    """
    hidden, layers = c.int("hidden_size", 4096), c.layers(default=32)
    attention = grouped_attention(
        c, hidden, heads=32, kv_heads=8, bias="qkvo", names="query_key_value query_key_value query_key_value dense"
    )
    agree(c, "head_dim", c.divides("num_attention_heads", hidden, attention.heads, "hidden_size"))
    # one of two ways to say the width; the class has a default for the second and refuses both at once
    multiplier = c.maybe_int("ff_dim_multiplier")
    width = c.maybe_int("ff_intermediate_size")
    if width is None and "ff_intermediate_size" not in c.raw:
        width = 14336
    if multiplier is not None and width is None:
        width = multiplier * (hidden // 3) * 2
        if c.bool("gegelu_pad_to_256", True):
            width = -(-width // 256) * 256
    elif multiplier is not None or width is None:
        raise c.error("ff_dim_multiplier", multiplier, "given where ff_intermediate_size is null, and only there")
    # up_proj makes both halves of the gated unit
    mlp = Dense(width, bias="ud", names="up_proj up_proj down_proj")
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    every = c.int("dense_attention_every_n_layers", 2, least=0)
    sparse = layers - layers // every if every else layers
    local = c.int("blocksparse_num_local_blocks", 16) * c.int("blocksparse_block_size", 64)
    stride = c.int("blocksparse_vert_stride", 8)
    spec = decoder(c, hidden, (layer,) * layers, vocab=100352, positions=8192, tied=True, final_norm=2 * hidden)
    note = (
        f"{sparse} of {layers} layers are blocksparse ({local} local tokens, then one block in {stride}): they hold"
        " every token but read fewer, so that their traffic and causal FLOPs here are upper bounds"
    )
    return replace(spec, notes=(note,) if sparse else ())


@importer("phimoe")
def phimoe(c: Config) -> ModelSpec:
    """Phi-3.5-MoE: LayerNorms, experts in every layer, one window for all (transformers models/phimoe).

    ``sliding_window`` null is full; the published 131,072 binds nothing before it is reached.
    """
    hidden, layers = c.int("hidden_size", 4096), c.layers(default=32)
    attention = grouped_attention(
        c,
        hidden,
        heads=32,
        kv_heads=8,
        head_dim=hidden // c.int("num_attention_heads", 32) or None,  # the class rounds down
        bias="qkvo" if c.bool("attention_bias") else "",
        window=c.maybe_int("sliding_window"),
    )
    experts = c.int("num_local_experts", 16)
    moe = MoE(experts, routed(c, experts, default=2), c.int("intermediate_size", 6400), router="router")
    layer = Layer((attention,), (moe,), norms=4 * hidden)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=32064,
        positions=131072,
        final_norm=2 * hidden,
        head_bias=c.bool("lm_head_bias"),
    )


@importer("bitnet")
def bitnet(c: Config) -> ModelSpec:
    """BitNet b1.58: Llama with a norm before the output and the down projection (transformers models/bitnet)."""
    hidden, layers = c.int("hidden_size", 2560), c.layers(default=30)
    # the class's default is 5, but null means one per query head
    kv_heads = None if "num_key_value_heads" in c.raw else 5
    attention = grouped_attention(
        c,
        hidden,
        heads=20,
        kv_heads=kv_heads,
        bias="qkvo" if c.bool("attention_bias") else "",
        extra=(vector("self_attn.attn_sub_norm", hidden),),
    )
    width = c.int("intermediate_size", 6912)
    layer = Layer((attention,), (Dense(width, extra=(vector("mlp.ffn_sub_norm", width),)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=128256, positions=2048)
