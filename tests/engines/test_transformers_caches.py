"""The other caches of transformers: static, offloaded and quantised, against the classes themselves and their records."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3nTextConfig, Gemma3TextConfig, GptOssConfig, Llama4TextConfig, LlamaConfig
from transformers.cache_utils import DynamicCache, QuantizedCache, StaticCache

import kvplan
from kvplan.engines import ENGINES
from kvplan.engines.transformers import ENGINE, OPTIONS, with_options
from kvplan.errors import InvalidInput

RECORDED = Path(__file__).parent.parent / "data/engines/quantised_recorded.json"
SMALL = {"num_hidden_layers": 6, "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "vocab_size": 64}
TYPES = ["sliding_attention", "sliding_attention", "full_attention"] * 2
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
    "gemma3": Gemma3TextConfig(**SMALL, num_key_value_heads=2, sliding_window=16, layer_types=TYPES),
    "gpt_oss": GptOssConfig(**SMALL, num_key_value_heads=2, sliding_window=8, layer_types=TYPES),
    "llama4": Llama4TextConfig(**SMALL, num_key_value_heads=2, attention_chunk_size=16, num_local_experts=2),
    "gemma3n": Gemma3nTextConfig(
        **{**SMALL, "intermediate_size": 64},
        num_key_value_heads=2,
        sliding_window=16,
        layer_types=TYPES,
        num_kv_shared_layers=3,
        activation_sparsity_pattern=None,
    ),
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``kvplan.plan`` with an engine that takes the options: an entry of the registry, as the contributors' recipe has it."""

    def plan(model: Any, options: dict[str, Any], **given: Any) -> kvplan.Report:
        entry = with_options(ENGINE, options)._replace(name="asked", options=OPTIONS, versions=())
        monkeypatch.setitem(ENGINES, "asked", entry)
        return kvplan.plan(model, engine="asked", engine_options=options, **given)

    return plan


