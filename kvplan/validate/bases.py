"""Configs for types whose own defaults do not build or run: the fields they need, as published models have them.

``BASES`` are arguments of the config class. ``REDUCED`` are types that look at values and so cannot run on the meta
device: they run on the CPU with real tensors, and their base says how small. ``NOT_RUN`` are types whose class no base
here makes run.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BASES", "NOT_RUN", "REDUCED"]

_DECODER_WITHOUT_PADDING = {"is_decoder": True, "pad_token_id": None}
_MIXED_HEADS = {"allow_global_per_layer_attribute_access": True}
_GEMMA4_TEXT = {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "sliding_window": 24,
}  # fmt: skip
_QWEN4_TEXT = {
    "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "linear_key_head_dim": 16, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
    "num_experts_per_tok": 3, "num_experts": 8, "hc_lowrank": 12, "ple_layer_ids": [1, 3], "eos_token_id": 2,
    "ngram_vocab_size_base": 1000, "split_ngram_parts": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1,
    "indexer_head_dim": 16, "indexer_budget": 16, "indexer_compress_ratio": 4,
}  # fmt: skip

BASES: dict[str, dict[str, Any]] = {
    # Ministral 8B: the class builds no rotary positions where head_dim is null, its own default
    "ministral": {"head_dim": 128},
    # the class looks up rotary parameters for each kind of layer; its default has none
    "cohere_compass_text": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
        },
    },
    # global layers have a head_dim of their own, and reading one for all of them raises unless the config allows it
    "gemma4_text": _MIXED_HEADS,
    "gemma4_unified_text": _MIXED_HEADS,
    # a draft shares the KV of all its layers, which kv_sharing_modes of its own configuration refuses: never built
    "gemma4_assistant": {
        "text_config": _MIXED_HEADS | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "gemma4_unified_assistant": {"text_config": _MIXED_HEADS},
    "gemma4": {
        "text_config": _GEMMA4_TEXT | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 400},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16,
        },
        "audio_config": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "output_proj_dims": 24,
            "subsampling_conv_channels": [8, 4],
        },
    },
    "gemma4_unified": {
        "text_config": _GEMMA4_TEXT | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "vision_config": {"patch_size": 4, "mm_embed_dim": 48, "mm_posemb_size": 10, "output_proj_dims": 48},
        "audio_config": {"audio_embed_dim": 20},
    },
    # a cache of linear attention alone knows no length, and the class asks for it; its default has no other layer
    # (nor is infinity, the default of time_step_limit, read back as it is saved)
    "granitemoehybrid": {
        "num_hidden_layers": 5,
        "time_step_limit": [0.0, 1000.0],
        "layer_types": ["linear_attention"] * 2 + ["full_attention"] + ["linear_attention"] * 2,
    },
    # likewise; five layers of the default are all recurrent
    "bailing_hybrid": {"layer_group_size": 3},
    "bamba": {"num_hidden_layers": 5, "time_step_limit": [0.0, 1000.0], "attn_layer_indices": [1, 4]},
    # DBRX: the class reads a rotary base that its own default does not have
    "dbrx": {
        "vocab_size": 500, "d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 128,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 500000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 8, "moe_top_k": 3},
    },
    # DeepSeek-V2-Lite: how many experts a token visits has no default, and grouped kernels want widths of whole 16 bytes
    "deepseek_v2": {"num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1},
    # dots.llm1: nor have the experts
    "dots1": {
        "n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    },
    # sliding layers have heads of their own, as Gemma 4's global layers have
    "dots3_note": {"text_config": _MIXED_HEADS},
    "dots3_note_text": _MIXED_HEADS,
    # Blenderbot: the decoder's class makes as many caches as the encoder has layers, 2, and needs 24
    "blenderbot": {"encoder_layers": 5, "decoder_layers": 3},
    # Minitron 8B: KV heads have no default
    "nemotron": {
        "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 5, "num_attention_heads": 48,
        "head_dim": 128, "num_key_value_heads": 8,
    },
    # classes that look at positions by value
    "moshi": {
        "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "ffn_dim": 96, "sliding_window": 24, "max_position_embeddings": 128,
    },
    "prophetnet": {
        "vocab_size": 500, "hidden_size": 64, "num_encoder_layers": 3, "num_decoder_layers": 3, "ngram": 3,
        "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 80, "max_position_embeddings": 64,
    },
    # null, the default, is no head_dim that the class can work with
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 16, "moe_topk": 2},
    # the class reads layer_types, which has no default
    "lfm2_moe": {"num_hidden_layers": 5, "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"]},
    "jetmoe": {
        "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_key_value_heads": 4,
        "kv_channels": 16,
    },
    "longcat_flash": {
        "vocab_size": 500, "hidden_size": 64, "ffn_hidden_size": 96, "num_layers": 2, "num_attention_heads": 4,
        "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "head_dim": 8,
        "v_head_dim": 16, "moe_topk": 3, "n_routed_experts": 8, "zero_expert_num": 4, "expert_ffn_hidden_size": 32,
    },
    # classes that look for padding by value: in the inputs where there is a padding token, in the mask where attention
    # looks both ways
    "big_bird": _DECODER_WITHOUT_PADDING,
    "megatron-bert": _DECODER_WITHOUT_PADDING,
    "rembert": _DECODER_WITHOUT_PADDING,
    "roformer": _DECODER_WITHOUT_PADDING,
    # the class looks at lengths and languages by value; X-MOD needs to be told its language
    "xlm": {"vocab_size": 500, "emb_dim": 64, "n_layers": 3, "n_heads": 4, "n_langs": 3, "max_position_embeddings": 64},
    "xmod": {
        "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "languages": ["en_XX", "de_DE", "fr_XX"], "default_language": "de_DE", "adapter_layer_norm": True,
        "pre_norm": True,
    },
    "qwen4_exp_text": _QWEN4_TEXT,
    "qwen4_exp": {"text_config": _QWEN4_TEXT},
}  # fmt: skip

REDUCED: frozenset[str] = frozenset(
    [
        "dbrx",
        "gemma4",
        "gemma4_unified",
        "jetmoe",
        "longcat_flash",
        "moshi",
        "prophetnet",
        "qwen4_exp",
        "qwen4_exp_text",
        "xlm",
        "xmod",
    ]
)

NOT_RUN: dict[str, str] = {
    "blt": "its patches are cut by what a text says; the class reads a field that its config does not have",
    "cpmant": "the class masks one token more than it caches in a step",
    "gemma3n": "needs timm",
    "gemma4_assistant": "a draft without a cache; the class wants its target's",
    "gemma4_unified_assistant": "a draft without a cache; the class wants its target's",
    "musicgen": "two text configs in one: the config class does not say which is meant",
    "musicgen_melody": "two text configs in one: the config class does not say which is meant",
    "reformer": "its default config is no decoder, and the class takes decoders alone",
    "xlnet": "the class mixes float32 positions into another dtype",
}
