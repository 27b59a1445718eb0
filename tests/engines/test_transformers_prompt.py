"""What a prompt holds at once in transformers: the rule against the classes' own tensors, counted on the meta device.

The count is that of a GPU: on an H100 the allocator's peaks of ten classes were these to the last block but for what kernels
keep for themselves (tests/records/h100.json).
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import kvplan
from kvplan.engines.transformers import ALL_LOGITS, EAGER
from kvplan.validate import huggingface
from kvplan.validate.allocator import Host
from kvplan.validate.front import _raw

# one preset of each class, and how many of its first layers hold every kind of layer
PRESETS = {
    "llama-3.1-8b": 2, "qwen3-8b": 2, "gemma-2-9b": 2, "gemma-3-4b": 6, "mistral-7b-v0.1": 2, "falcon-7b": 2, "phi-4": 2,
    "falcon-40b": 2, "gpt2-medium": 2, "gpt-j-6b": 2, "bloom-176b": 1, "olmo-2-13b": 2, "apertus-8b": 2, "stablelm-3b": 2,
    "gpt-oss-20b": 2, "mixtral-8x7b": 2, "qwen3-30b-a3b": 2, "deepseek-v2-lite": 2, "deepseek-v3": 4, "deepseek-v3.2": 4,
    "glm-4.5": 4, "llama-4-scout": 2, "minimax-m2.5": 2, "mimo-v2-flash": 2, "deepseek-v4-flash": 4, "whisper-large-v3": 2,
    "qwen3-next-80b-a3b": 4, "qwen3.5-27b": 4, "nemotron-3-nano-30b-a3b": 7, "mamba-codestral-7b": 2, "mamba-130m": 2,
    "falcon-mamba-7b": 2, "falcon-h1-3b": 2, "granite-4.0-h-1b": 8, "jamba-1.5-mini": 8, "recurrentgemma-2b": 3,
    "lfm2.5-vl-1.6b": 3, "qwen2.5-vl-7b": 2,
}  # fmt: skip
PROMPTS = ((1024, 1), (4096, 1), (1024, 4))
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
LISTS = ("layer_types", "hybrid_override_pattern", "mlp_layer_types", "layers_block_type", "indexer_types")


class Fused(TorchFunctionMode):
    """Attention as fused kernels do it, which the meta device has not: the output is all that they make."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            q, k, v = args[:3] if len(args) >= 3 else (args[0], kwargs["key"], kwargs["value"])
            if q.shape[1] == k.shape[1] or kwargs.get("enable_gqa"):
                return torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
        return func(*args, **kwargs)


def cut(name: str, layers: int) -> dict[str, Any]:
    """The published config without quantisation, of a few layers."""
    raw: dict[str, Any] = _raw(name)[0]
    raw.pop("quantization_config", None)
    for text in (raw, raw.get("text_config", {})):
        for key in COUNTS:
            if isinstance(text.get(key), int):
                text[key] = min(layers, text[key])
        for key in LISTS:
            if text.get(key):
                text[key] = text[key][:layers]
    return raw


@pytest.mark.parametrize("name", PRESETS)
def test_the_peak_of_a_prompt(name: str) -> None:
    """Half to twice of what the class holds at once above weights and cache, however long and wide the prompt."""
    raw = cut(name, PRESETS[name])
    with huggingface.quiet():
        model = huggingface.model_of(raw, "meta", attention="sdpa")
    ratios = {}
    for context, batch in PROMPTS:
        host, ids = Host(), torch.zeros((batch, context), dtype=torch.long, device="meta")
        with huggingface.quiet(), torch.no_grad(), Fused(), host.watching():
            out = huggingface.run(model, ids, last=True)
            peak = host.phase().peak
        _, cache = huggingface.cache_of(model, out, ids)
        tensors = {t.untyped_storage()._cdata: t for t in huggingface.cache_tensors(cache)}
        held = sum(t.untyped_storage().nbytes() for t in tensors.values())
        answer = kvplan.plan(
            raw, engine="transformers", dtype="bf16", memory=2**50, context=context, batch=batch
        ).answer
        ratios[context, batch] = (peak - held) / answer.activations
    assert all(0.5 <= ratio <= 2 for ratio in ratios.values()), ratios


