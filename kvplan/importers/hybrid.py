"""Decoders that mix attention with Mamba, the gated delta rule or short convolutions, in turn or side by side."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import LAYER_LIMIT, Config
from kvplan.importers.granite_moe import granite_experts
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.recurrent import (
    gated_delta,
    kv_heads_default,
    layer_kinds,
    mamba1,
    mamba2,
    short_conv,
    time_step_rank,
)
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, Weight, replace, vector


def mamba_heads(c: Config, inner: int, default: int = 128) -> tuple[int, int]:
    """Heads and head dim of a Mamba 2 mixer under IBM's and TII's keys; "auto" divides what there is."""
    heads = c.int("mamba_n_heads", default)
    dim = c.divides("mamba_n_heads", inner, heads, "the inner width of Mamba")
    if c.get("mamba_d_head", "auto") != "auto" and c.int("mamba_d_head") != dim:
        raise c.error("mamba_d_head", c.get("mamba_d_head"), f"inner width / mamba_n_heads ({dim})")
    return heads, dim


@importer("falcon_h1")
def falcon_h1(c: Config) -> ModelSpec:
    """Falcon-H1: every layer runs Mamba 2 and attention side by side and caches both (transformers models/falcon_h1).

    A missing ``mamba_d_ssm`` is 1024 and not expand * hidden, which only null means.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    expanded = c.int("mamba_expand", 2) * hidden
    inner = c.int("mamba_d_ssm", expanded if "mamba_d_ssm" in c.raw else 1024)
    heads, dim = mamba_heads(c, inner)
    groups = c.int("mamba_n_groups", 1)
    c.divides("mamba_n_groups", heads, groups, "mamba_n_heads")
    mixer = mamba2(
        hidden,
        heads,
        dim,
        groups,
        c.int("mamba_d_state", 256),
        c.int("mamba_d_conv", 4),
        bias=c.bool("mamba_proj_bias"),
        conv_bias=c.bool("mamba_conv_bias", "mamba_conv_bias" not in c.raw),  # null is false
        out_bias=c.bool("projectors_bias"),
        norm=c.bool("mamba_rms_norm"),
        chunk=c.int("mamba_chunk_size", 256),
    )
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=kv_heads_default(c, 8), rounds=True, bias=bias)
    # switches and scales of the scan: nothing of them is kept
    c.ignore("mamba_norm_before_gate", "mamba_use_mlp", "ssm_multipliers", "ssm_in_multiplier", "ssm_out_multiplier")
    for key in ("layers_block_type", "layer_types"):  # every layer is hybrid; anything else is another model
        layer_kinds(c, key, layers, ("hybrid",))
    mlp = Dense(c.int("intermediate_size", 14336), bias="ud" if c.bool("mlp_bias") else "", module="feed_forward")
    layer = Layer((mixer, attention), (mlp,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=128000, positions=8192)


@importer("jamba")
def jamba(c: Config) -> ModelSpec:
    """Jamba: Mamba, attention every ``attn_layer_period``, experts every ``expert_layer_period`` (models/jamba)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, kv_heads=8)
    mixer = mamba1(
        hidden,
        c.int("mamba_expand", 2) * hidden,
        c.int("mamba_d_state", 16),
        c.int("mamba_d_conv", 4),
        time_step_rank(c, "mamba_dt_rank", hidden),
        bias=c.bool("mamba_proj_bias"),
        conv_bias=c.bool("mamba_conv_bias", True),
        module="mamba",
        norms=True,
    )
    width = c.int("intermediate_size", 14336)
    experts = c.int("num_experts", c.int("num_local_experts", 16, least=0), least=0, most=2**20)
    active = c.int("num_experts_per_tok", 2, most=experts) if experts > 1 else 1  # one or none: the MLP is dense
    dense = Dense(width, module="feed_forward")
    sparse = MoE(experts, active, width, module="feed_forward", router="router")

    def every(kind: str, period: int, offset: int) -> tuple[int, int]:
        period = c.int(f"{kind}_layer_period", period)
        return period, c.int(f"{kind}_layer_offset", offset, least=0, most=period - 1)

    attention_period, attention_offset = every("attn", 8, 4)
    expert_period, expert_offset = every("expert", 2, 1)
    # both lists follow from the periods; the class derives them and files of older versions may repeat them
    c.ignore("layers_block_type", "layer_types")
    chosen = tuple(
        Layer(
            (attention,) if i % attention_period == attention_offset else (mixer,),
            (sparse,) if i % expert_period == expert_offset and experts > 1 else (dense,),
            norms=2 * hidden,
        )
        for i in range(layers)
    )
    return decoder(c, hidden, chosen, vocab=65536, positions=262144)


def _shared_attention(c: Config, hidden: int, heads: int, kv_heads: int | None, tie: str, module: str) -> Attention:
    """Zamba's attention: its input is the layer's and the embedding's side by side, so heads are twice as wide."""
    heads = c.int("num_attention_heads", heads)
    kv_heads = c.int("num_key_value_heads", kv_heads or heads)
    c.divides("num_key_value_heads", heads, kv_heads, "num_attention_heads")
    width = c.int("attention_hidden_size", 2 * hidden)
    if width != 2 * hidden:
        raise c.error("attention_hidden_size", width, f"twice hidden_size ({2 * hidden})")
    dim = c.maybe_int("attention_head_dim") or c.maybe_int("head_dim")
    dim = dim or width // heads  # rounded down, as the class does
    if not dim:
        raise c.error("num_attention_heads", heads, f"at most twice hidden_size ({width})")
    return Attention(heads, kv_heads, dim, dim, module=f"{module}.self_attn", tie=tie, input_hidden=width)


def _shared_norms(hidden: int, tie: str, module: str) -> tuple[Weight, ...]:
    """Norms of a shared block, counted once."""
    return (
        vector(f"{module}.input_layernorm", 2 * hidden, tie=tie and f"{tie}.input_norm"),
        vector(f"{module}.pre_ff_layernorm", hidden, tie=tie and f"{tie}.pre_ff_norm"),
    )


def _shares(c: Config, name: str) -> str:
    """The name under which a block's weights are shared; none where the file unties the embedding.

    The class then builds the block anew for every use: transformers 5 ties nothing without tie_word_embeddings.
    """
    return name if c.bool("tie_word_embeddings", True) else ""


def _zamba_kinds(c: Config, layers: int, default: list[str] | None) -> list[str]:
    allowed = ("linear_attention", "hybrid")
    kinds = layer_kinds(c, "layers_block_type", layers, allowed) or layer_kinds(c, "layer_types", layers, allowed)
    if kinds is None and (default is None or len(default) != layers):
        raise c.error("layers_block_type", "missing", f"one entry per layer, {layers} in all")
    return kinds or default or []


@importer("zamba")
def zamba(c: Config) -> ModelSpec:
    """Zamba: Mamba layers, some preceded by one shared transformer block (transformers models/zamba).

    The block's weights exist once, its KV cache once per use.
    """
    layers, hidden = c.layers(default=76), c.int("hidden_size", 3712)
    inner = c.int("mamba_expand", 2) * hidden
    heads = c.int("n_mamba_heads", 2)
    c.divides("n_mamba_heads", inner, heads, "mamba_expand * hidden_size")
    mixer = mamba1(
        hidden,
        inner,
        c.int("mamba_d_state", 16),
        c.int("mamba_d_conv", 4),
        time_step_rank(c, "mamba_dt_rank", hidden),
        bias=c.bool("mamba_proj_bias"),
        conv_bias=c.bool("mamba_conv_bias", True),
        module="mamba",
        heads=heads,
    )
    c.ignore("hidden_mamba_act")  # an activation function
    tie = _shares(c, "shared")
    attention = _shared_attention(c, hidden, 16, 16, tie, "shared_transf")
    mlp = Dense(c.int("intermediate_size", 14848), module="shared_transf.feed_forward", tie=tie)
    period, offset = c.int("attn_layer_period", 6), c.int("attn_layer_offset", 4, least=0)
    plain = ["linear_attention", "linear_attention", "hybrid"]
    plain += ["hybrid" if i % period == offset else "linear_attention" for i in range(layers - 3)]
    after = Weight("linear", hidden, hidden)
    kinds = {
        "linear_attention": Layer((mixer,), norms=hidden),
        "hybrid": Layer(
            (attention, mixer), (mlp,), norms=hidden, extra=(after, *_shared_norms(hidden, tie, "shared_transf"))
        ),
    }
    chosen = tuple(kinds[kind] for kind in _zamba_kinds(c, layers, plain))
    return decoder(c, hidden, chosen, vocab=32000, positions=4096, tied=True)


# What the class builds when a 54-layer file lists no layers: hybrid at 6, 12 .. 42, 47 and 51.
ZAMBA2_HYBRID = {*range(6, 43, 6), 47, 51}


@importer("zamba2")
def zamba2(c: Config) -> ModelSpec:
    """Zamba2: Mamba 2 layers, some preceded by one of ``num_mem_blocks`` shared blocks in turn (models/zamba2).

    Shared weights exist once; every use adds low-rank adapters of its own, a projection, and a KV cache. Heads are
    2 * hidden / heads wide (224 for 7B).
    """
    layers, hidden = c.layers(default=54), c.int("hidden_size", 2560)
    inner = c.int("mamba_expand", 2) * hidden
    heads = c.int("n_mamba_heads", 8)
    dim = c.divides("n_mamba_heads", inner, heads, "mamba_expand * hidden_size")
    groups = c.int("mamba_ngroups", 1)
    state, kernel = c.int("mamba_d_state", 64), c.int("mamba_d_conv", 4)
    bias = c.bool("add_bias_linear")
    # conv_bias: the class always has one and ignores use_conv_bias
    mixer = mamba2(hidden, heads, dim, groups, state, kernel, bias=bias, conv_bias=True, chunk=c.int("chunk_size", 256))
    width = c.int("intermediate_size", 4 * hidden)
    rank, blocks = c.int("adapter_rank", 128), c.int("num_mem_blocks", 1, most=LAYER_LIMIT)
    adapters = c.bool("use_shared_attention_adapter")
    # names in files of the authors' own fork, which the class does not read: it has names of its own for them
    c.overruled("state_size", state)
    c.overruled("conv_dimension", kernel)
    c.overruled("expansion_factor", inner // hidden)
    c.overruled("ffn_hidden_size", width)
    c.overruled("lora_rank", rank)
    # the state is inner x d_state however the heads are cut; the parameters are those of the class's cut
    c.overruled("mamba_headdim", dim)
    # unused by the class, or derived from the heads
    c.ignore("num_query_groups", "kv_channels", "use_conv_bias", "sliding_window")
    default = ["hybrid" if i in ZAMBA2_HYBRID else "linear_attention" for i in range(54)]
    kinds = _zamba_kinds(c, layers, default)
    uses = [i for i, kind in enumerate(kinds) if kind == "hybrid"]
    # each block holds adapters for its turns in this list, used or not: a file cut to fewer layers keeps the long one
    slots = c.ints("hybrid_layer_ids") or uses
    if slots[: len(uses)] != uses:
        raise c.error("hybrid_layer_ids", slots, f"the hybrid layers of layers_block_type ({uses}) first")

    def low_rank(module: str, inputs: int, outputs: int) -> tuple[Weight, ...]:
        return (Weight(f"{module}.0", inputs, rank, shard="none"), Weight(f"{module}.1", rank, outputs))

    def use(block: int) -> Layer:
        tie, module = _shares(c, f"block{block}"), "shared_transformer"
        attention = _shared_attention(c, hidden, 32, None, tie, module)
        if adapters:
            lists = f"{module}.self_attn.linear_{{}}_adapter_list"
            attention = replace(
                attention,
                extra=low_rank(lists.format("q"), 2 * hidden, 2 * hidden),
                kv_extra=low_rank(lists.format("k"), 2 * hidden, 2 * hidden)
                + low_rank(lists.format("v"), 2 * hidden, 2 * hidden),
            )
        biases = (
            vector(f"{module}.feed_forward.gate_up_proj.bias", 2 * width, tie=tie and f"{tie}.up_bias"),
            vector(f"{module}.feed_forward.down_proj.bias", hidden, tie=tie and f"{tie}.down_bias"),
        )
        mlp = Dense(
            width,
            module=f"{module}.feed_forward",
            tie=tie,
            extra=low_rank(f"{module}.feed_forward.gate_up_proj_adapter_list", hidden, 2 * width)
            + (biases if bias else ()),
        )
        extra = (Weight("linear", hidden, hidden), *_shared_norms(hidden, tie, module))
        # an untied block is built anew for every use, each time with the adapters of all its turns
        idle = len(slots[block::blocks]) - (len(uses[block::blocks]) if tie else 1)
        if idle:
            size = rank * (hidden + 2 * width) + (3 * rank * 4 * hidden if adapters else 0)
            extra += (vector(f"{module}.idle_adapters", idle * size, tie=tie and f"{tie}.idle_adapters"),)
        return Layer((attention, mixer), (mlp,), norms=hidden, extra=extra)

    plain = Layer((mixer,), norms=hidden)
    shared = [use(block) for block in range(min(blocks, len(uses)))]
    chosen = [plain] * layers
    for turn, i in enumerate(uses):
        chosen[i] = shared[turn % blocks]
    positions = 16384 if c.bool("use_long_context") else 4096
    spec = decoder(c, hidden, tuple(chosen), vocab=32000, positions=positions, tied=True)
    return replace(spec, max_context=16384) if c.bool("use_long_context") else spec


@importer("granitemoehybrid")
def granite_hybrid(c: Config) -> ModelSpec:
    """Granite 4: Mamba 2 or attention, then a shared MLP, mostly beside experts (models/granitemoehybrid)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    inner = c.int("mamba_expand", 2) * hidden
    heads, dim = mamba_heads(c, inner)
    groups = c.int("mamba_n_groups", 1)
    c.divides("mamba_n_groups", heads, groups, "mamba_n_heads")
    mixer = mamba2(
        hidden,
        heads,
        dim,
        groups,
        c.int("mamba_d_state", 256),
        c.int("mamba_d_conv", 4),
        bias=c.bool("mamba_proj_bias"),
        conv_bias=c.bool("mamba_conv_bias", "mamba_conv_bias" not in c.raw),  # null is false
        chunk=c.int("mamba_chunk_size", 256),
    )
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, rounds=True, bias=bias)
    experts = c.int("num_local_experts", 8, least=0, most=2**20)
    mlps = granite_experts(c, experts, c.int("shared_intermediate_size", 1024))
    layer = {
        "linear_attention": Layer((mixer,), mlps, norms=2 * hidden),
        "full_attention": Layer((attention,), mlps, norms=2 * hidden),
    }
    allowed = tuple(layer)
    kinds = layer_kinds(c, "layer_types", layers, allowed) or layer_kinds(c, "layers_block_type", layers, allowed)
    chosen = tuple(layer[kind] for kind in kinds or ["linear_attention"] * layers)
    return decoder(c, hidden, chosen, vocab=32000, positions=2048)


NEMOTRON_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}


def _nemotron_kinds(c: Config) -> list[str]:
    """The kinds of all layers: a list, else a pattern of letters; their number is the model's."""
    allowed = ("linear_attention", "full_attention", "moe", "mlp")
    for key in ("layers_block_type", "layer_types"):
        listed = c.get(key)
        if isinstance(listed, list) and not 0 < len(listed) <= LAYER_LIMIT:
            raise c.error(key, f"{len(listed)} entries", f"1 to {LAYER_LIMIT} entries")
        kinds = layer_kinds(c, key, len(listed) if isinstance(listed, list) else 0, allowed)
        if kinds is not None:
            c.ignore("hybrid_override_pattern")  # the class prefers the list
            return kinds
    if not c.has("hybrid_override_pattern"):
        return ["linear_attention", "moe", "full_attention", "mlp"]
    pattern = c.str("hybrid_override_pattern")
    if not 0 < len(pattern) <= LAYER_LIMIT or set(pattern) - set(NEMOTRON_LETTERS):
        raise c.error(
            "hybrid_override_pattern", pattern[:200], "letters M (Mamba), E (experts), * (attention), - (MLP)"
        )
    return [NEMOTRON_LETTERS[letter] for letter in pattern]


@importer("nemotron_h")
def nemotron_h(c: Config) -> ModelSpec:
    """Nemotron-H and Nemotron 3: per layer one of Mamba 2, attention, MLP or experts (transformers models/nemotron_h).

    ``num_hidden_layers`` is ignored (Ultra has none): the list or pattern counts. Experts may work on a latent of
    ``moe_latent_size``. Nothing is ever tied.
    """
    hidden = c.int("hidden_size", 4096)
    kinds = _nemotron_kinds(c)
    heads = c.int("mamba_num_heads", 128)
    groups = c.int("mamba_n_groups", c.int("n_groups", 8))
    c.divides("n_groups", heads, groups, "mamba_num_heads")
    bias = c.bool("use_bias")
    mixer = mamba2(
        hidden,
        heads,
        c.int("mamba_head_dim", 64),
        groups,
        c.int("ssm_state_size", 128),
        c.int("mamba_d_conv", c.int("conv_kernel", 4)),
        bias=bias,
        conv_bias=c.bool("mamba_conv_bias", c.bool("use_conv_bias", True)),
        module="mixer",
        chunk=c.int("chunk_size", 128),
    )
    # the class has no bias in attention, whatever attention_bias says
    attention = grouped_attention(c, hidden, heads=32, kv_heads=kv_heads_default(c, 8), head_dim=128, module="mixer")
    c.overruled("attention_head_dim", attention.key_dim)  # the authors' own name, in the first Nemotron-H files
    mlp_bias = c.bool("mlp_bias")
    biases = "ud" if mlp_bias else ""
    mlp = Dense(c.int("intermediate_size", 21504), gated=False, bias=biases, module="mixer")
    experts = c.int("n_routed_experts", c.int("num_local_experts", 8), most=2**20)
    active = c.int("num_experts_per_tok", 2, most=experts) if "moe" in kinds else 1
    latent = c.maybe_int("moe_latent_size")
    around: tuple[Weight, ...] = ()
    if latent is not None:
        around = (
            Weight("mixer.fc1_latent_proj", hidden, latent, mlp_bias, shard="none"),
            Weight("mixer.fc2_latent_proj", latent, hidden, mlp_bias, shard="none"),
        )
    moe = MoE(
        experts,
        active,
        c.int("moe_intermediate_size", 7688),
        # without a width of their own the class gives them the plain MLP's
        shared_width=c.int("moe_shared_expert_intermediate_size", 7688, least=0) or mlp.width,
        gated=False,
        shared_bias=biases,
        module="mixer",
        extra=around,
        expert_hidden=latent,
    )
    # sliding_window never reaches mask or cache; the MTP layers are not counted; "expand"
    # gives way to heads * head dim
    c.ignore("sliding_window", "mtp_layers_block_type", "mtp_hybrid_override_pattern")
    layer = {
        "linear_attention": Layer((mixer,), norms=hidden),
        "full_attention": Layer((attention,), norms=hidden),
        "mlp": Layer((), (mlp,), norms=hidden),
        "moe": Layer((), (moe,), norms=hidden),
    }
    chosen = tuple(layer[kind] for kind in kinds)
    spec = decoder(c, hidden, chosen, vocab=131072, positions=4096, prefix="backbone.layers")
    return replace(spec, tied=False)


@importer("olmo_hybrid")
def olmo_hybrid(c: Config) -> ModelSpec:
    """OLMo Hybrid: the gated delta rule, full attention every fourth layer (transformers models/olmo_hybrid)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 3840)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=30, rounds=True, bias=bias, qk_norm="all")
    key_heads = c.int("linear_num_key_heads", attention.heads)
    value_heads = c.int("linear_num_value_heads", attention.heads)
    c.divides("linear_num_key_heads", value_heads, key_heads, "linear_num_value_heads")
    key_dim = c.int("linear_key_head_dim", int(0.75 * hidden / key_heads))
    value_dim = c.int("linear_value_head_dim", 2 * key_dim)
    if not key_dim:
        raise c.error("linear_num_key_heads", key_heads, f"fewer than hidden_size ({hidden})")
    keys, values, module = key_heads * key_dim, value_heads * value_dim, "linear_attn"
    projections = (
        Weight(f"{module}.q_proj", hidden, keys),
        Weight(f"{module}.k_proj", hidden, keys),
        Weight(f"{module}.v_proj", hidden, values),
        Weight(f"{module}.a_proj", hidden, value_heads),
        Weight(f"{module}.b_proj", hidden, value_heads),
        Weight(f"{module}.g_proj", hidden, values),
        Weight(f"{module}.o_proj", values, hidden),
    )
    mixer = gated_delta(projections, key_heads, value_heads, key_dim, value_dim, c.int("linear_conv_kernel_dim", 4))
    mlp = Dense(c.int("intermediate_size", 11008))
    layer = {
        "linear_attention": Layer((mixer,), (mlp,), norms=2 * hidden),
        "full_attention": Layer((attention,), (mlp,), norms=2 * hidden),
    }
    kinds = layer_kinds(c, "layer_types", layers, tuple(layer))
    if kinds is None:
        kinds = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)]
        if layers < 4:
            kinds[-1] = "full_attention"
    if len(set(kinds)) < 2:
        raise c.error("layer_types", kinds[0], "at least one layer of each kind")
    return decoder(c, hidden, tuple(layer[kind] for kind in kinds), vocab=100352, positions=65536)


@importer("lfm2")
def lfm2(c: Config) -> ModelSpec:
    """LFM2: gated short convolutions, a few layers of attention (transformers models/lfm2).

    ``intermediate_size`` is cut to two thirds and rounded up to a multiple unless ``block_auto_adjust_ff_dim`` is
    false. Ideal keeps ``conv_L_cache`` - 1 columns.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 2560)
    attention = grouped_attention(
        c, hidden, heads=32, kv_heads=8, rounds=True, qk_norm="head", names="q_proj k_proj v_proj out_proj"
    )
    conv = short_conv(hidden, c.int("conv_L_cache", 3), c.bool("conv_bias"))
    width = c.int("block_ff_dim", c.int("intermediate_size", 12288))
    if c.bool("block_auto_adjust_ff_dim", True):
        multiple = c.int("block_multiple_of", 256)
        width = int(c.float("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
        width = -(-width // multiple) * multiple
    if not width:
        raise c.error("block_ffn_dim_multiplier", c.get("block_ffn_dim_multiplier"), "a multiplier that leaves an MLP")
    mlp = Dense(width, module="feed_forward", names="w1 w3 w2")
    layer = {
        "conv": Layer((conv,), (mlp,), norms=2 * hidden),
        "full_attention": Layer((attention,), (mlp,), norms=2 * hidden),
    }
    kinds = layer_kinds(c, "layer_types", layers, tuple(layer))
    if kinds is None:
        listed = c.ints("full_attn_idxs", most=LAYER_LIMIT)
        full = range(layers) if listed is None else set(listed)
        kinds = ["full_attention" if i in full else "conv" for i in range(layers)]
    c.ignore("full_attn_idxs", "conv_dim")  # the list wins; conv_dim is not read by the class, which uses hidden_size
    spec = decoder(c, hidden, tuple(layer[kind] for kind in kinds), vocab=65536, positions=128000, tied=True)
    return replace(spec, tied=c.bool("tie_embedding", spec.tied))
