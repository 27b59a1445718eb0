"""GGUF files: the header read within strict bounds, and the model it describes.

Only metadata and tensor descriptions are read, never a tensor. What a family looks like stays with the importers of
config.json: each architecture's keys are translated into theirs. The numbers of windows per pattern are those of
llama.cpp (src/llama-model.cpp, load_hparams), for files that do not carry the pattern.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kvplan.errors import InvalidInput, UnknownName, UnreadKeys, Unsupported
from kvplan.formats import FORMATS
from kvplan.importers import from_config
from kvplan.importers.config import LAYER_LIMIT, NUMBER_LIMIT, changes_cache
from kvplan.importers.files import open_file
from kvplan.specs import ModelSpec, Quantization, QuantRule, Storage, replace
from kvplan.weights import count_parameters

__all__ = ["Gguf", "Skipped", "Tensor", "architectures", "read_gguf", "spec_from_gguf"]

READ_LIMIT = 64 * 2**20  # bytes of header; the largest published ones (vocabularies) stay below 16 MiB
ITEM_LIMIT = 4_000_000  # strings walked over in arrays, all arrays together
KEEP_LIMIT = 8192  # longer arrays (vocabularies, merges) are skipped and only their length is kept
ENTRY_LIMIT = 65_536  # metadata entries
TENSOR_LIMIT = 262_144
NAME_LIMIT = 1024
TEXT_LIMIT = 65_536  # of one string that is kept; chat templates are longer and cut

# general.file_type and tensor types, by the numbers of ggml.h; the removed repacked types had the sizes of Q4_0, IQ4_NL
TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "fp64",
    29: "iq1_m", 30: "bf16", 31: "q4_0", 32: "q4_0", 33: "q4_0", 34: "tq1_0", 35: "tq2_0", 36: "iq4_nl",
    37: "iq4_nl", 38: "iq4_nl", 39: "mxfp4", 40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip
# llama.h: the type that most tensors of a file have
FILE_TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k", 12: "q3_k",
    13: "q3_k", 14: "q4_k", 15: "q4_k", 16: "q5_k", 17: "q5_k", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k",
    22: "iq3_s", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_s", 28: "iq2_s", 29: "iq2_s",
    30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4", 39: "nvfp4", 40: "q1_0",
}  # fmt: skip


class Skipped(NamedTuple):
    """An array too long to keep: how many items it has."""

    length: int


class Tensor(NamedTuple):
    """One tensor as the header describes it; ``shape`` starts with the row, as ggml writes it."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total


