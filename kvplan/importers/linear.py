"""Linear attention with full attention every few layers: Qwen3-Next, Qwen3.5, Kimi Linear, MiniMax-01."""

from __future__ import annotations

from kvplan.importers import import_model, importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention
from kvplan.importers.recurrent import ONE, gated_delta, kv_heads_default, layer_kinds, parameters
from kvplan.importers.towers import towers
from kvplan.specs import MLP, Attention, Dense, Latent, Layer, ModelSpec, MoE, Part, Recurrent, Weight, replace

__all__ = ["gated_attention", "qwen_delta", "qwen_moe"]


def gated_attention(c: Config, hidden: int, heads: int, kv_heads: int) -> Attention:
    """Qwen's attention: q_proj is twice as wide, its second half gates the output."""
    biased = c.bool("attention_bias")
    attention = grouped_attention(
        c, hidden, heads=heads, kv_heads=kv_heads, head_dim=256, bias="qkvo" if biased else "", qk_norm="head"
    )
    gate = Weight("self_attn.q_proj", hidden, attention.heads * attention.key_dim, biased)
    return replace(attention, extra=(gate,))


def qwen_delta(c: Config, hidden: int, *, fused: bool) -> Recurrent:
    """Qwen's gated delta rule; Qwen3-Next cuts its input projections in two, Qwen3.5 in four."""
    key_heads, value_heads = c.int("linear_num_key_heads", 16), c.int("linear_num_value_heads", 32)
    c.divides("linear_num_key_heads", value_heads, key_heads, "linear_num_value_heads")
    key_dim, value_dim = c.int("linear_key_head_dim", 128), c.int("linear_value_head_dim", 128)
    keys, values, module = key_heads * key_dim, value_heads * value_dim, "linear_attn"
    inputs: tuple[Weight, ...] = (
        Weight(f"{module}.in_proj_qkv", hidden, 2 * keys + values),
        Weight(f"{module}.in_proj_z", hidden, values),
        Weight(f"{module}.in_proj_b", hidden, value_heads),
        Weight(f"{module}.in_proj_a", hidden, value_heads),
    )
    if fused:
        inputs = (
            Weight(f"{module}.in_proj_qkvz", hidden, 2 * keys + 2 * values),
            Weight(f"{module}.in_proj_ba", hidden, 2 * value_heads),
        )
    c.ignore("mamba_ssm_dtype")  # engines read it; the class keeps this state in fp32 whatever it says
    return gated_delta(
        (*inputs, Weight(f"{module}.out_proj", values, hidden)),
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        c.int("linear_conv_kernel_dim", 4),
    )


def _qwen_kinds(c: Config, layers: int) -> list[str]:
    """``layer_types``, else full attention every ``full_attention_interval`` layers."""
    kinds = layer_kinds(c, "layer_types", layers, ("linear_attention", "full_attention"))
    interval = c.int("full_attention_interval", 4)
    # the class knows no window here, whatever use_sliding_window says
    c.ignore("sliding_window", "use_sliding_window", "max_window_layers")
    return kinds or ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)]


def qwen_moe(c: Config, experts: int, active: int, width: int) -> MoE:
    """Qwen's experts with a gated shared one; the numbers are the class's defaults."""
    experts = c.int("num_experts", experts, most=2**20)
    return MoE(
        experts,
        c.int("num_experts_per_tok", active, most=experts),
        c.int("moe_intermediate_size", width),
        shared_width=c.int("shared_expert_intermediate_size", width, least=0),
        shared_gate=True,
        shared_module="shared_expert",
    )


def _qwen(c: Config, hidden: int, mixers: dict[str, Attention | Recurrent], mlps: list[MLP], vocab: int) -> ModelSpec:
    """The frame of a Qwen decoder: one mixer and one MLP per layer, two norms."""
    kinds = _qwen_kinds(c, len(mlps))
    layers = tuple(Layer((mixers[kind],), (mlp,), norms=2 * hidden) for kind, mlp in zip(kinds, mlps, strict=True))
    return decoder(c, hidden, layers, vocab=vocab, positions=32768)


@importer("qwen3_next")
def qwen3_next(c: Config) -> ModelSpec:
    """Qwen3-Next: the gated delta rule, gated attention every fourth layer, experts (models/qwen3_next)."""
    layers, hidden = c.layers(default=48), c.int("hidden_size", 2048)
    dense = Dense(c.int("intermediate_size", 5632))
    step, only = c.int("decoder_sparse_step", 1), set(c.ints("mlp_only_layers") or ())
    sparse = qwen_moe(c, 512, 10, 512) if c.int("num_experts", 512, least=0) else None
    mlps: list[MLP] = [
        sparse if sparse is not None and i not in only and (i + 1) % step == 0 else dense for i in range(layers)
    ]
    mixers: dict[str, Attention | Recurrent] = {
        "linear_attention": qwen_delta(c, hidden, fused=True),
        "full_attention": gated_attention(c, hidden, 16, 2),
    }
    return _qwen(c, hidden, mixers, mlps, 151936)


