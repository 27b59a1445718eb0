"""Every causal-LM ``model_type`` of transformers, as its class comes and varied: exact, refused with a reason, or wrong.

For each type the suite asks for the class's own default config (whole, and as ``save_pretrained`` writes it) and for
variations of it: odd layer counts, other KV heads and head dims, windows with contexts below, at and above them, the
flags that change tensors. kvplan plans each with engine ``transformers``; the class is run on the meta device.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import kvplan
from kvplan.errors import KvplanError
from kvplan.specs import Attention, Dense, Latent, ModelSpec
from kvplan.validate.bases import BASES, REDUCED
from kvplan.validate.huggingface import Observed, Unrunnable, observe, quiet
from kvplan.validate.records import Row

__all__ = ["MODEL_TYPES", "Outcome", "Variant", "check", "check_type", "variants"]

MODEL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

CONTEXT = 40  # of a config without a window: no power of two, so that no rounding hides in it
BATCH = 2
WINDOW = 24  # of varied windows
LAYERS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "num_layers")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups", "multi_query_group_num")
WINDOWS = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size", "local_attention")
FLAGS = (
    "tie_word_embeddings", "attention_bias", "mlp_bias", "use_bias", "qkv_bias", "use_qk_norm", "is_decoder",
    "use_sliding_window", "attention_out_bias", "use_qkv_bias", "attention_k_eq_v", "new_decoder_architecture",
    "multi_query", "parallel_attn", "alibi", "add_cross_attention", "qk_layernorm", "norm_topk_prob",
)  # fmt: skip


class Variant(NamedTuple):
    """A config to ask about: what was changed, the config, and the contexts to run."""

    label: str
    raw: dict[str, Any]
    contexts: tuple[int, ...]


class Outcome(NamedTuple):
    """One question: ``verdict`` is exact | wrong | refused (kvplan, by name) | not run (the class does not)."""

    model_type: str
    label: str
    context: int
    verdict: str
    reason: str
    observed: Observed | None = None
    predicted: dict[str, int] | None = None


def _plain(config: Any, *, whole: bool = True) -> dict[str, Any]:
    """A config object as JSON carries it: whole, or as ``save_pretrained`` writes it."""
    if not whole:
        return json.loads(config.to_json_string(use_diff=True))  # type: ignore[no-any-return]
    return json.loads(json.dumps(config.to_dict(), default=str))  # type: ignore[no-any-return]


def build(model_type: str, changes: dict[str, Any]) -> Any:
    """The type's config object with the type's base and these changes of its text part; raises what the class raises."""
    base = copy.deepcopy(BASES.get(model_type, {}))
    config = CONFIG_MAPPING[model_type](**base)
    if not changes:
        return config
    text = config.get_text_config()
    if text is config:
        return CONFIG_MAPPING[model_type](**(base | _own_names(config, changes)))
    part = next((key for key in ("text_config", "llm_config", "decoder") if getattr(config, key, None) is text), None)
    if part is None:
        raise ValueError("its text part has no name that is known here")
    inner = dict(base.pop(part, {})) | _own_names(text, changes)
    if "model_type" not in inner:
        inner["model_type"] = text.model_type
    return CONFIG_MAPPING[model_type](**base, **{part: inner})


def _own_names(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    names = getattr(config, "attribute_map", {}) or {}
    return {names.get(key, key): value for key, value in changes.items()}


def _has(config: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(_value(config, name), int)), None)


def _value(config: Any, name: str) -> Any:
    """An attribute of a config, None where it has none, or one per layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # a class of transformers' own, which is no AttributeError
        return None


