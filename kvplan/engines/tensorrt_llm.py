"""TensorRT-LLM 1.2, PyTorch backend: blocks of 32 tokens in a share of what is free after a profile run.

Read from ``_torch/pyexecutor/_util.py`` and ``resource_manager.py`` (the Python cache manager); its C++ core was not run.
"""

from __future__ import annotations

from typing import NamedTuple

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import Shape, shapes, state_bytes, states
from kvplan.errors import InvalidInput
from kvplan.formats import Format, find_format
from kvplan.specs import Dense, MoE

__all__ = ["ENGINE", "at"]

GIB = 2**30
SOURCE = "TensorRT-LLM 1.2, _torch/pyexecutor/resource_manager.py"
PROFILE = "TensorRT-LLM 1.2, _torch/pyexecutor/_util.py"
STORED = ("bf16", "fp16", "fp32", "fp8_e4m3", "int8", "nvfp4")
FRACTION, BLOCK, MAX_BATCH, MAX_TOKENS = 0.9, 32, 2048, 8192
FULL = 0  # the window of a layer that keeps every token


class Group(NamedTuple):
    """Layers of one window on one rank: bytes that one token takes in all of them."""

    window: int
    layers: int
    per_token: int


def _format(case: Case) -> Format:
    found = case.formats.key
    if found != case.formats.value or found.name not in STORED:
        name = found.name if found == case.formats.value else f"k={found.name},v={case.formats.value.name}"
        raise InvalidInput("kv_dtype", name, f"{', '.join(STORED)} with engine tensorrt-llm, the same for K and V")
    # its int8 cache has one scale per layer, not one per group
    return find_format("i8") if found.name == "int8" else found


def _windows(case: Case) -> tuple[int, ...]:
    """``max_attention_window``: a list that is repeated over the layers; a window as long as any request is none."""
    text: str = case.option("max_attention_window", "")
    if not text:
        return (FULL,)
    windows = []
    for item in text.replace("[", "").replace("]", "").split(","):
        if not item.strip().isdigit() or not 0 < int(item) < 2**40:
            rule = "tokens per layer with commas, repeated over the layers: 1024,1024,1024,1024,1024,131072"
            raise InvalidInput("engine_options max_attention_window", text, rule)
        windows.append(int(item))
    longest = max(case.spec.max_context or 0, case.context)
    return tuple(window if window < longest else FULL for window in windows)


def _groups(case: Case) -> list[Group]:
    """Layers by window, shortest first and full ones last, as the manager makes its pools; every layer has a cache."""
    format_, windows = _format(case), _windows(case)
    order = {layer: i for i, layer in enumerate(sorted({s.layer for s in shapes(_whole(case), "tensorrt-llm")}))}
    found: dict[int, Group] = {}
    for shape in shapes(case, "tensorrt-llm"):
        window = windows[order[shape.layer] % len(windows)]
        before = found.get(window, Group(window, 0, 0))
        found[window] = Group(window, before.layers + 1, before.per_token + _entry(case, shape, format_))
    return sorted(found.values(), key=lambda group: group.window or 2**62)


def _whole(case: Case) -> Case:
    return case._replace(layers=range(len(case.spec.layers)))


