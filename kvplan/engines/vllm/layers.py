"""From the caches of a model to what vLLM plans for them: pages, block sizes of attention, alignment of states."""

from __future__ import annotations

from math import lcm
from typing import NamedTuple

from kvplan.cache import Store
from kvplan.costs import profile
from kvplan.engines.policy import Case
from kvplan.engines.vllm.planning import Limits, PagedSpec
from kvplan.engines.vllm.versions import Rules
from kvplan.errors import InvalidInput
from kvplan.num import ceil_to, ceildiv
from kvplan.specs import Attention, ModelSpec, Part, Recurrent

__all__ = ["Aligned", "Served", "heads_on_rank", "layers_of", "limits_of", "recurrent_bytes", "token_bytes"]

GIB = 2**30
# Bytes per element of the formats that a cache may have, by their names here.
ELEMENT = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}
STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
ALLOWED = (
    "bf16, fp16, fp32, fp8, fp8_e4m3, fp8_e5m2, int8_per_token_head, int4_per_token_head, fp8_per_token_head, nvfp4"
)
INDEX_GROUP = 128  # elements of an index key that share an fp32 scale
# Attention backends of MLA models and the blocks their kernels take (v1/attention/backends/mla).
LATENT_BLOCKS = {
    "FLASH_ATTN_MLA": 16,
    "TRITON_MLA": 16,
    "FLASHINFER_MLA": 32,
    "FLASHINFER_MLA_SPARSE": 32,
    "FLASHMLA": 64,
    "FLASHMLA_SPARSE": 64,
    "CUTLASS_MLA": 128,
}
SPARSE_BLOCK = 64  # the indexer's kernels
# Models whose recurrent state is fp32 unless asked otherwise (model_executor/models/config.py): the key of their
# published config.json says so, and of nemotron_h also where the key is missing.
FULL_STATE = ("qwen3_5", "nemotron_h")


class Served(NamedTuple):
    """One layer that vLLM caches."""

    layer: int  # of the model; draft layers count as its last
    label: str  # global | local | chunk | latent | index | state | cross | draft
    spec: PagedSpec
    formula: str  # of the bytes of a token or a state


class Aligned(NamedTuple):
    """What beside the layers follows from the model and the flags."""

    layers: tuple[Served, ...]
    block: int  # tokens of a block of attention
    grown: bool  # beyond what was asked, so that a state fits into it
    state_bytes: int  # of the largest state of a layer, 0 without
    state_page: int  # what it is padded to
    mode: str  # mamba_cache_mode
    attention: bool


