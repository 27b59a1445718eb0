"""What a transformers class itself does with a config: parameters, cache bytes, matmul FLOPs.

Nothing here comes from kvplan's formulas (an import contract holds this module to ``errors``), so that what it returns
is somebody else's number. Classes are built on the meta device: no weights, no memory, no download. A class that cannot
run there (it looks at values) is built on the CPU instead, with real tensors, and its config should be a small one.
"""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

__all__ = [
    "Observed",
    "Unrunnable",
    "attention_of",
    "cache_bytes",
    "cache_of",
    "cache_tensors",
    "model_of",
    "observe",
    "quiet",
    "run",
]

# What is built is the plain model: a quantisation needs kernels that are not here, an auto_map code from elsewhere.
LEFT_OUT = ("quantization_config", "auto_map", "compression_config")
NESTED = ("text_config", "llm_config", "language_config")


class Observed(NamedTuple):
    """One class run once: a prefill of ``context`` tokens for ``batch`` sequences, then one token more for each."""

    class_name: str
    device: str  # meta | cpu
    context: int
    batch: int
    parameters: int
    cache_bytes: int  # after the prefill
    cache_bytes_next: int  # after one token more
    prefill_flops: int  # matmuls that FlopCounterMode counts
    decode_flops: int


class Unrunnable(Exception):
    """A config that its own class does not build or run; ``stage`` says which: ``build``, ``prefill`` or ``decode``."""

    def __init__(
        self, stage: str, error: BaseException, class_name: str | None = None, parameters: int | None = None
    ) -> None:
        self.stage, self.class_name, self.parameters = stage, class_name, parameters
        lines = str(error).strip().splitlines()
        self.reason = f"{type(error).__name__}: {' '.join(' '.join(lines).split())[:160]}"
        super().__init__(f"{stage}: {self.reason}")


@contextmanager
def quiet() -> Iterator[None]:
    """No advice from transformers while classes are built and run: kvplan's own lines are the output."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(level)


def model_of(
    raw: dict[str, Any], device: str = "meta", dtype: torch.dtype = torch.bfloat16, attention: str = "eager"
) -> Any:
    """The class AutoModelForCausalLM gives for a config, else ``architectures[0]``, with random weights, in eval mode.

    A class that does not know ``attention`` is built with eager attention, which all know.
    """
    raw = json.loads(json.dumps({key: value for key, value in raw.items() if key not in LEFT_OUT}))
    for nested in NESTED:
        if isinstance(raw.get(nested), dict):
            for key in LEFT_OUT:
                raw[nested].pop(key, None)
    config = AutoConfig.for_model(**raw)
    known = type(config) in AutoModelForCausalLM._model_mapping
    make = AutoModelForCausalLM.from_config if known else getattr(transformers, raw["architectures"][0])._from_config
    with torch.device(device):
        try:
            model = make(config, dtype=dtype, attn_implementation=attention)
        except ValueError:
            if attention == "eager":
                raise
            model = make(config, dtype=dtype, attn_implementation="eager")
    # no gradients: FlopCounterMode stumbles over slices of weights that want one (DBRX)
    return model.eval().requires_grad_(False)


def attention_of(model: Any) -> str:
    """The attention that a class was built with."""
    return str(model.config._attn_implementation)


def run(model: Any, ids: torch.Tensor, *, last: bool = False, **cache: Any) -> Any:
    """One forward pass that fills a cache; with ``last`` the logits of the last token alone, as ``generate`` asks for."""
    if last and "logits_to_keep" in inspect.signature(model.forward).parameters:
        cache["logits_to_keep"] = 1
    return model(input_ids=ids, use_cache=True, **cache)


def cache_tensors(*holders: Any) -> Iterator[torch.Tensor]:
    """Every distinct tensor of entries or state that cache objects hold."""
    seen: set[int] = set()
    todo: list[Any] = list(holders)
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            # positions and window sizes that layers keep are bookkeeping, not cache
            if item.is_floating_point() and item.dim() > 1:
                yield item
        elif isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, (list, tuple)):
            todo += item
        elif (
            hasattr(item, "__dict__")
            and type(item).__module__.startswith("transformers")
            and "config" not in type(item).__name__.lower()
        ):
            todo += vars(item).values()


def cache_bytes(*holders: Any) -> int:
    """Bytes of every tensor that cache objects hold: numel times itemsize, so views count what they show."""
    return sum(tensor.numel() * tensor.element_size() for tensor in cache_tensors(*holders))


def _module_states(model: Any) -> list[Any]:
    """State tensors that modules keep on themselves instead of in the cache object (RecurrentGemma)."""
    names = ("conv1d_state", "recurrent_states")
    return [vars(m)[name] for m in model.modules() for name in names if vars(m).get(name) is not None]


def observe(
    raw: dict[str, Any], contexts: Iterable[int], batch: int = 1, device: str = "meta"
) -> Iterator[Observed | Unrunnable]:
    """One Observed per context, or an Unrunnable where the class does not get so far; the class is built once.

    ``raw`` is a parsed config.json. Raises Unrunnable where the class cannot even be built.
    """
    with quiet():
        try:
            model = model_of(raw, device)
        except Exception as e:
            raise Unrunnable("build", e) from e
        parameters = sum(p.numel() for p in model.parameters())
        for context in contexts:
            try:
                yield _run(model, context, batch, device, parameters)
            except Unrunnable as e:
                yield e


def _run(model: Any, context: int, batch: int, device: str, parameters: int) -> Observed:
    prefill, decode = FlopCounterMode(display=False), FlopCounterMode(display=False)
    stage = "prefill"
    try:
        with torch.no_grad():
            ids = torch.zeros((batch, context), dtype=torch.long, device=device)
            with prefill:
                out = run(model, ids)
            name, cache = cache_of(model, out, ids)
            held = cache_bytes(cache, _module_states(model))
            stage = "decode"
            step = torch.zeros((batch, 1), dtype=torch.long, device=device)
            with decode:
                run(model, step, **{name: cache})
            after = cache_bytes(cache, _module_states(model))
    except Exception as e:
        raise Unrunnable(stage, e, type(model).__name__, parameters) from e
    return Observed(
        type(model).__name__,
        device,
        context,
        batch,
        parameters,
        held,
        after,
        prefill.get_total_flops(),
        decode.get_total_flops(),
    )


def cache_of(model: Any, out: Any, ids: Any) -> tuple[str, Any]:
    """The cache that a forward pass returned, and the argument that hands it back for the next token."""
    for name in ("past_key_values", "cache_params", "state"):
        cache = getattr(out, name, None)
        if cache is not None:
            return name, cache
    # RecurrentGemma returns no cache: it fills one that it is handed, and keeps its states in its modules
    cache = DynamicCache(config=model.config)
    run(model, ids, past_key_values=cache)
    return "past_key_values", cache
