"""The Python API: the command line's questions in the same words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Number
from typing import TYPE_CHECKING, Any

from kvplan.catalog import load
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.planner import answer
from kvplan.report import Report
from kvplan.settings import MOST_RANKS, Settings, read_settings
from kvplan.specs import ModelSpec, replace
from kvplan.text import shorten
from kvplan.units import parse_count

if TYPE_CHECKING:
    from kvplan.comparison import Comparison
    from kvplan.difference import Difference
    from kvplan.fitting import Fit

__all__ = ["compare", "diff", "fit", "load", "plan", "shared"]

# What a keyword of ``plan`` may be: what JSON has, numbers of other libraries, None. An array compares as nothing else does.
VALUES = (str, int, float, Number, dict, list, tuple, type(None))
NUMBERS = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "vocab",
    "window",
    "experts",
    "active_experts",
    "tied",
)


def plan(model: object = None, *, scheme: str | None = None, **flags: Any) -> Report:
    """What a model's KV cache costs and what fits: bytes, FLOPs, capacity, time bounds.

    ``model`` is anything that ``load`` takes; without one, the plain numbers ``layers, hidden, heads, kv_heads,
    head_dim, ffn, vocab, window`` describe it. The other keywords are the command line's flags (see
    ``settings.read_settings``): ``context`` and ``batch`` (tokens and sequences, ``"8k"`` is 8192), ``dtype``,
    ``kv_dtype``, ``engine``, ``gpu``, ``tp`` ... Raises a KvplanError that names field, value and what is allowed.

    >>> report = plan("llama-3.1-8b", context=8192)
    >>> report.kv["bytes_per_sequence"]  # 32 layers x 2 x 8 heads x 128 x 2 bytes x 8,192 tokens
    1073741824
    """
    unknown = set(flags) - known_flags()
    if unknown:
        name = sorted(unknown)[0]
        raise UnknownName("flag", name, known_flags())
    for name, value in {"scheme": scheme, **flags}.items():
        if not isinstance(value, VALUES):
            raise InvalidInput(name, value, "text, a number, true or false")
    numbers = {name: flags.pop(name) for name in NUMBERS if name in flags and flags[name] is not None}
    flags = {name: value for name, value in flags.items() if name not in NUMBERS}
    spec = described(model, numbers)
    shared_spec = shared(spec, scheme) if scheme else spec
    settings = read_settings(shared_spec, scheme=scheme, **flags)

    def again(**changes: Any) -> Report:
        return plan(spec, scheme=changes.pop("scheme", scheme), **{**flags, **changes})

    return Report(answer(shared_spec, settings), again)


def compare(
    model: object = None,
    schemes: Sequence[str] | str = (),
    *,
    engines: Sequence[str] | str = (),
    **flags: Any,
) -> Comparison:
    """One row per scheme (and engine) beside the model as published: bytes, traffic, FLOPs, parameters, what fits.

    ``model`` and the other keywords are those of ``plan``; every row is an ordinary plan. Ratios are to the first row,
    the model as published on the first engine. Raises a KvplanError that names the scheme which does not apply.

    >>> [row.kv_ratio for row in compare("llama-2-7b", ["gqa:8", "cla:2"], context=4096).rows]
    [1.0, 0.25, 0.5]
    >>> [row.read_ratio for row in compare("llama-2-7b", ["gqa:8", "cla:2"], context=4096).rows]
    [1.0, 0.25, 1.0]
    """
    # imported when asked for: a plain plan needs none of it
    from kvplan.comparison import compared

    wanted = [*_several(schemes, "scheme"), *_several(flags.pop("scheme", ()), "scheme")]
    on = [*_several(engines, "engine"), *_several(flags.pop("engine", ()), "engine")] or ["ideal"]
    numbers = {name: flags.pop(name) for name in NUMBERS if name in flags}
    spec = described(model, {name: value for name, value in numbers.items() if value is not None})
    options = _apart(flags.pop("engine_options", None), on)
    asked: list[tuple[str | None, Report]] = [
        (None, plan(spec, engine=engine, engine_options=options[engine], **flags)) for engine in on
    ]
    for scheme in wanted:
        for engine in on:
            try:
                asked.append(
                    (scheme, plan(spec, scheme=scheme, engine=engine, engine_options=options[engine], **flags))
                )
            except UnknownName:
                raise
            except KvplanError as e:
                if isinstance(e, InvalidInput) and e.field == "scheme" and scheme in str(e):
                    raise
                # as published it was answered, so it is the scheme that does not apply: say which
                raise InvalidInput("scheme", scheme, f"a scheme that applies to {spec.name} ({e})") from None
    return compared(asked)


def fit(
    model: object = None,
    *,
    context: int | str | None = None,
    batch: int | str | None = None,
    input_len: int | str | None = None,
    output_len: int | str | None = None,
    request_rate: float | str | None = None,
    gpu: Sequence[str] | str = (),
    engine: Sequence[str] | str = (),
    kv_dtype: Sequence[str] | str = (),
    weight_dtype: Sequence[str] | str = (),
    tp: Sequence[int | str] | int | str | None = (),
    max_gpus: int | str = 64,
    by: str = "gpus",
    scheme: str | None = None,
    **flags: Any,
) -> Fit:
    """Which GPUs, how many, with what tp, format and engine hold a demand, in order; and why the others do not.

    The demand is ``batch`` sequences at once of ``context`` tokens (or of ``input_len`` + ``output_len``), or
    ``request_rate`` requests per second of those lengths: then Little's law and the time bounds give the sequences, a
    lower bound. ``gpu``, ``engine``, ``kv_dtype``, ``weight_dtype`` and ``tp`` are one or several to try; without
    them every GPU preset, engine ideal, the formats as published, an fp8 cache, and fp8 weights too, and tp of 1, 2,
    4, 8. ``by`` is gpus, headroom, price or tokens_per_s. The other keywords are those of ``plan``. One row per GPU,
    format and engine, with the fewest GPUs. Raises a KvplanError that names field, value and what is allowed.

    >>> found = fit("llama-3.1-70b", context="8k", batch=4, gpu=["h100", "t4"], max_gpus=2)
    >>> [(row.gpu, row.gpus, row.kv_dtype, row.weight_dtype) for row in found.rows][0]
    ('h100-80gb-sxm', 1, 'fp8_e4m3', 'fp8')
    >>> found.lacking()[0].binding
    'weights'
    """
    # imported when asked for: a plain plan needs none of it
    from kvplan.fitting import DEFAULT_FORMATS, TENSOR_PARALLEL, Question, fitted, read_demand

    numbers = {name: flags.pop(name) for name in NUMBERS if flags.get(name) is not None}
    unknown = set(flags) - known_flags()
    if unknown:
        raise UnknownName("flag", sorted(unknown)[0], known_flags())
    spec = described(model, numbers)
    shared_spec = shared(spec, scheme) if scheme else spec
    answered = {"memory": "a GPU preset of that size", "pp": "left out: it is the answer", "dp": "left out, likewise"}
    for name, rule in answered.items():
        if flags.get(name) is not None:
            raise InvalidInput(name, flags[name], rule)
    engines, gpus = _several(engine, "engine") or ["ideal"], _several(gpu, "gpu")
    keys, matrices = _several(kv_dtype, "kv_dtype"), _several(weight_dtype, "weight_dtype")
    formats: Sequence[tuple[str | None, str | None]] = DEFAULT_FORMATS
    if keys or matrices or flags.get("cache_type_k") or flags.get("cache_type_v"):
        formats = [(k, w) for w in matrices or (None,) for k in keys or (None,)]
    options = _apart(flags.pop("engine_options", None), engines)

    def settings(engine: str = "ideal", **more: Any) -> Settings:
        asked = flags | more
        return read_settings(shared_spec, scheme=scheme, engine=engine, engine_options=options.get(engine), **asked)

    def ask(engine: str = "ideal", **more: Any) -> Report:
        asked = flags | more
        return plan(spec, scheme=scheme, engine=engine, engine_options=options.get(engine), **asked)

    return fitted(
        Question(shared_spec, settings, ask),
        read_demand(spec.max_context, context, batch, input_len, output_len, request_rate),
        gpus=gpus,
        engines=engines,
        formats=formats,
        tensor_parallel=_ranks(tp) or TENSOR_PARALLEL,
        max_gpus=parse_count(max_gpus, "max_gpus", most=MOST_RANKS),
        order=by,
        always={
            "engine_options": options,
            **{name: value for name, value in {"scheme": scheme, **numbers, **flags}.items() if value is not None},
        },
        asked={
            "model": _called(model),
            "scheme": scheme,
            "gpu": gpus,
            "engine": engines,
            "kv_dtype": keys,
            "weight_dtype": matrices,
            **flags,
        },
    )


def _ranks(given: object) -> list[int]:
    """Numbers of ranks: one, several, or text with commas between them; none where None is given."""
    if given is None:
        return []
    if isinstance(given, str):
        given = given.split(",")
    elif isinstance(given, int):
        given = [given]
    if not isinstance(given, (list, tuple, set, frozenset, range)):
        raise InvalidInput("tp", given, "a whole number, or a list of them")
    return [parse_count(n, "tp", most=MOST_RANKS) for n in given]


def _called(model: object) -> str | None:
    """What a command calls a model that was given to a function; None for plain numbers."""
    if model is None or isinstance(model, (str, os.PathLike)):
        return None if model is None else os.fspath(model)
    return model.name if isinstance(model, ModelSpec) else "./config.json"


def diff(before: object = None, after: object = None, *, scheme: str | None = None, **flags: Any) -> Difference:
    """What moves from one model to another, or under a scheme: figures and ledger terms that are not equal.

    ``before`` and ``after`` are anything that ``load`` takes. ``scheme`` changes the second side, which is the first
    model where ``after`` is left out; ``after`` may also be the notation of a scheme. The other keywords are those of
    ``plan`` and hold for both sides. Raises a KvplanError where one of the two cannot be planned.

    >>> found = diff("llama-2-7b", "gqa:8", context=4096)
    >>> next((row.before, row.after, row.ratio) for row in found.figures if row.path == "kv.bytes_per_token")
    (524288, 131072, 0.25)
    """
    # imported when asked for: a plain plan needs none of it
    from kvplan.difference import differ

    numbers = {name: flags.pop(name) for name in NUMBERS if flags.get(name) is not None}
    first = described(before, numbers)
    if after is None and scheme is None:
        raise InvalidInput("after", None, "a second model, or a scheme such as gqa:8")
    second = first
    if after is not None:
        try:
            second = load(after)
        except UnknownName:
            if scheme is not None or not isinstance(after, str) or not _is_scheme(after):
                raise
            scheme = after
    return differ(plan(first, **flags), plan(second, scheme=scheme, **flags))


def _is_scheme(text: str) -> bool:
    """Whether the first member of a chain has a name that schemes know: what is wrong behind it is said by the scheme."""
    from kvplan.schemes import SCHEMES

    return text.strip().lower().partition("+")[0].partition(":")[0] in SCHEMES


def _apart(given: dict[str, Any] | None, engines: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Engine options for each engine: all that it knows; one that none knows is an error."""
    if not isinstance(given, dict) or len(engines) == 1:
        return dict.fromkeys(engines, given)
    from kvplan.engines import find_engine

    known = {engine: {option.name for option in find_engine(engine).options} for engine in engines}
    for name in given:
        if not any(name in names for names in known.values()):
            raise InvalidInput("engine_options", name, f"options of {', '.join(engines)}")
    return {engine: {name: value for name, value in given.items() if name in known[engine]} for engine in engines}


