"""LMDeploy 0.16.0: TurboMind's blocks in slabs, and the PyTorch engine's blocks with aligned tensors.

Read from ``src/turbomind`` (``kernels/attention/block.h``, ``memory/object.cc``) and ``lmdeploy/pytorch/engine``
(``cache_engine.py``, ``executor/base.py``); it needs CUDA extensions and was not run.
"""

from __future__ import annotations

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import Shape, shapes, state_bytes, states
from kvplan.errors import InvalidInput

__all__ = ["ENGINE", "at", "slab"]

MIB, GIB = 2**20, 2**30
BLOCK, ENTRY_COUNT = 64, 0.8
MAX_BATCH, MAX_PREFILL = 128, 8192
TURBOMIND = "LMDeploy 0.16.0, src/turbomind/kernels/attention/block.h"
SLABS = "LMDeploy 0.16.0, src/turbomind/memory/object.cc"
PYTORCH = "LMDeploy 0.16.0, lmdeploy/pytorch/engine/cache_engine.py"
BITS = {"0": 16, "4": 4, "8": 8}


def _pytorch(case: Case) -> bool:
    return bool(case.option("backend", "turbomind") == "pytorch")


def _policy(case: Case) -> str:
    """``quant_policy``: 0, 4, 8 of either engine; fp8 (16) and fp8_e5m2 (17) of the PyTorch engine."""
    policy: str = case.option("quant_policy", "")
    names = {case.formats.key.name, case.formats.value.name}
    if not policy:
        policy = "fp8" if names == {"fp8_e4m3"} else "fp8_e5m2" if names == {"fp8_e5m2"} else "0"
        if policy == "0" and not names <= {"bf16", "fp16", "fp32"}:
            raise InvalidInput(
                "kv_dtype", " ".join(sorted(names)), "bf16, fp16 or fp8 with engine lmdeploy; else quant_policy"
            )
    if policy.startswith("fp8") and not _pytorch(case):
        if case.spec.kv_dtype is not None and not case.option("quant_policy", ""):
            return "0"  # what a checkpoint states for other engines
        field = "engine_options quant_policy" if case.option("quant_policy", "") else "kv_dtype"
        raise InvalidInput(
            field, policy, "bf16 or fp16, quant_policy 0, 4 or 8 with backend turbomind; fp8 has backend pytorch"
        )
    return policy


def _block(case: Case) -> int:
    tokens: int = case.option("cache_block_seq_len", case.option("block_size", BLOCK))
    return tokens


