"""What a question is asked with: every flag, checked once, in the words that the command line and the API share."""

from typing import Any, NamedTuple

from kvplan.catalog import Gpu, find_gpu
from kvplan.costs import Formats, resolve_formats
from kvplan.engines import Engine, Option, find_engine
from kvplan.errors import InvalidInput, UnknownName
from kvplan.formats import find_format
from kvplan.specs import PLAIN, Attention, ModelSpec, Quantization, QuantRule, Recurrent, Storage
from kvplan.units import parse_bytes, parse_count

__all__ = ["DEFAULT_CONTEXT", "MOST_RANKS", "PREFILL_CHUNK", "Settings", "read_settings"]

DEFAULT_CONTEXT = 8192
# Tokens that run at once when a prompt is fed in chunks: vLLM's max_num_batched_tokens on GPUs of 70 GiB and more.
PREFILL_CHUNK = 8192
MOST_RANKS = 2**16  # of each kind of parallelism
MIB = 2**20
# CUDA context and loaded kernels, outside torch's allocator; published measurements run from 107 to 616 MiB.
RUNTIME_BYTES = {"datacenter": 614 * MIB, "tpu": 614 * MIB, "accelerator": 614 * MIB}
RUNTIME_DEFAULT = 461 * MIB
# One direction of the link to the host, by generation: PCIe 5.0, 4.0 and 3.0 x16 as specified; NVMe 4.0 x4 reads.
HOST_RATES = {"Hopper": 63 * 10**9, "Blackwell": 63 * 10**9, "Ampere": 315 * 10**8, "Ada": 315 * 10**8}
HOST_DEFAULT = 15_750_000_000
DISK_RATE = 7 * 10**9
RUNTIME_SOURCE = (
    "0.45 GiB consumer, 0.6 GiB datacenter, ±50 %: llama.cpp PR 23604, LMCache issue 4019, pytorch issue 107667"
)


