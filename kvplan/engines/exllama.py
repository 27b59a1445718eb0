"""ExLlamaV3 1.4.1 and ExLlamaV2 0.3.2: caches allocated once, for a number of tokens that the user sets.

Read from ``exllamav3/cache`` and ``modules/sliding_attn.py``, ``gated_delta_net.py``; and ``exllamav2/cache.py``. Both
need CUDA extensions and were not run.
"""

from __future__ import annotations

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import Shape, floor_heads, shapes, states
from kvplan.errors import InvalidInput
from kvplan.specs import Recurrent

__all__ = ["ENGINE", "V2", "at"]

PAGE = 256
SLOTS = 16  # max_batch_size
OVER = 512  # sliding slots beside the window, two pages
V3_SOURCE = "exllamav3 1.4.1, cache/fp16.py, quant.py, mla.py"
V2_SOURCE = "exllamav2 0.3.2, cache.py"
# Architectures with a ring per slot on sliding layers, unless swa_full.
RINGS = frozenset({"afmoe", "gemma4", "gemma4_text", "gpt_oss", "laguna", "numbers", "step3p5"})
# ExLlamaV2: (elements per byte of K, of V, scales), by the name of its cache class.
MODES = {"FP16": (0, 0, False), "FP8": (1, 1, False), "Q4": (2, 2, True), "Q6": (1, 2, True), "Q8": (1, 1, True)}
Q_BLOCK = 512


def _refuse(case: Case, instead: str) -> None:
    """Keys and values are fp16 or the engine's own codes, whatever the model computes in; nothing is kept of an encoder."""
    names = {case.formats.key.name, case.formats.value.name}
    stated = {case.spec.kv_dtype}
    if any(shape.kind == "cross" for shape in shapes(case, "exllama")):
        raise InvalidInput("engine", "exllama", "a model without cross-attention: it has no architecture with it")
    if not names <= {"fp16", "bf16", "fp32"} | stated:
        raise InvalidInput("kv_dtype", " ".join(sorted(names)), f"fp16 with engine exllama: {instead}")


# --- ExLlamaV3 -------------------------------------------------------------------------------------------------------


