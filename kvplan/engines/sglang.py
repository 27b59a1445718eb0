"""SGLang 0.5.23: pools of token slots per kind of layer, read from ``model_executor/pool_configurator.py`` and its kin.

One slot of the full pool holds a token in every layer that is not sliding, one slot of the sliding pool a token in every
sliding layer, one mamba slot a request's states. Where the engine computes in floats of GB, so does this module.
"""

from __future__ import annotations

from typing import NamedTuple

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import Shape, floor_heads, shapes, state_bytes, states
from kvplan.errors import InvalidInput
from kvplan.formats import Format, find_format

__all__ = ["ENGINE", "at", "default_mem_fraction", "prefill_graphs"]

MIB, GIB = 2**20, 2**30
POOLS = "sglang 0.5.23, model_executor/pool_configurator.py"
SIZING = "sglang 0.5.23, mem_cache/kv_cache_configurator.py"
DEFAULTS = "sglang 0.5.23, arg_groups/memory_hook.py"
# What it keeps entries in; nvfp4 is its fp4_e2m1: half a byte and a one-byte scale per 16.
STORED = ("bf16", "fp16", "fp32", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4")
SWA_RATIO, MAMBA_RATIO = 0.8, 0.9
MAX_REQUESTS = 4096
SWA_EVICTION = 128  # SGLANG_SWA_EVICTION_INTERVAL
VLM_CACHE = 100 * MIB  # SGLANG_VLM_CACHE_SIZE_MB, set aside for models with an encoder of images
# Model classes whose sliding layers get a pool of their own. Gemma 2 and 3, OLMo and EXAONE are excluded by name, and
# every other class with windows is not on the list.
HYBRID_SWA = frozenset(
    {
        *("beam", "dots3", "gemma4", "gemma4_text", "gpt_oss", "granite_moe_swa", "granite_swa", "inkling"),
        *("inkling_mm_model", "iquest_q1", "laguna", "llama4", "mellum", "mimo_v2", "mimo_v2_flash", "muse_glimmer"),
        *("muse_spark", "numbers", "spark2_5", "step3p5", "step3p7"),
    }
)
# Classes for which prefix caching keeps two slots more per request while it overlaps scheduling with the GPU.
EXTRA_BUFFER = frozenset(
    {
        *("bailing_hybrid", "falcon_h1", "granitemoehybrid", "inkling", "inkling_mm_model", "kimi_k3", "kimi_linear"),
        *("nemotron_h", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp"),
    }
)
RATIO_OF = {"deepseek_v4": 0.1, "inkling": 0.1, "inkling_mm_model": 0.1}


class Widths(NamedTuple):
    """Bytes of one token on one rank, over the layers of a stage: of the full pool and of the sliding one."""

    full_key: int
    full_value: int
    latent: int  # latents and indexer keys, which are on every rank
    indexer: int
    swa_key: int
    swa_value: int
    full_layers: int
    swa_layers: int
    window: int

    @property
    def full(self) -> int:
        """Of one slot of the full pool."""
        return self.full_key + self.full_value + self.latent + self.indexer

    @property
    def swa(self) -> int:
        """Of one slot of the sliding pool."""
        return self.swa_key + self.swa_value


class Sizes(NamedTuple):
    """What the engine makes of its memory on all stages."""

    tokens: int  # max_total_num_tokens
    full: int
    swa: int  # 0: no sliding pool
    mamba: int  # max_mamba_cache_size; 0: no state
    requests: int  # max_running_requests


def _format(case: Case) -> Format:
    found = case.formats.key
    if found != case.formats.value or found.name not in STORED:
        name = found.name if found == case.formats.value else f"k={found.name},v={case.formats.value.name}"
        raise InvalidInput("kv_dtype", name, f"{', '.join(STORED)} with engine sglang, the same for K and V")
    return found


def _page(case: Case) -> int:
    """Slots of a page, of all layers: 1 unless an attention backend wants more."""
    given: int | None = case.option("page_size", case.option("block_size", None))
    if given is not None:
        return given
    if _sparse(case):
        return 64
    backend = case.option("attention_backend", "")
    if backend in ("flashmla", "trtllm_mla", "cutedsl_mla", "trtllm_mha", "hpc_ops"):
        return 64
    return 128 if backend == "fa4" and case.architecture.startswith("Blackwell") else 1


def _hybrid(case: Case) -> bool:
    if case.option("disable_hybrid_swa_memory", case.spec.model_type not in HYBRID_SWA):
        return False
    return any(shape.kind in ("local", "chunk") for shape in shapes(_whole(case), "sglang"))


def _whole(case: Case) -> Case:
    return case._replace(layers=range(len(case.spec.layers)))


def _widths(case: Case) -> Widths:
    """Every layer that looks at keys gets slots: the engine does not let layers share another's cache.

    Remembered on the spec, since a capacity asks it hundreds of times.
    """
    memo: dict[object, Widths] = case.spec.__dict__.setdefault("_sglang", {})
    flags = case.option("disable_hybrid_swa_memory", None), case.option("dsa_raw_layout", False)
    key = (case.layers.start, case.layers.stop, case.tp, case.formats, flags)
    if key not in memo:
        if len(memo) > 64:
            memo.clear()
        memo[key] = _sum_widths(case)
    return memo[key]


def _sum_widths(case: Case) -> Widths:
    format_, hybrid = _format(case), _hybrid(case)
    sums = dict.fromkeys(Widths._fields, 0)
    for shape in shapes(case, "sglang"):
        sliding = hybrid and shape.kind in ("local", "chunk")
        side = "swa" if sliding else "full"
        sums[f"{side}_layers"] += 1
        if shape.kind == "latent":
            sums["latent"] += _latent(case, shape, format_)
        else:
            heads = floor_heads(shape.heads, case.tp)
            sums[f"{side}_key"] += heads * format_.row_bits(shape.key) // 8
            sums[f"{side}_value"] += heads * format_.row_bits(shape.value) // 8
        if shape.index_dim:
            sums["indexer"] += _index(case, shape)
        if sliding:
            sums["window"] = max(sums["window"], shape.reach)
    return Widths(**sums)


def _latent(case: Case, shape: Shape, format_: Format) -> int:
    """Bytes of one latent entry. Sparse attention in fp8 keeps an fp32 scale per 128 elements and a rotary key in 16 bits."""
    if _sparse(case) and format_.name == "fp8_e4m3" and not case.option("dsa_raw_layout", False):
        return shape.key + shape.key // 128 * 4 + shape.value * 2
    return (format_.row_bits(shape.key) + format_.row_bits(shape.value)) // 8


def _sparse(case: Case) -> bool:
    return any(shape.kind == "latent" and shape.index_dim for shape in shapes(_whole(case), "sglang"))


def _index(case: Case, shape: Shape) -> int:
    if shape.kind == "latent":  # a byte per element and an fp32 scale per 128, whatever the cache's format
        return shape.index_dim + shape.index_dim // 128 * 4
    own = case.formats.compute if shape.index_as == "compute" else find_format(shape.index_as)
    return own.row_bits(shape.index_dim) // 8


def _state(case: Case) -> tuple[int, int]:
    """Bytes of one request's convolution columns (bf16) and recurrent states (fp32 unless mamba_ssm_dtype) of a stage."""
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    recurrent = find_format(names[case.option("mamba_ssm_dtype", "float32")])
    return state_bytes(case, find_format("bf16"), recurrent)


def _state_layers(case: Case) -> int:
    return len({layer for layer, _ in states(case)})


def _slots_per_request(case: Case) -> int:
    """Mamba slots that one running request may take: its own, and those that prefix caching keeps (3; 1 without it)."""
    if case.option("disable_radix_cache", False):
        return 1
    strategy = case.option("mamba_radix_cache_strategy", "auto")
    overlap = not case.option("disable_overlap_schedule", False)
    if strategy == "auto":
        paged = _page(case) > 1
        strategy = "extra_buffer" if (overlap or paged) and case.spec.model_type in EXTRA_BUFFER else "no_buffer"
    return 3 + {"no_buffer": 0, "extra_buffer_lazy": 1}.get(strategy, 2 if overlap else 1)


def _ratio(case: Case) -> float:
    ratio: float = case.option("swa_full_tokens_ratio", RATIO_OF.get(case.spec.model_type, SWA_RATIO))
    return ratio


def _by_requests(case: Case) -> bool:
    """Whether the sliding pool is sized from the requests that may run, not from the ratio."""
    return bool(case.option("disable_radix_cache", False)) and case.option("max_running_requests", None) is not None


def _request_slots(case: Case, window: int) -> int:
    """Sliding slots that one request holds at most: its window, what awaits eviction, and two pages of rounding."""
    draft: int = case.option("speculative_num_draft_tokens", 1)
    return window + SWA_EVICTION * draft + 2 * _page(case)


def _request_cap(case: Case, window: int) -> int:
    """Sliding slots at the worst moment of all running requests, two prompt chunks in flight."""
    page = _page(case)
    chunks = 1 if case.option("disable_overlap_schedule", False) else 2
    requests: int = case.option("max_running_requests", 1)
    held = _request_slots(case, window) * max(1, requests)
    return -(-(held + chunks * _chunked_prefill(case) + page) // page) * page


# --- defaults that follow from the card ------------------------------------------------------------------------------


def _card(case: Case) -> int | None:
    """Memory of the card in MiB, which the engine calls MB."""
    return None if case.memory_bytes is None else case.memory_bytes // MIB


def _chunked_prefill(case: Case) -> int:
    card = _card(case)
    default = (
        4096 if card is None else 2048 if card < 20480 else 4096 if card < 61440 else 8192 if card < 163840 else 16384
    )
    given: int = case.option("chunked_prefill_size", default)
    return given


def _decode_batch(case: Case) -> int:
    """The largest batch whose decode step is captured as a CUDA graph."""
    card = _card(case)
    if card is None:
        size = 160
    elif card < 20480:
        size = 8
    elif card < 61440:
        size = (48 if card < 35840 else 32) if case.tp < 4 else 160
    else:
        size = 256 if card < 163840 and case.tp < 4 else 512
    given: int = case.option("cuda_graph_max_bs", min(size, case.option("max_running_requests", size)))
    return given


def prefill_graphs(tokens: int) -> int:
    """How many prompt sizes up to ``tokens`` are captured as CUDA graphs.

    >>> [prefill_graphs(n) for n in (2048, 4096, 8192, 16384)]
    [42, 50, 58, 74]
    """
    steps = ((4, 32, 4), (48, 256, 16), (288, 512, 32), (576, 1024, 64), (1280, 4096, 256), (4608, tokens, 512))
    return sum(len(range(first, min(last, tokens) + 1, step)) for first, last, step in steps)


def default_mem_fraction(case: Case) -> float:
    """``mem_fraction_static`` where nobody sets it: what is left of the card, in MB, after graphs and activations.

    Without a card it is 0.95, as the engine says itself.
    """
    card = _card(case)
    if card is None:
        return 0.95
    latent = any(shape.kind == "latent" for shape in shapes(_whole(case), "sglang"))
    post_capture = case.option("post_capture_kv_sizing", False) and not latent
    if post_capture:
        reserved = 1536 + case.tp * case.pp / 8 * 1024
    else:
        chunk = _chunked_prefill(case)
        reserved = 512 + max(chunk, 2048) * 1.5 + case.tp * case.pp / 8 * 1024
        if not case.option("disable_cuda_graph", False):
            reserved += 2 * _decode_batch(case)
            reserved += 1536 if latent else 8 * prefill_graphs(chunk)
        if card > 61440:
            reserved = max(reserved, 10240)
    fraction = round((card - reserved) / card, 3)
    seeing = _vision(case)
    if not seeing:
        return fraction
    if post_capture:
        return fraction - 8 * 1024 / card
    # the engine compares layers x hidden^2 of the image encoder with those of ViT-L/14; a layer has about 12 hidden^2
    complexity = seeing / 12 / (24 * 1024**2)
    return fraction * 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (complexity - 1.0)))


def _vision(case: Case) -> int:
    """Parameters of an image encoder; 0 without one."""
    return sum(tower.parameters for tower in case.spec.towers if "vis" in tower.name or "image" in tower.name)


def _fraction(case: Case) -> float:
    given: float | None = case.option("mem_fraction_static", None)
    return default_mem_fraction(case) if given is None else given


# --- the contract ----------------------------------------------------------------------------------------------------


def caches(case: Case) -> tuple[Line, ...]:
    """What the requests take of the pools, in whole pages.

    The sliding pool is tied to the full one by a ratio: a token of the full pool comes with ``swa_full_tokens_ratio``
    sliding slots, whether the request uses them or not; the unused ones are a line of their own.
    """
    widths, page = _widths(case), _page(case)
    tokens = -(-(case.context + _encoder(case)) // page) * page
    lines = []
    sliding = any(shape.kind in ("local", "chunk") for shape in shapes(case, "sglang"))
    ignoring = ", windows ignored" if sliding and not _hybrid(case) else ""
    for path, size in (
        ("kv/global", widths.full_key + widths.full_value),
        ("kv/latent", widths.latent),
        ("kv/index", widths.indexer),
    ):
        if size:
            formula = f"{tokens} slots (pages of {page}) x {size} bytes of {widths.full_layers} layers{ignoring}"
            lines.append(Line(path, case.batch * tokens * size, widths.full_layers, formula, POOLS))
    if widths.swa:
        held = case.batch * _swa_held(case, widths)
        formula = f"min(tokens, window + {SWA_EVICTION} + 2 pages) slots x {widths.swa} bytes"
        lines.append(Line("kv/local", held * widths.swa, widths.swa_layers, formula, POOLS))
        share = int(case.batch * tokens * _ratio(case)) if widths.full else 0
        if not _by_requests(case) and share > held:
            formula = f"swa_full_tokens_ratio {_ratio(case):g} of the full slots come as sliding slots: {share}"
            lines.append(Line("engine/swa pool share", (share - held) * widths.swa, widths.swa_layers, formula, POOLS))
    state, slots = sum(_state(case)), _slots_per_request(case)
    if state:
        layers = _state_layers(case)
        formula = "a mamba slot: convolutions in bf16, states in mamba_ssm_dtype"
        lines.append(Line("kv/state", case.batch * state, layers, formula, POOLS, state=True))
        if slots > 1:
            formula = f"{slots} mamba slots per running request: prefix caching keeps {slots - 1}"
            lines.append(Line("engine/mamba prefix slots", case.batch * (slots - 1) * state, layers, formula, SIZING))
    return tuple(lines)


def _encoder(case: Case) -> int:
    """Tokens of an encoder take slots like the others where the decoder looks at them."""
    if not case.encoder_context:
        return 0
    return case.encoder_context if any(s.kind == "cross" for s in shapes(_whole(case), "sglang")) else 0


def _swa_held(case: Case, widths: Widths) -> int:
    page = _page(case)
    return min(-(-case.context // page) * page, _request_slots(case, widths.window))


def room(case: Case, budget: Budget) -> Room:
    """Memory left after loading, less a share of what was free before it: (1 - mem_fraction_static), and encoder caches."""
    if budget.utilization < 1:
        rule = (
            "nothing with engine sglang: its share is of memory free before loading, engine_options mem_fraction_static"
        )
        raise InvalidInput("gpu_memory_utilization", budget.utilization, rule)
    given: int | None = case.option("available_bytes", None)
    if given is not None:
        return Room(given)
    if budget.memory_bytes is None:
        return Room(_asked_bytes(case))
    loaded: int | None = case.option("avail_mem", None)
    if budget.weights is None and loaded is None:
        return Room(None)
    # nothing is free where the context alone takes more: below zero, a share of it would be room
    before = max(budget.memory_bytes - budget.runtime_bytes, 0) / GIB
    fraction = _fraction(case)
    slack = before * (1 - fraction)
    seeing = VLM_CACHE if _vision(case) else 0
    after = before - (budget.weights or 0) / GIB if loaded is None else loaded / GIB
    left = after - slack - seeing / GIB
    kept = [
        Line(
            "engine/runtime",
            budget.runtime_bytes,
            0,
            "context, kernels and communication buffers before loading, an estimate (half to twice of it)",
            "kvplan/settings.py",
            basis="estimated",
        ),
        Line(
            "engine/mem_fraction_static",
            int(slack * GIB),
            0,
            f"memory free before loading x (1 - {fraction:g}): activations and CUDA graphs",
            SIZING,
            basis="estimated",
        ),
    ]
    if seeing:
        kept.append(Line("engine/encoder cache", seeing, 0, "SGLANG_VLM_CACHE_SIZE_MB, 100 by default", SIZING))
    return Room(int(left * GIB), tuple(kept))


def _asked_bytes(case: Case) -> int | None:
    """The pools that ``max_total_tokens`` asks for, where no card limits them."""
    tokens: int | None = case.option("max_total_tokens", None)
    if tokens is None:
        return None
    widths, page = _widths(case), _page(case)
    tokens = tokens // page * page
    size = tokens * widths.full + _asked_mamba_bytes(case)
    if not widths.swa:
        return size
    if _by_requests(case):
        return size + _request_cap(case, widths.window) * widths.swa
    # as much as makes the engine's division come out at these tokens
    share = _ratio(case) if widths.full else 1.0
    return size + int(tokens * share * widths.swa) + 1


def _asked_mamba_bytes(case: Case) -> int:
    state = sum(_state(case))
    return (_asked_mamba(case) + 1) * state if state else 0


def _asked_mamba(case: Case) -> int:
    """Mamba slots where no memory is shared out: those given, or those of the requests asked for."""
    given: int | None = case.option("max_mamba_cache_size", None)
    if given is not None:
        return given
    requests: int = case.option("max_running_requests", case.batch)
    return max(1, requests) * _slots_per_request(case)


def _swa_of(case: Case, full: int) -> int:
    page = _page(case)
    if not _widths(_whole(case)).full_layers:
        return full
    if _by_requests(case):
        return min(_request_cap(case, _widths(_whole(case)).window), full)
    return int(full * _ratio(case)) // page * page


def _mamba(case: Case, stage_state: int, room_gb: float) -> tuple[int, float]:
    """Mamba slots of a stage's memory, and what is left for keys and values; GB."""
    draft = case.option("speculative_num_draft_tokens", 0)
    given: int | None = case.option("max_mamba_cache_size", None)
    requests: int | None = case.option("max_running_requests", None)
    slots = _slots_per_request(case)
    if given is None and case.option("disable_radix_cache", False) and requests is not None:
        given = max(1, requests)
        if draft:
            room_gb -= stage_state * (given + 1) * draft / GIB
    elif given is not None:
        if draft:
            room_gb -= stage_state * (min(requests or given, given // slots) + 1) * draft / GIB
    elif case.memory_bytes is None and case.option("available_bytes", None) is None:
        given = _asked_mamba(case)
    else:
        ratio: float = case.option("mamba_full_memory_ratio", MAMBA_RATIO)
        budget = room_gb * ratio / (1 + ratio) * GIB
        if draft:
            given = int((budget - stage_state * (1 + draft)) // (stage_state * (1 + draft / slots)))
            room_gb -= stage_state * (min(max(1, requests or given), given // slots) + 1) * draft / GIB
        else:
            given = int((budget - stage_state) // stage_state)
    return given, room_gb - (given + 1) * stage_state / GIB


def _sizes(cases: Cases, rooms: Rooms) -> Sizes:
    """Slots of every pool: what the smallest stage can hold, never more than the flags say."""
    case = cases[0]
    page, whole = _page(case), _widths(_whole(case))
    stage_state = max(sum(_state(stage)) for stage in cases)
    counts, mamba = [], 0
    for stage, size in zip(cases, rooms, strict=True):
        left = size
        if stage_state:
            mamba, gb = _mamba(stage, stage_state, size / GIB)
            mamba = max(mamba, 0)
            left = int(gb * GIB)
        counts.append(_tokens(stage, left))
    tokens = min(count for count in counts)
    limit: int | None = case.option("max_total_tokens", None)
    if limit is not None:
        tokens = min(tokens, limit)
    tokens = max(tokens, 0) // page * page
    full = tokens if whole.full_layers else 0
    swa = _swa_of(case, tokens) if whole.swa_layers else 0
    return Sizes(tokens, full, swa, mamba, _running(case, tokens, mamba if stage_state else None))


def _tokens(case: Case, left: int) -> int:
    widths, page = _widths(case), _page(case)
    draft = case.option("eagle_draft_num_layers", 0)
    if not widths.full and not widths.swa:  # nothing grows here
        limit: int = case.option("max_total_tokens", _context_length(case))
        return limit
    if not widths.swa:
        cell = widths.full + (int(widths.full * draft / widths.full_layers) if draft else 0)
        return left // cell // page * page
    if not widths.full:
        return left // widths.swa // page * page
    full = widths.full + (widths.full // widths.full_layers * draft if draft else 0)
    if _by_requests(case):
        return (left - _request_cap(case, widths.window) * widths.swa) // full // page * page
    return int(left // (full + _ratio(case) * widths.swa)) // page * page


def _context_length(case: Case) -> int:
    # a spec without a limit (Mamba) would make the pool of a model that caches no tokens depend on the question
    longest = max(case.spec.max_context or 2**17, case.context)
    given: int = case.option("context_length", longest)
    return given


def _running(case: Case, tokens: int, mamba: int | None) -> int:
    """``max_running_requests``: asked for, or 2048 to 4096 (MAX_REQUESTS) by the tokens; never more than half of them or the states."""
    estimate = max(min(int(tokens / _context_length(case) * 512), MAX_REQUESTS), 2048)
    asked: int = case.option("max_running_requests", estimate)
    requests = min(max(1, asked), tokens // 2)
    if mamba is not None:
        requests = min(requests, mamba // _slots_per_request(case))
    return max(requests, 0)


def _table(case: Case, requests: int) -> int:
    """Bytes of ``req_to_token``: an int32 per slot that a request may name, one row to spare."""
    draft: int = case.option("speculative_num_draft_tokens", 0)
    return (requests + 1) * (_context_length(case) + 4 + draft) * 4


def pool(cases: Cases, rooms: Rooms) -> Pool:
    """The pools that are allocated: a page more than their slots in every layer, one mamba slot more."""
    sizes, page = _sizes(cases, rooms), _page(cases[0])
    facts: dict[str, int | float | str] = {}
    fullest = -1
    for case in cases:
        made = _allocated(case, sizes, page)
        size = int(made["kv_size"]) + int(made["mamba_size"])
        if size >= fullest:
            fullest, facts = size, made
    case = cases[0]
    facts |= {
        "max_total_num_tokens": sizes.tokens,
        "full_max_total_num_tokens": sizes.full,
        "swa_max_total_num_tokens": sizes.swa,
        "max_mamba_cache_size": sizes.mamba,
        "max_running_requests": sizes.requests,
        "context_len": _context_length(case),
        "req_to_token_size": _table(case, sizes.requests),
        "memory_pool_size": max(_segments(stage, sizes, page) for stage in cases),
    }
    loaded = case.option("avail_mem", 0)
    if loaded:
        facts["avail_mem"] = loaded - int(facts["memory_pool_size"])
    return Pool(fullest, sizes.tokens, tuple(facts.items()), _printed(case, sizes, facts))


def _allocated(case: Case, sizes: Sizes, page: int) -> dict[str, int | float | str]:
    """Bytes of one stage's tensors, under names of its log lines."""
    widths = _widths(case)
    full, swa = sizes.full + page, sizes.swa + page if widths.swa else 0
    conv, rest = _state(case)
    keys, values = full * widths.full_key + swa * widths.swa_key, full * widths.full_value + swa * widths.swa_value
    return {
        "k_size": keys,
        "v_size": values,
        "kv_size": keys + values + full * (widths.latent + widths.indexer),
        "swa_kv_size": swa * widths.swa,
        "conv_state_size": (sizes.mamba + 1) * conv if conv + rest else 0,
        "ssm_state_size": (sizes.mamba + 1) * rest if conv + rest else 0,
        "mamba_size": (sizes.mamba + 1) * (conv + rest) if conv + rest else 0,
    }


def _segments(case: Case, sizes: Sizes, page: int) -> int:
    """By how much free memory falls: torch takes segments of whole 2 MiB for tensors of 10 MiB and more, else 512 bytes.

    One tensor of keys, one of values per layer, one of latents; states of all layers are one tensor each.
    """
    format_, hybrid = _format(case), _hybrid(case)
    tensors = [_table(case, sizes.requests)]
    for shape in shapes(case, "sglang"):
        rows = page + (sizes.swa if hybrid and shape.kind in ("local", "chunk") else sizes.full)
        if shape.kind == "latent":
            tensors.append(rows * _latent(case, shape, format_))
        else:
            heads = floor_heads(shape.heads, case.tp)
            tensors += [rows * heads * format_.row_bits(width) // 8 for width in (shape.key, shape.value)]
        if shape.index_dim:
            tensors.append(rows * _index(case, shape))
    tensors += [(sizes.mamba + 1) * size for size in _state(case)]
    return sum(-(-size // 512) * 512 if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB for size in tensors)


def _gb(size: float | int | str) -> str:
    return f"{float(size) / GIB:.2f}"


DTYPES = {
    "bf16": "torch.bfloat16",
    "fp16": "torch.float16",
    "fp32": "torch.float32",
    "fp8_e4m3": "torch.float8_e4m3fn",
    "fp8_e5m2": "torch.float8_e5m2",
    "mxfp8": "torch.float8_e4m3fn",
    "nvfp4": "torch.float4_e2m1fn_x2",
}


def _printed(case: Case, sizes: Sizes, facts: dict[str, int | float | str]) -> tuple[str, ...]:
    lines = []
    widths = _widths(case)
    if sizes.tokens <= 0:  # pool_configurator.py, MemoryPoolConfig
        fraction = case.option("mem_fraction_static", None)
        if fraction is None and case.memory_bytes is not None:
            fraction = _fraction(case)
        current = "" if fraction is None else f" Current value: mem_fraction_static={fraction}"
        return (f"RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.{current}",)
    if facts["mamba_size"]:
        lines.append(
            f"Mamba Cache is allocated. max_mamba_cache_size: {sizes.mamba}, "
            f"conv_state size: {_gb(facts['conv_state_size'])}GB, ssm_state size: {_gb(facts['ssm_state_size'])}GB "
        )
    dtype = DTYPES[_format(case).name]
    if widths.swa:
        lines += [
            f"Use sliding window memory pool. full_layer_tokens={sizes.full}, swa_layer_tokens={sizes.swa}",
            f"SWAKVPool mem usage: {_gb(facts['kv_size'])} GB, swa size: {sizes.swa}, full size: {sizes.full}",
        ]
    elif widths.full_key:
        lines.append(
            f"KV Cache is allocated. dtype: {dtype}, #tokens: {sizes.tokens}, "
            f"K size: {_gb(facts['k_size'])} GB, V size: {_gb(facts['v_size'])} GB"
        )
    elif widths.latent:
        size = _gb(facts["kv_size"])
        lines.append(f"KV Cache is allocated. dtype: {dtype}, #tokens: {sizes.tokens}, KV size: {size} GB")
    lines.append(
        f"max_total_num_tokens={sizes.tokens}, chunked_prefill_size={_chunked_prefill(case)}, "
        f"max_running_requests={sizes.requests}, context_len={_context_length(case)}"
    )
    return tuple(lines)


def _most(case: Case) -> int:
    """Requests that run at once: as asked for, or at most 4096 however large the pool is."""
    asked: int = case.option("max_running_requests", MAX_REQUESTS)
    return max(1, asked)


def _admits(cases: Cases, rooms: Rooms) -> bool:
    case = cases[0]
    if min(rooms) <= 0:
        return False
    sizes, page = _sizes(cases, rooms), _page(case)
    whole = _widths(_whole(case))
    tokens = -(-(case.context + _encoder(case)) // page) * page
    if sizes.tokens <= 0 or case.batch > sizes.requests or case.context > _context_length(case):
        return False
    if whole.full and case.batch * tokens > sizes.tokens:
        return False
    if not whole.swa:
        return True
    # a sliding pool that could not admit one prompt is refused at start
    starts = _by_requests(case) or sizes.swa > whole.window + page
    return starts and case.batch * _swa_held(case, whole) <= sizes.swa


def _stated(cases: Cases) -> Stated:
    case = cases[0]
    fullest = max((_widths(stage) for stage in cases), key=lambda widths: widths.full + widths.swa)
    facts: list[tuple[str, int | float | str]] = [
        ("page_size", _page(case)),
        ("cell_size", fullest.full),
        ("chunked_prefill_size", _chunked_prefill(case)),
    ]
    if fullest.swa:
        facts += [("swa_cell_size", fullest.swa), ("swa_full_tokens_ratio", _ratio(case))]
    if case.memory_bytes is not None and case.option("available_bytes", None) is None:
        facts.append(("mem_fraction_static", _fraction(case)))
    conv, rest = max((_state(stage) for stage in cases), key=sum)
    if conv + rest:
        facts += [("mamba_cache_per_req", conv + rest), ("mamba_slots_per_request", _slots_per_request(case))]
        slots = case.option("max_mamba_cache_size", 0)
        if slots:
            facts += [("conv_state_size", (slots + 1) * conv), ("ssm_state_size", (slots + 1) * rest)]
    return Stated(tuple(facts))


ENGINE = Engine(
    name="sglang",
    version="0.5.23",
    summary="pools of token slots, a page to spare in each; a sliding pool by a ratio, a mamba pool by a share",
    utilization=1.0,
    source=POOLS,
    paged=True,
    options=(
        Option(
            "mem_fraction_static", "share", "of the memory free before loading, for weights and caches (by the card)"
        ),
        Option(
            "page_size", "count", "slots of a page (1; 64 for DSA, FlashMLA and TRT-LLM kernels)", common="block_size"
        ),
        Option("max_total_tokens", "count", "upper limit of token slots; without a GPU, the pool itself"),
        Option("max_running_requests", "count", "requests that may run at once (2048 to 4096 by the pool)"),
        Option("context_length", "count", "longest request (the model's own limit)"),
        Option("chunked_prefill_size", "count", "prompt tokens per pass (2048 to 16384 by the card)"),
        Option("swa_full_tokens_ratio", "share", "sliding slots per full slot (0.8)"),
        Option("disable_hybrid_swa_memory", "flag", "one pool for all layers (0.5.23 forces it for Gemma 2 and 3)"),
        Option("disable_radix_cache", "flag", "no prefix caching"),
        Option("disable_overlap_schedule", "flag", "no scheduling beside the GPU"),
        Option("mamba_ssm_dtype", "word", "of recurrent states (float32)", words=("float32", "bfloat16", "float16")),
        Option("mamba_full_memory_ratio", "number", "states to keys and values, bytes (0.9)"),
        Option("max_mamba_cache_size", "count", "mamba slots"),
        Option(
            "mamba_radix_cache_strategy",
            "word",
            "slots that prefix caching keeps per request",
            words=("auto", "no_buffer", "extra_buffer", "extra_buffer_lazy"),
        ),
        Option("speculative_num_draft_tokens", "count", "draft tokens per step, whose states are kept"),
        Option("eagle_draft_num_layers", "count", "layers of an EAGLE or MTP draft, whose keys and values are kept"),
        Option("cuda_graph_max_bs", "count", "largest captured decode batch (8 to 512 by the card)"),
        Option("disable_cuda_graph", "flag", "no CUDA graphs: nothing is kept back for them"),
        Option(
            "post_capture_kv_sizing", "flag", "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING (off): sized after graph capture"
        ),
        Option("attention_backend", "text", "kernels that want a page size: flashmla, trtllm_mla, trtllm_mha, fa4 ..."),
        Option("dsa_raw_layout", "flag", "fp8 latents without scales (TRT-LLM and TileLang sparse kernels)"),
        Option("avail_mem", "bytes", "memory free when weights are loaded, as the log has it (Load weight end)"),
        Option("available_bytes", "bytes", "memory for the pools on each GPU, in place of what the card leaves"),
    ),
    ignores=(
        "Layers that share another layer's keys and values: every layer gets slots (Gemma 3n, Gemma 4 E2B/E4B, CLA).",
        "Windows of classes without a sliding pool (Gemma 2 and 3, OLMo, EXAONE, Mistral ...): every token stays.",
        "The dtype of the model in convolution states: always bf16.",
        "What schemes drop, pool or factor: every head's key and value is kept.",
        "Draft pools beyond their share of a token; disaggregated serving, DCP and attention data parallelism.",
    ),
    policy=Policy(caches=caches, room=room, pool=pool, admits=_admits, states=_stated, most=_most),
    cache_names=(("fp4_e2m1", "nvfp4"), ("bfloat16", "bf16"), ("float16", "fp16")),
    versions=("0.5.23",),
    runs_on=("NVIDIA", "AMD", "Intel"),
)


def at(version: str) -> Engine:
    """The rules of a version. Raises InvalidInput for one that is not held here."""
    if not ENGINE.version.startswith(version):
        raise InvalidInput("engine_version", version, f"{ENGINE.version} (the version whose rules kvplan holds)")
    return ENGINE
