"""A reader over the raw JSON of a ``config.json``. It checks what it hands out and remembers what was read.

No transformers object is ever built: no remote code, no version drift. A key that changes the cache and that the
importer did not read is an error, so that a new architecture trick becomes a message and not a wrong number.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from kvplan.errors import InvalidInput, UnreadKeys

__all__ = ["LAYER_LIMIT", "Config"]

# Far above any model (the deepest published ones have 126 to 160 layers): keeps absurd files from taking memory and time.
LAYER_LIMIT = 1024
NUMBER_LIMIT = 2**40

# Words in keys that change what is cached. Any such key left unread, with a value that says something, is an error.
# Words and not a regular expression: compiling one of this size costs a tenth of a plan's whole start.
CACHE_WORDS = (
    "sliding",
    "window",
    "layer_types",
    "layers_block_type",
    "block_type",
    "hybrid",
    "attn_type",
    "attention_type",
    "kv_lora",
    "latent",
    "kv_shar",
    "shared_kv",
    "num_kv",
    "kv_heads",
    "key_value_heads",
    "num_key_value",
    "query_groups",
    "multi_query",
    "multi_head_latent",
    "yoco",
    "head_dim",
    "head_size",
    "chunk_size",
    "compress",
    "index_topk",
    "index_head",
    "index_n_heads",
    "indexer",
    "sparse_attention",
    "linear_attn",
    "linear_attention",
    "ssm",
    "mamba",
    "conv_kernel",
    "conv_L",
    "state_size",
    "d_state",
    "d_conv",
    "recurrent",
    "lightning",
    "rwkv",
    "full_attention_interval",
    "full_attn_idxs",
    "k_eq_v",
    "kv_cache",
    "per_layer_config",
    "mixer_types",
)
CACHE_ENDS = ("_pattern", "d_kv")
# Keys that these words catch and that change nothing: training knobs, kernels' names, vision geometry.
HARMLESS = frozenset(
    [
        "use_mamba_kernels",
        "use_mambapy",
        "mamba_ssm_cache_dtype",
        "mamba_proj_bias",
        "use_cache",
        "cache_implementation",
        "ssm_cfg",
        "mamba_hidden_act",
        "chunk_size_feed_forward",
        "mamba_chunk_size",
        "max_window_size",
        "conv_dim_out",
        "residual_in_fp32",
        "window_attn_mask",
        "img_token_compression_config",
        "compression_config",
    ]
)
# Shape keys whose class default is worth a word: a file that omits them is answered, and the report says with what.
SHAPE_KEYS = frozenset({"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"})
HARMLESS_STARTS = ("rescale_", "time_step_", "mamba_dt_", "keys_to_ignore")


def changes_cache(key: str) -> bool:
    """Whether a key's name says that it changes what is cached.

    >>> changes_cache("sliding_window"), changes_cache("cla_share_factor"), changes_cache("rms_norm_eps")
    (True, True, False)
    """
    if key in HARMLESS or key.startswith(HARMLESS_STARTS) or key.endswith("_dropout"):
        return False
    return any(word in key for word in CACHE_WORDS) or key.endswith(CACHE_ENDS) or "cla" in key.split("_")


def _says_something(value: object) -> bool:
    """Whether a value is neither null, false, zero nor empty; one that JSON has not says something."""
    return not (value is None or (isinstance(value, (bool, int, float, str, list, dict)) and not value))


class Config:
    """One JSON object of a config, with its place (``where``) for messages."""

    def __init__(self, raw: object, where: builtins.str = "config.json", path: builtins.str = "") -> None:
        if not isinstance(raw, dict):
            raise InvalidInput(path or "config", raw, "a JSON object", where)
        if not all(isinstance(key, builtins.str) for key in raw):
            raise InvalidInput(path or "config", raw, "an object whose keys are text", where)
        self.raw: dict[str, Any] = raw
        self.where, self.path = where, path
        self.read: set[builtins.str] = set()
        self.defaulted: dict[builtins.str, builtins.int] = {}
        self.children: list[Config] = []
        self.notes: list[builtins.str] = []

    # --- typed access; every getter marks its key as read ----------------------------------------------------------

    def get(self, key: builtins.str, default: Any = None) -> Any:
        """The raw value, null read as the default."""
        self.read.add(key)
        value = self.raw.get(key)
        return default if value is None else value

    def has(self, key: builtins.str) -> builtins.bool:
        """Whether the key is there with a value that is not null. Marks it as read."""
        return self.get(key) is not None

    def ignore(self, *keys: builtins.str) -> None:
        """Marks keys as understood and without effect on what is planned; say why in a comment."""
        self.read.update(keys)

    def overruled(self, key: builtins.str, fact: builtins.int) -> None:
        """A number or flag that the class never looks at: what it builds counts; where they differ a note says so."""
        value = self.bool(key, fact) if isinstance(fact, bool) else self.maybe_int(key, least=0)
        if value not in (None, fact):
            stated, built = (str(v).lower() if isinstance(v, bool) else f"{v:,}" for v in (value, fact))
            line = f"the transformers class ignores {self.path}{key} ({stated}) and builds {built}; counted so here"
            self.notes += [line] if line not in self.notes else []

    def noted(self) -> list[builtins.str]:
        """Every note of this object and of those inside it."""
        return self.notes + [line for child in self.children for line in child.noted()]

    def int(
        self,
        key: builtins.str,
        default: builtins.int | None = None,
        *,
        least: builtins.int = 1,
        most: builtins.int = NUMBER_LIMIT,
    ) -> builtins.int:
        """A whole number within bounds; missing or null gives the default, or an error where there is none."""
        value = self.get(key)
        if value is None:
            if default is None:
                raise self.error(key, "missing", "a whole number (the config omits it)")
            if key in SHAPE_KEYS:
                self.defaulted[self.path + key] = default
            return default
        return self._whole(key, value, least, most)

    def maybe_int(
        self, key: builtins.str, *, least: builtins.int = 1, most: builtins.int = NUMBER_LIMIT
    ) -> builtins.int | None:
        """A whole number within bounds, or None where the key is missing or null."""
        value = self.get(key)
        return None if value is None else self._whole(key, value, least, most)

    def layers(self, key: builtins.str = "num_hidden_layers", default: builtins.int | None = None) -> builtins.int:
        """A number of layers."""
        return self.int(key, default, most=LAYER_LIMIT)

    def bool(self, key: builtins.str, default: builtins.bool = False) -> builtins.bool:
        """A boolean; 0 and 1 pass as they do in the classes."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise self.error(key, value, "true or false")

    def float(
        self,
        key: builtins.str,
        default: builtins.float | None = None,
        *,
        least: builtins.float = 0.0,
        most: builtins.float = 1e6,
    ) -> builtins.float:
        """A finite number within bounds."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise self.error(key, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def str(self, key: builtins.str, default: builtins.str | None = None) -> builtins.str:
        """A string."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        return value

    def strings(
        self,
        key: builtins.str,
        length: builtins.int | None = None,
        allowed: Iterable[builtins.str] = (),
        *,
        longer: builtins.bool = False,
    ) -> list[builtins.str] | None:
        """A list of strings of the given length, or None where the key is missing; ``longer`` lists are cut to it."""
        value = self.get(key)
        if value is None:
            return None
        known = tuple(allowed)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, value, "a list of strings")
        value = value[:length] if longer else value
        if length is not None and len(value) != length:
            raise self.error(key, f"{len(value)} entries", f"one entry per layer, {length} in all")
        for item in value:
            if known and item not in known:
                raise self.error(key, item, "one of " + ", ".join(known))
        return value

    def ints(
        self,
        key: builtins.str,
        length: builtins.int | None = None,
        *,
        least: builtins.int = 0,
        most: builtins.int = NUMBER_LIMIT,
        longer: builtins.bool = False,
    ) -> list[builtins.int] | None:
        """A list of whole numbers of the given length, or None where the key is missing; ``longer`` as for strings."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > 8 * LAYER_LIMIT:
            raise self.error(key, value, "a list of whole numbers")
        value = value[:length] if longer else value
        if length is not None and len(value) != length:
            raise self.error(key, f"{len(value)} entries", f"one entry per layer, {length} in all")
        return [self._whole(f"{key}[{i}]", item, least, most) for i, item in enumerate(value)]

    def sub(self, key: builtins.str, default: dict[builtins.str, Any] | None = None) -> Config:
        """A nested object as a reader of its own; an error where it is missing and has no default."""
        value = self.get(key, default)
        if not isinstance(value, dict):
            raise self.error(key, "missing" if value is None else value, "a JSON object")
        child = Config(value, self.where, f"{self.path}{key}.")
        self.children.append(child)
        return child

    # --- errors ------------------------------------------------------------------------------------------------------

    def error(self, key: builtins.str, value: object, rule: builtins.str) -> InvalidInput:
        """An InvalidInput that names this file and the key's full path."""
        return InvalidInput(f"{self.path}{key}", value, rule, self.where)

    def divides(self, key: builtins.str, whole: builtins.int, parts: builtins.int, what: builtins.str) -> builtins.int:
        """``whole // parts``; an error naming ``key`` where it leaves a rest."""
        if parts < 1 or whole % parts:
            raise self.error(key, parts, f"a divisor of {what} ({whole})")
        return whole // parts

    def unread(self) -> list[builtins.str]:
        """Full paths of the cache-relevant keys nobody read; null, false, empty and zero say nothing."""
        left = [
            self.path + key
            for key, value in self.raw.items()
            if key not in self.read and _says_something(value) and changes_cache(key)
        ]
        return left + [key for child in self.children for key in child.unread()]

    def assumed(self) -> dict[builtins.str, builtins.int]:
        """Shape keys that this object or one inside it omits, with the class's default that stands in."""
        found = dict(self.defaulted)
        for child in self.children:
            found |= child.assumed()
        return found

    def finish(self, model_type: builtins.str) -> None:
        """Raises UnreadKeys where a cache-relevant key was left unread."""
        left = self.unread()
        if left:
            raise UnreadKeys(self.where, model_type, left)

    def _whole(self, key: builtins.str, value: object, least: builtins.int, most: builtins.int) -> builtins.int:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, value, f"a whole number from {least} to {most}")
        if isinstance(value, float):
            if not value.is_integer():
                raise self.error(key, value, f"a whole number from {least} to {most}")
            raise self.error(key, value, f"a whole number from {least} to {most}, written without a point")
        if not least <= value <= most:
            raise self.error(key, value, f"a whole number from {least} to {most}")
        return value
