"""How long `kvplan.plan(...)` takes in process with the model loaded: median, without a GPU and with one.

    python tests/benchmarks/bench_plan.py

Targets: 250 µs without a GPU and 500 µs with one, both inversions included, for `ideal` and `transformers`; a few
milliseconds for engines with rules of their own, given as multiples of `ideal` in the same run. Reports, asserts nothing.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import kvplan
from kvplan.errors import InvalidInput

GPU = "h200-141gb-sxm"
POLICIES = ("vllm", "llama.cpp", "sglang", "mlx", "exllama", "lmdeploy", "tensorrt-llm")
MODELS = ("llama-3.1-8b", "gemma-3-12b", "deepseek-v3", "deepseek-v4-flash", "gpt-oss-20b", "qwen3-next-80b-a3b")


def median_us(model: str, runs: int = 2000, **flags: Any) -> float:
    """Median microseconds of one call."""
    spec = kvplan.load(model)
    kvplan.plan(spec, **flags)
    times = []
    for i in range(runs):
        start = time.perf_counter()
        kvplan.plan(spec, context=1000 + i, batch=1 + i % 7, **flags)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    """Prints one line per model and engine."""
    for model in MODELS:
        for engine in ("ideal", "transformers"):
            bare = median_us(model, engine=engine)
            gpu = median_us(model, engine=engine, gpu=GPU)
            print(f"{model:20s} {engine:13s} {bare:6.0f} µs without a GPU, {gpu:6.0f} µs with one")
        ideal = median_us(model, 200, gpu=GPU)
        for engine in POLICIES:
            try:
                gpu = median_us(model, 200, engine=engine, gpu=GPU)
            except InvalidInput:  # a cache that this engine is not planned for
                continue
            print(f"{model:20s} {engine:13s} {gpu:6.0f} µs with a GPU, {gpu / ideal:5.1f} times ideal")


if __name__ == "__main__":
    main()
