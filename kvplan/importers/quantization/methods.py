"""One small function per method of quantisation: what a matrix of it takes, and which modules it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.importers.config import Config
from kvplan.importers.quantization.modules import (
    ENTRY_LIMIT,
    HEAD,
    INDEXER,
    NAME_LIMIT,
    PATTERN_LENGTH,
    PIECES_LIMIT,
    ROUTERS,
    by_storage,
    expression,
    mapping,
    merged,
    names_of,
    rules_for,
    says_towers,
)
from kvplan.importers.quantization.storage import (
    FP8,
    FP8_CHANNEL,
    FP8_TILES,
    MXFP4,
    MXFP8,
    NVFP4,
    bits_of,
    group_of,
    grouped,
    words,
)
from kvplan.specs import PLAIN, Quantization, QuantRule, Storage

__all__ = ["METHODS"]


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
    skipped = names_of(c, "modules_to_not_convert", "ignored_layers")
    rules = _modelopt_layers(c)
    if expert_dtype == "fp4" and not rules:
        rules.append(QuantRule(MXFP4, frozenset({"experts"})))
    elif expert_dtype not in (None, "fp4", "fp8", "bf16"):
        return Quantization("fp8")
    rules += rules_for(c, "modules_to_not_convert", skipped, PLAIN)
    return Quantization("fp8", storage, (*rules, HEAD, ROUTERS, INDEXER), towers=not says_towers(skipped))


def _fbgemm(c: Config, config: Config) -> Quantization:
    """FBGEMM FP8: an fp32 scale per output channel (transformers integrations/fbgemm_fp8)."""
    skipped = names_of(c, "modules_to_not_convert")
    rules = rules_for(c, "modules_to_not_convert", skipped, PLAIN)
    return Quantization("fbgemm_fp8", FP8_CHANNEL, (*rules, HEAD, ROUTERS), towers=not says_towers(skipped))


def _awq(c: Config, config: Config) -> Quantization:
    """AWQ: packed words, and per group a packed zero point and an fp16 scale (AutoAWQ WQLinear)."""
    bits = bits_of(c, "bits", c.int("w_bit", 4), (2, 3, 4, 8))
    group = group_of(c, "group_size", group_of(c, "q_group_size", 128))
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("awq", grouped(words(bits), group, 16 + bits), (*rules, HEAD, ROUTERS))


def _gptq_storage(bits: int, group: int, marlin: bool = False) -> Storage:
    """GPTQ: packed words, per group a packed zero point and an fp16 scale, an int32 group index per input."""
    storage = grouped(words(bits, dense=True), group, 16 if marlin else 16 + bits)
    return storage if marlin else storage._replace(input_bits=32)


GPTQ_BITS = (2, 3, 4, 5, 6, 7, 8)


def _gptq(c: Config, config: Config) -> Quantization:
    """GPTQ and GPTQModel's ``dynamic`` rules per module (``-:`` leaves a module alone, ``+:`` changes its bits)."""
    bits, group = bits_of(c, "bits", None, GPTQ_BITS), group_of(c, "group_size", 128)
    marlin = "marlin" in (c.get("checkpoint_format"), c.get("format")) or c.bool("is_marlin_format")
    rules: list[QuantRule] = []
    dynamic = mapping(c, "dynamic", PATTERN_LENGTH)
    if len(dynamic) > PIECES_LIMIT:
        return Quantization(
            "gptq", why=f"{c.path}dynamic has {len(dynamic)} expressions, of which {PIECES_LIMIT} are read"
        )
    for text, change in dynamic:
        path = f"dynamic.{text[:40]}"
        pattern = text.removeprefix("+:").removeprefix("-:")
        if text.startswith("-:"):
            rules.append(expression(c, "dynamic", pattern, PLAIN))
            continue
        own = Config(change, c.where, f"{c.path}{path}.")
        storage = _gptq_storage(bits_of(own, "bits", bits, GPTQ_BITS), group_of(own, "group_size", group or -1), marlin)
        rules.append(expression(c, "dynamic", pattern, storage))
    rules = merged(rules)
    rules += rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    storage = _gptq_storage(bits, group, marlin)
    blocks = c.get("modules_in_block_to_quantize")
    if blocks is not None:
        rows = blocks if isinstance(blocks, list) else [blocks]
        flat = [name for row in rows[:1000] for name in (row[:1000] if isinstance(row, list) else [row])]
        if not all(isinstance(name, str) and len(name) <= NAME_LIMIT for name in flat):
            raise c.error("modules_in_block_to_quantize", blocks, "lists of module names")
        rules += rules_for(c, "modules_in_block_to_quantize", flat, storage)
        storage = PLAIN
    head = () if c.bool("lm_head") else (HEAD,)
    return Quantization("gptq", storage, (*rules, *head, ROUTERS))