def classes() -> dict[str, Any]:
    """The class of each causal-LM type."""
    found = {}
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        class_ = getattr(transformers, name if isinstance(name, str) else name[0], None)
        if class_ is not None:
            found[model_type] = class_
    return found


# recurrences, which have no attention; classes that cannot be planned or whose config has no default that runs
OTHERS = {"cpmant", "falcon_mamba", "got_ocr2", "mamba", "mamba2", "reformer", "rwkv", "xlstm"}


def test_the_types_without_sdpa() -> None:
    """Exactly those whose class says so."""
    eager = {name for name, class_ in classes().items() if not getattr(class_, "_supports_sdpa", False)}
    assert eager - OTHERS == EAGER


def test_the_types_that_make_all_logits() -> None:
    """Exactly those whose forward pass has no ``logits_to_keep``, and that have a cache of their own."""
    all_ = {n for n, c in classes().items() if "logits_to_keep" not in inspect.signature(c.forward).parameters}
    drafts = {"gemma4_assistant", "gemma4_unified_assistant", "musicgen", "musicgen_melody"}
    assert all_ - drafts == ALL_LOGITS


def test_what_the_rule_is_made_of() -> None:
    """Llama 3.1 8B in bf16: 4 x 4096 + 3 x 14336 elements a token, of 2 bytes; nothing grows with pairs of tokens.

    4096 tokens: 4096 x 59392 x 2 = 486,539,264; an H100 took 488,669,184.
    """
    answer = kvplan.plan("llama-3.1-8b", engine="transformers", dtype="bf16", memory=2**40, context=4096).answer
    assert 4096 * (4 * 4096 + 3 * 14336) * 2 == answer.activations


def test_scores_of_eager_attention_grow_with_pairs() -> None:
    """gpt-oss-20b: 64 heads x (2 x 2 + 2) bytes for each pair of tokens, and two masks of 2 bytes.

    Per token 4 x 2880 elements of the residual and 3 x 64 x 64 of attention; an H100 took 6,683,138,048 for 4096 tokens.
    """
    answer = kvplan.plan("gpt-oss-20b", engine="transformers", dtype="bf16", memory=2**40, context=4096).answer
    pairs = 4096 * 4096 * (64 * 6 + 2 * 2)
    assert 4096 * (4 * 2880 + 3 * 64 * 64) * 2 + pairs == answer.activations


def test_a_wrapper_is_what_its_decoder_is() -> None:
    """Llava around Gemma 2: its language model has eager attention, as Gemma 2 alone has."""
    llava, gemma = _raw("llava-1.5-7b")[0], _raw("gemma-2-2b")[0]
    flags: dict[str, Any] = {"engine": "transformers", "dtype": "bf16", "memory": 2**50, "context": 8192}
    wrapped = kvplan.plan({**llava, "text_config": gemma}, **flags).answer
    assert "llava" == wrapped.spec.model_type
    assert kvplan.plan(gemma, **flags).answer.activations == wrapped.activations


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("llama-3.1-8b", None),
        ("mamba-codestral-7b", None),
        ("qwen3-next-80b-a3b", None),
        ("whisper-tiny", "activations/cross"),
        ("minimax-text-01", "activations/scan"),
    ],
)
def test_what_the_rule_does_not_know_is_said(model: str, path: str | None) -> None:
    """Scores against an encoder and scans that nobody read are named as left out, under engine transformers alone."""
    flags: dict[str, Any] = {"memory": 2**50, "context": 100}
    for engine, wanted in (("transformers", {path} - {None}), ("ideal", set())):
        left_out = {o.path for o in kvplan.plan(model, engine=engine, **flags).omitted}
        assert wanted == {name for name in left_out if name.startswith("activations/")}
    (term,) = (t for t in kvplan.plan(model, engine="transformers", **flags).terms if t.path == "activations/peak")
    assert "half to twice of it" in term.formula


def test_other_engines_keep_their_rule() -> None:
    """Chunks of 8192 tokens through kernels that make no copies: 2 x 4096 + 3 x 14336 elements."""
    answer = kvplan.plan("llama-3.1-8b", memory=2**40, context=32768).answer
    assert 8192 * (2 * 4096 + 3 * 14336) * 2 == answer.activations