def _entry(case: Case, shape: Shape, format_: Format) -> int:
    """Bytes of one token in one layer: ceil(heads / tp) heads, a latent whole; NVFP4 adds a byte per 16 elements."""
    heads = 1 if shape.kind == "latent" else -(-shape.heads // case.tp)
    size = heads * (format_.row_bits(shape.key) + format_.row_bits(shape.value)) // 8
    if shape.index_dim:
        size += shape.index_dim + shape.index_dim // 128 * 4  # an indexer's key: a byte per element, a scale per 128
    return size


def _block(case: Case) -> int:
    tokens: int = case.option("tokens_per_block", case.option("block_size", BLOCK))
    return tokens


def _blocks_of(case: Case, window: int, tokens: int) -> int:
    """Blocks that one sequence takes of a pool: with a window, those of its window and one more while it slides."""
    block = _block(case)
    if window and tokens > window:
        return min(-(-window // block) + 1, -(-tokens // block))
    return -(-tokens // block)


def _tokens(case: Case) -> int:
    cross = any(shape.kind == "cross" for shape in shapes(_whole(case), "tensorrt-llm"))
    return case.context + (case.encoder_context if cross else 0)


def caches(case: Case) -> tuple[Line, ...]:
    """Whole blocks of every sequence, and recurrent states."""
    lines, block = [], _block(case)
    for group in _groups(case):
        blocks = _blocks_of(case, group.window, _tokens(case))
        size = case.batch * blocks * block * group.per_token
        path = "kv/local" if group.window else "kv/global"
        formula = f"{blocks} blocks of {block} tokens x {group.per_token} bytes"
        if group.window:
            formula += f", window {group.window}"
        lines.append(Line(path, size, group.layers, formula, SOURCE))
    if states(case):
        layers = len({layer for layer, _ in states(case)})
        formula = "convolution columns and recurrent states of each sequence"
        lines.append(Line("kv/state", case.batch * _state(case), layers, formula, SOURCE, state=True))
    return tuple(lines)


def _state(case: Case) -> int:
    return sum(state_bytes(case, case.formats.compute, None))


def _activations(case: Case) -> int:
    """What the profile run holds beside weights, roughly: the widest MLP of max_num_tokens tokens, and logits of a batch."""
    tokens: int = case.option("max_num_tokens", MAX_TOKENS)
    size = case.formats.compute.element_bits // 8
    widest = 0
    for i in case.layers:
        for mlp in case.spec.layers[i].mlps:
            if isinstance(mlp, Dense):
                widest = max(widest, mlp.width)
            elif isinstance(mlp, MoE):
                widest = max(widest, mlp.active * mlp.width + mlp.shared_width)
    # a hidden state in and out, gate, up and their product
    return tokens * (2 * case.spec.hidden + 3 * -(-widest // case.tp)) * size


def room(case: Case, budget: Budget) -> Room:
    """A fraction of what the profile run leaves free: weights, context and activations come off before, not after it."""
    given: int | None = case.option("max_gpu_total_bytes", None)
    if given is not None:
        return Room(given)
    if budget.utilization < 1:
        rule = "nothing with engine tensorrt-llm: its share is of free memory, engine_options free_gpu_memory_fraction"
        raise InvalidInput("gpu_memory_utilization", budget.utilization, rule)
    if budget.memory_bytes is None:
        tokens: int | None = case.option("max_tokens", None)
        if tokens is None:
            return Room(None)
        block = _block(case)
        return Room(sum(-(-tokens // block) * block * group.per_token for group in _groups(case)))
    if budget.weights is None:
        return Room(None)
    fraction: float = case.option("free_gpu_memory_fraction", FRACTION)
    activations = _activations(case)
    free = budget.memory_bytes - budget.weights - budget.runtime_bytes - activations
    size = int(free * fraction)
    estimate = "an estimate (half to twice of it)"
    kept = (
        Line(
            "engine/runtime",
            budget.runtime_bytes,
            0,
            f"context and kernels, {estimate}",
            "kvplan/settings.py",
            basis="estimated",
        ),
        Line(
            "engine/activations",
            activations,
            0,
            f"profile run of max_num_tokens: tokens x (2 hidden + 3 MLP width) x bytes, {estimate}",
            PROFILE,
            basis="estimated",
        ),
        Line(
            "engine/free_gpu_memory_fraction",
            max(free - size, 0),  # where nothing is free, no share of it is kept back
            0,
            f"free memory x (1 - {fraction:g})",
            PROFILE,
            basis="estimated",
        ),
    )
    return Room(size, kept)


class Made(NamedTuple):
    """Blocks of one window's pool, least over the stages."""

    window: int
    tokens: int  # before they are cut to whole blocks
    blocks: int
    per_token: int


def _made(cases: Cases, rooms: Rooms) -> list[Made]:
    """Every window has an equal share of the pool; ``max_tokens`` and the smallest stage limit all of them."""
    found: dict[int, int] = {}
    widest: dict[int, int] = {}
    for case, size in zip(cases, rooms, strict=True):
        block, groups = _block(case), _groups(case)
        limit: int | None = case.option("max_tokens", None)
        left = size
        if states(case):
            left -= case.batch * _state(case)
        for group in groups:
            tokens = max(left, 0) // len(groups) // group.per_token
            if limit is not None:
                tokens = min(tokens, -(-limit // block) * block)
            found[group.window] = min(found.get(group.window, 2**62), tokens)
            widest[group.window] = max(widest.get(group.window, 0), group.per_token)
    return [Made(window, tokens, tokens // _block(cases[0]), widest[window]) for window, tokens in found.items()]


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """Blocks of each window's pool and what the core logs of them."""
    made, case = _made(cases, rooms), cases[0]
    block = _block(case)
    sizes = [
        sum(m.blocks * block * group.per_token for m in made for group in _groups(stage) if group.window == m.window)
        for stage in cases
    ]
    size = max(sizes)
    last = made[-1] if made else Made(FULL, 0, 0, 0)  # the pool of full layers, where there is one
    facts: list[tuple[str, int | float | str]] = [("kv_cache_size", size), ("max_tokens", last.tokens)]
    facts += [(f"blocks_in_primary_pool{_named(m.window)}", m.blocks) for m in made]
    host: int = case.option("host_cache_size", 0)
    per_token = sum(m.per_token for m in made)
    if host and per_token:
        facts.append(("blocks_in_secondary_pool", host // per_token // block))
    printed = tuple(
        f"[TensorRT-LLM][INFO] [MemUsageChange] Allocated {m.blocks * block * m.per_token / GIB:.2f} GiB for max tokens "
        f"in paged KV cache ({m.blocks * block})."
        for m in made
    )
    state = case.batch * max(_state(stage) for stage in cases) if any(states(stage) for stage in cases) else 0
    return Pool(size + state, last.blocks * block if made else None, tuple(facts), printed)


def _named(window: int) -> str:
    return f" (window {window})" if window else ""


def _most(case: Case) -> int:
    batch: int = case.option("max_batch_size", MAX_BATCH)
    return batch


def _admits(cases: Cases, rooms: Rooms) -> bool:
    if min(rooms) <= 0:
        return False
    case = cases[0]
    if case.batch > _most(case):
        return False
    for stage, size in zip(cases, rooms, strict=True):
        if states(stage) and stage.batch * _state(stage) > size:
            return False
    tokens = _tokens(case)
    return all(case.batch * _blocks_of(case, m.window, tokens) <= m.blocks for m in _made(cases, rooms))


def _stated(cases: Cases) -> Stated:
    case = cases[0]
    groups = max((_groups(stage) for stage in cases), key=lambda groups: sum(group.per_token for group in groups))
    facts: list[tuple[str, int | float | str]] = [
        ("tokens_per_block", _block(case)),
        ("kv_size_per_token", sum(group.per_token for group in groups)),
    ]
    facts += [(f"block_size_bytes{_named(group.window)}", _block(case) * group.per_token) for group in groups]
    return Stated(tuple(facts))


ENGINE = Engine(
    name="tensorrt-llm",
    version="1.2",
    summary="blocks of 32 tokens in 0.9 of what a profile run leaves free; a pool per window of max_attention_window",
    utilization=1.0,
    source=SOURCE,
    paged=True,
    options=(
        Option("tokens_per_block", "count", "tokens of a block (32)", common="block_size"),
        Option("free_gpu_memory_fraction", "share", "of the memory free after the profile run (0.9)"),
        Option("max_tokens", "count", "upper limit of the pool's tokens; without a GPU, the pool itself"),
        Option("max_gpu_total_bytes", "bytes", "bytes of the pools on each GPU, in place of the fraction"),
        Option("max_attention_window", "text", "tokens kept per layer, with commas, repeated over the layers (all)"),
        Option("max_num_tokens", "count", "tokens of a pass (8192)"),
        Option("max_batch_size", "count", "requests at once (2048)"),
        Option("host_cache_size", "bytes", "blocks in host memory"),
    ),
    ignores=(
        "The model's own windows, unless max_attention_window names them: every token stays in every layer.",
        "Layers that share another layer's keys and values: every layer has blocks.",
        "What schemes drop, pool or factor: every head's key and value is kept.",
        "Shares by window size (the C++ manager, TRTLLM_WINDOW_SIZE_SHARES): windows share the pool equally.",
    ),
    policy=Policy(caches=caches, room=room, pool=pool, admits=_admits, states=_stated, most=_most),
    cache_names=(("bfloat16", "bf16"), ("float16", "fp16")),
    versions=("1.2",),
    runs_on=("NVIDIA",),
)


def at(version: str) -> Engine:
    """The rules of a version; a patch release has those of its minor one. Raises InvalidInput for another."""
    if ENGINE.version.startswith(version) or version.startswith(f"{ENGINE.version}."):
        return ENGINE
    raise InvalidInput("engine_version", version, f"{ENGINE.version} (the version whose rules kvplan holds)")
