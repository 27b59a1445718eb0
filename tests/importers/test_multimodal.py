"""Decoders beside towers; expected numbers are those of the classes of transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.costs import decode_flops, held_bytes, hold, prefill_flops, profile, resolve_formats
from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted, ideal, transformers

TEXT: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama", **TEXT}, "vision_config": CLIP}
DEEP = {"hidden_size": 32, "intermediate_size": 64, "depth": 3, "num_heads": 4, "out_hidden_size": 64}
QWEN3 = {"model_type": "qwen3_vl", "text_config": TEXT, "vision_config": DEEP | {"num_position_embeddings": 16}}


def test_each_class_has_its_own_rule_for_tied_logits() -> None:
    """LLaVA takes the decoder's word where its own is no, Qwen3-VL only its own; Voxtral and Qwen2-Audio never tie."""
    assert counted(LLAVA) == 253472
    assert counted(LLAVA | {"text_config": LLAVA["text_config"] | {"tie_word_embeddings": True}}) == 189472
    assert counted(QWEN3 | {"text_config": TEXT | {"tie_word_embeddings": True}}) == 549824 == counted(QWEN3)
    assert counted(QWEN3 | {"tie_word_embeddings": True}) == 485824
    for name in ("mistralai__Voxtral-Mini-3B-2507", "Qwen__Qwen2-Audio-7B"):
        raw = config(name)
        assert counted(raw | {"tie_word_embeddings": True}) == counted(raw)


def test_a_projector_takes_several_layers_side_by_side() -> None:
    """A second feature layer widens the first matrix by the tower's width: 32 x 64 parameters."""
    assert counted(LLAVA | {"vision_feature_layer": [-2, -1]}) == 255520 == 253472 + 32 * 64


def test_each_deepstack_layer_has_a_merger() -> None:
    """The default is three; one alone leaves out two norms of 128 and MLPs 128 -> 128 -> 64."""
    one = QWEN3 | {"vision_config": QWEN3["vision_config"] | {"deepstack_visual_indexes": [0]}}
    assert counted(one) == 499776 == 549824 - 2 * (2 * 128 + 129 * 128 + 129 * 64)


def test_omitted_keys_are_those_of_the_nested_class() -> None:
    """llava-1.5 and Qwen2-Audio leave depth and heads to Llama's and Qwen2's defaults: 32 layers of 32 x 128."""
    for name in ("llava-hf__llava-1.5-7b-hf", "Qwen__Qwen2-Audio-7B"):
        assert ideal(config(name), 1000) == 1000 * 32 * 2 * 32 * 128 * 2


def test_voxtral_fills_up_its_decoder_with_its_own_defaults() -> None:
    """A text_config that says little means Voxtral Mini's 30 layers of 8 x 128, not Llama's 32 of 32 x 128."""
    raw = config("mistralai__Voxtral-Mini-3B-2507")
    raw["text_config"] = {"model_type": "llama"}
    assert ideal(raw, 1000) == 1000 * 30 * 2 * 8 * 128 * 2
    assert counted(raw) == 4676271104


@pytest.mark.parametrize(("tokens", "entries"), [(63, 63), (64, 63), (65, 63), (100, 63)])
def test_qwen2_vl_windows_only_where_switched_on(tokens: int, entries: int) -> None:
    """use_sliding_window puts layers from max_window_layers on under the window; the class's cache keeps 63 of 64."""
    raw = config("Qwen__Qwen2-VL-7B-Instruct") | {"num_hidden_layers": 4, "max_window_layers": 1, "sliding_window": 64}
    entry = 2 * 4 * 128 * 2
    assert transformers(raw, tokens) == 4 * tokens * entry
    assert transformers(raw | {"use_sliding_window": True}, tokens) == (tokens + 3 * entries) * entry


def test_flat_and_nested_qwen2_vl_are_one() -> None:
    """Older files keep the decoder's keys at the top, newer ones in text_config."""
    flat = config("Qwen__Qwen2-VL-2B-Instruct")
    nested = {key: flat[key] for key in ("model_type", "vision_config", "tie_word_embeddings", "torch_dtype")}
    nested["text_config"] = {key: value for key, value in flat.items() if key not in nested}
    assert from_config(nested) == from_config(flat)


def test_images_are_cached_apart_in_mllama() -> None:
    """Cross-attention layers hold the image, the others the text; without an image they hold and compute nothing.

    MllamaForCausalLM with 3 text and 2 image layers (entries of 2 x 8 x 128 x 2 = 4096 bytes), 100 tokens, 4 tiles
    of 1025 vision tokens: cache 34,816,000 bytes, prefill 471,315,251,200 FLOPs, one step 3,337,469,952.
    """
    raw = config("meta-llama__Llama-3.2-11B-Vision")
    raw["text_config"] |= {"num_hidden_layers": 5, "cross_attention_layers": [1, 3]}
    spec = from_config(raw)
    facts = profile(spec)
    groups = hold(facts.plan, resolve_formats(spec, "bf16", "bf16", None, None))
    assert sum(held_bytes(group, 100, 4100) for group in groups) == 34816000 == (3 * 100 + 2 * 4100) * 4096
    assert sum(held_bytes(group, 100, 0) for group in groups) == 3 * 100 * 4096
    assert prefill_flops(facts, 100, 1, full=True, all_logits=True, encoder_tokens=4100).total == 471315251200
    assert decode_flops(facts, 100, 1, encoder_tokens=4100).total == 3337469952
    # three layers of 218,103,808 weights, 100 x 100 scores of 32 x 256, and the logits of 100 tokens
    blind = 2 * 100 * 3 * 218103808 + 3 * 2 * 100 * 100 * 32 * 256 + 2 * 100 * 4096 * 128256
    assert prefill_flops(facts, 100, 1, full=True, all_logits=True).total == blind
    assert not any(tower.counted for tower in spec.towers)


def test_deepseek_vl2_tiny_has_no_mla() -> None:
    """use_mla false with zero and null latent sizes: 12 layers of 10 ordinary heads, 1280 / 10 wide."""
    assert ideal(config("deepseek-ai__deepseek-vl2-tiny"), 1000) == 1000 * 12 * 2 * 10 * 128 * 2