def _tokens(case: Case) -> int:
    """Slots of the cache: ``max_num_tokens``, else what the sequences need, each in whole pages."""
    given: int | None = case.option("max_num_tokens", None)
    if given is None:
        return case.batch * -(-case.context // PAGE) * PAGE
    if given % PAGE:
        raise InvalidInput("engine_options max_num_tokens", given, f"a multiple of the page of {PAGE} tokens")
    return given


def _bits(case: Case) -> tuple[int, int]:
    """Bits of K and V; 0: fp16. One given alone holds for both."""
    k, v = case.option("k_bits", 0), case.option("v_bits", 0)
    for name, bits in (("k_bits", k), ("v_bits", v)):
        if bits and not 2 <= bits <= 8:
            raise InvalidInput(f"engine_options {name}", bits, "2 to 8 bits")
    return k or v, v or k


def _slot(case: Case, shape: Shape) -> int:
    """Bytes of one token in one layer: codes in words of 32 elements, a scale of 16 bits for each."""
    k, v = _bits(case)
    if shape.kind == "latent":  # the rotary key stays in fp16
        latent = shape.key // 32 * (4 * k + 2) if k else 2 * shape.key
        return latent + 2 * shape.value
    heads = floor_heads(shape.heads, case.tp)
    if not k:
        return 2 * heads * (shape.key + shape.value)
    return heads * shape.key // 32 * (4 * k + 2) + heads * shape.value // 32 * (4 * v + 2)


def _rings(case: Case) -> bool:
    return case.spec.model_type in RINGS and not case.option("swa_full", False)


def v3_caches(case: Case) -> tuple[Line, ...]:
    """Paged keys and values for all tokens, a ring per slot on sliding layers, states per slot."""
    _refuse(case, "engine_options k_bits and v_bits quantise its cache")
    tokens, slots, history = _tokens(case), case.option("max_batch_size", SLOTS), case.option("max_history", 0)
    sums: dict[str, tuple[int, int]] = {}
    ring = 0
    for shape in shapes(case, "exllama"):
        path = "kv/latent" if shape.kind == "latent" else "kv/global"
        if shape.kind == "local" and _rings(case):
            path, ring = "kv/local", -(-(shape.reach + OVER) // PAGE) * PAGE
            size = slots * ring * 2 * floor_heads(shape.heads, case.tp) * (shape.key + shape.value)
        else:
            size = tokens * _slot(case, shape)
        before, layers = sums.get(path, (0, 0))
        sums[path] = (before + size, layers + 1)
    k, v = _bits(case)
    how = f"{k} bits and {v} bits, a 16-bit scale per 32" if k else "fp16"
    lines = []
    for path, (size, layers) in sums.items():
        formula = f"{tokens} tokens in pages of {PAGE}, {how}"
        if path == "kv/local":
            formula = f"max_batch_size {slots} rings of {ring} slots, window + {OVER} in pages, fp16"
        lines.append(Line(path, size, layers, formula, V3_SOURCE))
    state = _states(case, slots, history)
    if state:
        layers = len({layer for layer, _ in states(case)})
        formula = (
            f"max_batch_size {slots} slots: kernel columns in bf16, states in fp32, max_history {history} more of each"
        )
        source = "exllamav3 1.4.1, modules/gated_delta_net.py"
        lines.append(Line("kv/state", state, layers, formula, source, state=True))
    return tuple(lines)


def _states(case: Case, slots: int, history: int) -> int:
    total = 0
    for i in case.layers:
        for mixer in case.spec.layers[i].mixers:
            if not isinstance(mixer, Recurrent):
                continue
            for channels, kernel in mixer.conv:
                total += -(-channels // case.tp) * (kernel + history) * 2
            for part in mixer.state:
                heads = -(-part.heads // case.tp) if part.shard == "heads" else part.heads
                total += heads * part.width * 4 * (history + 1)
    return slots * total


# --- ExLlamaV2 -------------------------------------------------------------------------------------------------------


def _length(case: Case, shape: Shape) -> int:
    """Slots per sequence: ``max_seq_len``; quantised rows must fill blocks of 512 elements."""
    length: int = case.option("max_seq_len", case.context)
    if not MODES[_mode(case)][2]:
        return length
    dim, rows = floor_heads(shape.heads, case.tp) * shape.key, 1
    while dim * rows % Q_BLOCK:
        rows += 1
    return -(-length // rows) * rows


def _mode(case: Case) -> str:
    mode: str = case.option("cache_mode", "FP16")
    return mode


def v2_caches(case: Case) -> tuple[Line, ...]:
    """Keys and values of every layer at full length, and one layer of them in fp16 where they are quantised."""
    _refuse(case, "engine_options cache_mode quantises its cache")
    if states(case) or any(shape.kind == "latent" for shape in shapes(case, "exllama")):
        raise InvalidInput(
            "engine_version", case.version, "3 for latents and recurrent layers: ExLlamaV2 has no cache for them"
        )
    mode, rows = _mode(case), case.option("batch_size", case.batch)
    per_byte_k, per_byte_v, scales = MODES[mode]
    total = layers = temporary = length = 0
    for shape in shapes(case, "exllama"):
        length = _length(case, shape)
        heads, layers = floor_heads(shape.heads, case.tp), layers + 1
        plain = 2 * heads * (shape.key + shape.value)
        per_token = plain
        if per_byte_k:
            per_token = heads * (shape.key // per_byte_k + shape.value // per_byte_v)
            temporary = max(temporary, rows * length * plain)
        if scales:
            per_token += heads * (shape.key // 32 + shape.value // 32) * 2
        total += rows * length * per_token
    formula = f"batch_size {rows} x {length} slots, {mode}"
    lines = [Line("kv/global", total, layers, formula, V2_SOURCE)]
    if temporary:
        lines.append(Line("engine/fp16 temporaries", temporary, 0, "keys and values of one layer in fp16", V2_SOURCE))
    return tuple(lines)


# --- the contract ----------------------------------------------------------------------------------------------------


def room(case: Case, budget: Budget) -> Room:
    """What weights and context leave: the engine sets nothing aside besides."""
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None)
    usable = round(budget.memory_bytes * budget.utilization)
    text = "context and kernels, an estimate (half to twice of it)"
    kept = Line("engine/runtime", budget.runtime_bytes, 0, text, "kvplan/settings.py", basis="estimated")
    return Room(usable - budget.weights - budget.runtime_bytes, (kept,))


def _v3_pool(cases: Cases, rooms: Rooms) -> Pool:
    size = max(sum(line.size for line in v3_caches(case)) for case in cases)
    grows = any(shapes(case, "exllama") for case in cases)
    return Pool(size, _tokens(cases[0]) if grows else None)


def _v2_pool(cases: Cases, rooms: Rooms) -> Pool:
    size = max(sum(line.size for line in v2_caches(case)) for case in cases)
    case = cases[0]
    rows: int = case.option("batch_size", case.batch)
    return Pool(size, rows * max(_length(case, shape) for shape in shapes(case, "exllama")))


def _v3_most(case: Case) -> int:
    slots: int = case.option("max_batch_size", SLOTS)
    return slots


def _v3_admits(cases: Cases, rooms: Rooms) -> bool:
    case = cases[0]
    if case.batch * -(-case.context // PAGE) * PAGE > _tokens(case) or case.batch > _v3_most(case):
        return False
    return all(sum(x.size for x in v3_caches(c)) <= size for c, size in zip(cases, rooms, strict=True))


def _v2_admits(cases: Cases, rooms: Rooms) -> bool:
    case = cases[0]
    rows: int = case.option("batch_size", case.batch)
    length: int = case.option("max_seq_len", case.context)
    if case.batch > rows or case.context > length:
        return False
    return all(sum(x.size for x in v2_caches(c)) <= size for c, size in zip(cases, rooms, strict=True))


def _v3_stated(cases: Cases) -> Stated:
    case = cases[0]
    per_token = max(
        sum(_slot(c, s) for s in shapes(c, "exllama") if not (s.kind == "local" and _rings(c))) for c in cases
    )
    slots: int = case.option("max_batch_size", SLOTS)
    return Stated(
        (
            ("page_size", PAGE),
            ("max_num_tokens", _tokens(case)),
            ("max_batch_size", slots),
            ("bytes_per_token", per_token),
        )
    )


def _v2_stated(cases: Cases) -> Stated:
    case = cases[0]
    rows: int = case.option("batch_size", case.batch)
    length = max((_length(case, shape) for shape in shapes(case, "exllama")), default=0)
    return Stated((("max_seq_len", length), ("batch_size", rows), ("cache_mode", _mode(case))))


IGNORES = (
    "Layers that share another layer's keys and values: every layer has a cache.",
    "The dtype of the model: keys and values are fp16 or quantised.",
    "What schemes drop, pool or factor: every head's key and value is kept.",
)
VERSIONS = ("2-0.3.2", "3-1.4.1")

ENGINE = Engine(
    name="exllama",
    version="3-1.4.1",
    summary="ExLlamaV3: pages of 256 tokens, fp16 or 2 to 8 bits; a ring per slot on sliding layers of some models",
    utilization=1.0,
    source=V3_SOURCE,
    options=(
        Option("max_num_tokens", "count", f"slots of the cache, a multiple of {PAGE} (what the sequences need)"),
        Option("k_bits", "count", "bits of keys, and of latents (fp16)", least=2),
        Option("v_bits", "count", "bits of values (as keys)", least=2),
        Option("max_batch_size", "count", "slots of rings and recurrent states (16)"),
        Option("max_history", "count", "past states kept per slot, for speculation (0)", least=0),
        Option("swa_full", "flag", "every token on sliding layers too"),
    ),
    ignores=(
        *IGNORES,
        "Windows of architectures without rings (Gemma 2 and 3, Mistral ...): every token stays.",
    ),
    policy=Policy(v3_caches, room, _v3_pool, _v3_admits, _v3_stated, _v3_most),
    versions=VERSIONS,
    runs_on=("NVIDIA",),
)

V2 = ENGINE._replace(
    version="2-0.3.2",
    summary="ExLlamaV2: one cache at max_seq_len, fp16 or quantised with a layer of fp16 temporaries",
    source=V2_SOURCE,
    options=(
        Option("max_seq_len", "count", "slots per sequence (the context)"),
        Option("batch_size", "count", "sequences"),
        Option("cache_mode", "word", "class of the cache (FP16)", words=tuple(MODES)),
    ),
    ignores=(*IGNORES, "Windows: every token stays."),
    policy=Policy(caches=v2_caches, room=room, pool=_v2_pool, admits=_v2_admits, states=_v2_stated),
    runs_on=("NVIDIA", "AMD"),  # CUDA and ROCm
)


def at(version: str) -> Engine:
    """The rules of a version: ``3`` or ``1.4.1``, ``2`` or ``0.3.2``. Raises InvalidInput for another."""
    asked = version.lower().removeprefix("v")
    for engine in (ENGINE, V2):
        if engine.version.startswith(asked) or engine.version[2:].startswith(asked):
            return engine
    raise InvalidInput("engine_version", version, "3 (ExLlamaV3 1.4.1) or 2 (ExLlamaV2 0.3.2)")
