"""How a checkpoint stores its weights: ``quantization_config``, ``compression_config`` or MLX's ``quantization``.

One small function per method says what one matrix takes; which modules it touches comes from the lists that the
config holds. A method that nobody here knows gives a Quantization whose ``known`` is False: weight bytes then become
an Omission, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from kvplan.importers.config import Config
from kvplan.specs import PLAIN, Quantization, QuantRule, Storage

__all__ = ["read_quantization"]

NAME_LIMIT = 300  # characters of a module name or pattern
ENTRY_LIMIT = 200_000  # entries of a list of modules: a file names every expert of every layer at most

NESTED = ("text_config", "language_config", "llm_config", "thinker_config")

# Modules that stay in dtype unless the file names them: every walker leaves the output embedding alone, routers are
# parameters or small matrices that no published checkpoint quantises, and DeepSeek's indexer weights stay in 16 bits.
HEAD = QuantRule(r"(?:^|\.)lm_head$", PLAIN)
ROUTERS = QuantRule(r"\.(?:gate|router|shared_expert_gate)(?:\.\w+)?$", PLAIN)
# DeepSeek V4's hyper-connections and the compressors of its caches are neither.
INDEXER = QuantRule(r"\.weights_proj$|(?:^|\.)hc_\w+\.fn$|\.compressor\.\w+$", PLAIN)
TOWER_WORDS = ("vision", "visual", "audio", "speech", "image", "tower", "projector")


def read_quantization(config: Config) -> tuple[Quantization | None, str | None]:
    """The weight formats of a config and the KV dtype it states; None for what it does not state.

    Looks at the top of the file first, then in nested text configs. Raises InvalidInput for a value that cannot be.
    """
    found = _find(config)
    if found is None:
        return None, None
    c, key = found
    method = _method(c, key)
    reader = METHODS.get(method)
    quantization = reader(c, config) if reader else Quantization(method)
    return quantization, _kv_dtype(c)


def _find(config: Config) -> tuple[Config, str] | None:
    readers = [config]
    for _ in range(2):
        readers += [
            Config(reader.raw[key], config.where, f"{reader.path}{key}.")
            for reader in list(readers)
            for key in NESTED
            if isinstance(reader.raw.get(key), dict)
        ]
    for reader in readers:
        for key in ("quantization_config", "compression_config", "quantization"):
            value = reader.raw.get(key)
            if value is None or value == {}:
                continue
            if not isinstance(value, dict):
                raise reader.error(key, value, "a JSON object")
            inner = value.get("quantization")  # modelopt's own file, pasted whole
            if isinstance(inner, dict):
                value = {"quant_method": "modelopt", **inner}
            return Config(value, config.where, f"{reader.path}{key}."), key
    return None


def _method(c: Config, key: str) -> str:
    named = c.get("quant_method")
    if named is not None:
        return c.str("quant_method").lower().replace("_", "-").removeprefix("intel/")[:NAME_LIMIT]
    if c.has("quant_algo"):
        return "modelopt"
    if c.has("config_groups"):
        return "compressed-tensors"
    if c.has("load_in_4bit") or c.has("load_in_8bit"):
        return "bitsandbytes"
    if c.has("bits") and c.has("group_size"):
        return "mlx"
    return "unnamed"


# --- which modules ---------------------------------------------------------------------------------------------------


def _names(c: Config, *keys: str) -> list[str]:
    """The strings of the first of these lists that is there."""
    for key in keys:
        value = c.get(key)
        if isinstance(value, str):
            value = [value]
        if value is None:
            continue
        if not isinstance(value, list) or len(value) > ENTRY_LIMIT:
            raise c.error(key, value, "a list of module names")
        for item in value:
            if not isinstance(item, str) or len(item) > NAME_LIMIT:
                raise c.error(key, item, f"module names of at most {NAME_LIMIT} characters")
        return value
    return []


def _rules(c: Config, key: str, names: Iterable[str], storage: Storage) -> list[QuantRule]:
    """Rules that match these module names: literal names, globs (``*``), or expressions written ``re:…``.

    Names that differ in layer or expert numbers alone become one rule, so that 20,000 names stay a handful of rules.
    """
    rules: list[QuantRule] = []
    templates: dict[tuple[str, ...], list[set[str]]] = {}
    for name in names:
        if name.startswith("re:"):
            rules.append(QuantRule(_guarded(c, key, name[3:]), storage))
            continue
        name = re.sub(r"\*+", "*", name)
        if name.count("*") > 4:
            raise c.error(key, name, "module names with at most 4 stars")
        steps = _local(name)
        if not steps or steps[-1].endswith(("norm", "bias")):
            continue  # vectors are never quantised
        template = tuple("#" if step.isascii() and step.isdigit() else step for step in steps)
        numbers = [step for step in steps if step.isascii() and step.isdigit()]
        seen = templates.setdefault(template, [set() for _ in numbers])
        for known, number in zip(seen, numbers, strict=True):
            known.add(number)
    for template, seen in templates.items():
        numbers_at = iter(seen)
        path = [
            "(?:" + "|".join(sorted(next(numbers_at), key=int)) + ")" if step == "#" else _glob(step)
            for step in template
        ]
        rules.append(QuantRule(r"(?:^|\.)" + r"\.".join(path) + r"(?:\.|$)", storage))
    return rules


def _by_storage(c: Config, key: str, pairs: Iterable[tuple[str, Storage]]) -> list[QuantRule]:
    """Rules for modules that are each given a storage of their own."""
    names: dict[Storage, list[str]] = {}
    for name, storage in pairs:
        names.setdefault(storage, []).append(name)
    return [rule for storage, group in names.items() for rule in _rules(c, key, group, storage)]


def _local(name: str) -> list[str]:
    """The steps of a module path without the wrappers around a decoder: they differ between files of one model."""
    steps = name.strip().removesuffix(".weight").split(".")
    while len(steps) > 1 and steps[0] in ("model", "language_model", "text_model", "module", "thinker", "base_model"):
        steps.pop(0)
    while steps and not steps[-1]:
        steps.pop()
    if steps == ["head"]:
        return ["lm_head"]
    return steps


def _glob(step: str) -> str:
    """One step of a path as an expression. A star may cross dots, as fnmatch's does."""
    return "".join(".*?" if char == "*" else "." if char == "?" else re.escape(char) for char in step)


