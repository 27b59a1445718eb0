"""MLX-LM's own cache classes run through random histories, against what engine ``mlx`` says they hold.

The classes come from ``mlx_lm.models.cache`` and are driven as ``mlx_lm.generate.generate_step`` drives them; what they
hold is their own ``nbytes``. Needs ``pip install 'mlx[cpu]' mlx-lm`` (Linux) or ``mlx-lm`` (macOS), and no model.
"""

from __future__ import annotations

import random
from importlib import import_module, metadata
from typing import Any

from kvplan.api import plan
from kvplan.errors import MissingExtra
from kvplan.validate.records import Row

__all__ = ["cases", "compare", "measured", "versions"]

DTYPES = ("bf16", "fp16", "fp32")


def versions() -> dict[str, str]:
    """The versions that answer. Raises MissingExtra without them."""
    try:
        return {name: metadata.version(name) for name in ("mlx", "mlx-lm")}
    except metadata.PackageNotFoundError:
        raise MissingExtra("kvplan validate --reference mlx", "mlx", "or pip install 'mlx[cpu]' mlx-lm") from None


def cases(count: int, seed: int) -> list[dict[str, Any]]:
    """Arguments of ``kvplan.plan``: small models of each kind of cache, prompts around steps, chunks and windows."""
    rng = random.Random(seed)
    return [
        _case(rng, rng.choice(("full", "full", "window", "window", "window", "chunk", "limit"))) for _ in range(count)
    ]


def _case(rng: random.Random, kind: str) -> dict[str, Any]:
    reach = rng.choice((rng.randint(1, 2), rng.randint(3, 40), rng.randint(41, 700), 256, 512, 1024))
    chunk = rng.choice((2048, 2048, 512, 256, rng.randint(1, 40), rng.randint(2, 900)))
    near = rng.choice((1, 256, 257, chunk, chunk + 1, 2 * chunk + 1, reach, reach + chunk))
    options: dict[str, Any] = {"prefill_step_size": chunk, "max_tokens": rng.choice((0, 1, 2, 255, 256, 257, 600))}
    width, kv_heads, layers = rng.choice((64, 128)), rng.choice((1, 2, 4)), rng.randint(1, 5)
    asked: dict[str, Any] = {
        "layers": layers,
        "hidden": 4 * width,
        "heads": 4,
        "kv_heads": kv_heads,
        "head_dim": width,
        "vocab": 64,
    }
    if kind == "full" and rng.random() < 0.6:
        options["kv_bits"] = rng.choice(("2", "3", "4", "5", "6", "8"))
        options["kv_group_size"] = rng.choice(("32", "64"))
        options["quantized_kv_start"] = rng.choice((0, 1, 300, 5000))
    if kind == "window":
        asked["window"] = reach
    if kind in ("chunk", "limit"):
        config: dict[str, Any] = {
            "model_type": "llama4_text" if kind == "chunk" else "qwen2",
            "num_hidden_layers": layers,
            "hidden_size": 4 * width,
            "num_attention_heads": 4,
            "num_key_value_heads": kv_heads,
            "vocab_size": 64,
            "intermediate_size": 64,
        }
        if kind == "chunk":
            config |= {
                "head_dim": width,
                "attention_chunk_size": reach,
                "num_local_experts": 2,
                "intermediate_size_mlp": 64,
            }
        else:
            options["max_kv_size"] = max(reach, 8)
        asked = {"model": config}
    return asked | {
        "dtype": rng.choice(DTYPES),
        "batch": rng.randint(1, 2),
        "context": max(1, near + rng.randint(-2, 2)),
        "engine": "mlx",
        "engine_options": options,
    }


def _made(asked: dict[str, Any], cache: Any) -> tuple[list[Any], int, int]:
    """The cache objects that mlx-lm builds for the model, its KV heads and head dim."""
    config, options = asked.get("model"), asked["engine_options"]
    if config is None:
        window = asked.get("window")
        kinds = [cache.RotatingKVCache(max_size=window) if window else cache.KVCache() for _ in range(asked["layers"])]
        return kinds, asked["kv_heads"], asked["head_dim"]
    layers, heads = config["num_hidden_layers"], config["num_key_value_heads"]
    width = config["hidden_size"] // config["num_attention_heads"]
    if config["model_type"] == "llama4_text":  # as models/llama4.py makes them: every fourth layer is global
        chunk = config["attention_chunk_size"]
        made = [cache.KVCache() if i % 4 == 3 else cache.ChunkedKVCache(chunk) for i in range(layers)]
        return made, heads, width
    # a model whose class builds none: make_prompt_cache decides
    bare = type("Bare", (), {"layers": [None] * layers})()
    return cache.make_prompt_cache(bare, options["max_kv_size"]), heads, width


def measured(asked: dict[str, Any]) -> tuple[int, int]:
    """Bytes of the real cache objects, all layers: after the prompt and the new tokens, and at the prompt's fullest pass."""
    cache, mx = import_module("mlx_lm.models.cache"), import_module("mlx.core")
    quantize = import_module("mlx_lm.generate").maybe_quantize_kv_cache
    options = asked["engine_options"]
    dtype = {"bf16": mx.bfloat16, "fp16": mx.float16, "fp32": mx.float32}[asked["dtype"]]
    held, heads, width = _made(asked, cache)

    def step(tokens: int) -> None:
        entries = mx.zeros((asked["batch"], heads, tokens, width), dtype)
        for layer in held:
            if hasattr(layer, "maybe_trim_front"):
                layer.maybe_trim_front()
            layer.update_and_fetch(entries, entries)
        if "kv_bits" in options:
            quantize(held, options["quantized_kv_start"], int(options["kv_group_size"]), int(options["kv_bits"]))
        mx.eval([layer.state[:2] for layer in held])

    left, peak = asked["context"], 0
    while left:
        tokens = min(options["prefill_step_size"], max(left - 1, 1))
        step(tokens)
        peak = max(peak, sum(layer.nbytes for layer in held))
        left -= tokens
    for _ in range(options["max_tokens"]):
        step(1)
    return sum(layer.nbytes for layer in held), peak


def compare(count: int = 500, seed: int = 0) -> list[Row]:
    """Rows of random histories: bytes by engine ``mlx`` and by the classes themselves, steady and at the prompt's peak.

    At the peak a cache that is being quantised exists twice, which ``nbytes`` of the result does not show: no row for it.
    Raises MissingExtra without mlx and mlx-lm.
    """
    versions()
    rows = []
    for i, asked in enumerate(cases(count, seed)):
        report, (steady, peak) = plan(**asked), measured(asked)
        found = [("kv.bytes", report.kv["bytes"], steady)]
        if "kv_bits" not in asked["engine_options"]:
            found.append(("engine.facts.prefill_peak_bytes", report.engine["facts"]["prefill_peak_bytes"], peak))
        for name, says, has in found:
            rows.append(Row(f"mlx {seed}.{i}", asked, name, says, has, "exact" if says == has else "wrong"))
    return rows
