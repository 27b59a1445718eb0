"""Gemma 4: global layers with shapes of their own, towers or none, and drafts that read another model's cache."""

from __future__ import annotations

from typing import NoReturn

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.google import bias_of, layer_input, layer_inputs, shared_kv, with_towers
from kvplan.importers.parts import decoder, grouped_attention, layer_windows
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, replace, vector


@importer("gemma4_text")
def gemma4_text(c: Config) -> ModelSpec:
    """Gemma 4's decoder: global layers with heads, and often KV heads, of their own (transformers models/gemma4).

    With ``attention_k_eq_v`` a global layer makes values from the keys' projection and caches both. The last layer is
    always global. Experts stand beside the dense MLP. Files that transformers 5 wrote say per_layer_config where older
    ones say ``global_head_dim`` and ``num_global_key_value_heads``.
    """
    return _decoder(c, 512, 131072, c.int("hidden_size_per_layer_input", 256, least=0), c.bool("enable_moe_block"))


@importer("gemma4_unified_text")
def gemma4_unified_text(c: Config) -> ModelSpec:
    """The decoder of Gemma 4 12B: no experts, no embeddings per layer (transformers models/gemma4_unified)."""
    return _decoder(c, 1024, 262144, 0, False)


@importer("gemma4")
def gemma4(c: Config) -> ModelSpec:
    """Gemma 4 with its towers, those that the file configures; the class counts them (transformers models/gemma4)."""
    return with_towers(c, gemma4_text(c.sub("text_config", {})))


@importer("gemma4_unified")
def gemma4_unified(c: Config) -> ModelSpec:
    """Gemma 4 12B: patches and sound enter by one projection each, without a tower (models/gemma4_unified)."""
    return with_towers(c, gemma4_unified_text(c.sub("text_config", {})))


@importer("gemma4_assistant", "gemma4_unified_assistant")
def gemma4_assistant(c: Config) -> NoReturn:
    """Drafts for Gemma 4: they keep nothing, all layers read the target's last keys and values (gemma4_assistant)."""
    rule = "a model with a cache of its own: a draft reads the keys and values of its target, plan that"
    raise c.error("model_type", c.get("model_type"), rule)


def _decoder(c: Config, window: int, positions: int, layer_width: int, has_experts: bool) -> ModelSpec:
    layers, hidden = c.layers(default=30), c.int("hidden_size", 2304)
    window = c.int("sliding_window", window)
    if c.get("use_bidirectional_attention") == "all":
        window = window // 2 + 1
    windows = layer_windows(c, layers, window, lambda i: (i + 1) % 6 != 0)
    windows[-1] = None
    reads = shared_kv(c, windows, default=0)
    local = grouped_attention(c, hidden, heads=8, kv_heads=4, head_dim=256, bias=bias_of(c), qk_norm="head")
    attentions = [
        replace(attention, window=windows[i], reads=reads[i]) for i, attention in enumerate(_heads(c, local, windows))
    ]
    mlp = Dense(c.int("intermediate_size", 9216))
    doubled = replace(mlp, width=2 * mlp.width) if c.bool("use_double_wide_mlp") else mlp
    experts = _experts(c, hidden) if has_experts else ()
    stack = tuple(
        Layer(
            (attention,),
            (mlp if attention.reads is None else doubled, *experts),
            norms=(7 if experts else 4) * hidden,
            extra=layer_input(hidden, layer_width),
        )
        for attention in attentions
    )
    extra = layer_inputs(c, hidden, layer_width, layers)
    return decoder(c, hidden, stack, vocab=262144, positions=positions, tied=True, extra=extra)


def _heads(c: Config, local: Attention, windows: list[int | None]) -> list[Attention]:
    same = c.bool("attention_k_eq_v")
    dim, kv_heads = c.int("global_head_dim", 512), c.int("num_global_key_value_heads", local.kv_heads)
    if not same:
        kv_heads = local.kv_heads  # the class reads the global KV heads only beside attention_k_eq_v
    c.divides("num_global_key_value_heads", local.heads, kv_heads, "num_attention_heads")
    stated = c.get("per_layer_config", {})
    if "per_layer_config" not in c.raw:
        wide = replace(local, kv_heads=kv_heads, key_dim=dim, value_dim=dim, value_is_key=same)
        return [wide if window is None else local for window in windows]
    # a file that has the key, even an empty one, has said everything
    count = len(windows)
    if not isinstance(stated, dict) or not all(key.isdecimal() and int(key) < count for key in stated):
        raise c.error("per_layer_config", stated, f"an object whose keys are layers, 0 to {count - 1}")
    # transformers pads the numbers with zeros to equal length
    entries = {int(key): Config(entry, c.where, f"{c.path}per_layer_config.{key}.") for key, entry in stated.items()}
    silent = Config({}, c.where)
    return [_overridden(local, entries.get(i, silent), same and window is None) for i, window in enumerate(windows)]


def _overridden(local: Attention, entry: Config, same: bool) -> Attention:
    others = sorted(set(entry.raw) - {"head_dim", "num_key_value_heads"})
    if others:
        raise entry.error(others[0], entry.raw[others[0]], "head_dim or num_key_value_heads: others are not understood")
    dim = entry.int("head_dim", local.key_dim)
    kv_heads = entry.int("num_key_value_heads", local.kv_heads)
    entry.divides("num_key_value_heads", local.heads, kv_heads, "num_attention_heads")
    return replace(local, kv_heads=kv_heads, key_dim=dim, value_dim=dim, value_is_key=same)


def _experts(c: Config, hidden: int) -> tuple[MoE, ...]:
    experts = c.int("num_experts")
    scales = (vector("router.scale", hidden), vector("router.per_expert_scale", experts))
    active = c.int("top_k_experts", most=experts)
    return (MoE(experts, active, c.int("moe_intermediate_size"), module="", router="router.proj", extra=scales),)