def _guarded(c: Config, key: str, text: str) -> str:
    """A user's expression, if it compiles and cannot take exponential time: no repeated group, few open repeats."""
    rule = f"an expression of at most {NAME_LIMIT} characters, no repeated groups, at most 4 open repeats"
    text = re.sub(r"^\^?(?:\.\*\??)+|(?:\.\*\??)+\$?$", "", text)  # ends that match anything say nothing in a search
    while ".*.*" in text:
        text = text.replace(".*.*", ".*")
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", text)
    if len(text) > NAME_LIMIT or re.search(r"\)[*+{]", bare) or len(re.findall(r"[*+]|,\}|\{\d{2,}", bare)) > 4:
        raise c.error(key, f"re:{text}", rule)
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise c.error(key, f"re:{text}", rule) from None
    return text


def _says_towers(names: Iterable[str]) -> bool:
    return any(word in name.lower() for name in names for word in TOWER_WORDS)


# --- what one matrix takes -------------------------------------------------------------------------------------------


def _bits(c: Config, key: str, default: int | None, allowed: tuple[int, ...]) -> int:
    value = c.int(key, default)
    if value not in allowed:
        raise c.error(key, value, "one of " + ", ".join(map(str, allowed)))
    return value


def _group(c: Config, key: str, default: int) -> int:
    """A group size; -1 and 0 mean one group per row, given back as 0."""
    return max(c.int(key, default, least=-1, most=2**20), 0)


