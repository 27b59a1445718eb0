"""The metadata of one architecture, checked as it is handed out, and the keys of config.json that families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput
from kvplan.importers.config import LAYER_LIMIT, NUMBER_LIMIT
from kvplan.importers.gguf.header import Gguf, Skipped

__all__ = ["Arch", "Change", "Facts", "Keys", "common", "qwen_moe", "routed_experts", "same_value_width", "windows"]


class Facts:
    """The metadata of one architecture, checked as it is handed out."""

    def __init__(self, gguf: Gguf, arch: str, where: str) -> None:
        self.metadata, self.arch, self.where = gguf.metadata, arch, where
        self.read: set[str] = set()
        self.shapes = {tensor.name: tensor.shape for tensor in gguf.tensors}
        blocks = self.whole("block_count", least=1, most=LAYER_LIMIT)
        extra = self.whole("nextn_predict_layers", 0, most=LAYER_LIMIT)  # MTP layers come last and are not the model's
        if extra >= blocks:
            raise self.error("nextn_predict_layers", extra, f"fewer than block_count ({blocks})")
        self.layers = blocks - extra
        self.hidden = self.whole("embedding_length", least=1)

    def error(self, key: str, value: object, rule: str) -> InvalidInput:
        """The error for a key of this architecture."""
        return InvalidInput(f"{self.arch}.{key}", value, rule, self.where)

    def get(self, key: str) -> Any:
        """A key's raw value, now counted as read."""
        self.read.add(key)
        return self.metadata.get(f"{self.arch}.{key}")

    def has(self, key: str) -> bool:
        """Whether the file holds this key."""
        return self.get(key) is not None

    def _whole(self, key: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, value, f"a whole number from {least} to {most}")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 0, most: int = NUMBER_LIMIT) -> int:
        """A number; one per layer passes where all are equal."""
        value = self.get(key)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if value is None:
            if default is None:
                raise self.error(key, "missing", "a whole number")
            return default
        return self._whole(key, value, least, most)

    def per_layer(self, key: str, default: int | None = None) -> list[int]:
        """One number per layer, written once or as an array (entries of MTP layers are cut off)."""
        value = self.get(key)
        if not isinstance(value, list):
            return [self.whole(key, default)] * self.layers
        if len(value) < self.layers or len(value) > 2 * LAYER_LIMIT:
            raise self.error(key, f"{len(value)} entries", f"one per layer, {self.layers} in all")
        return [self._whole(f"{key}[{i}]", item, 0, NUMBER_LIMIT) for i, item in enumerate(value[: self.layers])]

    def slides(self, every: int) -> list[bool]:
        """Which layers have the window: the file's pattern (flags, or a period), else all but each ``every``-th."""
        value = self.get("attention.sliding_window_pattern")
        if isinstance(value, list):
            if len(value) < self.layers or not all(item in (0, 1) for item in value):
                raise self.error("attention.sliding_window_pattern", value, f"{self.layers} flags, one per layer")
            return [bool(item) for item in value[: self.layers]]
        if isinstance(value, bool):
            return [value] * self.layers
        period = self.whole("attention.sliding_window_pattern", every, most=LAYER_LIMIT)
        return [period == 0 or i % period < period - 1 for i in range(self.layers)]

    def tensor(self, name: str, layer: int = 0) -> tuple[int, ...] | None:
        """The shape of ``blk.{layer}.{name}``, or of a tensor outside layers, or None."""
        return self.shapes.get(f"blk.{layer}.{name}") or self.shapes.get(name)

    def some(self, name: str) -> bool:
        """Whether some layer has this tensor."""
        return any(f"blk.{i}.{name}" in self.shapes for i in range(self.layers))

    def vocab(self) -> int:
        """Rows of the token table, else what the keys or the tokenizer say."""
        table = self.shapes.get("token_embd.weight")
        if table is not None and len(table) > 1:
            return table[1]
        if self.has("vocab_size"):
            return self.whole("vocab_size", least=1)
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, Skipped):
            return tokens.length
        if isinstance(tokens, list) and tokens:
            return len(tokens)
        raise self.error("vocab_size", "missing", "a number, a tokenizer or a token table")


