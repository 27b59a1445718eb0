"""Families that keep Llama's layer and change a detail: a bias, a norm, who slides, what a layer leaves out."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.specs import MLP, Attention, Dense, Layer, Mixer, ModelSpec, MoE, Weight, vector


@importer("helium")
def helium(c: Config) -> ModelSpec:
    """Helium: Llama with an output projection of hidden x hidden, never biased (transformers models/helium)."""
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2560)
    bias = "qkv" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=20, kv_heads=20, head_dim=128, bias=bias)
    if attention.heads * attention.key_dim != hidden:
        raise c.error("head_dim", attention.key_dim, f"hidden_size / heads, {hidden} / {attention.heads}")
    mlp = Dense(c.int("intermediate_size", 7040), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=48000, positions=4096)


@importer("granite")
def granite(c: Config) -> ModelSpec:
    """Granite 3: Llama's layer with four constant multipliers (transformers models/granite)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, rounds=True, bias="qkvo" if c.bool("attention_bias") else "")
    mlp = Dense(c.int("intermediate_size", 11008), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048)


@importer("smollm3")
def smollm3(c: Config) -> ModelSpec:
    """SmolLM3: every fourth layer lacks rotary positions and may slide (transformers models/smollm3)."""
    layers, hidden = c.layers(default=36), c.int("hidden_size", 2048)
    attention = grouped_attention(c, hidden, heads=16, kv_heads=4, bias="qkvo" if c.bool("attention_bias") else "")
    every = c.int("no_rope_layer_interval", 4)
    rotary = c.ints("no_rope_layers", layers, longer=True) or [int((i + 1) % every != 0) for i in range(layers)]
    window, used = c.maybe_int("sliding_window"), c.bool("use_sliding_window")
    windows = layer_windows(c, layers, window, lambda i: used and window is not None and not rotary[i])
    mlp = Dense(c.int("intermediate_size", 11008), bias="ud" if c.bool("mlp_bias") else "")
    stack = tuple(Layer((windowed(attention, w),), (mlp,), norms=2 * hidden) for w in windows)
    return decoder(c, hidden, stack, vocab=128256, positions=32768, tied=True)


@importer("seed_oss")
def seed_oss(c: Config) -> ModelSpec:
    """Seed-OSS: biased queries, keys, values; heads x head_dim exceeds hidden (transformers models/seed_oss)."""
    layers, hidden = c.layers(default=64), c.int("hidden_size", 4096)
    bias = ("qkv" if c.bool("attention_bias", True) else "") + ("o" if c.bool("attention_out_bias") else "")
    # an explicit null means hidden / heads, a missing key means 128
    attention = grouped_attention(
        c, hidden, heads=80, kv_heads=8, head_dim=None if "head_dim" in c.raw else 128, bias=bias
    )
    mlp = Dense(c.int("intermediate_size", 27648), bias="ud" if c.bool("mlp_bias") else "")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=155136, positions=524288)


@importer("apertus")
def apertus(c: Config) -> ModelSpec:
    """Apertus: no gate, normed queries and keys, an activation with two parameters (transformers models/apertus)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, bias=bias, qk_norm="head")
    learned = (vector("mlp.act_fn", 2),) if c.str("hidden_act", "xielu") == "xielu" else ()
    mlp = Dense(c.int("intermediate_size", 14336), gated=False, extra=learned)
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=131072, positions=65536)


@importer("baichuan")
def baichuan(c: Config) -> ModelSpec:
    """Baichuan 1 and 2: Llama 1 with one fused projection; the 13B has ALiBi instead of rotary positions.

    Source: the authors' modeling_baichuan.py (remote code, no transformers class). The 7B's and the 13B's code differ
    in their defaults, so a size that the file omits is an error. Baichuan2 13B has 13,896,668,160 parameters.
    """
    layers, hidden = c.layers(), c.int("hidden_size")
    attention = grouped_attention(c, hidden, names="W_pack W_pack W_pack o_proj")
    layer = Layer((attention,), (Dense(c.int("intermediate_size")),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, positions=c.maybe_int("model_max_length"))


@importer("orion")
def orion(c: Config) -> ModelSpec:
    """Orion: Llama with LayerNorms, weight and bias, in place of RMSNorms.

    Source: the authors' modeling_orion.py (remote code, no transformers class).
    """
    layers, hidden = c.layers(), c.int("hidden_size")
    attention = grouped_attention(c, hidden, bias="qkvo" if c.bool("attention_bias") else "")
    layer = Layer((attention,), (Dense(c.int("intermediate_size")),), norms=4 * hidden)
    positions = c.maybe_int("max_sequence_length")
    return decoder(c, hidden, (layer,) * layers, positions=positions, final_norm=2 * hidden)


@importer("xverse")
def xverse(c: Config) -> ModelSpec:
    """XVERSE: Llama 1 with its own vocabulary (the authors' modeling_xverse.py: remote code, no transformers class)."""
    layers, hidden = c.layers(), c.int("hidden_size")
    layer = Layer((grouped_attention(c, hidden),), (Dense(c.int("intermediate_size")),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers)


@importer("hunyuan_v1_dense")
def hunyuan_v1_dense(c: Config) -> ModelSpec:
    """Hunyuan dense, 0.5B to 7B: Llama with normed queries and keys (transformers models/hunyuan_v1_dense).

    Files carry ``cla_share_factor`` without ``use_cla``: no layer shares, as in the class.
    """
    if c.bool("use_cla"):
        raise c.error("use_cla", True, "false: the class of this type shares no KV between layers")
    c.ignore("cla_share_factor")  # without use_cla it has no effect
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    c.ignore("attention_head_dim")  # the class reads head_dim
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, bias=bias, qk_norm="head")
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 11008)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=290943, positions=2048)