def _grouped(storage: Storage, group: int, bits: int) -> Storage:
    """Adds ``bits`` per group of inputs, or per output where one group is the whole row."""
    if group:
        return storage._replace(group=group, group_bits=storage.group_bits + bits)
    return storage._replace(output_bits=storage.output_bits + bits)


def _words(bits: int, dense: bool = False) -> Storage:
    """Integers packed in 32-bit words; ``dense`` lets a value straddle words (3 bits: 32 values in 3 words)."""
    if dense or 32 % bits == 0:
        return Storage(f"int{bits}", 32, 32 * bits) if 32 % bits else Storage(f"int{bits}", 32 // bits, 32)
    return Storage(f"int{bits}", 32 // bits, 32)


FP8 = Storage("fp8_e4m3", 1, 8)
FP8_TENSOR = FP8._replace(tensor_bits=32)
FP8_CHANNEL = FP8._replace(output_bits=32)
FP8_TILES = FP8._replace(tile=(128, 128), tile_bits=32)
MXFP8 = Storage("mxfp8", 32, 256, 32, 8)
MXFP4 = Storage("mxfp4", 32, 128, 32, 8)
NVFP4 = Storage("nvfp4", 16, 64, 16, 8, tensor_bits=32)  # E4M3 per 16 and one fp32 for the tensor


# --- methods ---------------------------------------------------------------------------------------------------------


def _fp8(c: Config, config: Config) -> Quantization:
    """DeepSeek's and Qwen's FP8 (fp32 scale per tile) and AutoFP8's (per tensor); transformers finegrained_fp8.

    Scales of ``scale_fmt: ue8m0`` are still stored as fp32 (DeepSeek V3.1, V3.2), except beside FP4 experts
    (DeepSeek V4), where they are one byte. NVIDIA's files that keep FP8 for all but experts name those layers.
    """
    tile = c.ints("weight_block_size", 2, least=1, most=2**20)
    expert_dtype = c.get("expert_dtype", config.raw.get("expert_dtype"))
    scale = 8 if expert_dtype == "fp4" and c.get("scale_fmt") == "ue8m0" else 32
    static = 32 if c.get("activation_scheme") == "static" else 0
    if tile:
        storage = FP8._replace(tile=(tile[1], tile[0]), tile_bits=scale, tensor_bits=static)
    else:
        storage = FP8._replace(tensor_bits=32 + static)
    skipped = _names(c, "modules_to_not_convert", "ignored_layers")
    rules = _modelopt_layers(c)
    if expert_dtype == "fp4" and not rules:
        rules.append(QuantRule(r"\.experts\.", MXFP4))
    elif expert_dtype not in (None, "fp4", "fp8", "bf16"):
        return Quantization("fp8")
    rules += _rules(c, "modules_to_not_convert", skipped, PLAIN)
    return Quantization("fp8", storage, (*rules, HEAD, ROUTERS, INDEXER), towers=not _says_towers(skipped))


def _fbgemm(c: Config, config: Config) -> Quantization:
    """FBGEMM FP8: an fp32 scale per output channel (transformers integrations/fbgemm_fp8)."""
    skipped = _names(c, "modules_to_not_convert")
    rules = _rules(c, "modules_to_not_convert", skipped, PLAIN)
    return Quantization("fbgemm_fp8", FP8_CHANNEL, (*rules, HEAD, ROUTERS), towers=not _says_towers(skipped))


def _awq(c: Config, config: Config) -> Quantization:
    """AWQ: packed words, and per group a packed zero point and an fp16 scale (AutoAWQ WQLinear)."""
    bits = _bits(c, "bits", c.int("w_bit", 4), (2, 3, 4, 8))
    group = _group(c, "group_size", _group(c, "q_group_size", 128))
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("awq", _grouped(_words(bits), group, 16 + bits), (*rules, HEAD, ROUTERS))


def _gptq_storage(bits: int, group: int, marlin: bool = False) -> Storage:
    """GPTQ: packed words, per group a packed zero point and an fp16 scale, an int32 group index per input."""
    storage = _grouped(_words(bits, dense=True), group, 16 if marlin else 16 + bits)
    return storage if marlin else storage._replace(input_bits=32)


GPTQ_BITS = (2, 3, 4, 5, 6, 7, 8)


def _gptq(c: Config, config: Config) -> Quantization:
    """GPTQ and GPTQModel's ``dynamic`` rules per module (``-:`` leaves a module alone, ``+:`` changes its bits)."""
    bits, group = _bits(c, "bits", None, GPTQ_BITS), _group(c, "group_size", 128)
    marlin = "marlin" in (c.get("checkpoint_format"), c.get("format")) or c.bool("is_marlin_format")
    rules: list[QuantRule] = []
    for text, change in _mapping(c, "dynamic"):
        path = f"dynamic.{text[:40]}"
        pattern = _guarded(c, "dynamic", text.removeprefix("+:").removeprefix("-:"))
        if text.startswith("-:"):
            rules.append(QuantRule(pattern, PLAIN))
            continue
        own = Config(change, c.where, f"{c.path}{path}.")
        storage = _gptq_storage(_bits(own, "bits", bits, GPTQ_BITS), _group(own, "group_size", group or -1), marlin)
        rules.append(QuantRule(pattern, storage))
    rules += _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    storage = _gptq_storage(bits, group, marlin)
    blocks = c.get("modules_in_block_to_quantize")
    if blocks is not None:
        rows = blocks if isinstance(blocks, list) else [blocks]
        flat = [name for row in rows[:1000] for name in (row[:1000] if isinstance(row, list) else [row])]
        if not all(isinstance(name, str) and len(name) <= NAME_LIMIT for name in flat):
            raise c.error("modules_in_block_to_quantize", blocks, "lists of module names")
        rules += _rules(c, "modules_in_block_to_quantize", flat, storage)
        storage = PLAIN
    head = () if c.bool("lm_head") else (HEAD,)
    return Quantization("gptq", storage, (*rules, *head, ROUTERS))


def _autoround(c: Config, config: Config) -> Quantization:
    """AutoRound in GPTQ or AWQ packing: packed words, zero points and fp16 scales, no group index."""
    bits, group = _bits(c, "bits", 4, (2, 3, 4, 8)), _group(c, "group_size", 128)
    packing = str(c.get("packing_format", ""))
    if c.get("data_type", "int") != "int" or (packing and not re.search("gptq|awq", packing)):
        return Quantization("auto-round")
    pairs: list[tuple[str, Storage]] = []
    for name, change in _mapping(c, "extra_config"):
        own = Config(change, c.where, f"{c.path}extra_config.{name[:40]}.")
        own_bits = own.int("bits", bits, most=32)
        if own_bits < 16:
            own_bits = _bits(own, "bits", bits, (2, 3, 4, 8))
            storage = _grouped(_words(own_bits, dense=True), _group(own, "group_size", group or -1), 16 + own_bits)
        else:
            storage = PLAIN
        pairs.append((name, storage))
    rules = _by_storage(c, "extra_config", pairs)
    rules += _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("auto-round", _grouped(_words(bits, dense=True), group, 16 + bits), (*rules, HEAD, ROUTERS))


def _bitsandbytes(c: Config, config: Config) -> Quantization:
    """NF4 or FP4 of bitsandbytes in blocks of 64 that run on over rows, double quantised or not, or LLM.int8().

    The code tables (16 and 256 fp32) count once per matrix; the few bytes of JSON beside each matrix do not.
    """
    four, eight = c.bool("load_in_4bit", c.bool("_load_in_4bit")), c.bool("load_in_8bit", c.bool("_load_in_8bit"))
    if four == eight:
        raise c.error("load_in_4bit", four, "exactly one of load_in_4bit and load_in_8bit")
    if eight:
        storage = Storage("int8", 1, 8, output_bits=32)
    else:
        kind = c.str("bnb_4bit_quant_type", "fp4")
        if kind not in ("nf4", "fp4"):
            raise c.error("bnb_4bit_quant_type", kind, "nf4 or fp4")
        block = c.int("bnb_4bit_blocksize", 64, most=4096)
        if c.bool("bnb_4bit_use_double_quant"):
            storage = Storage("nf4_dq", 1, 4, flat=((block, 8), (256 * block, 32)), tensor_bits=32 * (16 + 256 + 1))
        else:
            storage = Storage("nf4", 1, 4, flat=((block, 32),), tensor_bits=32 * 16)
    skipped = _names(c, "llm_int8_skip_modules")
    rules = _rules(c, "llm_int8_skip_modules", skipped, PLAIN)
    head = () if skipped else (HEAD,)
    towers = not _says_towers(skipped)
    return Quantization("bitsandbytes", storage, (*rules, *head), skips_fused=True, towers=towers)


def _compressed(c: Config, config: Config) -> Quantization:
    """Compressed-tensors: groups of targets, each with its own scheme; scales in 16 bits, packed integers in words."""
    groups = _mapping(c, "config_groups")
    default, rules = PLAIN, []
    formats = c.get("format")
    if formats == "dense":
        return Quantization("compressed-tensors", PLAIN)
    if not groups or (c.get("sparsity_config") not in (None, {}) and _is_sparse(c)):
        return Quantization("compressed-tensors")
    for name, group in groups:
        own = Config(group, c.where, f"{c.path}config_groups.{name[:40]}.")
        storage = _scheme(own, str(own.get("format", formats)))
        targets = _names(own, "targets") or ["Linear"]
        named = [target for target in targets if target not in ("Linear", "LinearBase", "QKVParallelLinear")]
        if len(named) < len(targets):
            default = storage
        rules += _rules(own, "targets", named, storage)
    ignored = _names(c, "ignore")
    skips = _rules(c, "ignore", ignored, PLAIN)
    head = () if ignored else (HEAD,)
    towers = default is not PLAIN and not _says_towers(ignored)
    return Quantization("compressed-tensors", default, (*skips, *rules, *head, ROUTERS), towers=towers)


def _is_sparse(c: Config) -> bool:
    """Whether weights are stored without their zeros: a size that shapes do not say."""
    sparsity = c.sub("sparsity_config")
    return bool(sparsity.get("format", "dense") != "dense")


def _scheme(own: Config, format_: str) -> Storage:
    """What one weight scheme of compressed-tensors stores for a matrix."""
    if own.get("weights") is None:
        return PLAIN  # activations alone
    weights = own.sub("weights")
    bits, kind = weights.int("num_bits", 8, most=16), weights.str("type", "int")
    strategy = weights.get("strategy") or ("group" if weights.has("group_size") else "tensor")
    group = _group(weights, "group_size", -1)
    static = own.raw.get("input_activations")
    one_input_scale = isinstance(static, dict) and static.get("dynamic") is False and bits == 8
    symmetric = weights.bool("symmetric", True)
    if kind == "float" and bits == 4:
        mx = "mxfp4" in format_ or (group == 32 and "nvfp4" not in format_)
        if mx:
            return MXFP4
        # a global scale of the weights, and one of the inputs where they are quantised too
        return NVFP4._replace(tensor_bits=64 if isinstance(static, dict) else 32)
    if kind == "float" and bits == 8:
        storage = MXFP8 if "mxfp8" in format_ else FP8
        if storage is MXFP8:
            return storage
    elif kind == "int" and bits in (2, 3, 4, 5, 6, 7, 8):
        packed = "pack" in format_ or bits != 8
        storage = _words(bits) if packed else Storage("int8", 1, 8)
        if packed:
            storage = storage._replace(tensor_bits=128)  # weight_shape: two int64
    else:
        raise weights.error("num_bits", bits, "2 to 8 bits of type int, 4 or 8 of type float")
    scale = 16 if symmetric else 16 + (bits if bits < 8 else 8)
    if weights.get("actorder") in ("group", True):
        storage = storage._replace(input_bits=32)
    if strategy == "channel" or (strategy == "group" and not group):
        storage = storage._replace(output_bits=scale)
    elif strategy == "group":
        storage = _grouped(storage, group, scale)
    elif strategy == "block":
        block = weights.ints("block_structure", 2, least=1, most=2**20) or [128, 128]
        storage = storage._replace(tile=(block[1], block[0]), tile_bits=scale)
    elif strategy == "tensor":
        storage = storage._replace(tensor_bits=storage.tensor_bits + scale)
    else:
        raise weights.error("strategy", strategy, "tensor, channel, group, block or tensor_group")
    return storage._replace(tensor_bits=storage.tensor_bits + 16) if one_input_scale else storage


# quant_algo of ModelOpt -> what a matrix takes, scales of the inputs included where they are quantised
ALGORITHMS: dict[str, Callable[[int], Storage]] = {
    "FP8": lambda group: FP8._replace(tensor_bits=64),
    "FP8_PER_CHANNEL_PER_TOKEN": lambda group: FP8_CHANNEL,
    "FP8_PB_WO": lambda group: FP8_TILES,
    "FP8_PB_REAL": lambda group: FP8_TILES,
    "MXFP8": lambda group: MXFP8,
    "MXFP4": lambda group: MXFP4,
    "W4A8_MXFP4_FP8": lambda group: MXFP4,
    "NVFP4": lambda group: NVFP4._replace(pack=group, pack_bits=4 * group, group=group, tensor_bits=64),
    "NVFP4_AWQ": lambda group: NVFP4._replace(tensor_bits=64, input_bits=16),
    "W4A8_NVFP4_FP8": lambda group: NVFP4._replace(tensor_bits=64),
    "W4A16_NVFP4": lambda group: NVFP4._replace(pack=group, pack_bits=4 * group, group=group),
    "W4A16_AWQ": lambda group: _grouped(Storage("int4", 2, 8), group, 16),
    "W8A16": lambda group: Storage("int8", 1, 8, output_bits=32),
    "W8A8_SQ_PER_CHANNEL": lambda group: Storage("int8", 1, 8, output_bits=32),
    "INT8_SQ": lambda group: Storage("int8", 1, 8, output_bits=32),
}


def _algorithm(c: Config, name: str) -> Storage:
    """The storage of one ModelOpt algorithm; unknown ones are unknown."""
    group = _group(c, "group_size", 16 if "NVFP4" in name else 128) or 16
    return ALGORITHMS[name](group) if name in ALGORITHMS else Storage("")


def _modelopt_layers(c: Config) -> list[QuantRule]:
    """Rules of ``quantized_layers``: module -> algorithm."""
    pairs = []
    for name, entry in _mapping(c, "quantized_layers"):
        own = Config(entry, c.where, f"{c.path}quantized_layers.{name[:80]}.")
        pairs.append((name, _algorithm(own, own.str("quant_algo", ""))))
    return _by_storage(c, "quantized_layers", pairs)


def _modelopt(c: Config, config: Config) -> Quantization:
    """NVIDIA ModelOpt: FP8, NVFP4, MXFP8 or a mixture that names every layer; names may be globs."""
    algorithm = c.str("quant_algo", "").upper()
    ignored = _names(c, "ignore", "exclude_modules")
    skips = _rules(c, "ignore", ignored, PLAIN)
    if algorithm in ("", "MIXED_PRECISION"):
        rules = _modelopt_layers(c)
        return Quantization("modelopt", PLAIN if rules else Storage(""), (*skips, *rules))
    head = () if ignored else (HEAD,)
    group = c
    if not c.has("group_size"):
        for _, entry in _mapping(c, "config_groups"):
            own = Config(entry, c.where, f"{c.path}config_groups.")
            if own.get("weights") is not None:
                group = own.sub("weights")
    return Quantization(
        "modelopt", _algorithm(group, algorithm), (*skips, *head, ROUTERS), towers=not _says_towers(ignored)
    )


def _mxfp4(c: Config, config: Config) -> Quantization:
    """MXFP4 of gpt-oss: routed experts only, an E8M0 scale per 32 inputs (transformers integrations/mxfp4)."""
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("mxfp4", MXFP4, tuple(rules), experts_only=True)


def _hqq(c: Config, config: Config) -> Quantization:
    """HQQ: an fp16 scale and an fp16 zero point per group; ten 3-bit values to a word."""
    inner = c
    for key in ("quant_config", "weight_quant_params"):
        if isinstance(inner.get(key), dict):
            inner = inner.sub(key)
    if c.has("dynamic_config") or not (inner.has("nbits") or inner.has("bits")):
        return Quantization("hqq")
    bits = _bits(inner, "nbits", inner.int("bits", 4), (1, 2, 3, 4, 8))
    packed = _words(bits) if bits == 3 else Storage(f"int{bits}", 8 // bits, 8)
    storage = _grouped(packed, _group(inner, "group_size", 64), 32)
    rules = _rules(c, "skip_modules", _names(c, "skip_modules"), PLAIN)
    return Quantization("hqq", storage, (*rules, HEAD), skips_fused=True)


def _quanto(c: Config, config: Config) -> Quantization:
    """Quanto (optimum): int8 and float8 with a 16-bit scale per output, int4 and int2 with scale and shift per 128."""
    kinds = {
        "int8": Storage("int8", 1, 8, output_bits=16),
        "float8": FP8._replace(output_bits=16),
        "int4": Storage("int4", 2, 8, 128, 32),
        "int2": Storage("int2", 4, 8, 128, 32),
    }
    kind = c.str("weights", "int8")
    if kind not in kinds:
        raise c.error("weights", kind, "one of " + ", ".join(kinds))
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("quanto", kinds[kind], (*rules, HEAD), skips_fused=True)


TORCHAO = {
    "int4weightonly": lambda group: _grouped(Storage("int4", 2, 8), group, 32),
    "int8weightonly": lambda group: Storage("int8", 1, 8, output_bits=16),
    "int8dynamicactivationint8weight": lambda group: Storage("int8", 1, 8, output_bits=16),
    "float8weightonly": lambda group: FP8_CHANNEL,
    "float8dynamicactivationfloat8weight": lambda group: FP8_CHANNEL,
}


def _torchao(c: Config, config: Config) -> Quantization:
    """PyTorch AO weight types: int4 with bf16 scale and zero per group, int8 and float8 with a scale per output."""
    kind, reader = c.get("quant_type"), c
    if isinstance(kind, dict):
        reader = c.sub("quant_type")
        while isinstance(reader.get("default"), dict):
            reader = reader.sub("default")
        kind = reader.get("_type")
        reader = reader.sub("_data", {})
    elif c.has("quant_type_kwargs"):
        reader = c.sub("quant_type_kwargs")
    name = str(kind).lower().replace("_", "").removesuffix("config")
    if name not in TORCHAO or c.bool("include_input_output_embeddings"):
        return Quantization("torchao")
    storage = TORCHAO[name](_group(reader, "group_size", 128))
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("torchao", storage, (*rules, HEAD), skips_fused=True)


def _eetq(c: Config, config: Config) -> Quantization:
    """EETQ: int8 with an fp16 scale per output."""
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("eetq", Storage("int8", 1, 8, output_bits=16), (*rules, HEAD), skips_fused=True)


def _bitnet(c: Config, config: Config) -> Quantization:
    """BitNet b1.58: four ternary values to a byte, one 16-bit scale per matrix (transformers integrations/bitnet)."""
    if c.get("quantization_mode", "offline") != "offline":
        return Quantization("bitnet", PLAIN)  # online: bf16 weights, quantised in each forward pass
    rules = _rules(c, "modules_to_not_convert", _names(c, "modules_to_not_convert"), PLAIN)
    return Quantization("bitnet", Storage("int2", 1, 2, tensor_bits=16), (*rules, HEAD))


MLX_BITS = (2, 3, 4, 5, 6, 8)


def _mlx_storage(c: Config, bits: int, group: int, mode: str) -> Storage:
    """MLX: dense words, and per group a 16-bit scale and bias (affine) or one byte (the microscaling modes)."""
    fixed = {"mxfp4": MXFP4, "mxfp8": MXFP8, "nvfp4": NVFP4._replace(tensor_bits=0)}
    mode = c.str("mode", mode)
    if mode in fixed:
        return fixed[mode]
    if mode != "affine":
        return Storage("")
    return _grouped(_words(_bits(c, "bits", bits, MLX_BITS), dense=True), _group(c, "group_size", group), 32)


def _mlx(c: Config, config: Config) -> Quantization:
    """MLX: linear weights and token tables alike, with a mapping of exceptions by module path."""
    mode, group = c.str("mode", "affine"), c.int("group_size", 64, most=4096)
    bits = c.int("bits", 4)
    storage, pairs = _mlx_storage(c, bits, group, mode), []
    for name, change in list(c.raw.items())[:ENTRY_LIMIT]:
        if name in ("bits", "group_size", "mode", "quant_method", "linear_class", "quantization_mode"):
            continue
        if len(name) > NAME_LIMIT:
            raise c.error(name[:80], "too long", f"module names of at most {NAME_LIMIT} characters")
        if change is False:
            pairs.append((name, PLAIN))
        elif isinstance(change, dict):
            own = Config(change, c.where, f"{c.path}{name}.")
            pairs.append((name, _mlx_storage(own, bits, group, mode)))
    return Quantization("mlx", storage, tuple(_by_storage(c, "quantization", pairs)), lookups=True)


METHODS: dict[str, Callable[[Config, Config], Quantization]] = {
    "fp8": _fp8,
    "fbgemm-fp8": _fbgemm,
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _autoround,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-mixed": _modelopt,
    "mxfp4": _mxfp4,
    "hqq": _hqq,
    "quanto": _quanto,
    "torchao": _torchao,
    "eetq": _eetq,
    "bitnet": _bitnet,
    "mlx": _mlx,
    "metal": _mlx,
}


def _mapping(c: Config, key: str) -> list[tuple[str, Any]]:
    """The entries of a nested object, or none."""
    value = c.get(key)
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > ENTRY_LIMIT:
        raise c.error(key, value, "a JSON object")
    for name in value:
        if len(name) > NAME_LIMIT:
            raise c.error(key, name, f"names of at most {NAME_LIMIT} characters")
    return list(value.items())


# --- the cache -------------------------------------------------------------------------------------------------------

KV_ALGORITHMS = {"FP8": "fp8_e4m3", "NVFP4": "nvfp4", "INT8": "int8:g=0", "NONE": None, "": None}


def _kv_dtype(c: Config) -> str | None:
    """What the checkpoint says about the KV cache: ``kv_cache_quant_algo`` (ModelOpt) or ``kv_cache_scheme``."""
    algorithm = c.get("kv_cache_quant_algo")
    if algorithm is not None:
        name = c.str("kv_cache_quant_algo").upper()
        if name not in KV_ALGORITHMS:
            raise c.error("kv_cache_quant_algo", algorithm, "one of FP8, NVFP4, INT8")
        return KV_ALGORITHMS[name]
    scheme = c.get("kv_cache_scheme")
    if scheme is None or scheme == {}:
        return None
    if isinstance(scheme, str):  # AutoFP8 wrote the name of an activation scheme
        return "fp8_e4m3" if scheme in ("static", "dynamic", "fp8") else _refuse(c, scheme)
    own = c.sub("kv_cache_scheme")
    kinds = {(8, "float"): "fp8_e4m3", (4, "float"): "nvfp4", (8, "int"): "int8:g=0"}
    return kinds.get((own.int("num_bits", 8), own.str("type", "float"))) or _refuse(c, scheme)


def _refuse(c: Config, value: object) -> str:
    raise c.error("kv_cache_scheme", value, "8 bits of type float or int, or 4 bits of type float")
