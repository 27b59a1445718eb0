"""Architectures with a recurrent or convolutional state, alone or beside attention: what is special about their keys."""

from __future__ import annotations

from kvplan.importers.gguf.facts import Arch, Facts, Keys, qwen_moe, routed_experts

__all__ = ["STATES"]


def _delta(f: Facts, d: Keys) -> None:
    """The gated delta rule: llama.cpp counts key heads as groups and value heads as time steps."""
    value_heads = f.whole("ssm.time_step_rank", least=1)
    inner = f.whole("ssm.inner_size", least=1)
    if inner % value_heads:
        raise f.error("ssm.inner_size", inner, f"a multiple of ssm.time_step_rank ({value_heads})")
    d["linear_conv_kernel_dim"] = f.whole("ssm.conv_kernel", least=1)
    d["linear_key_head_dim"] = f.whole("ssm.state_size", least=1)
    d["linear_num_key_heads"] = f.whole("ssm.group_count", least=1)
    d["linear_num_value_heads"] = value_heads
    d["linear_value_head_dim"] = inner // value_heads
    d["full_attention_interval"] = f.whole("full_attention_interval", 4, least=1)
    d["attention_bias"] = False
    if f.has("expert_count"):
        qwen_moe(f, d)


def _state(f: Facts) -> tuple[int, int]:
    """Heads of a Mamba 2 mixer and its inner width."""
    heads, inner = f.whole("ssm.time_step_rank", least=1), f.whole("ssm.inner_size", least=1)
    if inner % heads:
        raise f.error("ssm.inner_size", inner, f"a multiple of ssm.time_step_rank ({heads})")
    return heads, inner


def _expand(f: Facts, inner: int) -> int:
    if inner % f.hidden:
        raise f.error("ssm.inner_size", inner, f"a multiple of embedding_length ({f.hidden})")
    return inner // f.hidden


def _mamba(f: Facts, d: Keys) -> None:
    d["intermediate_size"] = f.whole("ssm.inner_size", least=1)
    d["state_size"] = f.whole("ssm.state_size", least=1)
    d["conv_kernel"] = f.whole("ssm.conv_kernel", least=1)
    d["time_step_rank"] = f.whole("ssm.time_step_rank", least=1)
    d["use_bias"] = f.some("ssm_in.bias")
    if f.get("ssm.dt_b_c_rms"):
        d["model_type"] = "falcon_mamba"


def _mamba2(f: Facts, d: Keys) -> None:
    heads, inner = _state(f)
    d["num_heads"], d["head_dim"], d["expand"] = heads, inner // heads, _expand(f, inner)
    d["n_groups"] = f.whole("ssm.group_count", least=1)
    d["state_size"] = f.whole("ssm.state_size", least=1)
    d["conv_kernel"] = f.whole("ssm.conv_kernel", least=1)
    d["use_bias"] = f.some("ssm_in.bias")


def _attention_layers(f: Facts, d: Keys) -> list[bool]:
    """Which layers attend: those with KV heads. Sets the one number of heads that they have."""
    kv_heads = f.per_layer("attention.head_count_kv")
    counts = {n for n in kv_heads if n}
    heads = {n for n in f.per_layer("attention.head_count") if n}
    if len(counts) > 1 or len(heads) > 1:
        raise f.error("attention.head_count_kv", kv_heads, "one number of heads for all layers that attend")
    if counts and heads:
        d["num_key_value_heads"], d["num_attention_heads"] = max(counts), max(heads)
    return [n > 0 for n in kv_heads]


def _jamba(f: Facts, d: Keys) -> None:
    attends = _attention_layers(f, d)
    d["mamba_expand"] = _expand(f, f.whole("ssm.inner_size", least=1))
    d["mamba_d_state"] = f.whole("ssm.state_size", least=1)
    d["mamba_d_conv"] = f.whole("ssm.conv_kernel", least=1)
    d["mamba_dt_rank"] = f.whole("ssm.time_step_rank", least=1)
    d["num_experts"] = f.whole("expert_count", 0) or 1
    d["num_experts_per_tok"] = f.whole("expert_used_count", 0) or 1
    d["attn_layer_period"], d["attn_layer_offset"] = _period(f, "attention.head_count_kv", attends)
    if f.shapes and d["num_experts"] > 1:
        sparse = [f"blk.{i}.ffn_gate_inp.weight" in f.shapes for i in range(f.layers)]
        d["expert_layer_period"], d["expert_layer_offset"] = _period(f, "expert_count", sparse)