class Settings(NamedTuple):
    """Checked settings of one plan; counts are ints, names are resolved."""

    context: int
    batch: int
    encoder_context: int
    formats: Formats
    quantization: Quantization | None
    engine: Engine
    gpu: Gpu | None
    gpu_asked: str
    memory_bytes: int | None
    tp: int
    pp: int
    dp: int
    utilization: float
    page: int
    full_attention: bool
    all_logits: bool
    runtime_bytes: int
    compute_efficiency: float
    bandwidth_efficiency: float
    host_bandwidth: float  # bytes/s between GPU and host memory, one direction
    disk_bandwidth: float  # bytes/s from disk
    options: dict[str, Any]  # the engine's own, checked
    inputs: tuple[tuple[str, Any], ...]  # what the report echoes

    @property
    def rank_sequences(self) -> int:
        """Sequences on the fullest data-parallel replica."""
        return -(-self.batch // self.dp)


def read_settings(
    spec: ModelSpec,
    *,
    context: int | str | None = None,
    batch: int | str = 1,
    encoder_context: int | str = 0,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    cache_type_k: str | None = None,
    cache_type_v: str | None = None,
    weight_dtype: str | None = None,
    scheme: str | None = None,
    engine: str = "ideal",
    engine_version: str | None = None,
    engine_options: dict[str, Any] | None = None,
    gpu: str | None = None,
    memory: int | str | None = None,
    tp: int | str = 1,
    pp: int | str = 1,
    dp: int | str = 1,
    gpu_memory_utilization: float | None = None,
    block_size: int | str | None = None,
    runtime_overhead: int | str | None = None,
    attention_flops: str = "causal",
    logits: str = "last",
    compute_efficiency: float = 1.0,
    bandwidth_efficiency: float = 1.0,
    host_bandwidth: int | str | None = None,
    disk_bandwidth: int | str | None = None,
) -> Settings:
    """Checked settings; raises InvalidInput or UnknownName with the flag, its value and what is allowed.

    Sizes are tokens, sequences and GPUs (``8k`` is 8192), memory is bytes or text with a unit, efficiencies and the
    utilization are shares of 1. ``scheme`` is only echoed here: ``spec`` already carries it.
    """
    found = find_engine(engine, engine_version)
    options = _options(found, engine_options)
    if found.with_options is not None:
        found = found.with_options(found, options)
    given: dict[str, Any] = {
        "context": context,
        "kv_dtype": kv_dtype,
        "cache_type_k": cache_type_k,
        "cache_type_v": cache_type_v,
        "block_size": block_size,
        "gpu_memory_utilization": gpu_memory_utilization,
    }
    _merge(found, options, given)
    context, kv_dtype, cache_type_k, cache_type_v, block_size, gpu_memory_utilization = given.values()
    if context is None:
        context = min(DEFAULT_CONTEXT, spec.max_context or DEFAULT_CONTEXT)
    tokens, sequences = parse_count(context, "context"), parse_count(batch, "batch")
    encoder = parse_count(encoder_context, "encoder_context", least=0)
    own = dict(found.cache_names)
    if isinstance(kv_dtype, str) and kv_dtype in own:
        options["kv_cache_dtype"], kv_dtype = kv_dtype, own[kv_dtype]
    elif kv_dtype is None and not (spec.cache_type_k or spec.cache_type_v):
        kv_dtype = found.default_kv or None
    formats = resolve_formats(spec, dtype, kv_dtype, cache_type_k, cache_type_v)
    if gpu is not None and not isinstance(gpu, str):
        raise InvalidInput("gpu", gpu, "the name of an accelerator, e.g. h100-80gb-sxm")
    device = find_gpu(gpu) if gpu is not None else None
    if device is not None and found.runs_on and device.vendor not in found.runs_on:
        vendors = " or ".join(filter(None, (", ".join(found.runs_on[:-1]), found.runs_on[-1])))
        raise InvalidInput(
            "gpu", f"{device.name} ({device.vendor})", f"an accelerator of {vendors} with engine {found.name}"
        )
    memory_bytes = parse_bytes(memory, "memory") if memory is not None else device.memory_bytes if device else None
    if memory_bytes is not None and memory_bytes < MIB:
        raise InvalidInput("memory", memory, "at least 1 MiB; give a unit, e.g. 80GiB")
    ranks = parse_count(tp, "tp"), parse_count(pp, "pp"), parse_count(dp, "dp")
    _check_parallel(spec, *ranks)
    page = 1
    if block_size is not None:
        page = parse_count(block_size, "block_size")
        if not found.paged:
            raise InvalidInput("block_size", block_size, f"nothing: engine {found.name} does not page its cache")
        if page > 2**20:
            raise InvalidInput("block_size", block_size, "at most 2**20 tokens")
        if found.policy is not None:  # its own rules say what a block is
            options["block_size"], page = page, 1
    utilization = found.utilization
    if gpu_memory_utilization is not None:
        utilization = _share(gpu_memory_utilization, "gpu_memory_utilization")
    runtime = 0
    if runtime_overhead is not None:
        runtime = parse_bytes(runtime_overhead, "runtime_overhead")
    elif memory_bytes is not None:
        runtime = RUNTIME_BYTES.get(device.kind if device else "", RUNTIME_DEFAULT)
    choice(attention_flops, "attention_flops", ("causal", "full"))
    choice(logits, "logits", ("last", "all"))
    inputs = {
        "model": spec.name,
        "context": tokens,
        "batch": sequences,
        "encoder_context": encoder,
        "dtype": formats.compute.name,
        "kv_dtype": _kv_names(formats),
        "weight_dtype": weight_dtype,
        "scheme": scheme,
        "engine": found.name,
        "engine_version": found.version or None,
        "engine_options": options,
        "gpu": device.name if device else None,
        "memory_bytes": memory_bytes,
        "tp": ranks[0],
        "pp": ranks[1],
        "dp": ranks[2],
        "gpu_memory_utilization": utilization,
        "block_size": page if page > 1 else None,
        "attention_flops": attention_flops,
        "logits": logits,
        "compute_efficiency": compute_efficiency,
        "bandwidth_efficiency": bandwidth_efficiency,
    }
    if max(spec.offload) > 0 and device is not None and device.kind == "soc":
        raise InvalidInput("scheme", scheme, f"no offload on {device.name}: GPU and host share one memory")
    host = _host_rate(device) if host_bandwidth is None else parse_bytes(host_bandwidth, "host_bandwidth")
    disk = DISK_RATE if disk_bandwidth is None else parse_bytes(disk_bandwidth, "disk_bandwidth")
    for field, rate in (("host_bandwidth", host), ("disk_bandwidth", disk)):
        if rate <= 0:
            raise InvalidInput(field, rate, "bytes per second above 0, e.g. 64GB")
    if max(spec.offload) > 0:
        inputs |= {"host_bandwidth": host, "disk_bandwidth": disk}
    return Settings(
        tokens,
        sequences,
        encoder,
        formats,
        _weight_format(spec, weight_dtype),
        found,
        device,
        gpu or "",
        memory_bytes,
        *ranks,
        utilization,
        page,
        attention_flops == "full",
        logits == "all",
        runtime,
        _share(compute_efficiency, "compute_efficiency"),
        _share(bandwidth_efficiency, "bandwidth_efficiency"),
        float(host),
        float(disk),
        options,
        tuple(inputs.items()),
    )


def _merge(engine: Engine, options: dict[str, Any], given: dict[str, Any]) -> None:
    """Puts options that mean a flag of every engine where that flag is; a setting given twice must agree."""
    for option in engine.options:
        if not option.common or option.name not in options:
            continue
        value, flag = options[option.name], given[option.common]
        if flag is not None and _plain(option, flag) != value:
            raise InvalidInput(
                "engine_options",
                f"{option.name}={value}",
                f"the value of {option.common}, which was given too ({flag})",
            )
        given[option.common] = value


def _plain(option: Option, value: Any) -> Any:
    return parse_count(value, option.common) if option.kind == "count" else value


def _host_rate(gpu: Gpu | None) -> int:
    """Bytes per second between GPU and host memory where nobody says: the PCIe generation of the architecture."""
    if gpu is None:
        return HOST_DEFAULT
    return next((rate for name, rate in HOST_RATES.items() if gpu.architecture.startswith(name)), HOST_DEFAULT)


def choice(value: object, field: str, allowed: tuple[str, ...]) -> None:
    """Raises InvalidInput unless the value is one of the allowed words."""
    if value not in allowed:
        raise InvalidInput(field, value, " or ".join(allowed))


def _kv_names(formats: Formats) -> str:
    names = [formats.key.name, formats.value.name]
    return names[0] if names[0] == names[1] else f"k={names[0]},v={names[1]}"


def _share(value: object, field: str) -> float:
    # below a millionth nothing is meant, and times of a long context are no numbers any more
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-6 <= value <= 1:
        raise InvalidInput(field, value, "a share from 0.000001 to 1, e.g. 0.9")
    return float(value)


def _options(engine: Engine, given: dict[str, Any] | None) -> dict[str, Any]:
    """The engine's own options, each of its kind."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput("engine_options", given, "a mapping of the engine's own flag names to values")
    known = {option.name: option for option in engine.options}
    options = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise InvalidInput("engine_options", name, "the name of an option as a key")
        if name not in known:
            names = ", ".join(known) or "none"
            near = UnknownName("option", str(name), known).nearest
            hint = f" (nearest: {near[0]})" if near else ""
            raise InvalidInput("engine_options", name, f"options of engine {engine.name}{hint}: {names}")
        if value is not None:
            options[name] = _checked(known[name], value)
    return options


def _checked(option: Option, value: Any) -> Any:
    field = f"engine_options {option.name}"
    if option.kind == "count":
        return parse_count(value, field, least=option.least)
    if option.kind == "bytes":
        return parse_bytes(value, field)
    if option.kind == "flag":
        words = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
        found = value if isinstance(value, bool) else words.get(str(value).lower())
        if found is None:
            raise InvalidInput(field, value, "true or false, on or off")
        return found
    if option.kind in ("share", "number"):
        number = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                raise InvalidInput(field, value, "a number, e.g. 0.9") from None
        if option.kind == "share":
            return _share(number, field)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**48:
            raise InvalidInput(field, value, "a number from 0 up")
        return number
    text = str(value) if not isinstance(value, bool) else str(value).lower()
    if option.words and text not in option.words:
        raise InvalidInput(field, value, ", ".join(option.words))
    return text


def _weight_format(spec: ModelSpec, weight_dtype: str | None) -> Quantization | None:
    """The checkpoint's own quantisation, unless the question asks for another: then matrices in layers take that format."""
    if weight_dtype in (None, "auto"):
        return spec.quantization
    wanted = find_format(weight_dtype, "weight_dtype")
    if wanted.residual:
        raise InvalidInput("weight_dtype", weight_dtype, "a format without a residual window")
    keep = QuantRule(PLAIN, frozenset({"lm_head"}), ends=frozenset({"gate", "router"}))
    bits, per = wanted.spread
    storage = Storage(wanted.name, wanted.block, wanted.block_bits, flat=((per, bits),) if bits else ())
    return Quantization(f"weight_dtype {wanted.name}", storage, (keep,))


def _check_parallel(spec: ModelSpec, tp: int, pp: int, dp: int) -> None:
    if max(tp, pp, dp) > MOST_RANKS:
        raise InvalidInput("tp, pp, dp", max(tp, pp, dp), f"at most {MOST_RANKS} ranks")
    if pp > max(len(spec.layers), 1):
        raise InvalidInput("pp", pp, f"at most one stage per layer ({len(spec.layers)})")
    legal: set[int] = spec.__dict__.setdefault("_legal_tp", set())
    if tp == 1 or tp in legal:
        return
    for layer in spec.layers:
        for mixer in layer.mixers:
            if isinstance(mixer, Recurrent):
                for part in mixer.state:
                    if part.shard == "heads" and part.heads % tp:
                        raise InvalidInput("tp", tp, f"a divisor of the {part.heads} heads or channels of the state")
                continue
            if mixer.heads % tp:
                raise InvalidInput("tp", tp, f"a divisor of the {mixer.heads} attention heads")
            if isinstance(mixer, Attention) and mixer.kv_heads % tp and tp % mixer.kv_heads:
                raise InvalidInput("tp", tp, f"a divisor or a multiple of the {mixer.kv_heads} KV heads")
    legal.add(tp)