def heads_on_rank(heads: int, tp: int) -> int:
    """KV heads on one tensor-parallel rank; fewer heads than ranks are replicated."""
    return max(1, heads // tp)


def cache_dtype(case: Case) -> str:
    """The cache's format: vLLM's own name where one was given, else the name of the format."""
    named = case.option("kv_cache_dtype", "auto")
    if named != "auto":
        return str(named)
    return case.formats.key.name


def token_bytes(case: Case, heads: int, key: int, value: int) -> tuple[int, str]:
    """Bytes that one token takes in one layer of keys and values on this rank, and how they add up."""
    name = cache_dtype(case)
    if case.formats.key != case.formats.value:
        raise InvalidInput("cache_type_v", case.formats.value.name, f"the format of K: {case.formats.key.name}")
    local = heads_on_rank(heads, case.tp)
    if name in ("int8_per_token_head", "fp8_per_token_head", "i8"):
        return local * (key + value + 8), f"{local} heads × ({key} + {value} + 2 × 4 bytes of scales)"
    if name in ("int4_per_token_head",):
        return local * (key // 2 + value // 2 + 8), f"{local} heads × ({key}/2 + {value}/2 + 2 × 4 bytes of scales)"
    if name == "nvfp4":
        if key != value:
            raise InvalidInput("kv_dtype", name, "keys and values of one width, or another format")
        return 2 * local * (key // 2 + key // 16), f"2 × {local} heads × ({key}/2 + {key}/16 bytes of scales)"
    size = ELEMENT.get(case.formats.key.name)
    if size is None or name.endswith("_ds_mla"):
        raise InvalidInput("kv_dtype", name, ALLOWED)
    return local * (key + value) * size, f"{local} heads × ({key} + {value}) × {size} bytes"


def latent_bytes(case: Case, latent: int, rope: int, sparse: bool, rules: Rules) -> tuple[int, str]:
    """Bytes of one token's latent and rotary key, which every rank holds whole."""
    name = cache_dtype(case)
    fp8 = name.startswith("fp8")
    if sparse and rules.sparse_fp8 and name in ("bf16", "fp16"):
        fp8 = True  # unless asked for kv_cache_dtype=bfloat16, vLLM's own name
    # FlashMLA reads fp8 latents of sparse models in a layout of its own; kernels for Blackwell take plain fp8
    packed = name == "fp8_ds_mla" or (fp8 and sparse and not case.architecture.startswith("Blackwell"))
    if packed:
        groups = latent // 128
        return (
            latent + 4 * groups + 2 * rope,
            f"{latent} fp8 + {groups} scales × 4 bytes + {rope} × 2 bytes (fp8_ds_mla)",
        )
    if name == "nvfp4_ds_mla":
        # 0.33, flashmla_sparse.py: 352 bytes for 512 + 64: half a byte per element, a scale per 16 of the latent, and
        # 32 bytes more; the layout exists for this shape alone
        if (latent, rope) != (512, 64):
            raise InvalidInput("kv_dtype", name, "a latent of 512 and a rotary key of 64")
        return 352, "352 bytes (nvfp4_ds_mla)"
    size = ELEMENT.get(case.formats.latent.name) if not name.endswith("_head") and name != "nvfp4" else None
    if size is None and case.formats.latent.name == "fp8_s128":
        groups = latent // 128
        return latent + 4 * groups + 2 * rope, f"{latent} fp8 + {groups} scales × 4 bytes + {rope} × 2 bytes"
    if size is None:
        raise InvalidInput("kv_dtype", name, "bf16, fp16, fp32, fp8, fp8_ds_mla or nvfp4_ds_mla for a latent")
    return (latent + rope) * size, f"({latent} + {rope}) × {size} bytes"


def recurrent_bytes(case: Case, mixer: Recurrent, rules: Rules) -> tuple[int, str]:
    """Bytes of one request's state in one recurrent layer on this rank: convolution columns and recurrent state."""
    compute = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[case.formats.compute.name]
    conv_dtype = case.option("mamba_cache_dtype", "auto")
    conv_dtype = compute if conv_dtype == "auto" else conv_dtype
    state_dtype = case.option("mamba_ssm_cache_dtype", "auto")
    if state_dtype == "auto":
        stated = mixer.kind == "kimi_delta" or case.spec.model_type.startswith(FULL_STATE)
        state_dtype = "float32" if stated else conv_dtype
    drafts = case.option("num_speculative_tokens", 0) if mixer.kind in rules.speculative_conv else 0
    total, terms = 0, []
    for channels, kernel in mixer.conv:
        local = ceildiv(_conv_channels(mixer, channels, case.tp), case.tp)
        columns = kernel - 1 + drafts
        total += columns * local * STATE_BYTES[conv_dtype]
        terms.append(f"{columns} × {local} × {STATE_BYTES[conv_dtype]} bytes")
    for part in mixer.state:
        local = ceildiv(part.heads, case.tp) if part.shard == "heads" else part.heads
        total += local * part.width * STATE_BYTES[state_dtype]
        terms.append(f"{local} × {part.width} × {STATE_BYTES[state_dtype]} bytes")
    return total, " + ".join(terms)


def _conv_channels(mixer: Recurrent, channels: int, tp: int) -> int:
    """Channels of a convolution; a Mamba-2 layer whose groups do not divide by the ranks has more of them there."""
    if mixer.kind != "mamba2" or tp == 1 or not mixer.state:
        return channels
    inner = next((w.inputs for w in mixer.weights if w.module.endswith("out_proj")), 0)
    heads, width = mixer.state[0].heads, mixer.state[0].width
    if not inner or inner % heads or width % (inner // heads):
        return channels
    size = width // (inner // heads)
    groups = (channels - inner) // (2 * size)
    return channels + (2 * (tp - groups) * size if groups % tp else 0)


def limits_of(case: Case, rules: Rules) -> Limits:
    """Tokens in flight, and what else bounds the blocks of a request."""
    batches = 1
    if rules.in_flight_batches:
        batches = case.pp
        if case.option("async_scheduling", rules.async_scheduling):
            if case.option("use_v2_model_runner", rules.v2_runner):
                batches = case.pp + 1
            elif case.pp == 1:
                batches = 2
    dcp = case.option("decode_context_parallel_size", 1) if case.tp > 1 else 1  # a model on one GPU holds all of it
    return Limits(batches * batched_tokens(case, rules), dcp, case.encoder_context)


def batched_tokens(case: Case, rules: Rules) -> int:
    """max_num_batched_tokens: as given, or the server's default on this class of GPU (70 GiB and more: 8192)."""
    given = case.option("max_num_batched_tokens", 0)
    if given:
        return int(given)
    tokens = {"small": 2048, "wide": 8192, "large": 16384}[_class(case, rules)]
    return min(tokens, sequences(case, rules) * case.context)


def sequences(case: Case, rules: Rules) -> int:
    """max_num_seqs: as given, or the server's default on this class of GPU."""
    given = case.option("max_num_seqs", 0)
    if given:
        return int(given)
    return 1024 if rules.wide_seqs and _class(case, rules) != "small" else 256


def _class(case: Case, rules: Rules) -> str:
    """The class of GPU that defaults go by; without a GPU, the one of most servers. A100s count as small (PR 17885)."""
    memory = 80 * GIB if case.memory_bytes is None else case.memory_bytes
    if rules.large_class and memory >= 160 * GIB:
        return "large"
    slow = case.architecture.startswith("Ampere") or case.kind == "soc"
    return "wide" if memory >= 70 * GIB and not slow else "small"


def plain(case: Case) -> Case:
    """The case without what has no say in its layers: lengths, the stage, and a GPU but for the kernels it has."""
    kernels = next((name for name in ("Blackwell", "Hopper") if case.architecture.startswith(name)), "")
    return case._replace(
        context=0,
        batch=0,
        pp=1,
        layers=range(0),
        encoder_context=0,
        memory_bytes=None,
        architecture=kernels or ("another" if case.architecture else ""),
        kind="",
    )


def layers_of(case: Case, rules: Rules) -> Aligned:
    """Every layer of the model that vLLM caches, in order, with pages that groups can share.

    Of a ``plain`` case: what that leaves out has no say in it.
    """
    stores = profile(case.spec).plan.stores
    dcp = case.option("decode_context_parallel_size", 1)
    asked = case.option("block_size", 0)
    latent = any(store.label == "latent" for store in stores)
    sparse = any(part.name == "index" for store in stores for part in store.parts)
    block = asked or default_block(case, latent, sparse, rules)
    found = _layers(case, stores, block, sparse, rules)
    attention = [served for served in found if served.spec.kind in ("full", "latent", "window", "chunk")]
    states = [served for served in found if served.spec.kind == "state"]
    if dcp > 1:
        _check_dcp(case, dcp, attention)
    mode = state_mode(case, rules, bool(states), bool(attention))
    state = max((served.spec.state for served in states), default=0)
    if states and not rules.state_layers:
        raise InvalidInput("engine_version", case.version, "0.10.0 or later for recurrent layers (or use_v1=false)")
    grown = False
    page = state
    if state and attention:
        token = _token_of(attention)
        wanted = _state_block(case, rules, state, token, block, latent, mode)
        grown = block < wanted
        block = max(block, wanted)
        page = block * token
    more = case.option("num_speculative_tokens", 0)

    def place(served: Served) -> Served:
        spec = served.spec
        if spec.kind != "state":
            return served._replace(spec=spec._replace(block=block))
        aligned = block if mode != "none" else 0
        held = {"none": 1, "align": 2, "all": 0}[mode]
        if held and rules.speculative_blocks:
            held += more
        if mode == "align" and spec.shape[0] in _exporting(case, rules):
            held += 1
        padded = page if attention and page > spec.state else 0
        return served._replace(
            spec=spec._replace(
                block=aligned, held=held, more=more if not held and rules.speculative_all else 0, padded=padded
            )
        )

    return Aligned(tuple(map(place, found)), block, grown, state, page, mode, bool(attention))


def _check_dcp(case: Case, dcp: int, attention: list[Served]) -> None:
    """A sequence's blocks are split over ranks that hold the same heads: replicas of KV heads, or of latents."""
    field = "engine_options decode_context_parallel_size"
    if any(served.spec.kind in ("window", "chunk") for served in attention):
        raise InvalidInput(field, dcp, "1 where layers see a window")
    if case.tp == 1:
        return
    if case.tp % dcp:
        raise InvalidInput(field, dcp, f"a divisor of tp ({case.tp})")
    heads = max((m.kv_heads for layer in case.spec.layers for m in layer.mixers if isinstance(m, Attention)), default=1)
    if dcp > max(case.tp // heads, 1):
        raise InvalidInput(field, dcp, f"at most {max(case.tp // heads, 1)}: tp {case.tp} over {heads} KV heads")


def _exporting(case: Case, rules: Rules) -> tuple[str, ...]:
    """Kinds of recurrent layers that write a checkpoint from inside a prefill, which takes a block more."""
    flashinfer = case.option("gdn_prefill_backend", "triton") == "flashinfer"
    return (*rules.checkpoints, "gated_delta") if rules.gdn_checkpoints and flashinfer else rules.checkpoints


def default_block(case: Case, latent: bool, sparse: bool, rules: Rules) -> int:
    """Tokens of a block where nobody says: 16, and what the kernels of latent attention take."""
    if not latent:
        return 16
    backend = case.option("attention_backend", "")
    blackwell, hopper = case.architecture.startswith("Blackwell"), case.architecture.startswith("Hopper")
    if not backend:
        if not rules.latent_blocks:
            backend = "FLASHINFER_MLA" if blackwell else "FLASH_ATTN_MLA"
        else:
            backend = "CUTLASS_MLA" if blackwell else "FLASHMLA" if hopper or not case.architecture else "TRITON_MLA"
    block = LATENT_BLOCKS.get(backend, 16)
    return lcm(block, SPARSE_BLOCK) if sparse else block


def state_mode(case: Case, rules: Rules, states: bool, attention: bool) -> str:
    """mamba_cache_mode: what prefix caching makes of recurrent layers."""
    if not states:
        return "none"
    prefix = case.option("enable_prefix_caching", rules.hybrid_prefix and attention)
    kinds = {m.kind for layer in case.spec.layers for m in layer.mixers if isinstance(m, Recurrent)}
    # while there was a mode "all", it was the one of models that supported it; others had no prefix caching before "align"
    able = ["all"] if kinds <= {"mamba", "mamba2"} else []
    default = next((mode for mode in (*able, "align") if prefix and mode in rules.state_modes), "none")
    mode = str(case.option("mamba_cache_mode", default))
    if mode not in rules.state_modes:
        raise InvalidInput("engine_options mamba_cache_mode", mode, ", ".join(rules.state_modes))
    if mode != "none" and not prefix:
        raise InvalidInput("engine_options mamba_cache_mode", mode, "none without enable_prefix_caching")
    return mode


def _token_of(attention: list[Served]) -> int:
    """Bytes per token of the attention that states are aligned with: of the model's own heads, which a config states."""
    main = [
        served.spec.token for served in attention if served.spec.kind in ("full", "latent") and served.label != "index"
    ]
    return main[0] if main else attention[0].spec.token


def _state_block(case: Case, rules: Rules, state: int, token: int, block: int, latent: bool, mode: str) -> int:
    """Tokens of the smallest block that a state fits into, a multiple of what the kernels take."""
    alignment = 16
    if latent:
        alignment = rules.latent_alignment
        if rules.latent_alignment == 64 and case.option("attention_backend", "") == "CUTLASS_MLA":
            alignment = 128
    if rules.configured_alignment:
        alignment = max(alignment, block)
    if mode == "all":
        chunk = lcm(case.option("mamba_block_size", 256), alignment)
        return int(ceil_to(ceildiv(state, token), chunk))
    return int(alignment * ceildiv(state, alignment * token))


def _layers(case: Case, stores: tuple[Store, ...], block: int, sparse: bool, rules: Rules) -> list[Served]:
    found: list[Served] = []
    recurrent = _recurrent_of(case.spec)
    for store in stores:
        if store.label == "state":
            mixer = recurrent[store.layer].pop(0)
            size, formula = recurrent_bytes(case, mixer, rules)
            if size:
                spec = PagedSpec("state", 0, state=size, shape=(mixer.kind, size))
                found.append(Served(store.layer, "state", spec, f"{mixer.kind}: {formula}"))
            continue
        found += _attention(case, store, block, sparse, rules)
    drafts = case.option("num_speculative_layers", 0)
    if drafts:
        main = [served for served in found if served.label in ("global", "latent", "index")]
        like = [served for served in main if served.layer == main[-1].layer] if main else []
        if not like:
            raise InvalidInput(
                "engine_options num_speculative_layers", drafts, "0: no layer to draft with attends to all"
            )
        last = len(case.spec.layers) - 1
        found += [served._replace(layer=last, label="draft") for _ in range(drafts) for served in like]
    return found


def _attention(case: Case, store: Store, block: int, sparse: bool, rules: Rules) -> list[Served]:
    """The specs of one attention layer: one, and one more for an indexer's keys."""
    parts = {part.name: part for part in store.parts}
    served: list[Served] = []
    if "latent" in parts and "rope" in parts:
        latent, rope = parts["latent"].width, parts["rope"].width
        if not rules.latent and not case.option("use_v1", rules.v1):
            raise InvalidInput("engine_version", case.version, "0.7.1 or later for latent attention")
        token, formula = latent_bytes(case, latent, rope, "index" in parts, rules)
        shape: tuple[object, ...] = ("latent", latent, rope, cache_dtype(case), "index" in parts)
        served.append(Served(store.layer, store.label, PagedSpec("latent", block, token, shape=shape), formula))
    elif "key" in parts and "value" in parts:
        served.append(_key_value(case, store, parts["key"], parts["value"], block, rules))
    else:
        names = ", ".join(parts)
        raise InvalidInput("engine", "vllm", f"ideal or transformers: a cache of {names} is not planned here")
    if "index" in parts:
        width = parts["index"].width
        if "latent" in parts:
            scales = ceildiv(width, INDEX_GROUP)
            token, formula = width + 4 * scales, f"{width} fp8 + {scales} scales × 4 bytes"
        else:
            token = width * ELEMENT[case.formats.compute.name]
            formula = f"{width} × {ELEMENT[case.formats.compute.name]} bytes"
        spec = PagedSpec("latent", block, token, shape=("index", width))
        served.append(Served(store.layer, "index", spec, formula))
    return served


def _key_value(case: Case, store: Store, key: Part, value: Part, block: int, rules: Rules) -> Served:
    wide = value.width if rules.value_width else max(key.width, value.width)
    token, formula = token_bytes(case, key.heads, key.width, wide)
    shape = ("kv", heads_on_rank(key.heads, case.tp), key.width, wide, cache_dtype(case))
    kinds = {"window": "window", "chunk": "chunk", "encoder": "cross"}
    kind = kinds.get(key.growth.kind, "full")
    limit = key.growth.limit if kind in ("window", "chunk") else 0
    label = {"window": "local", "chunk": "chunk", "cross": "cross"}.get(kind, "global")
    return Served(store.layer, label, PagedSpec(kind, block, token, shape=shape, limit=limit), formula)


def _recurrent_of(spec: ModelSpec) -> dict[int, list[Recurrent]]:
    """Of each layer, its recurrent mixers in order: one store each."""
    return {i: [mixer for mixer in layer.mixers if isinstance(mixer, Recurrent)] for i, layer in enumerate(spec.layers)}
