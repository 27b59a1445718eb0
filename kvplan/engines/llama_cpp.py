"""llama.cpp at 0c1e57098 (llama-cpp-python 0.3.36): cells and streams of a context, and the builds before it.

One context is allocated whole when it starts, whatever its sequences hold: ``cells`` of each cache times its streams.
Read from ``src/llama-context.cpp`` (context and batch sizes), ``src/llama-kv-cache.cpp`` (rows of K and V),
``src/llama-kv-cache-iswa.cpp`` (windows), ``src/llama-memory-recurrent.cpp``, ``src/llama-kv-cache-dsa.cpp``,
``src/llama-kv-cache-msa.cpp``, ``src/llama-kv-cache-dsv4.cpp``, ``src/llama-hparams.cpp`` and ``src/llama-model.cpp``
(which memory an architecture gets). ``kvplan validate --reference llama.cpp`` asks that library itself.

``--parallel`` is the batch and ``--ctx-size`` context x batch where they are not given; of more slots than sequences,
context x slots, for a slot without a sequence has its share too (not in one stream that all share). A server started with
``-np B`` keeps one stream per sequence, so that is the default here; what it does without ``-np`` (four slots that
share one stream) is ``parallel=4, kv_unified=true``.

``tp`` is ``--split-mode tensor`` (heads split), ``pp`` is ``--split-mode layer``.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.errors import InvalidInput
from kvplan.formats import Format, find_format
from kvplan.formulas import heads_per_rank
from kvplan.num import ceil_to, ceildiv
from kvplan.specs import Attention, Compressed, Factored, Latent, Mixer, ModelSpec, Recurrent
from kvplan.weights import layer_weights, makes_logits, outer_weights

__all__ = ["ENGINE", "at"]

MIB = 2**20
SOURCE = "llama.cpp 0c1e57098"
CACHE_TYPES = ("fp32", "fp16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")  # of -ctk and -ctv
GGML_NAMES = {"fp32": "f32", "fp16": "f16"}
CELL_PADDING = 256
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ

# Windows that the class has and llama.cpp has not: their architectures (llama, phi3, starcoder2, qwen2) set no window.
WINDOWLESS = (
    "mistral",
    "mixtral",
    "ministral",
    "phi3",
    "phi3_v",
    "phimoe",
    "starcoder2",
    "qwen2",
    "qwen2_moe",
    "qwen3",
)
# Windows that a class counts without the query: a GGUF says one token less.
WITHOUT_QUERY = ("mimo_v2_flash",)
# Only these read how many layers own KV (llama-hparams.cpp, has_kv).
SHARING = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text")
# Architectures that get no memory at all (llama-model.cpp, create_memory): nothing is ever decoded after them.
MEMORYLESS = (
    "bert",
    "camembert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "modernbert",
    "eurobert",
    "neobert",
    "nomic_bert",
    "dream",
    "llada",
    "llada_moe",
)
# Latent attention that is cached as whole heads: their architectures name no attention.key_length_mla.
EXPANDED = ("minicpm3", "plm")
# Architectures that may keep states to roll back to (llama-arch.cpp, llm_arch_supports_rs_rollback).
ROLLBACK = ("qwen3_5", "qwen4", "nemotron_h", "lfm2", "kimi_k3", "glm5_next", "bailing_moe_v3", "deepseek_v4")
CSA_RATIO = 4


class Rules(NamedTuple):
    """What builds from ``first`` on do, until the next entry."""

    first: int  # build number
    pad: tuple[int, int]  # cells are padded to this many: without and with flash attention
    latent: str  # what MLA caches: heads (expanded) | both (latent and its values) | key (the latent alone)
    window: str  # cells of a window cache: "" none exists | batch | ubatch: n_swa and one such batch
    streams: bool  # a cache may be split by sequence
    hybrid_whole: bool  # each stream of a hybrid model's KV is as long as the whole context
    encoders: bool  # encoders get a cache that nobody reads
    widest_value: bool  # without flash attention every V row is as wide as the model's widest
    flash: bool  # flash attention is on where nobody says
    output_first: bool  # -ngl 1 is the output matrix, not the last layer


_OLDEST = Rules(1, (1, 1), "heads", "", False, False, True, False, False, False)


def _history() -> tuple[Rules, ...]:
    """Which build changed what; 5554 and 5913 are named in issues, the others are placed by the date of the change."""
    changes: tuple[tuple[int, dict[str, object]], ...] = (
        (2776, {"pad": (256, 256)}),  # PR 5021, 2024-04-30: flash attention
        (2871, {"pad": (32, 256)}),  # PR 7257, 2024-05-13
        (5139, {"latent": "both"}),  # PR 12801, 2025-04-15: MLA
        (5317, {"encoders": False}),  # PR 13108, 2025-05-08
        (5432, {"window": "batch"}),  # PR 13194, 2025-05-20: caches of windows
        (5554, {"window": "ubatch"}),  # PR 13833, 2025-05-31
        (5913, {"streams": True, "hybrid_whole": True}),  # PR 14363, 2025-07-16; hybrid models: issue 19552
        (6050, {"widest_value": True}),  # August 2025: before llama-cpp-python 0.3.16, after b5894
        (6325, {"flash": True}),  # PR 15434, 2025-08-30
        (6869, {"pad": (1, 1)}),  # PR 16812, 2025-10-28
        (6979, {"pad": (CELL_PADDING, CELL_PADDING)}),  # PR 17046, 2025-11-07
        (7460, {"output_first": True}),  # PR 18148, 2025-12-17
        (7829, {"latent": "key"}),  # PR 19067, 2026-01-25: no V beside a latent
        (8012, {"hybrid_whole": False}),  # PR 19559, 2026-02-12
    )
    rules = [_OLDEST]
    for first, change in changes:
        rules.append(rules[-1]._replace(first=first, **change))  # type: ignore[arg-type]  # names and types as above
    return tuple(rules)


RULES = _history()
CURRENT = "0c1e57098"
BUILDS = tuple(f"b{rules.first}" for rules in RULES)


def _build(version: str) -> int | None:
    """The build number of a tag, None for the commit whose rules are the newest."""
    if version in ("", CURRENT):
        return None
    found = re.fullmatch(r"b(\d{1,6})\+?", version)
    if found is None or int(found[1]) < 1:
        allowed = f"{CURRENT}, or a build from b1 on, e.g. b5716 (rules change at {', '.join(BUILDS[1:])})"
        raise InvalidInput("engine_version", version, allowed)
    return int(found[1])


def _rules(version: str) -> Rules:
    build = _build(version)
    if build is None:
        return RULES[-1]
    return max((rules for rules in RULES if rules.first <= build), key=lambda rules: rules.first)


def at(version: str) -> Engine:
    """The engine at a build, e.g. ``b5716``; every build between two changes follows the older one."""
    _rules(version)
    return ENGINE._replace(version=version)


# --- sizes of the context --------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """What llama_context makes of its parameters; counts are tokens, cells and sequences."""

    rules: Rules
    n_ctx: int
    n_ctx_seq: int  # cells of a full cache, per stream
    n_seq: int
    n_stream: int
    n_batch: int
    n_ubatch: int
    flash: bool
    unified: bool
    pad: int
    key: Format
    value: Format
    n_rs_seq: int


def _sizes(case: Case) -> Sizes:
    rules = _rules(case.version)
    n_seq = case.option("parallel", case.batch)
    unified = bool(case.option("kv_unified", False)) or not rules.streams
    # where nobody says, as much as the question takes: every slot has the same share, used or not
    held = case.batch if unified else max(case.batch, n_seq)
    asked = case.option("ctx_size", case.context * held)
    if asked == 0:
        if case.spec.max_context is None:
            raise InvalidInput("engine_options ctx_size", 0, f"a number of tokens: {case.spec.name} states no limit")
        asked = case.spec.max_context
    key, value, flash = _types(case, rules)
    n_batch = min(asked, case.option("batch_size", 2048))
    n_ubatch = min(n_batch, case.option("ubatch_size", 512) or n_batch)
    pad = rules.pad[flash]
    if unified:
        cells = n_ctx = ceil_to(asked, pad)
    else:
        # older builds divide what was asked and round up, newer ones pad first and round down
        share = ceildiv(asked, n_seq) if rules.first < 6869 else ceil_to(asked, pad) // n_seq
        cells = ceil_to(share, pad)
        if cells < 1:
            raise InvalidInput("engine_options ctx_size", asked, f"at least one cell for each of {n_seq} sequences")
        n_ctx = cells * n_seq
        if rules.hybrid_whole and rules.first < 6869 and _hybrid(case.spec):
            n_ctx = ceil_to(asked, pad)
    states = case.option("n_rs_seq", 0) if case.spec.model_type.startswith(ROLLBACK) else 0
    return Sizes(
        rules, n_ctx, cells, n_seq, 1 if unified else n_seq, n_batch, n_ubatch, flash, unified, pad, key, value, states
    )


def _hybrid(spec: ModelSpec) -> bool:
    """Whether some layer keeps a state; remembered on the spec."""
    memo: dict[str, bool] = spec.__dict__
    if "_llama_cpp_hybrid" not in memo:
        memo["_llama_cpp_hybrid"] = any(isinstance(m, Recurrent) for layer in spec.layers for m in layer.mixers)
    return memo["_llama_cpp_hybrid"]


def _types(case: Case, rules: Rules) -> tuple[Format, Format, bool]:
    """The types of K and V, and whether flash attention runs. Raises InvalidInput for what the engine refuses."""
    stated = case.spec.kv_dtype
    chosen, one = [], case.formats.key == case.formats.value
    for field, format_ in (("cache_type_k", case.formats.key), ("cache_type_v", case.formats.value)):
        if format_.name not in CACHE_TYPES and stated is not None and find_format(stated).name == format_.name:
            format_ = find_format("fp16")  # what a checkpoint says of its cache does not reach a GGUF
        if format_.name not in CACHE_TYPES:
            field = "kv_dtype" if one else field
            raise InvalidInput(field, format_.name, f"a cache type of llama.cpp: {', '.join(map(_ggml, CACHE_TYPES))}")
        chosen.append(format_)
    key, value = chosen
    asked = case.option("flash_attn", "auto")
    flash = rules.flash if asked == "auto" else asked in ("on", "true", "1")
    if asked == "auto" and value.block > 1 and rules.first >= 6325:
        flash = True
    if value.block > 1 and not flash:
        raise InvalidInput("cache_type_v", _ggml(value.name), "f32, f16 or bf16 without flash attention")
    if key.name != value.name and _latent_only(case, rules):
        rule = f"{_ggml(key.name)}, the type of K: {case.spec.model_type} keeps one vector for both"
        raise InvalidInput("cache_type_v", _ggml(value.name), rule)
    return key, value, flash


def _ggml(name: str) -> str:
    return GGML_NAMES.get(name, name)


def _latent_only(case: Case, rules: Rules) -> bool:
    """Whether the model keeps a latent without values, so that the types of K and V must agree."""
    kept = (Latent, Compressed) if _latent_kept(case, rules) == "key" else (Compressed,)
    return any(isinstance(m, kept) for layer in case.spec.layers for m in layer.mixers)


# --- caches ----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What one layer adds to one cache per cell: elements of K and of V."""

    layer: int
    key: int
    value: int


