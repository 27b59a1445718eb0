"""What the transformers classes themselves say about configs: parameters, cache bytes, matmul FLOPs.

Run by hand when transformers is upgraded; writes tests/data/reference.jsonl. It imports nothing of kvplan, so that
the numbers are somebody else's. Classes are built on the meta device: no weights, no memory, no download.

    python tests/make_reference.py [CONFIG.json ...] [--tokens 4224] [--print]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


def build(raw: dict[str, Any]) -> Any:
    """The class AutoModelForCausalLM gives for a config, else architectures[0], on the meta device, in bf16, eager."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = {k: v for k, v in raw.items() if k not in ("quantization_config", "auto_map", "compression_config")}
    raw = json.loads(json.dumps(raw))
    for nested in ("text_config", "llm_config", "language_config"):
        if isinstance(raw.get(nested), dict):
            raw[nested].pop("quantization_config", None)
            raw[nested].pop("auto_map", None)
    config = AutoConfig.for_model(**raw)
    with torch.device("meta"):
        if type(config) in AutoModelForCausalLM._model_mapping:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
        else:
            class_ = getattr(transformers, raw["architectures"][0])
            model = class_._from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    return model.eval()


def cache_bytes(cache: Any) -> int:
    """Bytes of every distinct tensor a cache object holds: numel times itemsize, so views count what they show."""
    import torch

    seen: set[int] = set()
    todo, tensors, visited = [cache], [], set()
    while todo:
        item = todo.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, torch.Tensor):
            # positions and window sizes that layers keep are bookkeeping, not cache
            if item.is_floating_point() and item.dim() > 1 and id(item) not in seen:
                seen.add(id(item))
                tensors.append(item)
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
    return sum(t.numel() * t.element_size() for t in tensors)


def module_states(model: Any) -> list[Any]:
    """State tensors that modules keep on themselves instead of in the cache object (RecurrentGemma)."""
    names = ("conv1d_state", "recurrent_states")
    return [vars(m)[name] for m in model.modules() for name in names if vars(m).get(name) is not None]


def measure(raw: dict[str, Any], tokens: int, *, flops: bool = True) -> dict[str, Any]:
    """Parameters always; cache after a prefill of ``tokens`` and after one more token, and FLOPs, where the class runs on meta."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    model = build(raw)
    result: dict[str, Any] = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    try:
        with torch.no_grad():
            ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
            counter = FlopCounterMode(display=False)
            with counter:
                out = model(input_ids=ids, use_cache=True)
            cache = getattr(out, "past_key_values", None)
            if cache is None:
                cache = getattr(out, "cache_params", None) or getattr(out, "state", None)
            if cache is None:
                # RecurrentGemma returns no cache: it fills one that it is handed, and keeps its states in its modules
                cache = transformers.DynamicCache(config=model.config)
                model(input_ids=ids, use_cache=True, past_key_values=cache)
            result["tokens"] = tokens
            result["cache_bytes"] = cache_bytes([cache, module_states(model)])
            if flops:
                result["flops_full_all"] = counter.get_total_flops()
            step = torch.zeros((1, 1), dtype=torch.long, device="meta")
            name = "cache_params" if getattr(out, "cache_params", None) is not None else "past_key_values"
            model(input_ids=step, use_cache=True, **{name: cache})
            result["cache_bytes_next"] = cache_bytes([cache, module_states(model)])
    except Exception as e:
        result["not_run"] = f"{type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}"
    return result


def main() -> None:
    """Measures every config named, or all of tests/data/configs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--tokens", type=int, default=4224)
    parser.add_argument("--print", action="store_true", help="print, do not write")
    args = parser.parse_args()
    import transformers

    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    rows = []
    for path in args.configs or sorted((DATA / "configs").glob("*.json")):
        row: dict[str, Any] = {"file": path.name, "transformers": transformers.__version__}
        try:
            row |= measure(json.loads(path.read_text()), args.tokens)
        except Exception as e:
            row["no_class"] = f"{type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}"
            if args.print:
                traceback.print_exc()
        rows.append(row)
        print(json.dumps(row), file=sys.stdout if args.print else sys.stderr, flush=True)
    if not args.print:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        partial = DATA / "reference.jsonl.partial"
        partial.write_text(text)
        partial.rename(DATA / "reference.jsonl")


if __name__ == "__main__":
    main()
