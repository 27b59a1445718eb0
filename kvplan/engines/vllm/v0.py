"""vLLM's V0 engine (up to 0.10): one kind of block for every layer, and nothing saved by windows.

Read from ``worker/cache_engine.py`` and ``worker/worker.py`` of 0.6.4.post1, 0.7.3 and 0.9.1. A block holds the keys
and values of ``block_size`` tokens of every attention layer; recurrent states lie outside the pool, one per request.
"""

from __future__ import annotations

from kvplan.engines.policy import Case, Cases, Line, Pool, Rooms, Stated
from kvplan.engines.vllm.layers import Served, layers_of, sequences
from kvplan.engines.vllm.versions import Rules

__all__ = ["NO_MEMORY", "admits", "block_bytes", "caches", "pool", "states"]

SOURCE = "vllm, worker/cache_engine.py (V0)"
SWAP_GIB = 4  # --swap-space, GiB of host memory per GPU
GIB = 2**30
NO_MEMORY = (
    "ValueError: No available memory for the cache blocks. "
    "Try increasing `gpu_memory_utilization` when initializing the engine"
)
# Beginnings of architectures' names, and what the platform calls itself; all others are cuda.
PLATFORMS = {"CDNA": "rocm", "RDNA": "rocm", "TPU": "tpu", "Gaudi": "hpu", "Xe": "xpu"}


def _layers(case: Case, known: Rules) -> tuple[tuple[Served, ...], int]:
    """The layers of this stage that are cached, and the tokens of a block, which recurrent layers do not change here.

    A decoder layer's cross-attention shares the cache of its own tokens, in blocks of its own: it adds no layer.
    """
    aligned = layers_of(case, known._replace(state_layers=True))
    held = tuple(s for s in aligned.layers if s.layer in case.layers and s.label != "cross")
    return held, case.option("block_size", 16) if aligned.state_bytes else aligned.block


def block_bytes(case: Case, known: Rules) -> int:
    """Bytes of one block on this stage: all attention layers."""
    held, tokens = _layers(case, known)
    return sum(tokens * served.spec.token for served in held if served.spec.kind != "state")


def request_blocks(case: Case, known: Rules) -> int:
    """Blocks of one request, the encoder's tokens in blocks of their own."""
    _, tokens = _layers(case, known)
    return -(-case.context // tokens) + -(-case.encoder_context // tokens)


def caches(case: Case, known: Rules) -> tuple[Line, ...]:
    """What the requests take: whole blocks of every attention layer, and their states."""
    found: dict[str, Line] = {}
    held, tokens = _layers(case, known)
    count = request_blocks(case, known)
    for served in held:
        state = served.spec.kind == "state"
        size = case.batch * (served.spec.state if state else count * tokens * served.spec.token)
        path = f"kv/{served.label}"
        formula = (
            f"per layer: {served.formula}" if state else f"per layer: {count:,} blocks × {tokens} × ({served.formula})"
        )
        if path in found:
            before = found[path]
            found[path] = before._replace(size=before.size + size, layers=before.layers + 1)
        else:
            found[path] = Line(path, size, 1, f"{case.batch} sequences × {formula}", SOURCE, state)
    return tuple(found.values())


def states(cases: Cases, known: Rules) -> Stated:
    """The block, and how many of them the host's swap space holds."""
    sizes = [block_bytes(case, known) for case in cases]
    swap = int(cases[0].option("swap_space", SWAP_GIB) * GIB)
    held = [swap // size for size in sizes if size]
    return Stated(
        (
            ("block_size", _layers(cases[0], known)[1]),
            ("bytes_per_block", max(sizes)),
            ("blocks_per_request", request_blocks(cases[0], known)),
            ("max_num_seqs", sequences(cases[0], known)),
            ("num_cpu_blocks", min(held, default=0)),
        )
    )


def num_blocks(cases: Cases, rooms: Rooms, known: Rules) -> int:
    """num_gpu_blocks: what the poorest stage holds, or what was asked for."""
    override = cases[0].option("num_gpu_blocks_override", 0)
    if override:
        return int(override)
    held = [max(room, 0) // size for case, room in zip(cases, rooms, strict=True) if (size := block_bytes(case, known))]
    return min(held, default=0)


def pool(cases: Cases, rooms: Rooms, known: Rules) -> Pool:
    """num_gpu_blocks, num_cpu_blocks and the lines about them."""
    case = cases[0]
    count, tokens = num_blocks(cases, rooms, known), _layers(case, known)[1]
    host = dict(states(cases, known).facts)["num_cpu_blocks"]
    concurrency = count * tokens / case.context
    facts: tuple[tuple[str, int | float | str], ...] = (
        ("num_gpu_blocks", count),
        ("kv_cache_size_tokens", count * tokens),
        ("max_concurrency", concurrency),
        ("available_kv_cache_memory", min(rooms)),
    )
    word = known.blocks_word
    if word == "cuda":
        word = next((name for begun, name in PLATFORMS.items() if case.architecture.startswith(begun)), word)
    printed: tuple[str, ...] = (
        f"# {word} blocks: {count}, # CPU blocks: {host}",
        f"Maximum concurrency for {case.context} tokens per request: {concurrency:.2f}x",
    )
    stored = tokens * (count // case.pp if known.virtual_check else count)
    if not any(block_bytes(case, known) for case in cases):
        pass  # nothing but states, which lie outside the pool
    elif count <= 0:
        printed = (*printed, f"{NO_MEMORY}.")
    elif stored < case.context:
        printed = (
            *printed,
            f"ValueError: The model's max seq len ({case.context}) is larger than the maximum number of tokens that can "
            f"be stored in KV cache ({stored}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` "
            "when initializing the engine.",
        )
    size = max((count * block_bytes(case, known) for case in cases), default=0)
    return Pool(size, count * tokens, facts, printed)


def admits(cases: Cases, rooms: Rooms, known: Rules) -> bool:
    """Whether V0 starts at this max_model_len and its blocks hold all sequences.

    A pipeline has a virtual engine per stage, each with its share of the blocks and of the sequences.
    """
    case = cases[0]
    count = num_blocks(cases, rooms, known) // case.pp
    if case.batch > sequences(case, known):
        return False
    share = -(-case.batch // case.pp)
    return share * request_blocks(case, known) <= count or not any(block_bytes(case, known) for case in cases)