class Cache(NamedTuple):
    """One cache object as the engine logs it: ``cells`` per stream, a row of K and of V per cell and layer."""

    kind: str  # global | local | chunk | latent | index | compressed
    cells: int
    streams: int
    rows: tuple[Rows, ...]
    window: int = 0


class State(NamedTuple):
    """State of one layer and one sequence in float32 elements: convolution (R) and recurrence (S)."""

    layer: int
    conv: int
    recurrent: int
    copies: int = 1  # per sequence: one, and those to roll back to
    name: str = "recurrent"


class Memory(NamedTuple):
    """What a context of these sizes allocates for the layers of a case."""

    sizes: Sizes
    caches: tuple[Cache, ...]
    states: tuple[State, ...]


class Shape(NamedTuple):
    """Which layers lie in which cache; everything but the numbers of cells."""

    full: tuple[Rows, ...]
    near: tuple[Rows, ...]
    indexers: tuple[Rows, ...]
    packed: tuple[tuple[int, tuple[Rows, ...]], ...]  # by tokens per entry
    states: tuple[State, ...]
    window: int
    chunked: bool
    latent: bool
    hybrid: bool
    per_sequence: bool  # streams are never shared (DeepSeek-V4)


def _shape(case: Case, s: Sizes) -> Shape:
    """The shape of a case, remembered on its spec: a search for the longest context asks for it many times."""
    memo: dict[object, Shape] = case.spec.__dict__.setdefault("_llama_cpp_shapes", {})
    key = (s.rules.first, s.flash, s.n_rs_seq, case.tp, case.layers, case.option("mla", True))
    if key not in memo:
        memo[key] = _built(case, s)
    return memo[key]