@importer("qwen3_5_text")
def qwen3_5_text(c: Config) -> ModelSpec:
    """Qwen3.5 and 3.6, dense: the gated delta rule, gated attention every fourth layer (models/qwen3_5)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    mixers: dict[str, Attention | Recurrent] = {
        "linear_attention": qwen_delta(c, hidden, fused=False),
        "full_attention": gated_attention(c, hidden, 16, 4),
    }
    mlps: list[MLP] = [Dense(c.int("intermediate_size", 12288))] * layers
    return _qwen(c, hidden, mixers, mlps, 248320)


@importer("qwen3_5_moe_text")
def qwen3_5_moe_text(c: Config) -> ModelSpec:
    """Qwen3.5 and 3.6 with experts in every layer (transformers models/qwen3_5_moe)."""
    layers, hidden = c.layers(default=40), c.int("hidden_size", 2048)
    mixers: dict[str, Attention | Recurrent] = {
        "linear_attention": qwen_delta(c, hidden, fused=False),
        "full_attention": gated_attention(c, hidden, 16, 2),
    }
    mlps: list[MLP] = [qwen_moe(c, 256, 8, 512)] * layers
    return _qwen(c, hidden, mixers, mlps, 248320)


@importer("qwen3_5", "qwen3_5_moe")
def qwen3_5(c: Config) -> ModelSpec:
    """Qwen3.5 beside its vision tower: AutoModelForCausalLM builds the text part, the tower is weights beside it.

    Some files repeat the outer model_type inside; the decoder is the outer type's either way.
    """
    moe = c.raw.get("model_type") == "qwen3_5_moe"
    text = c.sub("text_config", {})
    spec = (qwen3_5_moe_text if moe else qwen3_5_text)(text)
    return replace(
        spec,
        model_type=c.str("model_type", ""),
        towers=towers(c, counted=False),
        prefix="model.language_model.layers",
    )


@importer("kimi_linear")
def kimi_linear(c: Config) -> ModelSpec:
    """Kimi Linear: a delta rule with decay per channel, latent attention without RoPE (models/kimi_linear).

    ``linear_attn_config`` lists layers from 1; ``head_dim`` is unused. Nothing is ever tied.
    """
    layers, hidden = c.layers(default=27), c.int("hidden_size", 2304)
    nested = c.sub("linear_attn_config", {})
    heads = nested.int("num_heads", c.int("linear_num_heads", 32))
    dim = nested.int("head_dim", c.int("linear_head_dim", 128))
    kernel = nested.int("short_conv_kernel_size", c.int("linear_conv_kernel_dim", 4))
    inner, module = heads * dim, "self_attn"
    delta = gated_delta(
        (
            Weight(f"{module}.q_proj", hidden, inner),
            Weight(f"{module}.k_proj", hidden, inner),
            Weight(f"{module}.v_proj", hidden, inner),
            Weight(f"{module}.forget_gate.f_a_proj", hidden, dim, shard="none"),
            Weight(f"{module}.forget_gate.f_b_proj", dim, inner),
            Weight(f"{module}.b_proj", hidden, heads),
            Weight(f"{module}.g_a_proj", hidden, dim, shard="none"),
            Weight(f"{module}.g_b_proj", dim, inner),
            Weight(f"{module}.o_proj", inner, hidden),
        ),
        heads,
        heads,
        dim,
        dim,
        kernel,
        module=module,
        kind="kimi_delta",
        decays=inner,
    )
    latent = Latent(
        heads=c.int("num_attention_heads", 32),
        q_rank=c.maybe_int("q_lora_rank"),
        kv_rank=c.int("kv_lora_rank", 512),
        nope_dim=c.int("qk_nope_head_dim", 128),
        rope_dim=c.int("qk_rope_head_dim", 64),
        value_dim=c.int("v_head_dim", 128),
        bias="ao" if c.bool("attention_bias") else "",
    )
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim")  # latent attention has one latent for all heads
    kinds = layer_kinds(c, "layer_types", layers, ("linear_attention", "full_attention"))
    full = nested.ints("full_attn_layers", least=1, most=layers)
    linear = nested.ints("kda_layers", least=1, most=layers)
    if kinds is None and full is not None and linear is not None:
        if sorted((*full, *linear)) != list(range(1, layers + 1)):
            raise nested.error("full_attn_layers", full, f"with kda_layers, every layer from 1 to {layers} once")
        kinds = ["full_attention" if i + 1 in full else "linear_attention" for i in range(layers)]
    if kinds is None:
        if full is not None or linear is not None:
            raise nested.error("full_attn_layers", full, "given together with kda_layers")
        kinds = ["full_attention" if i and i % 4 == 0 else "linear_attention" for i in range(layers)]
    experts = c.int("num_experts", c.int("num_local_experts", 256), most=2**20)
    width = c.int("moe_intermediate_size", 1024)
    moe = MoE(
        experts,
        c.int("num_experts_per_token", c.int("num_experts_per_tok", 8), most=experts),
        width,
        shared_width=width * c.int("num_shared_experts", c.int("n_shared_experts", 1), least=0),
    )
    dense = Dense(c.int("intermediate_size", 9216))
    first = c.int("first_k_dense_replace", 1, least=0)
    mlps = c.strings("mlp_layer_types", layers, ("dense", "sparse"))
    mlps = mlps or ["dense" if i < first else "sparse" for i in range(layers)]
    chosen = tuple(
        Layer(
            (latent if kind == "full_attention" else delta,),
            (moe if mlp == "sparse" else dense,),
            norms=2 * hidden,
        )
        for kind, mlp in zip(kinds, mlps, strict=True)
    )
    spec = decoder(c, hidden, chosen, vocab=163840, positions=c.int("model_max_length", 1048576))
    return replace(spec, tied=False)


def _lightning(hidden: int, heads: int, dim: int, store_as: str) -> Recurrent:
    """Lightning attention (arXiv 2501.08313): linear attention with a fixed decay per head, gated."""
    inner, module = heads * dim, "self_attn"
    return Recurrent(
        "lightning",
        (
            Weight(f"{module}.qkv_proj", hidden, 3 * inner),
            Weight(f"{module}.out_proj", inner, hidden),
            Weight(f"{module}.output_gate", hidden, inner),
            parameters(f"{module}.norm", inner),
        ),
        state=(Part("recurrent", heads, dim * dim, store_as, ONE),),
        mix_flops=5 * inner * dim,  # per element of the state: decay: 1, plus key times value: 2, times query: 2
    )


def _minimax(c: Config, kinds: list[str], store_as: str, module: str, shared: list[int]) -> ModelSpec:
    """The frame of a MiniMax-01 decoder: lightning or softmax attention, experts in every layer."""
    hidden = c.int("hidden_size", 4096)
    # without a cache of its own, the class keeps every token, window or not
    window = c.maybe_int("sliding_window")
    attention = grouped_attention(
        c, hidden, heads=32, kv_heads=kv_heads_default(c, 8), window=window, transformers_keeps_all=window is not None
    )
    linear = _lightning(hidden, attention.heads, attention.key_dim, store_as)
    experts = c.int("num_local_experts", c.int("num_experts", 8), most=2**20)
    active = c.int("num_experts_per_tok", 2, most=experts)
    moe = MoE(experts, active, c.int("intermediate_size", 14336), module=module)

    def layer(kind: str, width: int) -> Layer:
        mixer = linear if kind == "linear_attention" else attention
        if not width:
            return Layer((mixer,), (moe,), norms=2 * hidden)
        beside = Dense(width, module="shared_mlp")
        mixed = (Weight("coefficient", hidden, 1, shard="none"),)
        return Layer((mixer,), (moe, beside), norms=2 * hidden, extra=mixed)

    chosen = tuple(layer(kind, width) for kind, width in zip(kinds, shared, strict=True))
    return decoder(c, hidden, chosen, vocab=32000, positions=131072)


@importer("minimax")
def minimax(c: Config) -> ModelSpec:
    """MiniMax-Text-01 as transformers builds it (models/minimax): lightning state in the dtype of the activations."""
    layers = c.layers(default=32)
    kinds = layer_kinds(c, "layer_types", layers, ("linear_attention", "full_attention"))
    # factors of the residual sum: they scale and store nothing
    c.ignore("linear_attn_alpha_factor", "linear_attn_beta_factor", "full_attn_alpha_factor", "full_attn_beta_factor")
    kinds = kinds or ["linear_attention" if i % 2 else "full_attention" for i in range(layers)]
    return _minimax(c, kinds, "compute", "mlp", [0] * layers)


@importer("minimax_text_01", "minimax_m1")
def minimax_text_01(c: Config) -> ModelSpec:
    """MiniMax-Text-01 and M1 in the authors' shape, from their modeling_minimax_text_01.py; transformers has no class.

    ``attn_type_list``: 1 is softmax attention (every eighth layer), 0 lightning, whose state that code keeps in fp32.
    """
    layers = c.layers(default=32)
    kinds = c.ints("attn_type_list", layers, most=1)
    if kinds is None:
        raise c.error("attn_type_list", "missing", f"0 or 1 per layer, {layers} in all")
    stated = c.get("shared_intermediate_size", 0)
    widths = c.ints("shared_intermediate_size") if isinstance(stated, list) else None
    if widths is None:
        widths = [c.int("shared_intermediate_size", 0, least=0)] * layers
    widths = (widths + [0] * layers)[:layers]  # layers past a short list have none
    c.ignore(
        "layernorm_linear_attention_alpha",
        "layernorm_linear_attention_beta",
        "layernorm_full_attention_alpha",
        "layernorm_full_attention_beta",
    )  # factors of the residual sum
    names = ["full_attention" if kind else "linear_attention" for kind in kinds]
    return _minimax(c, names, "fp32", "block_sparse_moe", widths)


@importer("minimax_vl_01")
def minimax_vl_01(c: Config) -> ModelSpec:
    """MiniMax-VL-01: the Text-01 decoder beside a CLIP tower, from the authors' modeling_minimax_vl_01.py."""
    spec = import_model(c.sub("text_config"), "minimax_text_01")
    return replace(
        spec, model_type="minimax_vl_01", towers=towers(c, counted=True), prefix="language_model.model.layers"
    )