def _heads(case: Case, shape: Shape) -> int:
    """KV heads of a rank: both engines split evenly, and repeat heads where there are more ranks than heads."""
    return max(1, shape.heads // case.tp)


def _block_bytes(case: Case) -> int:
    """Bytes of one block of tokens in all layers of one rank; remembered on the spec."""
    memo: dict[object, int] = case.spec.__dict__.setdefault("_lmdeploy", {})
    key = (case.layers.start, case.layers.stop, case.tp, case.formats, _pytorch(case), _policy(case), _block(case))
    if key not in memo:
        if len(memo) > 64:
            memo.clear()
        sized = _pytorch_layer if _pytorch(case) else _turbomind_layer
        memo[key] = sum(sized(case, shape) for shape in shapes(case, "lmdeploy"))
    return memo[key]


def _turbomind_layer(case: Case, shape: Shape) -> int:
    """Data of K and V, and a scale and a zero point of 16 bits per head and token where it is quantised."""
    bits = BITS[_policy(case)]
    own = case.formats.compute.element_bits if bits == 16 else bits
    if shape.kind == "latent":  # one vector is key and value
        return _block(case) * ((shape.key + shape.value) * own // 8 + (4 if bits < 16 else 0))
    heads, extra = _heads(case, shape), 4 if bits < 16 else 0
    return _block(case) * heads * (shape.key * own // 8 + shape.value * own // 8 + 2 * extra)


def _pytorch_layer(case: Case, shape: Shape) -> int:
    """K, V and their scales: four tensors of one pool, each aligned to 256 bytes."""
    policy, block = _policy(case), _block(case)
    size = case.formats.compute.element_bits // 8
    if shape.kind == "latent":
        # K holds the whole vector, V none of its own; fp8 keeps scales and the rotary key in 16 bits
        wide = shape.key + shape.value
        entry = shape.key + shape.key // 128 * 4 + 2 * shape.value if policy.startswith("fp8") else wide * size
        index = shape.index_dim + shape.index_dim // 128 * 4
        return _aligned(block * entry) + (_aligned(block * index) if index else 0)
    heads = _heads(case, shape)
    total = 0
    for width in (shape.key, shape.value):
        data = width * size if policy == "0" else width // 2 if policy == "4" else width
        total += _aligned(block * heads * data)
        if policy in ("4", "8"):
            total += _aligned(block * heads * 2 * size)
    return total


def _aligned(size: int) -> int:
    return -(-size // 256) * 256


def slab(block: int) -> tuple[int, int]:
    """Bytes of TurboMind's slab for objects of ``block`` bytes, and how many it holds.

    The smallest power of two from 32 MiB on that is used to 95 %; 1 GiB where none is.
    """
    size = 32 * MIB
    while size < GIB and size // block * block * 100 < 95 * size:
        size *= 2
    return size, size // block


def _tokens(case: Case) -> int:
    cross = any(s.kind == "cross" for s in shapes(case._replace(layers=range(len(case.spec.layers))), "lmdeploy"))
    return case.context + (case.encoder_context if cross else 0)


def caches(case: Case) -> tuple[Line, ...]:
    """Whole blocks of every sequence, and recurrent states."""
    blocks, size = -(-_tokens(case) // _block(case)), _block_bytes(case)
    source = PYTORCH if _pytorch(case) else TURBOMIND
    formula = f"{blocks} blocks of {_block(case)} tokens x {size} bytes, quant_policy {_policy(case)}"
    found = shapes(case, "lmdeploy")
    path = "kv/latent" if any(shape.kind == "latent" for shape in found) else "kv/global"
    lines = [Line(path, case.batch * blocks * size, len(found), formula, source)] if size else []
    state = _state(case)
    if state:
        layers = len({layer for layer, _ in states(case)})
        text = "convolution columns and recurrent states of each sequence"
        lines.append(Line("kv/state", case.batch * state, layers, text, source, state=True))
    return tuple(lines)


def _state(case: Case) -> int:
    return sum(state_bytes(case, case.formats.compute, None)) if states(case) else 0


def room(case: Case, budget: Budget) -> Room:
    """``cache_max_entry_count`` of what weights leave free; the PyTorch engine first takes off buffers of logits."""
    if budget.utilization < 1:
        rule = "nothing with engine lmdeploy: its share is of free memory, engine_options cache_max_entry_count"
        raise InvalidInput("gpu_memory_utilization", budget.utilization, rule)
    count: int | None = case.option("num_gpu_blocks", None)
    if count is not None:
        return Room(count * _block_bytes(case))
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None)
    share: float = case.option("cache_max_entry_count", ENTRY_COUNT)
    free = budget.memory_bytes - budget.weights - budget.runtime_bytes
    text = "context and kernels, an estimate (half to twice of it)"
    kept = [Line("engine/runtime", budget.runtime_bytes, 0, text, "kvplan/settings.py", basis="estimated")]
    runtime = 0
    if _pytorch(case):
        runtime = _reserve(case, free, share)
        formula = "(max_prefill_token_num + 2 max_batch_size) x vocabulary x 2 bytes"
        kept.append(Line("engine/runtime reserve", runtime, 0, formula, "LMDeploy 0.16.0, executor/base.py"))
    size = int((free - runtime) * share)
    formula = f"free memory x (1 - {share:g})"
    # where nothing is free, no share of it is kept back
    left = max(free - runtime - size, 0)
    kept.append(Line("engine/cache_max_entry_count", left, 0, formula, PYTORCH if runtime else SLABS))
    return Room(size, tuple(kept))


def _reserve(case: Case, free: int, share: float) -> int:
    """Bytes kept for logits; the prompt pass is halved until sixteen blocks fit."""
    tokens: int = case.option("max_prefill_token_num", MAX_PREFILL)
    batch: int = case.option("max_batch_size", MAX_BATCH)
    block, reserve = _block_bytes(case), 0
    while tokens > 0:
        reserve = (tokens + 2 * batch) * case.spec.vocab * 2
        if not block or int((free - reserve) * share) // block >= 16:
            break
        tokens //= 2
    return reserve


def _blocks(cases: Cases, rooms: Rooms) -> int:
    """Blocks of the smallest stage: TurboMind counts those of whole slabs."""
    counts = []
    for case, size in zip(cases, rooms, strict=True):
        block = _block_bytes(case)
        if not block:
            continue
        left = max(size - case.batch * _state(case), 0)
        if _pytorch(case) or case.option("num_gpu_blocks", None) is not None:
            counts.append(left // block)
        else:
            whole, objects = slab(block)
            counts.append(left // whole * objects)
    return min(counts, default=0)


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """Blocks, and the bytes they take on the fullest stage."""
    blocks, case = _blocks(cases, rooms), cases[0]
    sizes = [blocks * _block_bytes(stage) + stage.batch * _state(stage) for stage in cases]
    facts: list[tuple[str, int | float | str]] = [("num_gpu_blocks", blocks), ("kv_cache_size", max(sizes))]
    if not _pytorch(case):
        whole, objects = slab(max(_block_bytes(stage) for stage in cases) or 1)
        facts += [("slab_size", whole), ("blocks_per_slab", objects)]
    return Pool(max(sizes), blocks * _block(case) if blocks else None, tuple(facts))


def _most(case: Case) -> int:
    batch: int = case.option("max_batch_size", MAX_BATCH)
    return batch


def _admits(cases: Cases, rooms: Rooms) -> bool:
    case = cases[0]
    if case.batch > _most(case) or min(rooms) <= 0:
        return False
    if any(stage.batch * _state(stage) > size for stage, size in zip(cases, rooms, strict=True)):
        return False
    if not any(_block_bytes(stage) for stage in cases):
        return True
    return case.batch * -(-_tokens(case) // _block(case)) <= _blocks(cases, rooms)


def _stated(cases: Cases) -> Stated:
    case = cases[0]
    size = max(_block_bytes(stage) for stage in cases)
    return Stated((("cache_block_seq_len", _block(case)), ("block_bytes", size), ("quant_policy", _policy(case))))


ENGINE = Engine(
    name="lmdeploy",
    version="0.16.0",
    summary="blocks of 64 tokens in 0.8 of the memory that weights leave; TurboMind in slabs, PyTorch in aligned tensors",
    utilization=1.0,
    source=TURBOMIND,
    paged=True,
    options=(
        Option("backend", "word", "turbomind (default) or pytorch", words=("turbomind", "pytorch")),
        Option("cache_block_seq_len", "count", "tokens of a block (64)", common="block_size"),
        Option(
            "quant_policy",
            "word",
            "0, 8 or 4 bits; fp8 of the PyTorch engine",
            words=("0", "4", "8", "fp8", "fp8_e5m2"),
        ),
        Option("cache_max_entry_count", "share", "of the memory that weights leave (0.8)"),
        Option("num_gpu_blocks", "count", "blocks, in place of the share"),
        Option("max_batch_size", "count", "sequences at once (128)"),
        Option("max_prefill_token_num", "count", "tokens of a prompt pass of the PyTorch engine (8192)"),
    ),
    ignores=(
        "Windows: every token stays in every layer.",
        "Layers that share another layer's keys and values: every layer has blocks.",
        "What schemes drop, pool or factor: every head's key and value is kept.",
    ),
    policy=Policy(caches=caches, room=room, pool=pool, admits=_admits, states=_stated, most=_most),
    versions=("0.16.0",),
    runs_on=("NVIDIA",),
)


def at(version: str) -> Engine:
    """The rules of a version. Raises InvalidInput for one that is not held here."""
    if not ENGINE.version.startswith(version):
        raise InvalidInput("engine_version", version, f"{ENGINE.version} (the version whose rules kvplan holds)")
    return ENGINE