Keys = dict[str, Any]
Change = Callable[[Facts, Keys], None]


class Arch(NamedTuple):
    """The config.json type of an architecture, and what its keys need beyond the common ones."""

    model_type: str
    change: Change | None = None
    uneven: bool = False  # keys and values may differ in width


def common(f: Facts) -> Keys:
    """The keys that nearly every config.json has."""
    d: Keys = {
        "hidden_size": f.hidden,
        "num_hidden_layers": f.layers,
        "vocab_size": f.vocab(),
        "max_position_embeddings": f.whole("context_length", least=1) if f.has("context_length") else None,
    }
    widths = f.per_layer("feed_forward_length", 0)
    if len(set(widths)) == 1 and widths[0]:
        d["intermediate_size"] = widths[0]
    if f.has("attention.head_count"):
        heads = f.per_layer("attention.head_count")
        kv_heads = f.per_layer("attention.head_count_kv") if f.has("attention.head_count_kv") else heads
        if len({*heads}) == 1 and heads[0]:
            d["num_attention_heads"] = heads[0]
        if len({*kv_heads}) == 1 and kv_heads[0]:
            d["num_key_value_heads"] = kv_heads[0]
    if f.has("attention.key_length"):
        d["head_dim"] = f.whole("attention.key_length", least=1)
    if f.shapes:
        d["tie_word_embeddings"] = "output.weight" not in f.shapes
        biased = f.some("attn_q.bias") or f.some("attn_qkv.bias")
        d["attention_bias"] = d["use_qkv_bias"] = d["add_qkv_bias"] = biased
        d["bias"] = d["use_bias"] = biased
        d["mlp_bias"] = f.some("ffn_up.bias")
    return d


def same_value_width(f: Facts) -> None:
    """Raises InvalidInput where values are not as wide as keys."""
    keys = f.get("attention.key_length")
    values = f.get("attention.value_length")
    if values is not None and keys is not None and values != keys:
        raise f.error("attention.value_length", values, f"attention.key_length ({keys}): this family has one head_dim")


def routed_experts(f: Facts, d: Keys, name: str = "num_experts") -> None:
    """Counts and widths of routed experts; the width from the tensors where an old file does not say it."""
    d[name] = f.whole("expert_count", least=1)
    d["num_experts_per_tok"] = f.whole("expert_used_count", least=1)
    if f.has("expert_feed_forward_length"):
        d["moe_intermediate_size"] = f.whole("expert_feed_forward_length", least=1)
    else:
        shapes = [shape for key, shape in f.shapes.items() if key.endswith(".ffn_up_exps.weight") and len(shape) > 2]
        width = shapes[0][1] if shapes else d.get("intermediate_size")
        d["moe_intermediate_size"] = width
    if f.has("leading_dense_block_count"):
        d["first_k_dense_replace"] = f.whole("leading_dense_block_count")


def windows(every: int, default: int | None = None) -> Change:
    """Layers in a pattern of window and full attention."""

    def change(f: Facts, d: Keys) -> None:
        window = f.whole("attention.sliding_window", default or 0)
        if not window:
            d["sliding_window"] = None
            d["layer_types"] = ["full_attention"] * f.layers
            return
        d["sliding_window"] = window
        kinds = ("full_attention", "sliding_attention")
        d["layer_types"] = [kinds[flag] for flag in f.slides(every)]

    return change


def qwen_moe(f: Facts, d: Keys) -> None:
    """Routed experts and a shared one with a width of its own."""
    routed_experts(f, d)
    if f.has("expert_shared_feed_forward_length"):
        d["shared_expert_intermediate_size"] = f.whole("expert_shared_feed_forward_length")
    elif (shape := f.tensor("ffn_up_shexp.weight")) is not None and len(shape) > 1:
        d["shared_expert_intermediate_size"] = shape[1]
    d["qkv_bias"] = d.get("attention_bias", True)
