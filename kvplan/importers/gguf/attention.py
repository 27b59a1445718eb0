"""Architectures whose layers attend and keep no state: what is special about their keys, one small function each.

The numbers of windows per pattern are those of llama.cpp (src/llama-model.cpp, load_hparams), for files that do not
carry the pattern.
"""

from __future__ import annotations

from kvplan.importers.gguf.facts import Arch, Facts, Keys, qwen_moe, routed_experts, windows

__all__ = ["ATTENTION"]


def _llama(f: Facts, d: Keys) -> None:
    if f.whole("expert_count", 0):
        d["model_type"] = "mixtral"
        d["num_local_experts"] = f.whole("expert_count")
        d["num_experts_per_tok"] = f.whole("expert_used_count", least=1)
        d["sliding_window"] = None


def _no_window(f: Facts, d: Keys) -> None:
    d["sliding_window"] = None  # llama.cpp runs these without their window


def _llama4(f: Facts, d: Keys) -> None:
    d["num_local_experts"] = f.whole("expert_count", least=1)
    d["num_experts_per_tok"] = f.whole("expert_used_count", least=1)
    d["intermediate_size_mlp"] = d.get("intermediate_size")
    d["intermediate_size"] = f.whole("expert_feed_forward_length", least=1)
    d["interleave_moe_layer_step"] = f.whole("interleave_moe_layer_step", 1, least=1)
    if f.get("attention.sliding_window") == 0:
        d["layer_types"] = ["full_attention"] * f.layers
    else:
        d["attention_chunk_size"] = f.whole("attention.chunk_size", 8192, least=1)


def _internlm2(f: Facts, d: Keys) -> None:
    d.setdefault("bias", False)  # published files have none, and the class's default is true


def _qwen(f: Facts, d: Keys) -> None:
    d.pop("num_key_value_heads", None)
    d["kv_channels"] = d.pop("head_dim", None) or f.hidden // max(d.get("num_attention_heads", 1), 1)
    d["seq_length"] = d["max_position_embeddings"]


def _gemma3n(f: Facts, d: Keys) -> None:
    windows(5)(f, d)
    d["intermediate_size"] = f.per_layer("feed_forward_length")
    d["num_kv_shared_layers"] = f.whole("attention.shared_kv_layers", max(f.layers - 20, 0))
    d["altup_num_inputs"] = f.whole("altup.num_inputs", 4)
    d["hidden_size_per_layer_input"] = f.whole("embedding_length_per_layer_input", 256)
    table = f.shapes.get("per_layer_token_embd.weight")
    d["vocab_size_per_layer_input"] = table[1] if table is not None and len(table) > 1 else None
    if (left := f.tensor("laurel_l.weight")) is not None and len(left) > 1:
        d["laurel_rank"] = left[1]


def _gemma4(f: Facts, d: Keys) -> None:
    windows(6)(f, d)
    slides = [kind == "sliding_attention" for kind in d["layer_types"]]
    kv_heads = f.per_layer("attention.head_count_kv")
    local = {n for n, flag in zip(kv_heads, slides, strict=True) if flag}
    wide = {n for n, flag in zip(kv_heads, slides, strict=True) if not flag}
    if len(local) > 1 or len(wide) > 1:
        raise f.error("attention.head_count_kv", kv_heads, "one number for local layers and one for global ones")
    d["global_head_dim"] = f.whole("attention.key_length", least=1)
    d["head_dim"] = f.whole("attention.key_length_swa", d["global_head_dim"], least=1)
    d["num_key_value_heads"] = max(local or wide)
    d["num_kv_shared_layers"] = f.whole("attention.shared_kv_layers", 0)
    first = next((i for i, flag in enumerate(slides) if not flag), 0)
    d["attention_k_eq_v"] = bool(f.shapes) and f.tensor("attn_v.weight", first) is None
    d["num_global_key_value_heads"] = max(wide or local)
    if not f.shapes and wide and local and wide != local:
        d["attention_k_eq_v"] = True  # only such models have fewer KV heads in global layers
    widths = f.per_layer("feed_forward_length")
    d["intermediate_size"] = widths[0]
    d["use_double_wide_mlp"] = widths[-1] == 2 * widths[0]
    d["hidden_size_per_layer_input"] = f.whole("embedding_length_per_layer_input", 0)
    table = f.shapes.get("per_layer_token_embd.weight")
    d["vocab_size_per_layer_input"] = table[1] if table is not None and len(table) > 1 else None
    if f.whole("expert_count", 0):
        d["enable_moe_block"] = True
        routed_experts(f, d)
        d["top_k_experts"] = d["num_experts_per_tok"]