def _autoround(c: Config, config: Config) -> Quantization:
    """AutoRound in GPTQ or AWQ packing: packed words, zero points and fp16 scales, no group index."""
    bits, group = bits_of(c, "bits", 4, (2, 3, 4, 8)), group_of(c, "group_size", 128)
    packing = str(c.get("packing_format", ""))
    if c.get("data_type", "int") != "int" or (packing and "gptq" not in packing and "awq" not in packing):
        return Quantization("auto-round")
    pairs: list[tuple[str, Storage]] = []
    for name, change in mapping(c, "extra_config"):
        own = Config(change, c.where, f"{c.path}extra_config.{name[:40]}.")
        own_bits = own.int("bits", bits, most=32)
        if own_bits < 16:
            own_bits = bits_of(own, "bits", bits, (2, 3, 4, 8))
            storage = grouped(words(own_bits, dense=True), group_of(own, "group_size", group or -1), 16 + own_bits)
        else:
            storage = PLAIN
        pairs.append((name, storage))
    rules = by_storage(c, "extra_config", pairs)
    rules += rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("auto-round", grouped(words(bits, dense=True), group, 16 + bits), (*rules, HEAD, ROUTERS))


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
    skipped = names_of(c, "llm_int8_skip_modules")
    rules = rules_for(c, "llm_int8_skip_modules", skipped, PLAIN)
    head = () if skipped else (HEAD,)
    towers = not says_towers(skipped)
    return Quantization("bitsandbytes", storage, (*rules, *head), skips_fused=True, towers=towers)


def _compressed(c: Config, config: Config) -> Quantization:
    """Compressed-tensors: groups of targets, each with its own scheme; scales in 16 bits, packed integers in words."""
    groups = mapping(c, "config_groups")
    default, rules = PLAIN, []
    formats = c.get("format")
    if formats == "dense":
        return Quantization("compressed-tensors", PLAIN)
    if not groups or (c.get("sparsity_config") not in (None, {}) and _is_sparse(c)):
        return Quantization("compressed-tensors")
    for name, group in groups:
        own = Config(group, c.where, f"{c.path}config_groups.{name[:40]}.")
        storage = _scheme(own, str(own.get("format", formats)))
        targets = names_of(own, "targets") or ["Linear"]
        named = [target for target in targets if target not in ("Linear", "LinearBase", "QKVParallelLinear")]
        if len(named) < len(targets):
            default = storage
        rules += rules_for(own, "targets", named, storage)
    ignored = names_of(c, "ignore")
    skips = rules_for(c, "ignore", ignored, PLAIN)
    head = () if ignored else (HEAD,)
    towers = default is not PLAIN and not says_towers(ignored)
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
    group = group_of(weights, "group_size", -1)
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
        storage = words(bits) if packed else Storage("int8", 1, 8)
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
        storage = grouped(storage, group, scale)
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
    "W4A16_AWQ": lambda group: grouped(Storage("int4", 2, 8), group, 16),
    "W8A16": lambda group: Storage("int8", 1, 8, output_bits=32),
    "W8A8_SQ_PER_CHANNEL": lambda group: Storage("int8", 1, 8, output_bits=32),
    "INT8_SQ": lambda group: Storage("int8", 1, 8, output_bits=32),
}