def entries(batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(batch, heads, tokens, width, dtype=dtype)


def size(cache: Any) -> int:
    """Bytes of the tensors that the layers of a cache hold; a layer that shares another's holds none."""
    held = 0
    for layer in cache.layers:
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            held += 0 if tensor is None else tensor.numel() * tensor.element_size()
    return held


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("slots", [1, 7, 8, 9, 15, 16, 17, 40])
def test_static_caches_equal_the_real_class(ask: Any, name: str, slots: int) -> None:
    config = CONFIGS[name]
    cache = StaticCache(config=config, max_cache_len=slots)
    owners = len(cache.layers) - getattr(config, "num_kv_shared_layers", 0)
    for i in range(owners):
        k = entries(3, 2, slots, 32)
        cache.update(k, k, i)
    report = ask(config.to_dict(), {"cache_implementation": "static"}, context=slots, batch=3, dtype="fp32")
    assert size(cache) == report.kv["bytes"]


def test_a_static_cache_is_as_long_as_prompt_and_new_tokens_or_as_asked(ask: Any) -> None:
    # generate() makes prompt + new - 1 slots; Llama-3.1-8B takes 131,072 bytes for each (engines differ, tokens do not)
    for options, slots in (
        ({}, 100),
        ({"max_new_tokens": 29}, 128),
        ({"max_cache_len": 4096}, 4096),
        ({"max_cache_len": 50}, 100),
    ):
        report = ask("llama-3.1-8b", {"cache_implementation": "static", **options}, context=100)
        assert slots * 131072 == report.kv["bytes"]
        assert slots == report.engine["facts"]["max_cache_len"]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_offloaded_caches_keep_two_layers_of_those_they_move(ask: Any, name: str, static: bool) -> None:
    config, tokens = CONFIGS[name], 40
    cache: Any = StaticCache(config=config, max_cache_len=tokens) if static else DynamicCache(config=config)
    sizes = []
    for i, layer in enumerate(cache.layers):
        k = entries(1, 2, tokens, 32)
        cache.update(k, k, i)
        # what a dynamic sliding layer returns after a prompt: its storage is that of a view
        sizes.append(2 * layer.keys.numel() * layer.keys.element_size())
    moved = [not (static and sliding) for sliding in cache.is_sliding]
    stays = sum(n for n, away in zip(sizes, moved, strict=True) if not away)
    away = [n for n, gone in zip(sizes, moved, strict=True) if gone]
    most = max(a + b for a, b in zip(away, away[1:] + away[:1], strict=True))
    kind = "offloaded_static" if static else "offloaded"
    report = ask(config.to_dict(), {"cache_implementation": kind}, context=tokens, dtype="fp32")
    assert stays + most == report.kv["bytes"]
    assert sum(sizes) == report.engine["facts"]["cache_bytes"]


@pytest.mark.parametrize(("prompt", "new"), [(1, 0), (300, 5), (300, 20)])
def test_the_fp8_cache_equals_the_real_class(ask: Any, prompt: int, new: int) -> None:
    config = CONFIGS["llama"]
    cache = QuantizedCache("fp8", config)
    for tokens in [prompt] + [1] * new:
        for i in range(len(cache.layers)):
            k = entries(2, 2, tokens, 32, torch.bfloat16)
            cache.update(k, k, i)
    held = 0
    for layer in cache.layers:
        for codes, scale in (layer._quantized_keys, layer._quantized_values):
            held += codes.numel() * codes.element_size() + scale.numel() * scale.element_size()
    options = {"cache_implementation": "quantized", "cache_backend": "fp8", "max_new_tokens": new + 1}
    report = ask(config.to_dict(), options, context=prompt, batch=2, dtype="bf16")
    assert held == report.kv["bytes"]


def recorded() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(RECORDED.read_text())["cases"]
    return cases


@pytest.mark.parametrize("case", recorded(), ids=lambda c: "-".join(str(c[k]) for k in list(c)[:5]))
def test_quantised_caches_equal_what_their_libraries_held(ask: Any, case: dict[str, Any]) -> None:
    options = {
        "cache_implementation": "quantized",
        "cache_backend": case["backend"],
        "nbits": case["nbits"],
        "max_new_tokens": case["new"] + 1,
    }
    asked = {"layers": 1, "hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "vocab": 64}
    report = ask(None, options, context=case["prompt"], dtype=case["dtype"], **asked)
    lines = {line.path: line.size for line in report.answer.served.lines}
    assert (case["packed"], case["residual"]) == (lines["kv/quantized"], lines.get("kv/residual", 0))


def test_what_the_classes_refuse_is_refused(ask: Any) -> None:
    with pytest.raises(InvalidInput, match="full attention alone"):
        ask("gemma-3-1b", {"cache_implementation": "quantized"}, context=10)
    with pytest.raises(ValueError, match="only supported for models with only full attention"):
        QuantizedCache("fp8", CONFIGS["gemma3"])
    for options, named in (
        ({"cache_implementation": "quantized", "nbits": 3}, "2, 4 with cache_backend=quanto"),
        ({"cache_implementation": "static", "nbits": 4}, "cache_implementation=static"),
        ({"max_cache_len": 4}, "nothing with cache_implementation=dynamic"),
        ({"cache_implementation": "quantized", "cache_backend": "fp8", "residual_length": 4}, "no groups"),
    ):
        with pytest.raises(InvalidInput, match=named):
            ask("llama-3.1-8b", options, context=100)


def test_the_dynamic_cache_is_as_before() -> None:
    assert with_options(ENGINE, {}) is ENGINE
    assert with_options(ENGINE, {"cache_implementation": "dynamic"}) is ENGINE
    # after a prompt of 32,768 tokens Gemma-3-12B returns 1,023 entries in each of 40 sliding layers: 8,192 bytes a layer and token
    assert (
        8192 * (8 * 32768 + 40 * 1023) == kvplan.plan("gemma-3-12b", engine="transformers", context=32768).kv["bytes"]
    )