def _falcon(f: Facts, d: Keys) -> None:
    kv_heads, heads = d.get("num_key_value_heads"), d.get("num_attention_heads")
    grouped = kv_heads not in (1, heads) or f.some("attn_norm_2.weight")
    d["new_decoder_architecture"] = grouped
    d["multi_query"] = kv_heads == 1
    d["num_kv_heads"] = kv_heads
    d.pop("num_key_value_heads", None)
    d["num_ln_in_parallel_attn"] = 2 if f.some("attn_norm_2.weight") or (not f.shapes and grouped) else 1
    d["ffn_hidden_size"] = d.get("intermediate_size")
    d["bias"] = f.some("ffn_up.bias")


def _gpt2(f: Facts, d: Keys) -> None:
    d["n_inner"] = d.get("intermediate_size")


def _starcoder(f: Facts, d: Keys) -> None:
    _gpt2(f, d)
    d["multi_query"] = d.pop("num_key_value_heads", None) == 1


def _starcoder2(f: Facts, d: Keys) -> None:
    d["use_bias"] = not f.shapes or f.some("attn_output.bias")


def _stablelm(f: Facts, d: Keys) -> None:
    d["qk_layernorm"] = f.some("attn_q_norm.weight")
    if f.has("use_parallel_residual"):
        d["use_parallel_residual"] = bool(f.get("use_parallel_residual")) and not f.some("ffn_norm.weight")


def _mpt(f: Facts, d: Keys) -> None:
    heads, kv_heads = d.get("num_attention_heads"), d.pop("num_key_value_heads", None)
    grouped = kv_heads not in (None, heads)
    attention = {"attn_type": "grouped_query_attention", "kv_n_heads": kv_heads} if grouped else {}
    d["attn_config"] = {**attention, "qk_ln": f.some("attn_q_norm.weight")}
    d["max_seq_len"] = d["max_position_embeddings"]
    d["expansion_ratio"] = (d.get("intermediate_size") or 4 * f.hidden) // f.hidden


def _cohere(f: Facts, d: Keys) -> None:
    d["use_qk_norm"] = f.some("attn_q_norm.weight")


def _olmo2(f: Facts, d: Keys) -> None:
    if f.whole("attention.sliding_window", 0):
        d["model_type"] = "olmo3"
        windows(4)(f, d)


def _deepseek(f: Facts, d: Keys) -> None:
    routed_experts(f, d, "n_routed_experts")
    d["n_shared_experts"] = f.whole("expert_shared_count", 0)


def _latent(f: Facts, d: Keys) -> None:
    """MLA: ``key_length`` is latent and rotary key together in newer files, one head's key in older ones."""
    rope = f.whole("rope.dimension_count", least=1)
    keys = f.whole("attention.key_length_mla", f.whole("attention.key_length", 0), least=1)
    if keys <= rope:
        raise f.error("attention.key_length", keys, f"more than rope.dimension_count ({rope})")
    d["qk_rope_head_dim"], d["qk_nope_head_dim"] = rope, keys - rope
    d["v_head_dim"] = f.whole("attention.value_length_mla", f.whole("attention.value_length", keys - rope), least=1)
    d["kv_lora_rank"] = f.whole("attention.kv_lora_rank", least=1)
    d["q_lora_rank"] = f.whole("attention.q_lora_rank", 0) or None
    d.pop("head_dim", None)
    d.pop("num_key_value_heads", None)
    d["attention_bias"] = f.some("attn_q_a.bias")


def _deepseek2(f: Facts, d: Keys) -> None:
    _latent(f, d)
    _deepseek(f, d)
    if f.whole("expert_gating_func", 0) == 2:  # sigmoid: V3 and its successors
        d["model_type"] = "deepseek_v3"


