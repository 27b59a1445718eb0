"""Models without a KV cache, or nearly: Mamba, Mamba 2, Falcon Mamba, xLSTM, RWKV 6 and 7, RecurrentGemma."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.recurrent import ONE, mamba1, mamba2, parameters, time_step_rank
from kvplan.specs import Dense, Layer, ModelSpec, Part, Recurrent, Weight, replace, vector


@importer("mamba", "falcon_mamba")
def mamba(c: Config) -> ModelSpec:
    """Mamba, and Falcon Mamba, whose extra norms have no weights (transformers models/mamba, models/falcon_mamba).

    ``intermediate_size`` in the file wins over ``expand``: falcon-mamba-7b says expand 16 and means 8192.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 768)
    mixer = mamba1(
        hidden,
        c.maybe_int("intermediate_size") or c.int("expand", 2) * hidden,
        c.int("state_size", 16),
        c.int("conv_kernel", 4),
        time_step_rank(c, "time_step_rank", hidden),
        bias=c.bool("use_bias"),
        conv_bias=c.bool("use_conv_bias", True),
    )
    layer = Layer((mixer,), norms=hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=50280, tied=True, prefix="backbone.layers")


@importer("mamba2")
def mamba_2(c: Config) -> ModelSpec:
    """Mamba 2, Codestral Mamba (transformers models/mamba2)."""
    layers, hidden = c.layers(default=64), c.int("hidden_size", 4096)
    heads, head_dim, groups = c.int("num_heads", 128), c.int("head_dim", 64), c.int("n_groups", 8)
    inner = c.int("expand", 2) * hidden
    if heads * head_dim != inner:
        raise c.error("num_heads", heads, f"expand * hidden_size / head_dim ({inner} / {head_dim})")
    c.divides("n_groups", heads, groups, "num_heads")
    mixer = mamba2(
        hidden,
        heads,
        head_dim,
        groups,
        c.int("state_size", 128),
        c.int("conv_kernel", 4),
        bias=c.bool("use_bias"),
        conv_bias=c.bool("use_conv_bias", True),
        module="mixer",
        chunk=c.int("chunk_size", 256),  # nothing of it is kept
    )
    layer = Layer((mixer,), norms=hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32768, prefix="backbone.layers")


