"""The Python API: the command line's questions in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvplan.catalog import load
from kvplan.errors import InvalidInput, KvplanError, UnknownName, shorten
from kvplan.planner import answer
from kvplan.report import Report
from kvplan.settings import read_settings
from kvplan.specs import ModelSpec, replace

if TYPE_CHECKING:
    from kvplan.comparison import Comparison

__all__ = ["compare", "load", "plan", "shared"]

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
    unknown = set(flags) - _known_flags()
    if unknown:
        name = sorted(unknown)[0]
        raise UnknownName("flag", name, _known_flags())
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

    wanted = [*_several(schemes), *_several(flags.pop("scheme", ()))]
    on = [*_several(engines), *_several(flags.pop("engine", ()))] or ["ideal"]
    numbers = {name: flags.pop(name) for name in NUMBERS if name in flags}
    spec = described(model, {name: value for name, value in numbers.items() if value is not None})
    options = _apart(flags.pop("engine_options", None), on)
    asked: list[tuple[str | None, Report]] = [
        (None, plan(spec, engine=engine, engine_options=options[engine], **flags)) for engine in on
    ]
    for scheme in wanted:
        for engine in on:
            try:
                asked.append((scheme, plan(spec, scheme=scheme, engine=engine, engine_options=options[engine], **flags)))
            except UnknownName:
                raise
            except KvplanError as e:
                if isinstance(e, InvalidInput) and e.field == "scheme" and scheme in str(e):
                    raise
                # as published it was answered, so it is the scheme that does not apply: say which
                raise InvalidInput("scheme", scheme, f"a scheme that applies to {spec.name} ({e})") from None
    return compared(asked)


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


def _several(given: Sequence[str] | str | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


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


def _known_flags() -> frozenset[str]:
    global _FLAGS
    if not _FLAGS:
        code = read_settings.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        _FLAGS = frozenset(names) - {"spec", "scheme"} | set(NUMBERS)
    return _FLAGS