@importer("minicpm")
def minicpm(c: Config) -> ModelSpec:
    """MiniCPM 1 and 4: Llama's layer, tied logits, and in MiniCPM-MoE experts in place of each MLP.

    Source: the authors' modeling_minicpm.py (remote code, no transformers class).
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, bias="qkvo" if c.bool("attention_bias") else "")
    width, experts = c.int("intermediate_size", 11008), c.int("num_experts", 0, least=0)
    mlp: MLP = Dense(width)
    if experts:
        mlp = MoE(experts, c.int("num_experts_per_tok", 2, most=experts), width, fused=False)
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    notes: tuple[str, ...] = ()
    if c.get("sparse_config"):
        notes = ("sparse_config: all keys and values stay; pooled keys of the sparse kernels are not counted",)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=2048, tied=True, notes=notes)


@importer("nemotron-nas")
def nemotron_nas(c: Config) -> ModelSpec:
    """Llama-Nemotron 49B, 51B and 253B: a searched Llama whose every layer says in ``block_configs`` what it keeps.

    A layer may leave out attention or MLP, or put a single matrix in its place; KV heads and MLP width vary by layer.
    Source: the authors' modeling_decilm.py (remote code, no transformers class) and vLLM's nemotron_nas.py; the 49B
    has 49,867,145,216 parameters.
    """
    layers, hidden = c.layers(), c.int("hidden_size")
    heads = c.int("num_attention_heads")
    head_dim = c.maybe_int("head_dim") or c.divides("num_attention_heads", hidden, heads, "hidden_size")
    c.ignore("num_key_value_heads")  # null in the files: block_configs has the KV heads
    blocks = c.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != layers:
        raise c.error("block_configs", "missing" if blocks is None else blocks, f"a list of {layers}, one per layer")
    stack = []
    for i, raw in enumerate(blocks):
        block = Config(raw, c.where, f"{c.path}block_configs[{i}].")
        c.children.append(block)
        stack.append(_block(c, block, hidden, heads, head_dim))
    return decoder(c, hidden, tuple(stack))


def _block(c: Config, block: Config, hidden: int, heads: int, head_dim: int) -> Layer:
    mixers: tuple[Mixer, ...] = ()
    mlps: tuple[MLP, ...] = ()
    extra: tuple[Weight, ...] = ()
    norms = 0
    part = block.sub("attention")
    for key in ("num_sink_tokens", "mamba", "llama4"):
        if part.get(key):
            raise part.error(key, part.get(key), "null: this kind of attention is not known here")
    if not part.bool("no_op"):
        norms += hidden
        if part.bool("replace_with_linear"):
            extra += (Weight("self_attn.linear_attn", hidden, hidden),)
        else:
            group = part.int("n_heads_in_group")
            kv_heads = part.divides("n_heads_in_group", heads, group, "num_attention_heads")
            bias = "qkvo" if c.bool("attention_bias") else ""
            window = part.maybe_int("window_length")
            mixers = (Attention(heads, kv_heads, head_dim, head_dim, window=window, bias=bias),)
    part = block.sub("ffn")
    if part.get("moe"):
        raise part.error("moe", part.get("moe"), "null: experts are not known here")
    if not part.bool("no_op"):
        norms += hidden
        if part.bool("replace_with_linear"):
            extra += (Weight("mlp.linear_mlp", hidden, hidden),)
        else:
            mlps = (Dense(_width(part, hidden), bias="ud" if c.bool("mlp_bias") else ""),)
    return Layer(mixers, mlps, norms, extra)


def _width(part: Config, hidden: int) -> int:
    # two thirds of ffn_mult x hidden, rounded down, then up to a multiple of 256
    if not part.has("ffn_mult"):
        return part.int("intermediate_size")
    width = int(2 * part.float("ffn_mult", most=1024.0) * hidden / 3)
    return -(-width // 256) * 256