@importer("xlstm")
def xlstm(c: Config) -> ModelSpec:
    """The xLSTM (transformers models/xlstm): per head a matrix C (key x value), a vector n and a stabiliser m.

    The class keeps all three in the dtype of the activations (``inference_state_dtype`` is the kernel's own). It builds
    ``num_blocks`` blocks and allocates states for ``num_hidden_layers``.
    """
    held = c.layers("num_hidden_layers", c.layers("num_blocks", 32) if "num_hidden_layers" in c.raw else 32)
    layers = c.layers("num_blocks", held)
    if layers > held:
        raise c.error("num_hidden_layers", held, f"num_blocks ({layers}) or more: each block has a state")
    hidden = c.int("hidden_size", c.maybe_int("embedding_dim") or 4096)
    if c.int("embedding_dim", hidden) != hidden:
        raise c.error("embedding_dim", c.get("embedding_dim"), f"equal to hidden_size ({hidden})")
    heads, bias = c.int("num_heads", 8), c.bool("use_bias")
    keys = int(hidden * c.float("qk_dim_factor", 0.5, most=64))
    values = int(hidden * c.float("v_dim_factor", 1.0, most=64))
    for key, width in (("qk_dim_factor", keys), ("v_dim_factor", values)):
        if not width or width % 64:  # the cache rounds up to 64 and the projections do not: the class cannot run
            raise c.error(key, c.get(key), f"a factor that makes a multiple of 64 ({width})")
        c.divides("num_heads", width, heads, f"{key} * hidden_size")
    multiple = c.int("ffn_round_up_to_multiple_of", 64, most=2**20)
    inner = int((hidden * c.float("ffn_proj_factor", 2.667, most=64) + multiple - 1) // multiple * multiple)
    c.str("weight_mode", "single")  # one matrix or several: the same elements
    c.ignore("chunk_size", "max_inference_chunksize", "inference_state_dtype")  # kernels' working sizes and dtypes
    norms = 2 if bias else 1
    mixer = Recurrent(
        "mlstm",
        (
            Weight("mlstm_layer.q", hidden, keys, bias),
            Weight("mlstm_layer.k", hidden, keys, bias),
            Weight("mlstm_layer.v", hidden, values, bias),
            Weight("mlstm_layer.ogate_preact", hidden, values, bias),
            Weight("mlstm_layer.igate_preact", hidden, heads, True),
            Weight("mlstm_layer.fgate_preact", hidden, heads, True),
            parameters("mlstm_layer.multihead_norm", norms * values),
            Weight("mlstm_layer.out_proj", values, hidden, bias),
        ),
        state=(
            Part("recurrent", heads, keys // heads * (values // heads), "compute", ONE),
            Part("normaliser", heads, keys // heads, "compute", ONE),
            Part("stabiliser", heads, 1, "compute", ONE),
        ),
        # per element of C: forget times C, plus key times value, times query: 5
        mix_flops=5 * keys * (values // heads),
    )
    mlp = Dense(inner, bias="ud" if bias else "", module="ffn", names="proj_up_gate proj_up proj_down")
    layer = Layer((mixer,), (mlp,), norms=2 * norms * hidden)
    # states of layers that are not there: only the class's cache holds them
    idle = replace(mixer, weights=(), state=(), mix_flops=0, transformers_parts=mixer.state)
    chosen = (layer,) * layers + (Layer((idle,)),) * (held - layers)
    spec = decoder(c, hidden, chosen, vocab=50304, prefix="backbone.blocks")
    return replace(spec, tied=False)  # the class never ties


@importer("rwkv6")
def rwkv6(c: Config) -> ModelSpec:
    """RWKV 6 "Finch" (arXiv 2404.05892), from the authors' modeling_rwkv6.py; transformers has no class.

    State per layer: heads x head_size x head_size in fp32, and the last token's input of both blocks (token shifts)
    in the dtype of the activations. The low-rank sizes are fixed by the code: 32 and 64, doubled at hidden size 4096.
    """
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    size = c.int("head_size", 64)
    inner = c.int("attention_hidden_size", hidden)
    heads = c.divides("head_size", inner, size, "attention_hidden_size")
    stated = c.maybe_int("num_attention_heads")  # some files write the head size here, as the authors' code did
    if stated not in (None, heads, size):
        raise c.error("num_attention_heads", stated, f"hidden_size / head_size ({heads})")
    width = c.int("intermediate_size", hidden * 7 // 2 // 32 * 32)
    mix, decay = (64, 128) if hidden == 4096 else (32, 64)
    mixer = Recurrent(
        "rwkv6",
        (
            vector("attention.time_maa", 6 * hidden),
            Weight("attention.time_maa_w1", hidden, 5 * mix),
            Weight("attention.time_maa_w2", mix, hidden, copies=5),
            parameters("attention.time_decay", inner),
            Weight("attention.time_decay_w1", hidden, decay),
            Weight("attention.time_decay_w2", decay, inner),
            parameters("attention.time_faaaa", inner),
            *(Weight(f"attention.{name}", hidden, inner) for name in ("receptance", "key", "value", "gate")),
            Weight("attention.output", inner, hidden),
            vector("attention.ln_x", 2 * hidden),
        ),
        state=(
            Part("recurrent", heads, size * size, "fp32", ONE),
            Part("shift", 1, 2 * hidden, "compute", ONE, "none"),
        ),
        # per element of the state: decay: 1, plus key times value: 2; bonus times value, added, times receptance: 4
        mix_flops=7 * inner * size,
    )
    gate = (Weight("feed_forward.receptance", hidden, hidden), vector("feed_forward.time_maa", 2 * hidden))
    mlp = Dense(width, gated=False, module="feed_forward", names="gate key value", extra=gate)
    layer = Layer((mixer,), (mlp,), norms=4 * hidden)
    first = vector("blocks.0.pre_ln", 2 * hidden)
    spec = decoder(
        c, hidden, (layer,) * layers, vocab=65536, final_norm=2 * hidden, extra=(first,), prefix="rwkv.blocks"
    )
    return replace(spec, max_context=None)  # context_length is what it was trained on; nothing limits it


@importer("rwkv7")
def rwkv7(c: Config) -> ModelSpec:
    """RWKV 7 "Goose" (arXiv 2503.14456), from fla's modeling_rwkv7.py; transformers has no class.

    State per layer: heads x head_dim x head_dim in fp32, and the last token's input of both blocks (token shifts).
    The first layer has no value residual. 1,527,404,544 parameters for World3-1.5B, as published.
    """
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    dim = c.maybe_int("head_dim") or (hidden // c.int("num_heads") if c.has("num_heads") else 64)
    heads = c.divides("head_dim", hidden, dim, "hidden_size")
    if c.int("num_heads", heads) != heads:
        raise c.error("num_heads", c.get("num_heads"), f"hidden_size / head_dim ({heads})")
    values = c.get("value_dim", hidden)
    if values != hidden and values != [hidden] * layers:
        raise c.error("value_dim", values, f"hidden_size ({hidden}) in every layer")
    if c.has("attn"):
        raise c.error("attn", c.get("attn"), "null (layers of softmax attention are not supported)")
    ratio = c.float("hidden_ratio", 4.0, most=1024)
    width = c.int("intermediate_size", -(-int(hidden * ratio) // 32) * 32)
    norm = hidden * (2 if c.bool("norm_bias", True) else 1)
    ranks = {  # fla's defaults when the file omits them: multiples of 32 near a power of the hidden size
        name: c.maybe_int(f"{key}_low_rank_dim") or max(32, round(factor * hidden**0.5 * scale / 32) * 32)
        for name, key, factor, scale in (
            ("w", "decay", 2.5, dim / 64),
            ("a", "a", 2.5, dim / 64),
            ("v", "v", 1.7, dim / 64),
            ("g", "gate", 5.0, 1.0),
        )
    }

    def low_rank(name: str) -> tuple[Weight, Weight]:
        rank = ranks[name]
        return (
            Weight(f"attn.{name}_lora.lora.0", hidden, rank),
            Weight(f"attn.{name}_lora.lora.2", rank, hidden, name != "g"),
        )

    weights = (
        vector("attn.x", 6 * hidden),
        parameters("attn.k_k_a_r_k", 3 * hidden),
        *(Weight(f"attn.{name}", hidden, hidden) for name in ("r_proj", "k_proj", "v_proj", "o_proj")),
        *low_rank("w"),
        *low_rank("a"),
        *low_rank("g"),
        vector("attn.g_norm", 2 * hidden),
    )
    state = (
        Part("recurrent", heads, dim * dim, "fp32", ONE),
        Part("shift", 1, 2 * hidden, "compute", ONE, "none"),
    )
    # per element of the state: decay: 1, times a: 2, plus times b: 2, plus key times value: 2, times receptance: 2
    flops = 9 * hidden * dim
    mlp = Dense(width, gated=False, module="ffn", names="gate key value", extra=(vector("ffn.x_k", hidden),))
    first = Layer((Recurrent("rwkv7", weights, state=state, mix_flops=flops),), (mlp,), norms=2 * norm)
    later = Layer((Recurrent("rwkv7", weights + low_rank("v"), state=state, mix_flops=flops),), (mlp,), norms=2 * norm)
    before = (vector("layers.0.pre_norm", norm),) if c.bool("norm_first", True) else ()
    spec = decoder(c, hidden, (first,) + (later,) * (layers - 1), vocab=32000, final_norm=norm, extra=before)
    return replace(spec, max_context=None)


@importer("recurrent_gemma")
def recurrent_gemma(c: Config) -> ModelSpec:
    """RecurrentGemma (Griffin, arXiv 2402.19427): two RG-LRU blocks to one of local attention (models/recurrent_gemma).

    The class keeps the recurrent state (fp32) and kernel - 1 convolution columns in its modules, not in the cache that
    it is given; both are counted. ``intermediate_size`` counts gate and up together.
    """
    layers, hidden = c.layers(default=26), c.int("hidden_size", 2560)
    heads = c.int("num_attention_heads", 10)
    # the second name is another of the same, and the class lets it win
    window = c.maybe_int("sliding_window") or c.int("attention_window_size", 2048)
    c.ignore("attention_window_size")
    bias = "qkvo" if c.bool("attention_bias") else "o"
    attention = grouped_attention(c, hidden, heads=heads, bias=bias, window=window, module="temporal_block")
    inner = c.int("lru_width", hidden)
    block = c.divides("num_attention_heads", inner, heads, "lru_width")
    kernel = c.int("conv1d_width", 4)
    state = (Part("recurrent", inner, 1, "fp32", ONE),)
    columns = Part("conv", inner, kernel - 1, "compute", ONE)
    rglru = Recurrent(
        "rglru",
        (
            Weight("temporal_block.linear_y", hidden, inner, True),
            Weight("temporal_block.linear_x", hidden, inner, True),
            Weight("temporal_block.linear_out", inner, hidden, True),
            Weight("temporal_block.conv_1d", kernel, inner, True, kind="conv"),
            parameters("temporal_block.rg_lru.recurrent_param", inner),
            Weight("temporal_block.rg_lru.input_gate", block, block, True, copies=heads),
            Weight("temporal_block.rg_lru.recurrent_gate", block, block, True, copies=heads),
        ),
        conv=((inner, kernel),),
        state=state,
        mix_flops=5 * inner,  # per channel: decay times state, plus gate times input, scaled by sqrt(1 - a^2)
        conv_heads=inner,
        transformers_parts=(columns, *state),
    )
    default, allowed = ["recurrent", "recurrent", "attention"], ("recurrent", "attention")
    pattern = c.strings("block_types", None, allowed) or default
    published = c.strings("_block_types", None, allowed)  # how the first release saved it; the class does not read it
    if published not in (None, [], pattern):
        raise c.error("_block_types", published, f"equal to block_types ({pattern})")
    both = c.int("intermediate_size", 7680)
    mlp = Dense(both // 2, bias="ud", module="mlp_block")
    kinds = {
        "recurrent": Layer((rglru,), (mlp,), norms=2 * hidden),
        "attention": Layer((attention,), (mlp,), norms=2 * hidden),
    }
    chosen = tuple(kinds[pattern[i % len(pattern)]] for i in range(layers))
    spec = decoder(c, hidden, chosen, vocab=256000, tied=True)
    return replace(spec, max_context=None)  # no absolute positions, and attention is local