def _built(case: Case, s: Sizes) -> Shape:
    spec = case.spec
    full: list[Rows] = []
    near: list[Rows] = []
    index: list[Rows] = []
    packed: dict[int, list[Rows]] = {}
    states: list[State] = []
    limit, chunked, hybrid, widest = 0, False, _hybrid(spec), 0
    if s.rules.widest_value and not s.flash:
        widest = max((_rows(case, s, m, 0).value for layer in spec.layers for m in layer.mixers), default=0)
    for i in case.layers:
        mixers = spec.layers[i].mixers
        if not mixers and not hybrid:
            full.append(Rows(i, 0, widest))  # a layer whose attention was pruned still counts as one with KV
        for mixer in mixers:
            if isinstance(mixer, Recurrent):
                states.append(_state(spec, s, i, mixer, case.tp))
            elif isinstance(mixer, Compressed):
                near.append(Rows(i, mixer.dim, 0))
                limit = max(limit, mixer.window)
                _compressed(s, i, mixer, packed, index, states)
            elif _cached(spec, s.rules, i, mixer):
                rows = _rows(case, s, mixer, i)
                if rows.value and widest:
                    rows = rows._replace(value=widest)
                kind, window = _span(spec, s.rules, mixer)
                (near if window else full).append(rows)
                limit, chunked = max(limit, window), chunked or kind == "chunk"
                index += [found for found in [_index(spec, i, mixer)] if found]
    latent = any(isinstance(m, Latent) for r in full for m in spec.layers[r.layer].mixers)
    return Shape(
        tuple(full),
        tuple(near),
        tuple(index),
        tuple((ratio, tuple(rows_of)) for ratio, rows_of in sorted(packed.items())),
        tuple(states),
        limit,
        chunked,
        latent and _latent_kept(case, s.rules) != "heads",
        hybrid,
        any(isinstance(m, Compressed) for layer in spec.layers for m in layer.mixers),
    )