def _several(given: Sequence[str] | str | None, field: str) -> list[str]:
    """One name or several. Raises InvalidInput for what is neither."""
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if not isinstance(given, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in given):
        raise InvalidInput(field, given, "a name, or a list of names")
    return list(given)


def described(model: object, numbers: dict[str, Any]) -> ModelSpec:
    """The spec of a model or of plain numbers, but not of both and not of neither."""
    if model is None and not numbers:
        raise InvalidInput(
            "model", None, "a preset, a path, a Hub id, or numbers such as --layers 32 --hidden 4096 --heads 32"
        )
    if model is None:
        from kvplan.importers.numbers import from_numbers

        return from_numbers(**numbers)
    if numbers:
        name, value = next(iter(numbers.items()))
        raise InvalidInput(name, value, f"only without a model ({shorten(model)} was named already)")
    return load(model)


def shared(spec: ModelSpec, scheme: str) -> ModelSpec:
    """The spec under a scheme; remembered on the spec, so that asking twice costs once."""
    if not isinstance(scheme, str):
        raise InvalidInput("scheme", scheme, "a chain such as mqa+cla:2")
    memo: dict[str, ModelSpec] = spec.__dict__.setdefault("_schemes", {})
    if scheme not in memo:
        if len(memo) > 256:
            memo.clear()
        # imported when a scheme is asked for: there are many small files, and a plain plan needs none
        from kvplan import schemes

        shared_spec = schemes.apply(spec, scheme)
        notes = tuple(f"{member} changes nothing on this model" for member in schemes.idle(spec, scheme))
        memo[scheme] = replace(shared_spec, notes=shared_spec.notes + notes) if notes else shared_spec
    return memo[scheme]


_FLAGS: frozenset[str] = frozenset()


def known_flags() -> frozenset[str]:
    """The keyword arguments of a plan, scheme and model apart."""
    global _FLAGS
    if not _FLAGS:
        code = read_settings.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        _FLAGS = frozenset(names) - {"spec", "scheme"} | set(NUMBERS)
    return _FLAGS