def _algorithm(c: Config, name: str) -> Storage:
    """The storage of one ModelOpt algorithm; unknown ones are unknown."""
    group = group_of(c, "group_size", 16 if "NVFP4" in name else 128) or 16
    return ALGORITHMS[name](group) if name in ALGORITHMS else Storage("")


def _modelopt_layers(c: Config) -> list[QuantRule]:
    """Rules of ``quantized_layers``: module -> algorithm."""
    pairs = []
    for name, entry in mapping(c, "quantized_layers"):
        own = Config(entry, c.where, f"{c.path}quantized_layers.{name[:80]}.")
        pairs.append((name, _algorithm(own, own.str("quant_algo", ""))))
    return by_storage(c, "quantized_layers", pairs)


def _modelopt(c: Config, config: Config) -> Quantization:
    """NVIDIA ModelOpt: FP8, NVFP4, MXFP8 or a mixture that names every layer; names may be globs."""
    algorithm = c.str("quant_algo", "").upper()
    ignored = names_of(c, "ignore", "exclude_modules")
    skips = rules_for(c, "ignore", ignored, PLAIN)
    if algorithm in ("", "MIXED_PRECISION"):
        rules = _modelopt_layers(c)
        return Quantization("modelopt", PLAIN if rules else Storage(""), (*skips, *rules))
    head = () if ignored else (HEAD,)
    group = c
    if not c.has("group_size"):
        for _, entry in mapping(c, "config_groups"):
            own = Config(entry, c.where, f"{c.path}config_groups.")
            if own.get("weights") is not None:
                group = own.sub("weights")
    return Quantization(
        "modelopt", _algorithm(group, algorithm), (*skips, *head, ROUTERS), towers=not says_towers(ignored)
    )


def _mxfp4(c: Config, config: Config) -> Quantization:
    """MXFP4 of gpt-oss: routed experts only, an E8M0 scale per 32 inputs (transformers integrations/mxfp4)."""
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("mxfp4", MXFP4, tuple(rules), experts_only=True)


def _hqq(c: Config, config: Config) -> Quantization:
    """HQQ: an fp16 scale and an fp16 zero point per group; ten 3-bit values to a word."""
    inner = c
    for key in ("quant_config", "weight_quant_params"):
        if isinstance(inner.get(key), dict):
            inner = inner.sub(key)
    if c.has("dynamic_config") or not (inner.has("nbits") or inner.has("bits")):
        return Quantization("hqq")
    bits = bits_of(inner, "nbits", inner.int("bits", 4), (1, 2, 3, 4, 8))
    packed = words(bits) if bits == 3 else Storage(f"int{bits}", 8 // bits, 8)
    storage = grouped(packed, group_of(inner, "group_size", 64), 32)
    rules = rules_for(c, "skip_modules", names_of(c, "skip_modules"), PLAIN)
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
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("quanto", kinds[kind], (*rules, HEAD), skips_fused=True)


TORCHAO = {
    "int4weightonly": lambda group: grouped(Storage("int4", 2, 8), group, 32),
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
    storage = TORCHAO[name](group_of(reader, "group_size", 128))
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("torchao", storage, (*rules, HEAD), skips_fused=True)


def _eetq(c: Config, config: Config) -> Quantization:
    """EETQ: int8 with an fp16 scale per output."""
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
    return Quantization("eetq", Storage("int8", 1, 8, output_bits=16), (*rules, HEAD), skips_fused=True)


def _bitnet(c: Config, config: Config) -> Quantization:
    """BitNet b1.58: four ternary values to a byte, one 16-bit scale per matrix (transformers integrations/bitnet)."""
    if c.get("quantization_mode", "offline") != "offline":
        return Quantization("bitnet", PLAIN)  # online: bf16 weights, quantised in each forward pass
    rules = rules_for(c, "modules_to_not_convert", names_of(c, "modules_to_not_convert"), PLAIN)
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
    return grouped(words(bits_of(c, "bits", bits, MLX_BITS), dense=True), group_of(c, "group_size", group), 32)


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
    return Quantization("mlx", storage, tuple(by_storage(c, "quantization", pairs)), lookups=True)


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