def _period(f: Facts, key: str, flags: list[bool]) -> tuple[int, int]:
    """Period and offset of a regular pattern."""
    chosen = [i for i, flag in enumerate(flags) if flag]
    if not chosen:
        raise f.error(key, "no layer", "at least one layer of the kind")
    period = chosen[1] - chosen[0] if len(chosen) > 1 else max(f.layers, 1)
    if chosen[0] >= period or [i % period == chosen[0] for i in range(f.layers)] != flags:
        raise f.error(key, chosen, "layers at regular distances")
    return period, chosen[0]


def _mamba_beside(f: Facts, d: Keys) -> None:
    heads, inner = _state(f)
    d["mamba_n_heads"], d["mamba_d_head"] = heads, inner // heads
    d["mamba_n_groups"] = f.whole("ssm.group_count", least=1)
    d["mamba_d_state"] = f.whole("ssm.state_size", least=1)
    d["mamba_d_conv"] = f.whole("ssm.conv_kernel", least=1)


def _falcon_h1(f: Facts, d: Keys) -> None:
    _mamba_beside(f, d)
    d["mamba_d_ssm"] = f.whole("ssm.inner_size", least=1)
    d["mamba_rms_norm"] = f.some("ssm_norm.weight")


def _granite_hybrid(f: Facts, d: Keys) -> None:
    attends = _attention_layers(f, d)
    _mamba_beside(f, d)
    d["mamba_expand"] = _expand(f, f.whole("ssm.inner_size", least=1))
    d["layer_types"] = ["attention" if flag else "mamba" for flag in attends]
    width = max(f.per_layer("feed_forward_length"))
    d["intermediate_size"] = f.whole("expert_feed_forward_length", width, least=1)
    d["shared_intermediate_size"] = f.whole("expert_shared_feed_forward_length", width, least=1)
    d["num_local_experts"] = f.whole("expert_count", 0)
    d["num_experts_per_tok"] = f.whole("expert_used_count", 0) or 1


def _nemotron_h(f: Facts, d: Keys) -> None:
    attends = _attention_layers(f, d)
    widths = f.per_layer("feed_forward_length")
    heads, inner = _state(f)
    d["mamba_num_heads"], d["mamba_head_dim"] = heads, inner // heads
    d["n_groups"] = f.whole("ssm.group_count", least=1)
    d["ssm_state_size"] = f.whole("ssm.state_size", least=1)
    d["conv_kernel"] = f.whole("ssm.conv_kernel", least=1)
    experts = f.whole("expert_count", 0)
    sparse = [bool(experts) and (not f.shapes or f"blk.{i}.ffn_gate_inp.weight" in f.shapes) for i in range(f.layers)]
    d["layers_block_type"] = [
        "attention" if attends[i] else ("moe" if sparse[i] else "mlp") if widths[i] else "mamba"
        for i in range(f.layers)
    ]
    d["intermediate_size"] = max(widths) or None
    d["use_bias"] = f.some("ssm_in.bias")
    if experts:
        routed_experts(f, d, "n_routed_experts")
        shared = f.whole("expert_shared_feed_forward_length", 0)
        d["moe_shared_expert_intermediate_size"] = shared or None
        d["moe_latent_size"] = f.whole("moe_latent_size", 0) or None


def _rwkv6(f: Facts, d: Keys) -> None:
    d["head_size"] = f.whole("wkv.head_size", least=1)


def _lfm2(f: Facts, d: Keys) -> None:
    d["layer_types"] = ["full_attention" if flag else "conv" for flag in _attention_layers(f, d)]
    d["conv_L_cache"] = f.whole("shortconv.l_cache", least=2)
    d["block_auto_adjust_ff_dim"] = False


# general.architecture -> the config.json type it becomes, and what is special about its keys.
STATES: dict[str, Arch] = {
    "qwen3next": Arch("qwen3_next", _delta),
    "qwen35": Arch("qwen3_5_text", _delta),
    "qwen35moe": Arch("qwen3_5_moe_text", _delta),
    "granitehybrid": Arch("granitemoehybrid", _granite_hybrid),
    "nemotron_h": Arch("nemotron_h", _nemotron_h),
    "nemotron_h_moe": Arch("nemotron_h", _nemotron_h),
    "mamba": Arch("mamba", _mamba),
    "mamba2": Arch("mamba2", _mamba2),
    "jamba": Arch("jamba", _jamba),
    "falcon-h1": Arch("falcon_h1", _falcon_h1),
    "rwkv6": Arch("rwkv6", _rwkv6),
    "lfm2": Arch("lfm2", _lfm2),
}