def _glm_dsa(f: Facts, d: Keys) -> None:
    _latent(f, d)
    _deepseek(f, d)
    d["index_n_heads"] = f.whole("attention.indexer.head_count", least=1)
    d["index_head_dim"] = f.whole("attention.indexer.key_length", least=1)
    d["index_topk"] = f.whole("attention.indexer.top_k", least=1)


def _minicpm3(f: Facts, d: Keys) -> None:
    _latent(f, d)
    d["v_head_dim"] = None  # hidden / heads, as llama.cpp computes it


def _chatglm(f: Facts, d: Keys) -> None:
    d["num_layers"] = d.pop("num_hidden_layers")
    d["padded_vocab_size"] = d.pop("vocab_size")
    d["ffn_hidden_size"] = d.get("intermediate_size")
    d["multi_query_attention"] = True
    d["multi_query_group_num"] = d.pop("num_key_value_heads", 1)
    d["kv_channels"] = d.pop("head_dim", None) or f.hidden // max(d.get("num_attention_heads", 1), 1)
    d["seq_length"] = d["max_position_embeddings"]
    d["add_qkv_bias"] = d.get("attention_bias", True)
    d["add_bias_linear"] = False


def _glm4_moe(f: Facts, d: Keys) -> None:
    _deepseek(f, d)
    d["use_qk_norm"] = f.some("attn_q_norm.weight")


def _exaone(f: Facts, d: Keys) -> None:
    d["num_layers"] = d["num_hidden_layers"]


def _exaone4(f: Facts, d: Keys) -> None:
    windows(4, 4096 if f.layers == 64 else None)(f, d)


def _gpt_oss(f: Facts, d: Keys) -> None:
    windows(2)(f, d)
    routed_experts(f, d, "num_local_experts")
    d["intermediate_size"] = d["moe_intermediate_size"]
    d["attention_bias"] = True


def _minimax_m2(f: Facts, d: Keys) -> None:
    routed_experts(f, d, "num_local_experts")
    d["intermediate_size"] = d["moe_intermediate_size"]


def _hunyuan_moe(f: Facts, d: Keys) -> None:
    routed_experts(f, d)
    shared, width = f.whole("expert_shared_feed_forward_length", 0), d["moe_intermediate_size"]
    if not width or shared % width:
        raise f.error("expert_shared_feed_forward_length", shared, f"a multiple of an expert's width ({width})")
    d["moe_topk"] = d["num_experts_per_tok"]
    d["num_shared_expert"] = shared // width
    d["use_mixed_mlp_moe"] = shared > 0
    d["use_qk_norm"] = not f.shapes or f.some("attn_q_norm.weight")
    d["attention_head_dim"] = d.get("head_dim")


def _ernie_moe(f: Facts, d: Keys) -> None:
    routed_experts(f, d, "moe_num_experts")
    width = d["moe_intermediate_size"]
    shared = f.whole("expert_shared_feed_forward_length", 0)
    if not width or shared % width:
        raise f.error("expert_shared_feed_forward_length", shared, f"a multiple of an expert's width ({width})")
    d["moe_k"] = d["num_experts_per_tok"]
    d["moe_num_shared_experts"] = shared // width
    d["moe_layer_start_index"] = f.whole("leading_dense_block_count", 0)
    d["moe_layer_interval"] = f.whole("interleave_moe_layer_step", 1, least=1)


def _deci(f: Facts, d: Keys) -> None:
    """Nemotron-NAS: layers without attention, with one matrix for it, or without MLP."""
    heads, kv_heads = f.per_layer("attention.head_count"), f.per_layer("attention.head_count_kv")
    widths, most = f.per_layer("feed_forward_length"), max(heads)
    d["num_attention_heads"] = most
    d.pop("num_key_value_heads", None)
    d["block_configs"] = [
        {
            "attention": {
                "no_op": not heads[i],
                "replace_with_linear": bool(heads[i]) and not kv_heads[i],
                "n_heads_in_group": most // kv_heads[i] if kv_heads[i] else None,
            },
            "ffn": {"no_op": not widths[i], "intermediate_size": widths[i] or None},
        }
        for i in range(f.layers)
    ]