def changes_of(text: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """What to vary in a config: a label, the changes, and whether they need contexts around WINDOW."""
    layers = _has(text, LAYERS)
    few: dict[str, Any] = {layers: 5} if layers else {}
    if layers:
        yield "3 layers", {layers: 3}, False
        yield "5 layers", few, False
    heads, kv = _has(text, ("num_attention_heads", "n_head", "num_heads")), _has(text, KV_HEADS)
    if heads and kv:
        count, now = getattr(text, heads), getattr(text, kv)
        others = [n for n in range(1, count + 1) if count % n == 0 and n != now]
        for n in {others[0], others[-1]} if others else ():
            yield f"{kv} {n}", {**few, kv: n}, False
    if isinstance(_value(text, "head_dim"), int) and text.head_dim != 48:
        yield "head_dim 48", {**few, "head_dim": 48}, False
    for name in WINDOWS:
        if hasattr(text, name):
            slide = {"use_sliding_window": True} if hasattr(text, "use_sliding_window") else {}
            yield f"{name} {WINDOW}", {**few, name: WINDOW, **slide}, True
    for name in FLAGS:
        flag = _value(text, name)
        if isinstance(flag, bool):
            yield f"{name} {not flag}", {**few, name: not flag}, False


def _contexts(config: Any) -> tuple[int, ...]:
    """Lengths around every window or chunk that a config has, or one length where it has none."""
    text = config.get_text_config()
    windows = {_value(text, name) for name in WINDOWS}
    around = {w + d for w in windows if isinstance(w, int) and 2 < w <= 8192 for d in (-1, 0, 1)}
    return (CONTEXT, *sorted(around - {CONTEXT}))


def variants(model_type: str) -> Iterator[Variant | tuple[str, str]]:
    """The configs to ask about; (label, reason) where the config class itself refuses one."""
    with quiet():
        try:
            default = build(model_type, {})
            raw = _plain(default)
            contexts = _contexts(default)
            text = default.get_text_config()
        except Exception as e:
            yield "default", f"{type(e).__name__}: {e}"
            return
        yield Variant("default", raw, contexts)
        yield Variant("as saved", _plain(default, whole=False), (CONTEXT,))
        if model_type in REDUCED:
            return
        for label, changes, slides in changes_of(text):
            try:
                config = build(model_type, changes)
                raw = _plain(config)
            except Exception as e:
                yield label, f"{type(e).__name__}: {e}"
                continue
            yield Variant(label, raw, (WINDOW - 1, WINDOW, WINDOW + 1) if slides else (CONTEXT,))


def predict(raw: dict[str, Any], context: int, batch: int) -> dict[str, int]:
    """What kvplan says of a config under engine transformers, in bf16; raises a KvplanError where it refuses."""
    flags: dict[str, Any] = {
        "batch": batch,
        "dtype": "bf16",
        "engine": "transformers",
        "attention_flops": "full",
        "logits": "all",
    }
    spec = kvplan.load(raw)
    now = kvplan.plan(spec, context=context, **flags)
    after = kvplan.plan(spec, context=context + 1, **flags)
    answer = now.to_dict()
    return {
        "parameters": answer["model"]["parameters"],
        "cache_bytes": answer["kv"]["bytes"],
        "cache_bytes_next": after.kv["bytes"],
        "prefill_flops": answer["flops"]["prefill"]["total"],
        "decode_flops": answer["flops"]["decode"]["total"],
    }


EXACT = ("parameters", "cache_bytes", "cache_bytes_next")


# classes whose decode step projects every cached value again, which kvplan does not count: their step is not claimed
REPROJECTS = frozenset({"doge"})


def counted(spec: ModelSpec) -> tuple[str, ...]:
    """Which FLOPs torch's counter must equal: those of softmax attention and dense MLPs.

    It does not see experts' grouped products on the meta device, nor recurrences and selections that are no matrix
    products; classes expand MLA's latents in a step, which kvplan absorbs.
    """
    mixers = [mixer for layer in spec.layers for mixer in layer.mixers]
    dense = all(isinstance(mlp, Dense) for layer in spec.layers for mlp in layer.mlps) and not spec.towers
    plain = all(isinstance(m, Attention) and m.indexer is None and m.chunk is None for m in mixers)
    if not dense or not all(isinstance(m, (Attention, Latent)) and m.indexer is None for m in mixers):
        return ()
    # a class that keeps other entries than its attention needs multiplies those (GPT-Neo all, GPT-1 and XLM none)
    odd = any(
        getattr(m, "transformers_keeps_all", False) or getattr(m, "transformers_parts", None) is not None
        for m in mixers
    )
    plain = plain and not odd and spec.model_type not in REPROJECTS
    return ("prefill_flops", "decode_flops") if plain else ("prefill_flops",)


def compare(
    case: str, question: dict[str, Any], raw: dict[str, Any], predicted: dict[str, int], run: Observed
) -> Iterator[Row]:
    """One row per amount of one run of a class; FLOPs that torch cannot count whole are reported."""
    claimed = (*EXACT, *counted(kvplan.load(raw)))
    paths = {
        "parameters": ("model.parameters", 0),
        "cache_bytes": ("kv.bytes", 0),
        "cache_bytes_next": ("kv.bytes", 1),
        "prefill_flops": ("flops.prefill.total", 0),
        "decode_flops": ("flops.decode.total", 0),
    }
    for name, (path, later) in paths.items():
        asked = {**question, "context": question["context"] + later}
        if path.startswith("flops"):
            asked |= {"attention_flops": "full", "logits": "all"}
        measured = getattr(run, name)
        verdict = "exact" if predicted[name] == measured else "wrong" if name in claimed else "reported"
        yield Row(case, asked, path, predicted[name], measured, verdict)


def check(model_type: str, variant: Variant, batch: int = BATCH) -> Iterator[Outcome]:
    """One outcome per context of a variant."""
    device = "cpu" if model_type in REDUCED else "meta"
    try:
        runs = list(observe(variant.raw, variant.contexts, batch, device))
    except Unrunnable as e:
        yield Outcome(model_type, variant.label, variant.contexts[0], "not run", str(e))
        return
    for context, run in zip(variant.contexts, runs, strict=True):
        if isinstance(run, Unrunnable):
            yield Outcome(model_type, variant.label, context, "not run", str(run))
            continue
        try:
            predicted = predict(variant.raw, context, batch)
        except KvplanError as e:
            yield Outcome(model_type, variant.label, context, "refused", str(e), run)
            continue
        claimed = (*EXACT, *counted(kvplan.load(variant.raw)))
        wrong = [
            f"{name}: {predicted[name]:,} predicted, {getattr(run, name):,} measured"
            for name in claimed
            if predicted[name] != getattr(run, name)
        ]
        yield Outcome(
            model_type, variant.label, context, "wrong" if wrong else "exact", "; ".join(wrong), run, predicted
        )


def check_type(model_type: str) -> Iterator[Outcome]:
    """Every outcome of a type."""
    for variant in variants(model_type):
        if isinstance(variant, Variant):
            yield from check(model_type, variant)
        else:
            label, reason = variant
            yield Outcome(model_type, label, 0, "not run", f"config: {reason}")


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:] or MODEL_TYPES:
        for o in check_type(name):
            print(
                f"{o.model_type} | {o.label} | {o.context} | {o.verdict} | {' '.join(o.reason.split())[:300]}",
                flush=True,
            )
