"""Hugging Face transformers 5.23: ``DynamicCache``, read from ``cache_utils.py`` of that version.

``cache_implementation`` asks for one of its other caches: static, quantised, or offloaded to host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.cache import mixer_parts
from kvplan.costs import entries, profile
from kvplan.engines import Engine, Option, Prompt
from kvplan.engines.policy import Budget, Case, Cases, Line, Policy, Pool, Room, Rooms, Stated
from kvplan.engines.shapes import plain
from kvplan.errors import InvalidInput
from kvplan.formulas import heads_per_rank
from kvplan.specs import FULL, Attention, Compressed, Dense, Growth, Latent, Mixer, ModelSpec, Part, Recurrent

__all__ = [
    "ALL_EXPERTS",
    "ALL_LOGITS",
    "EAGER",
    "ENGINE",
    "OPTIONS",
    "parts_of",
    "prompt",
    "static_parts_of",
    "with_options",
]


def parts_of(mixer: Mixer) -> tuple[Part, ...]:
    """The tensors the class caches for one mixer.

    A sliding or chunked layer returns window - 1 entries; a convolution keeps ``kernel`` columns, not kernel - 1;
    some classes cache something else than the method needs (expanded MLA heads), and say so in the spec.
    """
    if isinstance(mixer, Compressed):
        return _compressed(mixer)
    parts = _whole(mixer)
    if isinstance(mixer, (Attention, Latent, Recurrent)) and mixer.transformers_parts is not None:
        return parts
    return tuple(p._replace(growth=_keeps(p.growth)) for p in parts)


def _whole(mixer: Mixer) -> tuple[Part, ...]:
    """The tensors of a mixer whose windows are still those of the model."""
    if isinstance(mixer, (Attention, Latent, Recurrent)) and mixer.transformers_parts is not None:
        return mixer.transformers_parts
    parts = mixer_parts(mixer)
    if isinstance(mixer, Recurrent):
        return tuple(p._replace(width=p.width + 1) if p.name.startswith("conv") else p for p in parts)
    if isinstance(mixer, (Attention, Latent)) and mixer.indexer is not None and mixer.indexer.pooled:
        # the class keeps the key of every token, and pools them anew at every step
        parts = tuple(p._replace(growth=FULL) if p.name == "index" else p for p in parts if p.name != "index_open")
    if isinstance(mixer, Attention) and mixer.expanded:
        parts = tuple(p._replace(heads=mixer.heads) if p.name in ("key", "value") else p for p in parts)
    if isinstance(mixer, Attention) and mixer.transformers_keeps_all:
        return tuple(p._replace(growth=FULL) for p in parts)
    return parts


def _compressed(m: Compressed) -> tuple[Part, ...]:
    """DeepseekV4HCACache and DeepseekV4CSACache: the buffer of the open group, not one of fixed size.

    A layer without a compressor is an ordinary sliding layer: its one vector is cached twice, as key and as value.
    """
    if not m.ratio:
        growth = _keeps(Growth("window", m.window))
        return Part("key", 1, m.dim, "latent", growth, "none"), Part("value", 1, m.dim, "latent", growth, "none")
    parts = []
    for part in mixer_parts(m):
        if part.growth.kind != "constant":
            parts.append(part._replace(growth=_keeps(part.growth)))
            continue
        dim = m.indexer.dim if m.indexer is not None and part.name == "index_compressor" else m.dim
        series = 2 if m.overlap else 1
        parts.append(part._replace(width=2 * series * dim, growth=Growth("remainder", m.ratio)))
        if m.overlap:
            parts.append(
                part._replace(name=f"{part.name}_overlap", width=2 * dim, growth=Growth("last_group", m.ratio))
            )
    return tuple(parts)


def _keeps(growth: Growth) -> Growth:
    if growth.kind not in ("window", "chunk"):
        return growth
    # the class slices [-limit + 1:], and [0:] of a window of one keeps everything
    return Growth("window_transformers", growth.limit) if growth.limit > 1 else FULL


# --- what a prompt holds at once -------------------------------------------------------------------------------------

# Types whose class has no sdpa attention in 5.23 (``_supports_sdpa``): they make whole matrices of scores.
EAGER = frozenset(
    [
        "big_bird", "bigbird_pegasus", "bloom", "codegen", "deepseek_v4", "flint", "gemma2", "git", "gpt_neo",
        "gpt_neox_japanese", "gpt_oss", "gptj", "granite_swa", "granitemoe_swa", "hy_v4", "inkling2_text", "megatron-bert",
        "mimo_v2_flash", "mpt", "mvp", "openai-gpt", "prophetnet", "rembert", "roformer", "trocr", "vaultgemma", "xglm",
        "xlm", "xlnet",
    ]
)  # fmt: skip
# Those whose softmax has a sink beside the scores.
SINKS = frozenset(["deepseek_v4", "gpt_oss", "mimo_v2_flash"])
# Types that run every expert over every token.
ALL_EXPERTS = frozenset(["llama4", "llama4_text"])
# Types whose class makes the logits of every token: it knows no ``logits_to_keep``.
ALL_LOGITS = frozenset(["prophetnet", "trocr", "whisper", "xlstm"])


def prompt(spec: ModelSpec, element: int, tp: int) -> Prompt:
    """The transient tensors of each kind of layer, as the classes of 5.23 make them without kernels from elsewhere.

    Read from the classes, and held against their peaks on a GPU (tests/records) and on the meta device. The residual, its
    normed copy and two more of its width are alive in every layer.
    """
    residual = 4 * spec.hidden * element
    model_type = spec.text_type or spec.model_type  # a wrapper's classes are those of its decoder
    eager = model_type in EAGER
    found: dict[str, tuple[int, int]] = {}

    def take(name: str, per_token: int, per_pair: int = 0) -> None:
        before = found.get(name, (0, 0))
        found[name] = (max(before[0], residual + per_token), max(before[1], per_pair))

    masks = set()
    for layer in spec.layers:
        for mixer in layer.mixers:
            if isinstance(mixer, Recurrent):
                take(mixer.kind, -(-mixer.scan_bytes // tp))
                continue
            heads = -(-mixer.heads // tp)
            if isinstance(mixer, Attention):
                dim = mixer.key_dim
            else:
                dim = mixer.nope_dim + mixer.rope_dim if isinstance(mixer, Latent) else mixer.dim
            per_pair = 0
            if eager:
                # scores, masked ones, and their softmax: in float32, or where a sink takes part as they are
                per_pair = heads * (2 * element + (element if model_type in SINKS else 4))
            elif model_type == "falcon" and isinstance(mixer, Attention) and mixer.kv_heads == 1 < mixer.heads:
                # one key head for many query heads: no fused kernel takes it, and torch's own makes scores in float32
                per_pair = heads * 8
            indexer = getattr(mixer, "indexer", None)
            if indexer is not None:
                per_pair += 8 * indexer.heads  # its scores and their positive parts, in float32
            take("attention", 3 * heads * dim * element, per_pair)
            window = getattr(mixer, "window", None) or getattr(mixer, "chunk", None)
            masks.add(window)
        for mlp in layer.mlps:
            if isinstance(mlp, Dense):
                take("mlp", 3 * -(-mlp.width // tp) * element)
                continue
            hidden = mlp.expert_hidden or spec.hidden
            width = -(-mlp.width // tp)
            pairs = mlp.experts if model_type in ALL_EXPERTS else mlp.active
            # inputs sorted by expert, what experts make of them, weighted and sorted back; or gate, up, and their product
            each = max(5 * hidden, hidden + (4 if mlp.gated else 2) * width)
            take("experts", pairs * each * element)
    whole = len(masks) if eager or masks - {None} else 0
    layers = tuple((name, *amounts) for name, amounts in found.items())
    return Prompt(layers, whole, element if eager else 1, element, model_type in ALL_LOGITS)


# --- cache_implementation --------------------------------------------------------------------------------------------

SOURCE = "transformers 5.23.0, cache_utils.py"
KINDS = ("dynamic", "static", "offloaded_static", "offloaded", "quantized")
BACKENDS = ("quanto", "hqq", "fp8")
BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8), "fp8": (8,)}

OPTIONS = (
    Option("cache_implementation", "word", "dynamic (default), or another cache of generate()", words=KINDS),
    Option("max_new_tokens", "count", "tokens generated after the prompt; the last of them is not cached (1)"),
    Option("max_cache_len", "count", "slots of a static cache, where more than prompt and new tokens need"),
    Option("cache_backend", "word", "of a quantised cache (quanto)", words=BACKENDS),
    Option("nbits", "count", "of a quantised cache (4)"),
    Option("q_group_size", "count", "elements that share a scale and a zero point (64)"),
    Option("residual_length", "count", "newest tokens that a quantised cache keeps as they are (128)"),
)


def static_parts_of(mixer: Mixer) -> tuple[Part, ...]:
    """The tensors of a static cache: a sliding or chunked layer has min(max_cache_len, window) slots.

    Raises InvalidInput for entries that the model pools: it has no static cache for them.
    """
    if isinstance(mixer, Compressed):
        raise InvalidInput(
            "engine_options cache_implementation", "static", "dynamic for a model that pools its entries"
        )
    return _whole(mixer)


def with_options(engine: Engine, options: dict[str, Any]) -> Engine:
    """The engine as its options make it: with a policy of its own for every cache but the dynamic one.

    Raises InvalidInput for options of another cache than the one asked for.
    """
    kind = options.get("cache_implementation") or "dynamic"
    allowed = {
        "dynamic": (),
        "static": ("max_new_tokens", "max_cache_len"),
        "offloaded_static": ("max_new_tokens", "max_cache_len"),
        "offloaded": ("max_new_tokens",),
        "quantized": ("max_new_tokens", "cache_backend", "nbits", "q_group_size", "residual_length"),
    }[kind]
    for name in options:
        if name != "cache_implementation" and name not in allowed:
            rule = f"{', '.join(allowed) or 'nothing'} with cache_implementation={kind}"
            raise InvalidInput("engine_options", name, rule)
    if kind == "dynamic":
        return engine
    made = _quantized if kind == "quantized" else _kept
    return engine._replace(
        summary=f"cache_implementation={kind}",
        policy=Policy(caches=made, room=_room, pool=_pool(made), states=_stated),
    )


def _cached(case: Case) -> int:
    """Tokens in the cache at the end: the last new token is never fed back."""
    new: int = case.option("max_new_tokens", 1)
    return case.context + new - 1


def _slots(case: Case) -> int:
    """Slots of a static cache, which ``generate`` makes as long as prompt and new tokens need."""
    asked: int = case.option("max_cache_len", 0)
    return max(_cached(case), asked)


def _layers(case: Case, static: bool) -> list[tuple[int, str, bool, int]]:
    """Each cache of this stage: layer, label, whether it slides, and bytes of all sequences on one rank."""
    made = profile(case.spec, static_parts_of if static else parts_of).plan
    tokens = _slots(case) if static else _cached(case)
    plain(case, "transformers", "cache_implementation=quantized quantises its cache")
    found = []
    for store in made.stores:
        if store.layer not in case.layers:
            continue
        size = 0
        for part in store.parts:
            heads = heads_per_rank(part.heads, case.tp) if part.shard == "heads" and case.tp > 1 else part.heads
            held = entries(part.growth, tokens, case.encoder_context)
            size += -(-held * heads * part.width * case.formats.of(part).element_bits // 8)
        sliding = any(part.growth.kind in ("window", "window_transformers", "chunk") for part in store.parts)
        found.append((store.layer, store.label, sliding, case.batch * size))
    return found


def _kept(case: Case) -> tuple[Line, ...]:
    """Bytes on the GPU. Offloading leaves the layer that computes and the one fetched for it; states are never offloaded.

    A static cache keeps its sliding layers on the GPU even then, a dynamic one does not.
    """
    kind: str = case.option("cache_implementation", "dynamic")
    static = kind.endswith("static")
    layers = _layers(case, static)
    away: list[int] = []
    if kind.startswith("offloaded"):
        away = [i for i, (_, label, sliding, _) in enumerate(layers) if label != "state" and not (static and sliding)]
    tokens = _slots(case) if static else _cached(case)
    named = f"{tokens} slots, windows where shorter" if static else f"{tokens} tokens"
    grouped: dict[str, tuple[int, int]] = {}
    for i, (_, label, _, size) in enumerate(layers):
        if i not in away:
            before, count = grouped.get(label, (0, 0))
            grouped[label] = (before + size, count + 1)
    lines = [
        Line(f"kv/{label}", size, count, named, SOURCE, state=label == "state")
        for label, (size, count) in grouped.items()
    ]
    if away:
        sizes = [layers[i][3] for i in away]
        pairs = [a + b for a, b in zip(sizes, sizes[1:] + sizes[:1], strict=True)] if len(sizes) > 1 else sizes
        formula = f"the layer that computes and the next one, of {len(away)} in host memory; {named}"
        lines.append(Line("kv/resident", max(pairs), min(len(away), 2), formula, SOURCE))
    return tuple(lines)


def _quantized(case: Case) -> tuple[Line, ...]:
    """Bytes of a quantised cache: the prompt is quantised whole, new tokens wait in a residual until it is full.

    A group of ``q_group_size`` elements has a scale and a zero point in the type of the keys; 3 bits of HQQ are packed ten to
    a word down each column of a group. FP8 has one fp32 scale per tensor and no residual.
    """
    backend: str = case.option("cache_backend", "quanto")
    bits: int = case.option("nbits", 8 if backend == "fp8" else 4)
    group: int = case.option("q_group_size", 64)
    residual: int = case.option("residual_length", 128)
    format_ = plain(case, "transformers", "nbits says how it is quantised")
    if bits not in BITS[backend]:
        words = ", ".join(str(n) for n in BITS[backend])
        raise InvalidInput("engine_options nbits", bits, f"{words} with cache_backend={backend}")
    if backend == "fp8" and any(name in case.options for name in ("q_group_size", "residual_length")):
        raise InvalidInput(
            "engine_options", "q_group_size, residual_length", "nothing with cache_backend=fp8: no groups"
        )
    made = profile(case.spec, parts_of).plan
    if any(part.growth != FULL for store in made.stores for part in store.parts):
        rule = "a model of full attention alone: the class refuses sliding and recurrent layers"
        raise InvalidInput("engine_options cache_implementation", "quantized", rule)
    later = _cached(case) - case.context
    waiting = 0 if backend == "fp8" else later % residual
    packed, kept, layers = 0, 0, 0
    for store in made.stores:
        if store.layer not in case.layers:
            continue
        layers += 1
        for part in store.parts:
            heads = heads_per_rank(part.heads, case.tp) if part.shard == "heads" and case.tp > 1 else part.heads
            elements = case.batch * (case.context + later - waiting) * heads * part.width
            kept += case.batch * waiting * heads * part.width * format_.element_bits // 8
            packed += elements + 4 if backend == "fp8" else _packed(elements, bits, group, format_.element_bits // 8)
    how = "fp8, one scale per tensor" if backend == "fp8" else f"{bits} bits, groups of {group}, scale and zero point"
    lines = [Line("kv/quantized", packed, layers, f"{backend}: {how}", SOURCE)]
    if kept:
        lines.append(Line("kv/residual", kept, layers, f"{waiting} newest tokens, at most {residual - 1}", SOURCE))
    return tuple(lines)


def _packed(elements: int, bits: int, group: int, size: int) -> int:
    if elements % group:
        raise InvalidInput("engine_options q_group_size", group, f"a divisor of the {elements} elements of a tensor")
    data = -(-group // 10) * 4 if bits == 3 else group * bits // 8
    return elements // group * (data + 2 * size)


def _room(case: Case, budget: Budget) -> Room:
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None)
    usable = round(budget.memory_bytes * budget.utilization)
    text = "CUDA context and kernels, an estimate (half to twice of it)"
    kept = Line("engine/runtime", budget.runtime_bytes, 0, text, "kvplan/settings.py", basis="estimated")
    return Room(usable - budget.weights - budget.runtime_bytes, (kept,))


def _pool(made: Callable[[Case], tuple[Line, ...]]) -> Callable[[Cases, Rooms], Pool]:
    def pool(cases: Cases, rooms: Rooms) -> Pool:
        return Pool(max(sum(line.size for line in made(case)) for case in cases), None)

    return pool


def _stated(cases: Cases) -> Stated:
    case = cases[0]
    kind: str = case.option("cache_implementation", "dynamic")
    facts: list[tuple[str, int | float | str]] = [("cache_implementation", kind), ("cached_tokens", _cached(case))]
    if kind.endswith("static"):
        facts.append(("max_cache_len", _slots(case)))
    if kind.startswith("offloaded"):
        whole = max(sum(size for *_, size in _layers(stage, kind.endswith("static"))) for stage in cases)
        facts.append(("cache_bytes", whole))
    return Stated(tuple(facts))


ENGINE = Engine(
    name="transformers",
    version="5.23.0",
    summary="DynamicCache after a prefill: W - 1 entries in a sliding layer, convolution states of K columns",
    utilization=1.0,
    source="transformers 5.23.0, cache_utils.py",
    parts_of=parts_of,
    prompt=prompt,
    prefill_storage=True,
    options=OPTIONS,
    with_options=with_options,
)