def _mimo2(f: Facts, d: Keys) -> None:
    slides = f.slides(6)
    kv_heads = f.per_layer("attention.head_count_kv")
    d["hybrid_layer_pattern"] = [int(flag) for flag in slides]
    d["num_key_value_heads"] = next((n for n, flag in zip(kv_heads, slides, strict=True) if not flag), kv_heads[0])
    d["swa_num_key_value_heads"] = next((n for n, flag in zip(kv_heads, slides, strict=True) if flag), kv_heads[0])
    d["v_head_dim"] = f.whole("attention.value_length", least=1)
    d["sliding_window"] = f.whole("attention.sliding_window", least=1)
    routed_experts(f, d, "n_routed_experts")
    d["intermediate_size"] = max(f.per_layer("feed_forward_length"))
    d["attention_bias"] = False


# general.architecture -> the config.json type it becomes, and what is special about its keys.
ATTENTION: dict[str, Arch] = {
    "llama": Arch("llama", _llama),
    "llama4": Arch("llama4_text", _llama4),
    "deci": Arch("nemotron-nas", _deci),
    "mistral3": Arch("ministral3", _no_window),
    "mistral4": Arch("mistral4", _deepseek2, True),
    "qwen": Arch("qwen", _qwen),
    "qwen2": Arch("qwen2"),
    "qwen2vl": Arch("qwen2"),
    "qwen2moe": Arch("qwen2_moe", qwen_moe),
    "qwen3": Arch("qwen3"),
    "qwen3vl": Arch("qwen3"),
    "qwen3moe": Arch("qwen3_moe", qwen_moe),
    "qwen3vlmoe": Arch("qwen3_moe", qwen_moe),
    "gemma": Arch("gemma"),
    "gemma2": Arch("gemma2", windows(2, 4096)),
    "gemma3": Arch("gemma3_text", windows(6)),
    "gemma3n": Arch("gemma3n_text", _gemma3n),
    "gemma4": Arch("gemma4_text", _gemma4),
    "phi2": Arch("phi"),
    "phi3": Arch("phi3", _no_window),
    "falcon": Arch("falcon", _falcon),
    "gpt2": Arch("gpt2", _gpt2),
    "gptneox": Arch("gpt_neox"),
    "bloom": Arch("bloom"),
    "mpt": Arch("mpt", _mpt),
    "starcoder": Arch("gpt_bigcode", _starcoder),
    "starcoder2": Arch("starcoder2", _starcoder2),
    "stablelm": Arch("stablelm", _stablelm),
    "command-r": Arch("cohere", _cohere),
    "cohere2": Arch("cohere2", windows(4)),
    "olmo": Arch("olmo"),
    "olmo2": Arch("olmo2", _olmo2),
    "internlm2": Arch("internlm2", _internlm2),
    "baichuan": Arch("baichuan"),
    "xverse": Arch("xverse"),
    "orion": Arch("orion"),
    "minicpm": Arch("minicpm"),
    "minicpm3": Arch("minicpm3", _minicpm3, True),
    "bitnet": Arch("bitnet"),
    "chatglm": Arch("chatglm", _chatglm),
    "glm4": Arch("glm4"),
    "glm4moe": Arch("glm4_moe", _glm4_moe),
    "glm-dsa": Arch("glm_moe_dsa", _glm_dsa, True),
    "deepseek": Arch("deepseek", _deepseek),
    "deepseek2": Arch("deepseek_v2", _deepseek2, True),
    "granite": Arch("granite"),
    "exaone": Arch("exaone", _exaone),
    "exaone4": Arch("exaone4", _exaone4),
    "smollm3": Arch("smollm3"),
    "seed_oss": Arch("seed_oss"),
    "apertus": Arch("apertus"),
    "ernie4_5": Arch("ernie4_5"),
    "ernie4_5-moe": Arch("ernie4_5_moe", _ernie_moe),
    "hunyuan-dense": Arch("hunyuan_v1_dense"),
    "hunyuan-moe": Arch("hunyuan", _hunyuan_moe),
    "gpt-oss": Arch("gpt_oss", _gpt_oss),
    "minimax-m2": Arch("minimax_m2", _minimax_m2),
    "mimo2": Arch("mimo_v2_flash", _mimo2, True),
}