class Gguf(NamedTuple):
    """The header of one file, or of all files of a split one."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    missing: int = 0  # files of a split model that are absent


# --- the header ------------------------------------------------------------------------------------------------------

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class _Reader:
    """A bounded cursor over the head of a file."""

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self.file, self.where = file, where
        self.left = min(size, READ_LIMIT)
        self.items = ITEM_LIMIT

    def error(self, field: str, value: object, rule: str) -> InvalidInput:
        return InvalidInput(field, value, rule, self.where)

    def take(self, count: int, field: str) -> bytes:
        self._spend(count, field)
        data = self.file.read(count)
        if len(data) < count:
            raise self.error(field, "the file ends here", "a complete GGUF header")
        return data

    def skip(self, count: int, field: str) -> None:
        self._spend(count, field)
        if count < 4096:
            self.file.read(count)
        else:
            self.file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int, field: str) -> None:
        if count > self.left:
            raise self.error(field, f"{count} bytes more", f"a complete GGUF header of at most {READ_LIMIT} bytes")
        self.left -= count

    def number(self, kind: str, field: str) -> Any:
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind), field))
        return value

    def text(self, field: str, limit: int = NAME_LIMIT) -> str:
        length = self.number("<Q", field)
        if length > limit:
            raise self.error(field, f"{length} characters", f"at most {limit}")
        try:
            return self.take(length, field).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(field, "bytes that are not UTF-8", "UTF-8 text") from None

    def value(self, kind: int, field: str) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind], field)
        if kind == STRING:
            length = self.number("<Q", field)
            kept = self.take(min(length, TEXT_LIMIT), field)
            self.skip(length - len(kept), field)
            return kept.decode("utf-8", errors="replace")
        if kind == ARRAY:
            return self.array(field)
        raise self.error(field, f"value type {kind}", "one of the 13 value types of GGUF")

    def array(self, field: str) -> Any:
        kind, length = self.number("<I", field), self.number("<Q", field)
        if kind in SCALARS:
            width = struct.calcsize(SCALARS[kind])
            if length > KEEP_LIMIT:
                self.skip(length * width, field)
                return Skipped(length)
            data = self.take(length * width, field)
            return [value for (value,) in struct.iter_unpack(SCALARS[kind], data)]
        if kind != STRING:
            raise self.error(field, f"an array of type {kind}", "an array of numbers, booleans or strings")
        if length > self.items or 8 * length > self.left:
            raise self.error(field, f"{length} strings", "a complete array that a vocabulary could be")
        self.items -= length
        if length > KEEP_LIMIT:
            for _ in range(length):
                self.skip(self.number("<Q", field), field)
            return Skipped(length)
        return [self.value(STRING, field) for _ in range(length)]


def read_gguf(path: str | os.PathLike[str]) -> Gguf:
    """Metadata and tensor descriptions of one GGUF file (version 2 or 3, little-endian).

    At most 64 MiB are read, tensors never. Raises InvalidInput for a file that is not a GGUF or is cut short,
    Unsupported for an older version, the other byte order or a tensor type without a known size.
    """
    place = Path(path)
    file, size = open_file(place, "gguf")
    with file:
        try:
            return _read(_Reader(file, size, str(place)))
        except OSError as e:
            raise InvalidInput("gguf", str(place), f"a readable file ({e.strerror})") from None


def _read(reader: _Reader) -> Gguf:
    if reader.left < 4 or reader.take(4, "magic") != b"GGUF":
        raise reader.error("magic", "not GGUF", "a GGUF file")
    version = reader.number("<I", "version")
    if version not in (2, 3):
        what = "big-endian GGUF" if version & 0xFFFF == 0 else f"GGUF version {version}"
        raise Unsupported(f"{reader.where}: {what} cannot be read; versions 2 and 3, little-endian, can")
    tensor_count, entry_count = reader.number("<Q", "tensor_count"), reader.number("<Q", "metadata_kv_count")
    for field, count, limit, least in (
        ("metadata_kv_count", entry_count, ENTRY_LIMIT, 13),
        ("tensor_count", tensor_count, TENSOR_LIMIT, 24),
    ):
        if count > min(limit, reader.left // least):
            raise reader.error(field, count, f"at most {limit}, and no more than the file has room for")
    metadata: dict[str, Any] = {}
    for i in range(entry_count):
        key = reader.text(f"metadata[{i}].key")
        if key in metadata:
            raise reader.error(key[:100], "twice", "each key once")
        metadata[key] = reader.value(reader.number("<I", key[:100]), key[:100])
    tensors, names = [], set()
    for i in range(tensor_count):
        tensor = _tensor(reader, i)
        if tensor.name in names:
            raise reader.error(tensor.name[:100], "twice", "each tensor once")
        names.add(tensor.name)
        tensors.append(tensor)
    return Gguf(version, metadata, tuple(tensors))


def _tensor(reader: _Reader, index: int) -> Tensor:
    name = reader.text(f"tensor[{index}].name")
    field = name[:100] or f"tensor[{index}]"
    dims = reader.number("<I", field)
    if dims > 8:
        raise reader.error(f"{field}.n_dims", dims, "at most 8")
    shape = tuple(reader.number("<Q", field) for _ in range(dims)) or (1,)
    elements = 1
    for extent in shape:
        elements *= extent
        if not 0 < elements < 2**56:
            raise reader.error(f"{field}.shape", shape, "positive extents, fewer than 2^56 elements")
    kind = reader.number("<I", field)
    reader.number("<Q", field)  # where the data lies
    if kind not in TYPES:
        raise Unsupported(f"{reader.where}: tensor {field} has ggml type {kind}, whose size is not known here")
    format_ = FORMATS[TYPES[kind]]
    if shape[0] % format_.block:
        raise reader.error(f"{field}.shape", shape, f"rows that are a multiple of {format_.block} ({format_.name})")
    return Tensor(name, shape, format_.name, elements // format_.block * format_.block_bits // 8)


SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


def _read_all(path: Path) -> Gguf:
    """The header of a file, with the tensors of its sisters where the model is split over several."""
    match = SPLIT.match(path.name)
    if match is None:
        return read_gguf(path)
    count = int(match[3])
    sisters = [path.with_name(f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf") for i in range(min(count, 1000))]
    present = [sister for sister in sisters if sister.exists()]
    first = read_gguf(sisters[0] if sisters and sisters[0] in present else path)
    tensors = list(first.tensors)
    for sister in present:
        if sister != sisters[0]:
            tensors += read_gguf(sister).tensors
    return Gguf(first.version, first.metadata, tuple(tensors), count - len(present))


# --- facts of one file -----------------------------------------------------------------------------------------------


class _Facts:
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
        return InvalidInput(f"{self.arch}.{key}", value, rule, self.where)

    def get(self, key: str) -> Any:
        self.read.add(key)
        return self.metadata.get(f"{self.arch}.{key}")

    def has(self, key: str) -> bool:
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
Change = Callable[[_Facts, Keys], None]


def _common(f: _Facts) -> Keys:
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


def _same_value_width(f: _Facts) -> None:
    keys = f.get("attention.key_length")
    values = f.get("attention.value_length")
    if values is not None and keys is not None and values != keys:
        raise f.error("attention.value_length", values, f"attention.key_length ({keys}): this family has one head_dim")


def _experts(f: _Facts, d: Keys, name: str = "num_experts") -> None:
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


def _windows(every: int, default: int | None = None) -> Change:
    """Layers in a pattern of window and full attention."""

    def change(f: _Facts, d: Keys) -> None:
        window = f.whole("attention.sliding_window", default or 0)
        if not window:
            d["sliding_window"] = None
            d["layer_types"] = ["full_attention"] * f.layers
            return
        d["sliding_window"] = window
        kinds = ("full_attention", "sliding_attention")
        d["layer_types"] = [kinds[flag] for flag in f.slides(every)]

    return change


def _llama(f: _Facts, d: Keys) -> None:
    if f.whole("expert_count", 0):
        d["model_type"] = "mixtral"
        d["num_local_experts"] = f.whole("expert_count")
        d["num_experts_per_tok"] = f.whole("expert_used_count", least=1)
        d["sliding_window"] = None


def _no_window(f: _Facts, d: Keys) -> None:
    d["sliding_window"] = None  # llama.cpp runs these without their window


def _llama4(f: _Facts, d: Keys) -> None:
    d["num_local_experts"] = f.whole("expert_count", least=1)
    d["num_experts_per_tok"] = f.whole("expert_used_count", least=1)
    d["intermediate_size_mlp"] = d.get("intermediate_size")
    d["intermediate_size"] = f.whole("expert_feed_forward_length", least=1)
    d["interleave_moe_layer_step"] = f.whole("interleave_moe_layer_step", 1, least=1)
    if f.get("attention.sliding_window") == 0:
        d["layer_types"] = ["full_attention"] * f.layers
    else:
        d["attention_chunk_size"] = f.whole("attention.chunk_size", 8192, least=1)


def _internlm2(f: _Facts, d: Keys) -> None:
    d.setdefault("bias", False)  # published files have none, and the class's default is true


def _qwen(f: _Facts, d: Keys) -> None:
    d.pop("num_key_value_heads", None)
    d["kv_channels"] = d.pop("head_dim", None) or f.hidden // max(d.get("num_attention_heads", 1), 1)
    d["seq_length"] = d["max_position_embeddings"]


def _qwen_moe(f: _Facts, d: Keys) -> None:
    _experts(f, d)
    if f.has("expert_shared_feed_forward_length"):
        d["shared_expert_intermediate_size"] = f.whole("expert_shared_feed_forward_length")
    elif (shape := f.tensor("ffn_up_shexp.weight")) is not None and len(shape) > 1:
        d["shared_expert_intermediate_size"] = shape[1]
    d["qkv_bias"] = d.get("attention_bias", True)


def _delta(f: _Facts, d: Keys) -> None:
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
        _qwen_moe(f, d)


def _gemma3n(f: _Facts, d: Keys) -> None:
    _windows(5)(f, d)
    d["intermediate_size"] = f.per_layer("feed_forward_length")
    d["num_kv_shared_layers"] = f.whole("attention.shared_kv_layers", max(f.layers - 20, 0))
    d["altup_num_inputs"] = f.whole("altup.num_inputs", 4)
    d["hidden_size_per_layer_input"] = f.whole("embedding_length_per_layer_input", 256)
    table = f.shapes.get("per_layer_token_embd.weight")
    d["vocab_size_per_layer_input"] = table[1] if table is not None and len(table) > 1 else None
    if (left := f.tensor("laurel_l.weight")) is not None and len(left) > 1:
        d["laurel_rank"] = left[1]


def _gemma4(f: _Facts, d: Keys) -> None:
    _windows(6)(f, d)
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
        _experts(f, d)
        d["top_k_experts"] = d["num_experts_per_tok"]


def _falcon(f: _Facts, d: Keys) -> None:
    kv_heads, heads = d.get("num_key_value_heads"), d.get("num_attention_heads")
    grouped = kv_heads not in (1, heads) or f.some("attn_norm_2.weight")
    d["new_decoder_architecture"] = grouped
    d["multi_query"] = kv_heads == 1
    d["num_kv_heads"] = kv_heads
    d.pop("num_key_value_heads", None)
    d["num_ln_in_parallel_attn"] = 2 if f.some("attn_norm_2.weight") or (not f.shapes and grouped) else 1
    d["ffn_hidden_size"] = d.get("intermediate_size")
    d["bias"] = f.some("ffn_up.bias")


def _gpt2(f: _Facts, d: Keys) -> None:
    d["n_inner"] = d.get("intermediate_size")


def _starcoder(f: _Facts, d: Keys) -> None:
    _gpt2(f, d)
    d["multi_query"] = d.pop("num_key_value_heads", None) == 1


def _starcoder2(f: _Facts, d: Keys) -> None:
    d["use_bias"] = not f.shapes or f.some("attn_output.bias")


def _stablelm(f: _Facts, d: Keys) -> None:
    d["qk_layernorm"] = f.some("attn_q_norm.weight")
    if f.has("use_parallel_residual"):
        d["use_parallel_residual"] = bool(f.get("use_parallel_residual")) and not f.some("ffn_norm.weight")


def _mpt(f: _Facts, d: Keys) -> None:
    heads, kv_heads = d.get("num_attention_heads"), d.pop("num_key_value_heads", None)
    grouped = kv_heads not in (None, heads)
    attention = {"attn_type": "grouped_query_attention", "kv_n_heads": kv_heads} if grouped else {}
    d["attn_config"] = {**attention, "qk_ln": f.some("attn_q_norm.weight")}
    d["max_seq_len"] = d["max_position_embeddings"]
    d["expansion_ratio"] = (d.get("intermediate_size") or 4 * f.hidden) // f.hidden


def _cohere(f: _Facts, d: Keys) -> None:
    d["use_qk_norm"] = f.some("attn_q_norm.weight")


def _olmo2(f: _Facts, d: Keys) -> None:
    if f.whole("attention.sliding_window", 0):
        d["model_type"] = "olmo3"
        _windows(4)(f, d)


def _deepseek(f: _Facts, d: Keys) -> None:
    _experts(f, d, "n_routed_experts")
    d["n_shared_experts"] = f.whole("expert_shared_count", 0)


def _latent(f: _Facts, d: Keys) -> None:
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


def _deepseek2(f: _Facts, d: Keys) -> None:
    _latent(f, d)
    _deepseek(f, d)
    if f.whole("expert_gating_func", 0) == 2:  # sigmoid: V3 and its successors
        d["model_type"] = "deepseek_v3"


def _glm_dsa(f: _Facts, d: Keys) -> None:
    _latent(f, d)
    _deepseek(f, d)
    d["index_n_heads"] = f.whole("attention.indexer.head_count", least=1)
    d["index_head_dim"] = f.whole("attention.indexer.key_length", least=1)
    d["index_topk"] = f.whole("attention.indexer.top_k", least=1)


def _minicpm3(f: _Facts, d: Keys) -> None:
    _latent(f, d)
    d["v_head_dim"] = None  # hidden / heads, as llama.cpp computes it


def _chatglm(f: _Facts, d: Keys) -> None:
    d["num_layers"] = d.pop("num_hidden_layers")
    d["padded_vocab_size"] = d.pop("vocab_size")
    d["ffn_hidden_size"] = d.get("intermediate_size")
    d["multi_query_attention"] = True
    d["multi_query_group_num"] = d.pop("num_key_value_heads", 1)
    d["kv_channels"] = d.pop("head_dim", None) or f.hidden // max(d.get("num_attention_heads", 1), 1)
    d["seq_length"] = d["max_position_embeddings"]
    d["add_qkv_bias"] = d.get("attention_bias", True)
    d["add_bias_linear"] = False


def _glm4_moe(f: _Facts, d: Keys) -> None:
    _deepseek(f, d)
    d["use_qk_norm"] = f.some("attn_q_norm.weight")


def _state(f: _Facts) -> tuple[int, int]:
    """Heads of a Mamba 2 mixer and its inner width."""
    heads, inner = f.whole("ssm.time_step_rank", least=1), f.whole("ssm.inner_size", least=1)
    if inner % heads:
        raise f.error("ssm.inner_size", inner, f"a multiple of ssm.time_step_rank ({heads})")
    return heads, inner


def _expand(f: _Facts, inner: int) -> int:
    if inner % f.hidden:
        raise f.error("ssm.inner_size", inner, f"a multiple of embedding_length ({f.hidden})")
    return inner // f.hidden


def _mamba(f: _Facts, d: Keys) -> None:
    d["intermediate_size"] = f.whole("ssm.inner_size", least=1)
    d["state_size"] = f.whole("ssm.state_size", least=1)
    d["conv_kernel"] = f.whole("ssm.conv_kernel", least=1)
    d["time_step_rank"] = f.whole("ssm.time_step_rank", least=1)
    d["use_bias"] = f.some("ssm_in.bias")
    if f.get("ssm.dt_b_c_rms"):
        d["model_type"] = "falcon_mamba"


def _mamba2(f: _Facts, d: Keys) -> None:
    heads, inner = _state(f)
    d["num_heads"], d["head_dim"], d["expand"] = heads, inner // heads, _expand(f, inner)
    d["n_groups"] = f.whole("ssm.group_count", least=1)
    d["state_size"] = f.whole("ssm.state_size", least=1)
    d["conv_kernel"] = f.whole("ssm.conv_kernel", least=1)
    d["use_bias"] = f.some("ssm_in.bias")


def _attention_layers(f: _Facts, d: Keys) -> list[bool]:
    """Which layers attend: those with KV heads. Sets the one number of heads that they have."""
    kv_heads = f.per_layer("attention.head_count_kv")
    counts = {n for n in kv_heads if n}
    heads = {n for n in f.per_layer("attention.head_count") if n}
    if len(counts) > 1 or len(heads) > 1:
        raise f.error("attention.head_count_kv", kv_heads, "one number of heads for all layers that attend")
    if counts and heads:
        d["num_key_value_heads"], d["num_attention_heads"] = max(counts), max(heads)
    return [n > 0 for n in kv_heads]


def _jamba(f: _Facts, d: Keys) -> None:
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


def _period(f: _Facts, key: str, flags: list[bool]) -> tuple[int, int]:
    """Period and offset of a regular pattern."""
    chosen = [i for i, flag in enumerate(flags) if flag]
    if not chosen:
        raise f.error(key, "no layer", "at least one layer of the kind")
    period = chosen[1] - chosen[0] if len(chosen) > 1 else max(f.layers, 1)
    if chosen[0] >= period or [i % period == chosen[0] for i in range(f.layers)] != flags:
        raise f.error(key, chosen, "layers at regular distances")
    return period, chosen[0]


def _mamba_beside(f: _Facts, d: Keys) -> None:
    heads, inner = _state(f)
    d["mamba_n_heads"], d["mamba_d_head"] = heads, inner // heads
    d["mamba_n_groups"] = f.whole("ssm.group_count", least=1)
    d["mamba_d_state"] = f.whole("ssm.state_size", least=1)
    d["mamba_d_conv"] = f.whole("ssm.conv_kernel", least=1)


def _falcon_h1(f: _Facts, d: Keys) -> None:
    _mamba_beside(f, d)
    d["mamba_d_ssm"] = f.whole("ssm.inner_size", least=1)
    d["mamba_rms_norm"] = f.some("ssm_norm.weight")


def _granite_hybrid(f: _Facts, d: Keys) -> None:
    attends = _attention_layers(f, d)
    _mamba_beside(f, d)
    d["mamba_expand"] = _expand(f, f.whole("ssm.inner_size", least=1))
    d["layer_types"] = ["attention" if flag else "mamba" for flag in attends]
    width = max(f.per_layer("feed_forward_length"))
    d["intermediate_size"] = f.whole("expert_feed_forward_length", width, least=1)
    d["shared_intermediate_size"] = f.whole("expert_shared_feed_forward_length", width, least=1)
    d["num_local_experts"] = f.whole("expert_count", 0)
    d["num_experts_per_tok"] = f.whole("expert_used_count", 0) or 1


def _nemotron_h(f: _Facts, d: Keys) -> None:
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
        _experts(f, d, "n_routed_experts")
        shared = f.whole("expert_shared_feed_forward_length", 0)
        d["moe_shared_expert_intermediate_size"] = shared or None
        d["moe_latent_size"] = f.whole("moe_latent_size", 0) or None


def _rwkv6(f: _Facts, d: Keys) -> None:
    d["head_size"] = f.whole("wkv.head_size", least=1)


def _exaone(f: _Facts, d: Keys) -> None:
    d["num_layers"] = d["num_hidden_layers"]


def _exaone4(f: _Facts, d: Keys) -> None:
    _windows(4, 4096 if f.layers == 64 else None)(f, d)


def _gpt_oss(f: _Facts, d: Keys) -> None:
    _windows(2)(f, d)
    _experts(f, d, "num_local_experts")
    d["intermediate_size"] = d["moe_intermediate_size"]
    d["attention_bias"] = True


def _lfm2(f: _Facts, d: Keys) -> None:
    d["layer_types"] = ["full_attention" if flag else "conv" for flag in _attention_layers(f, d)]
    d["conv_L_cache"] = f.whole("shortconv.l_cache", least=2)
    d["block_auto_adjust_ff_dim"] = False


def _minimax_m2(f: _Facts, d: Keys) -> None:
    _experts(f, d, "num_local_experts")
    d["intermediate_size"] = d["moe_intermediate_size"]


def _hunyuan_moe(f: _Facts, d: Keys) -> None:
    _experts(f, d)
    shared, width = f.whole("expert_shared_feed_forward_length", 0), d["moe_intermediate_size"]
    if not width or shared % width:
        raise f.error("expert_shared_feed_forward_length", shared, f"a multiple of an expert's width ({width})")
    d["moe_topk"] = d["num_experts_per_tok"]
    d["num_shared_expert"] = shared // width
    d["use_mixed_mlp_moe"] = shared > 0
    d["use_qk_norm"] = not f.shapes or f.some("attn_q_norm.weight")
    d["attention_head_dim"] = d.get("head_dim")


def _ernie_moe(f: _Facts, d: Keys) -> None:
    _experts(f, d, "moe_num_experts")
    width = d["moe_intermediate_size"]
    shared = f.whole("expert_shared_feed_forward_length", 0)
    if not width or shared % width:
        raise f.error("expert_shared_feed_forward_length", shared, f"a multiple of an expert's width ({width})")
    d["moe_k"] = d["num_experts_per_tok"]
    d["moe_num_shared_experts"] = shared // width
    d["moe_layer_start_index"] = f.whole("leading_dense_block_count", 0)
    d["moe_layer_interval"] = f.whole("interleave_moe_layer_step", 1, least=1)


def _deci(f: _Facts, d: Keys) -> None:
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


def _mimo2(f: _Facts, d: Keys) -> None:
    slides = f.slides(6)
    kv_heads = f.per_layer("attention.head_count_kv")
    d["hybrid_layer_pattern"] = [int(flag) for flag in slides]
    d["num_key_value_heads"] = next((n for n, flag in zip(kv_heads, slides, strict=True) if not flag), kv_heads[0])
    d["swa_num_key_value_heads"] = next((n for n, flag in zip(kv_heads, slides, strict=True) if flag), kv_heads[0])
    d["v_head_dim"] = f.whole("attention.value_length", least=1)
    d["sliding_window"] = f.whole("attention.sliding_window", least=1)
    _experts(f, d, "n_routed_experts")
    d["intermediate_size"] = max(f.per_layer("feed_forward_length"))
    d["attention_bias"] = False


class _Arch(NamedTuple):
    model_type: str
    change: Change | None = None
    uneven: bool = False  # keys and values may differ in width


# general.architecture -> the config.json type it becomes, and what is special about its keys.
ARCHITECTURES: dict[str, _Arch] = {
    "llama": _Arch("llama", _llama),
    "llama4": _Arch("llama4_text", _llama4),
    "deci": _Arch("nemotron-nas", _deci),
    "mistral3": _Arch("ministral3", _no_window),
    "mistral4": _Arch("mistral4", _deepseek2, True),
    "qwen": _Arch("qwen", _qwen),
    "qwen2": _Arch("qwen2"),
    "qwen2vl": _Arch("qwen2"),
    "qwen2moe": _Arch("qwen2_moe", _qwen_moe),
    "qwen3": _Arch("qwen3"),
    "qwen3vl": _Arch("qwen3"),
    "qwen3moe": _Arch("qwen3_moe", _qwen_moe),
    "qwen3vlmoe": _Arch("qwen3_moe", _qwen_moe),
    "qwen3next": _Arch("qwen3_next", _delta),
    "qwen35": _Arch("qwen3_5_text", _delta),
    "qwen35moe": _Arch("qwen3_5_moe_text", _delta),
    "gemma": _Arch("gemma"),
    "gemma2": _Arch("gemma2", _windows(2, 4096)),
    "gemma3": _Arch("gemma3_text", _windows(6)),
    "gemma3n": _Arch("gemma3n_text", _gemma3n),
    "gemma4": _Arch("gemma4_text", _gemma4),
    "phi2": _Arch("phi"),
    "phi3": _Arch("phi3", _no_window),
    "falcon": _Arch("falcon", _falcon),
    "gpt2": _Arch("gpt2", _gpt2),
    "gptneox": _Arch("gpt_neox"),
    "bloom": _Arch("bloom"),
    "mpt": _Arch("mpt", _mpt),
    "starcoder": _Arch("gpt_bigcode", _starcoder),
    "starcoder2": _Arch("starcoder2", _starcoder2),
    "stablelm": _Arch("stablelm", _stablelm),
    "command-r": _Arch("cohere", _cohere),
    "cohere2": _Arch("cohere2", _windows(4)),
    "olmo": _Arch("olmo"),
    "olmo2": _Arch("olmo2", _olmo2),
    "internlm2": _Arch("internlm2", _internlm2),
    "baichuan": _Arch("baichuan"),
    "xverse": _Arch("xverse"),
    "orion": _Arch("orion"),
    "minicpm": _Arch("minicpm"),
    "minicpm3": _Arch("minicpm3", _minicpm3, True),
    "bitnet": _Arch("bitnet"),
    "chatglm": _Arch("chatglm", _chatglm),
    "glm4": _Arch("glm4"),
    "glm4moe": _Arch("glm4_moe", _glm4_moe),
    "glm-dsa": _Arch("glm_moe_dsa", _glm_dsa, True),
    "deepseek": _Arch("deepseek", _deepseek),
    "deepseek2": _Arch("deepseek_v2", _deepseek2, True),
    "granite": _Arch("granite"),
    "granitehybrid": _Arch("granitemoehybrid", _granite_hybrid),
    "nemotron_h": _Arch("nemotron_h", _nemotron_h),
    "nemotron_h_moe": _Arch("nemotron_h", _nemotron_h),
    "mamba": _Arch("mamba", _mamba),
    "mamba2": _Arch("mamba2", _mamba2),
    "jamba": _Arch("jamba", _jamba),
    "falcon-h1": _Arch("falcon_h1", _falcon_h1),
    "rwkv6": _Arch("rwkv6", _rwkv6),
    "exaone": _Arch("exaone", _exaone),
    "exaone4": _Arch("exaone4", _exaone4),
    "smollm3": _Arch("smollm3"),
    "seed_oss": _Arch("seed_oss"),
    "apertus": _Arch("apertus"),
    "ernie4_5": _Arch("ernie4_5"),
    "ernie4_5-moe": _Arch("ernie4_5_moe", _ernie_moe),
    "hunyuan-dense": _Arch("hunyuan_v1_dense"),
    "hunyuan-moe": _Arch("hunyuan", _hunyuan_moe),
    "gpt-oss": _Arch("gpt_oss", _gpt_oss),
    "lfm2": _Arch("lfm2", _lfm2),
    "minimax-m2": _Arch("minimax_m2", _minimax_m2),
    "mimo2": _Arch("mimo_v2_flash", _mimo2, True),
}


def architectures() -> tuple[str, ...]:
    """Names of ``general.architecture`` that can be read."""
    return tuple(sorted(ARCHITECTURES))


# --- the model -------------------------------------------------------------------------------------------------------


def spec_from_gguf(path: str | os.PathLike[str]) -> ModelSpec:
    """The spec of a GGUF file, with the exact bytes of its tensors where it holds any.

    A file of metadata alone is valid: its weight bytes then follow from shapes, with ``general.file_type`` for the
    format. Files of a split model count together. Raises UnknownName for an architecture that is not known,
    InvalidInput for a broken header, Unsupported for adapters and projectors.
    """
    place = Path(path)
    gguf = _read_all(place)
    where = str(place)
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise InvalidInput("general.architecture", arch, "the name of an architecture, e.g. llama", where)
    kind = gguf.metadata.get("general.type", "model")
    if kind != "model" or arch == "clip":
        raise Unsupported(f"{where}: holds a {'projector' if arch == 'clip' else str(kind)[:40]}, not a language model")
    if arch not in ARCHITECTURES:
        hint = "or describe the model with --layers --kv-heads --head-dim …"
        raise UnknownName("GGUF architecture", arch, ARCHITECTURES, hint)
    facts = _Facts(gguf, arch, where)
    about = ARCHITECTURES[arch]
    d = _common(facts)
    d["model_type"] = about.model_type
    if not about.uneven:
        _same_value_width(facts)
    if about.change is not None:
        about.change(facts, d)
    main = _main_type(gguf)
    d["torch_dtype"] = "bfloat16" if main == "bf16" else "float16"
    name = gguf.metadata.get("general.name")
    keys = {key: value for key, value in d.items() if value is not None or key in NULLS}
    spec = from_config(keys, name if isinstance(name, str) and name else place.stem, where)
    return _with_weights(replace(spec, notes=spec.notes + _unread(facts)), gguf, facts, main)


def _unread(facts: _Facts) -> tuple[str, ...]:
    """A note for a window that llama.cpp does not apply to this architecture; other unread cache keys are an error."""
    prefix = f"{facts.arch}."
    left = [
        key.removeprefix(prefix)
        for key, value in facts.metadata.items()
        if key.startswith(prefix) and changes_cache(key.removeprefix(prefix)) and value not in (0, False, [], "")
    ]
    left = [key for key in left if key not in facts.read]
    windows = [key for key in left if "sliding" in key or "window" in key]
    if set(left) - set(windows):
        raise UnreadKeys(facts.where, facts.arch, [prefix + key for key in left])
    return tuple(f"{prefix}{key} is ignored, as llama.cpp does for this architecture" for key in windows)


# Keys whose null means something else than a missing key.
NULLS = {"sliding_window", "q_lora_rank"}


def _main_type(gguf: Gguf) -> str:
    """The type that most elements have, else what ``general.file_type`` says, else f16."""
    counts: dict[str, int] = {}
    for tensor in gguf.tensors:
        if len(tensor.shape) > 1:
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.elements
    if counts:
        return max(counts, key=lambda name: counts[name])
    stated = gguf.metadata.get("general.file_type")
    return FILE_TYPES.get(stated & 1023, "fp16") if isinstance(stated, int) else "fp16"


def _storage(name: str) -> Storage:
    format_ = FORMATS[name]
    return Storage(name, format_.block, format_.block_bits)


def _with_weights(spec: ModelSpec, gguf: Gguf, f: _Facts, main: str) -> ModelSpec:
    """Adds the bytes of the tensors, or the format that a file without tensors states."""
    notes = list(spec.notes)
    if any(f.arch == arch for arch in ("phi3", "mistral3")) and f.has("attention.sliding_window"):
        notes.append(f"llama.cpp runs {f.arch} without its window of {f.get('attention.sliding_window')}")
    rules = []
    for module, tensor_name in (("lm_head", "output.weight"), ("embed_tokens", "token_embd.weight")):
        found = [tensor.type for tensor in gguf.tensors if tensor.name == tensor_name]
        rules += [QuantRule(f"^{module}$", _storage(kind)) for kind in found if kind != main]
    # llama.cpp keeps routers in fp32
    rules.append(QuantRule(r"\.(?:gate|router|shared_expert_gate)(?:\.\w+)?$", _storage("fp32")))
    quantization = Quantization("gguf", _storage(main), tuple(rules), lookups=True)
    complete = bool(gguf.tensors) and not gguf.missing
    changes: dict[str, Any] = {"quantization": quantization}
    if gguf.missing:
        notes.append(f"{gguf.missing} files of this split model are absent: weight bytes follow from shapes")
        changes["weight_source"] = f"shapes x the main type {main}, tensor headers being absent"
    elif not complete:
        notes.append(f"the file holds no tensors: weight bytes follow from shapes and its main type {main}")
        changes["weight_source"] = f"shapes x the main type {main}, the file holding no tensors"
    if complete:
        total = sum(tensor.bytes for tensor in gguf.tensors)
        changes["weight_bytes"] = total
        changes["weight_source"] = f"tensor headers of the GGUF file ({len(gguf.tensors)} tensors, mostly {main})"
        difference = _difference(spec, gguf, f)
        if difference:
            notes.append(f"the file's tensors hold {difference:+,} elements compared with what its metadata describes")
    return replace(spec, notes=tuple(notes), **changes)


# Tensors that are no parameters of the model: rotary tables, quantisation scales, the router's correction buffer.
NOT_PARAMETERS = re.compile(r"^rope_|\.rope_freqs|rope_factors|\.scale$|\.input_scale$|^token_types")
CORRECTION = "exp_probs_b"


def _difference(spec: ModelSpec, gguf: Gguf, f: _Facts) -> int:
    """Elements of the tensors less the parameters that the spec counts; 0 where they agree."""
    elements = corrections = 0
    for tensor in gguf.tensors:
        layer = re.match(r"blk\.(\d{1,6})\.", tensor.name)
        if NOT_PARAMETERS.search(tensor.name) or (layer and int(layer[1]) >= f.layers):
            continue
        if CORRECTION in tensor.name:
            corrections += tensor.elements
        else:
            elements += tensor.elements
    counted = count_parameters(spec)
    return 0 if counted in (elements, elements + corrections) else elements + corrections - counted