def _memory(case: Case) -> Memory:
    s = _sizes(case)
    shape = _shape(case, s)
    cells = s.n_ctx if shape.hybrid and s.rules.hybrid_whole else s.n_ctx_seq
    streams = s.n_seq if shape.per_sequence else s.n_stream
    caches = []
    if shape.full:
        caches.append(Cache("latent" if shape.latent else "global", cells, streams, shape.full))
    if shape.near:
        short = _window_cells(case, s, shape.window, s.n_seq // streams, cells)
        caches.append(Cache("chunk" if shape.chunked else "local", short, streams, shape.near, shape.window))
    for ratio, rows_of in shape.packed:
        caches.append(Cache("compressed", _pooled(cells, ratio), streams, rows_of))
    if shape.indexers:
        caches.append(Cache("index", _pooled(cells, CSA_RATIO) if shape.packed else cells, streams, shape.indexers))
    return Memory(s, tuple(caches), shape.states)


def _pooled(cells: int, ratio: int) -> int:
    """Cells of a cache of one entry for ``ratio`` tokens (llama-kv-cache-dsv4.cpp)."""
    return int(ceil_to(max(1, ceildiv(cells, ratio)), CELL_PADDING))


def _latent_kept(case: Case, rules: Rules) -> str:
    """What is cached of latent attention: heads, both or key (see Rules)."""
    return "heads" if case.spec.model_type in EXPANDED or not case.option("mla", True) else rules.latent


def _window_cells(case: Case, s: Sizes, window: int, sequences: int, cells: int) -> int:
    """Cells of a window cache: the window of every sequence of a stream and one batch, never more than a full cache."""
    if case.option("swa_full", False):
        return cells
    batch = s.n_batch if s.rules.window == "batch" else s.n_ubatch
    return min(cells, int(ceil_to(window * sequences + batch, s.pad)))


def _cached(spec: ModelSpec, rules: Rules, layer: int, mixer: Attention | Latent | Factored) -> bool:
    if isinstance(mixer, Attention) and mixer.cross:
        return False  # keys and values of the encoder are made anew in every batch
    if spec.model_type.lower() in MEMORYLESS or (isinstance(mixer, Attention) and not mixer.cached):
        return rules.encoders
    shared = mixer.reads is not None and mixer.reads != layer
    return not (shared and spec.model_type in SHARING)


def _span(spec: ModelSpec, rules: Rules, mixer: Attention | Latent | Factored) -> tuple[str, int]:
    """The kind and length of the window that llama.cpp gives a layer; 0 where it keeps all tokens."""
    if not rules.window:
        return "", 0
    if mixer.keep is not None:
        return ("local", mixer.keep.limit) if mixer.keep.kind == "window" and not mixer.keep.sinks else ("", 0)
    if not isinstance(mixer, Attention) or spec.model_type in WINDOWLESS:
        return "", 0
    if spec.model_type.startswith("exaone4") and len(spec.layers) != 64:
        return "", 0  # src/models/exaone4.cpp: the 32B model alone has windows
    if mixer.chunk is not None:
        return "chunk", mixer.chunk
    return "local", (mixer.window or 0) - (mixer.window is not None and spec.model_type in WITHOUT_QUERY)


def _rows(case: Case, s: Sizes, mixer: Mixer, layer: int) -> Rows:
    if isinstance(mixer, Attention) and not mixer.cross:
        heads = heads_per_rank(mixer.kv_heads, case.tp)
        return Rows(layer, heads * mixer.key_dim, heads * mixer.value_dim)
    if isinstance(mixer, Latent):
        latent = _latent_kept(case, s.rules)
        if latent == "heads":
            heads = heads_per_rank(mixer.heads, case.tp)
            return Rows(layer, heads * (mixer.nope_dim + mixer.rope_dim), heads * mixer.value_dim)
        return Rows(layer, mixer.kv_rank + mixer.rope_dim, mixer.kv_rank if latent == "both" else 0)
    if isinstance(mixer, Factored):
        heads = heads_per_rank(mixer.heads, case.tp)
        return Rows(layer, heads * mixer.dim, heads * mixer.dim)
    return Rows(layer, 0, 0)


def _index(spec: ModelSpec, layer: int, mixer: Attention | Latent | Factored) -> Rows | None:
    """An indexer's keys: one head for every cell, K alone; MiniMax-M3's cache allocates one head of V beside it."""
    if isinstance(mixer, Factored) or mixer.indexer is None or mixer.indexer.shares:
        return None
    value = mixer.value_dim if isinstance(mixer, Attention) and spec.model_type.startswith("minimax_m3") else 0
    return Rows(layer, mixer.indexer.dim, value)


def _compressed(
    s: Sizes, layer: int, m: Compressed, packed: dict[int, list[Rows]], index: list[Rows], states: list[State]
) -> None:
    """DeepSeek-V4: pooled entries beside the window, and what their compressors still hold (value and score, float32)."""
    if not m.ratio:
        return
    packed.setdefault(m.ratio, []).append(Rows(layer, m.dim, 0))
    rows = 2 * m.ratio if m.overlap else m.ratio
    width = 2 if m.overlap else 1
    copies = 1 + s.n_rs_seq
    states.append(State(layer, 0, 2 * rows * width * m.dim, copies, "compressor"))
    if m.indexer is not None and not m.indexer.shares:
        index.append(Rows(layer, m.indexer.dim, 0))
        states.append(State(layer, 0, 2 * rows * width * m.indexer.dim, copies, "compressor"))


def _state(spec: ModelSpec, s: Sizes, layer: int, m: Recurrent, tp: int) -> State:
    """R and S of one layer (llama_hparams::n_embd_r, n_embd_s): the last kernel - 1 columns, and the state itself."""
    conv = sum(channels * (kernel - 1) for channels, kernel in m.conv)
    if m.kind.startswith("rwkv"):
        conv = (1 if "qwen2" in spec.model_type else 2) * spec.hidden  # the last input of both blocks
    recurrent = 0
    for part in m.state:
        if part.name != "shift":
            heads = heads_per_rank(part.heads, tp) if part.shard == "heads" else part.heads
            recurrent += heads * part.width
    return State(layer, conv // tp if m.conv_heads > 1 else conv, recurrent, 1 + s.n_rs_seq)


def _row_bytes(format_: Format, elements: int, field: str) -> int:
    if elements % format_.block:
        rule = f"a type whose blocks divide the {elements} elements of a row"
        raise InvalidInput(field, _ggml(format_.name), rule)
    return elements // format_.block * format_.block_bits // 8


def _bytes(s: Sizes, cache: Cache) -> tuple[int, int]:
    """Bytes of K and of V of one cache."""
    places = cache.cells * cache.streams
    key = sum(_row_bytes(s.key, rows.key, "cache_type_k") for rows in cache.rows)
    value = sum(_row_bytes(s.value, rows.value, "cache_type_v") for rows in cache.rows)
    return places * key, places * value


# --- where they lie --------------------------------------------------------------------------------------------------


def _first_on_gpu(case: Case, rules: Rules) -> int:
    """The first layer on a GPU; those before it are computed, and their caches lie, in host memory (-ngl)."""
    layers = len(case.spec.layers)
    asked: int = case.option("n_gpu_layers", layers + 1)
    return max(layers + 1 - asked if rules.output_first else layers - asked, 0)


def _output_on_gpu(case: Case, rules: Rules) -> bool:
    asked = case.option("n_gpu_layers", len(case.spec.layers) + 1)
    return bool(asked > 0 if rules.output_first else asked > len(case.spec.layers))


def caches(case: Case) -> tuple[Line, ...]:
    """Every buffer of the context: K and V of each cache, R and S. Lines of host memory are named ``kv/host/...``."""
    memory = _memory(case)
    s = memory.sizes
    first = len(case.spec.layers) if case.option("no_kv_offload", False) else _first_on_gpu(case, s.rules)
    lines: list[Line] = []
    for cache in memory.caches:
        for host in (False, True):
            rows = tuple(r for r in cache.rows if (r.layer < first) == host)
            if rows:
                lines += _cache_lines(s, cache._replace(rows=rows), "kv/host" if host else "kv")
    for host in (False, True):
        states = [state for state in memory.states if (state.layer < first) == host]
        lines += _state_lines(s, states, "kv/host/state" if host else "kv/state")
    return _summed(lines)


def _cache_lines(s: Sizes, cache: Cache, path: str) -> list[Line]:
    lines = []
    key, value = _bytes(s, cache)
    streams = f" x {cache.streams} streams" if cache.streams > 1 else ""
    why = f", {cache.cells:,} = padded {cache.window:,} x sequences + batch" if cache.window else ""
    for name, size, format_ in (("key", key, s.key), ("value", value, s.value)):
        if size:
            per = size // (cache.cells * cache.streams)
            formula = f"{cache.cells:,} cells{streams} x {per:,} bytes of {_ggml(format_.name)} rows{why}"
            lines.append(
                Line(f"{path}/{cache.kind}/{name}", size, len(cache.rows), formula, f"{SOURCE}, llama-kv-cache.cpp")
            )
    return lines


def _state_lines(s: Sizes, states: list[State], path: str) -> list[Line]:
    lines = []
    source = f"{SOURCE}, llama-memory-recurrent.cpp"
    for name, pick in (("conv", 0), ("recurrent", 1), ("compressor", 2)):
        sizes = [
            4 * x.copies * (x.conv if pick == 0 else x.recurrent)
            for x in states
            if (x.name == "compressor") == (pick == 2)
        ]
        if sum(sizes):
            formula = f"{s.n_seq} sequences x {sum(sizes):,} bytes (float32)"
            layers = sum(1 for size in sizes if size)
            lines.append(Line(f"{path}/{name}", s.n_seq * sum(sizes), layers, formula, source, state=True))
    return lines


def _summed(lines: list[Line]) -> tuple[Line, ...]:
    """Lines of one path put together: caches of two compression ratios."""
    total: dict[str, Line] = {}
    for line in lines:
        if line.path in total:
            old = total[line.path]
            line = line._replace(
                size=old.size + line.size, layers=old.layers + line.layers, formula=f"{old.formula} + {line.formula}"
            )
        total[line.path] = line
    return tuple(total.values())


# --- room, pool, facts -----------------------------------------------------------------------------------------------


def compute_buffer(case: Case) -> tuple[int, int, int]:
    """Bytes of the compute buffer: least, likely, most. The engine plans its graph; nobody publishes a closed form.

    Likely: logits of one micro-batch and two rows of the residual stream, plus absorbed queries where attention is
    latent, or the scores of every head where flash attention is off. The 43 recorded buffers of the CPU backend are
    0.96 to 1.12 of it. Least leaves out all logits but those of one token per sequence, which is all a server asks for.
    """
    s, spec = _sizes(case), case.spec
    logits = s.n_ubatch * spec.vocab * 4
    stream = s.n_ubatch * 2 * spec.hidden * 4
    queries = scores = 0
    for layer in spec.layers:
        for m in layer.mixers:
            if isinstance(m, Latent):
                queries = max(queries, s.n_ubatch * m.heads * (m.kv_rank + m.rope_dim) * 4)
            if isinstance(m, (Attention, Latent)) and not s.flash:
                scores = max(scores, s.n_ubatch * m.heads * s.n_ctx_seq * 4)
    likely = max(logits + stream + queries, scores + stream + queries)
    least = max(s.n_seq * spec.vocab * 4 + stream, scores)
    return least * 9 // 10, likely, likely * 5 // 4 + 16 * MIB


def _elements(spec: ModelSpec) -> tuple[list[int], int, int, int]:
    """Elements of each layer, and outside: token tables, the logits matrix, the rest; remembered on the spec."""
    memo: dict[str, tuple[list[int], int, int, int]] = spec.__dict__
    if "_llama_cpp_elements" not in memo:
        outside = [0, 0, 0]
        for w in outer_weights(spec):
            outside[0 if w.kind == "lookup" else 1 if makes_logits(w) else 2] += w.elements
        layers = [sum(w.elements for w in layer_weights(spec, i)) for i in range(len(spec.layers))]
        memo["_llama_cpp_elements"] = (layers, outside[0], outside[1], outside[2])
    return memo["_llama_cpp_elements"]


def _gpu_weights(case: Case, weights: int, rules: Rules) -> int:
    """Bytes of the weights that lie on the GPU: the share of its elements. The token table always stays on the host."""
    spec, first = case.spec, _first_on_gpu(case, rules)
    layers, tables, logits, rest = _elements(spec)
    everything = sum(layers[i] for i in case.layers)
    there = sum(layers[i] for i in case.layers if i >= first)
    if case.pp == 1:
        everything += tables + logits + rest
        there += rest
        if _output_on_gpu(case, rules):
            # a tied matrix is copied to the GPU for the logits
            there += logits + (tables if spec.tied and spec.has_head else 0)
    return weights * there // everything if everything else weights


def room(case: Case, budget: Budget) -> Room:
    """Memory less the weights that lie on this GPU, the driver's context and the compute buffer."""
    least, likely, most = compute_buffer(case)
    formula = f"logits, residual stream and scores of one micro-batch: {least // MIB:,} to {most // MIB:,} MiB"
    source = f"{SOURCE}, measured on its CPU backend"
    kept: tuple[Line, ...] = (Line("engine/compute buffer", likely, 0, formula, source, basis="estimated"),)
    if budget.runtime_bytes:
        context = Line("engine/context and kernels", budget.runtime_bytes, 0, "a published measurement", "see settings")
        kept += (context._replace(basis="estimated"),)
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None, kept)
    usable = int(budget.memory_bytes * budget.utilization)
    here = _gpu_weights(case, budget.weights, _rules(case.version))
    return Room(usable - budget.runtime_bytes - here - likely, kept, here)


def _on_gpu(case: Case) -> int:
    return sum(line.size for line in caches(case) if line.on_gpu)


def most(case: Case) -> int:
    """Sequences that a context is made for: ``parallel``, where it is given, and no more than it has cells."""
    asked: int = case.option("parallel", MAX_SEQUENCES)
    given: int = case.option("ctx_size", 0)
    return min(asked, MAX_SEQUENCES, given or MAX_SEQUENCES)


def admits(cases: Cases, rooms: Rooms) -> bool:
    """Whether the context holds every sequence at its length, and its buffers fit beside the weights."""
    s = _sizes(cases[0])
    batch, context = cases[0].batch, cases[0].context
    if s.n_seq > MAX_SEQUENCES or batch > most(cases[0]):
        return False
    if (batch * context > s.n_ctx) if s.unified else (context > s.n_ctx_seq):
        return False
    return all(_on_gpu(case) <= room for case, room in zip(cases, rooms, strict=True))


def _whole(cases: Cases) -> Case:
    """All stages as one: what the engine logs, whichever devices the layers lie on."""
    return cases[0]._replace(tp=1, layers=range(min(c.layers.start for c in cases), max(c.layers.stop for c in cases)))


def states(cases: Cases) -> Stated:
    """Sizes of the context under the engine's own names, and the lines that it logs of them."""
    memory = _memory(_whole(cases))
    s = memory.sizes
    facts: list[tuple[str, int | float | str]] = [
        ("n_ctx", s.n_ctx),
        ("n_ctx_seq", s.n_ctx_seq),
        ("n_seq_max", s.n_seq),
        ("n_stream", s.n_stream),
        ("n_batch", s.n_batch),
        ("n_ubatch", s.n_ubatch),
        ("flash_attn", "on" if s.flash else "off"),
        ("kv_unified", "true" if s.unified else "false"),
    ]
    printed = []
    for cache in memory.caches:
        name = {"local": "swa_", "chunk": "swa_", "index": "index_", "compressed": "compressed_"}.get(cache.kind, "kv_")
        key, value = _bytes(s, cache)
        new = [("cells", cache.cells), ("layers", len(cache.rows)), ("k_mib", key / MIB), ("v_mib", value / MIB)]
        facts += [(name + fact, number) for fact, number in new if name + fact not in dict(facts)]
        printed.append(_cache_text(s, cache, key, value, _build(cases[0].version)))
    plain = [state for state in memory.states if state.name == "recurrent"]
    if plain:
        conv = 4 * s.n_seq * sum(state.copies * state.conv for state in plain)
        recurrent = 4 * s.n_seq * sum(state.copies * state.recurrent for state in plain)
        facts += [("rs_cells", s.n_seq), ("r_mib", conv / MIB), ("s_mib", recurrent / MIB)]
        printed.append(_state_text(s, len(cases[0].spec.layers), conv, recurrent, _build(cases[0].version)))
    least, likely, most = compute_buffer(cases[0])
    facts += [("compute_mib_least", least / MIB), ("compute_mib", likely / MIB), ("compute_mib_most", most / MIB)]
    return Stated(tuple(facts), tuple(_one_cache(printed, s, memory, _build(cases[0].version))))


def _mib(size: int) -> str:
    """Bytes as the engine prints them: a float32 number of MiB with two decimals."""
    return f"{struct.unpack('f', struct.pack('f', size))[0] / MIB:7.2f} MiB"


def _cache_text(s: Sizes, cache: Cache, key: int, value: int, build: int | None) -> str:
    seqs = f"{s.n_seq:2d}/{cache.streams} seqs" if s.rules.streams else f"{s.n_seq:2d} seqs"
    name = "llama_kv_cache" if build is None or build >= 6600 else "llama_kv_cache_unified"
    return (
        f"{name}: size = {_mib(key + value)} ({cache.cells:6d} cells, {len(cache.rows):3d} layers, {seqs}), "
        f"K ({_ggml(s.key.name)}): {_mib(key)}, V ({_ggml(s.value.name)}): {_mib(value)}"
    )


def _state_text(s: Sizes, layers: int, conv: int, recurrent: int, build: int | None) -> str:
    # the newest builds add how many states are kept to roll back to, and a third kind that no model here has
    rolled, third = (f" {s.n_rs_seq:2d} rs_seq", f", P (f32): {_mib(0)}") if build is None else ("", "")
    return (
        f"llama_memory_recurrent: size = {_mib(conv + recurrent)} ({s.n_seq:6d} cells, {layers:3d} layers, "
        f"{s.n_seq:2d} seqs{rolled}), R (f32): {_mib(conv)}, S (f32): {_mib(recurrent)}{third}"
    )


def _one_cache(printed: list[str], s: Sizes, memory: Memory, build: int | None) -> list[str]:
    """The lines as they are, or the one line of builds that kept everything in one cache."""
    if build is None or s.rules.window:
        return printed
    sizes = [_bytes(s, cache) for cache in memory.caches]
    key = sum(k for k, _ in sizes) + 4 * s.n_seq * sum(x.conv for x in memory.states)
    value = sum(v for _, v in sizes) + 4 * s.n_seq * sum(x.recurrent for x in memory.states)
    names = [(_ggml(s.key.name), key), (_ggml(s.value.name), value)]
    if memory.states and not memory.caches:
        names = [("f32", key), ("f32", value)]
    if build < 1600:
        return [f"llama_new_context_with_model: kv self size  = {_mib(key + value)[:-3]}MB"]
    name = "llama_new_context_with_model" if build < 4465 else "llama_init_from_model"
    parts = ", ".join(f"{letter} ({kind}): {_mib(size)}" for letter, (kind, size) in zip("KV", names, strict=True))
    return [f"{name if build < 4880 else 'llama_context'}: KV self size  = {_mib(key + value)}, {parts}"]


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """The context itself: it is allocated whole, and holds n_ctx tokens of all its sequences together."""
    s = _sizes(cases[0])
    size = max(_on_gpu(case) for case in cases)
    grows = bool(_memory(_whole(cases)).caches)
    return Pool(size, s.n_ctx if grows else None)


FLAG_WORDS = ("auto", "on", "off", "true", "false", "1", "0")

ENGINE = Engine(
    name="llama.cpp",
    version=CURRENT,
    summary="one context allocated whole: padded cells per stream, windows in a cache of their own, float32 states",
    utilization=1.0,
    source="llama.cpp 0c1e57098 (llama-cpp-python 0.3.36), src/llama-context.cpp and src/llama-kv-cache*.cpp",
    options=(
        Option(
            "ctx_size",
            "count",
            "cells in all; default context x batch (x parallel where that is more), 0: the model's own",
            least=0,
        ),
        Option("parallel", "count", "sequences (slots); default the batch"),
        Option("kv_unified", "flag", "one stream that all sequences share; a server without -np does so with 4"),
        Option("swa_full", "flag", "windows in a cache of full length"),
        Option("batch_size", "count", "tokens per batch; default 2048"),
        Option("ubatch_size", "count", "tokens per micro-batch; default 512, 0: as the batch", least=0),
        Option("flash_attn", "word", "on, off or auto (on since August 2025)", words=FLAG_WORDS),
        Option("cache_type_k", "text", "type of K; default f16", common="cache_type_k"),
        Option(
            "cache_type_v", "text", "type of V; default f16, quantised needs flash attention", common="cache_type_v"
        ),
        Option("n_gpu_layers", "count", "layers on the GPU, the output matrix among them; default all", least=0),
        Option("no_kv_offload", "flag", "caches in host memory"),
        Option("n_rs_seq", "count", "states per sequence to roll back to (drafts of an MTP head); default 0", least=0),
        Option("mla", "flag", "the GGUF names attention.key_length_mla; files from before April 2025 do not"),
    ),
    ignores=(
        "KV sharing between layers outside Gemma 3n and Gemma 4: every layer gets a cache",
        "windows of Mistral, Phi-3, StarCoder2 and Qwen2: their layers keep every token",
        "budgets, sinks, pooling and low-rank factors: their layers keep every token and whole heads",
        "keys and values of an encoder: made anew in every batch, cached nowhere",
        "what a checkpoint states of its cache: f16 unless a cache type is given",
    ),
    policy=Policy(caches=caches, room=room, pool=pool, admits=admits, states=states, most=most),
    default_kv="fp16",
    cache_names=(("f16", "fp16"), ("f32", "fp32")),
    versions=(*BUILDS, CURRENT),
    runs_on=("NVIDIA", "AMD", "Apple", "Intel"),  # CUDA, HIP, Metal, SYCL; Vulkan on three of them
)
