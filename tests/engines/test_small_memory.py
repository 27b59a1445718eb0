"""Every engine on GPUs of any size: what does not fit is said not to fit, and nothing is less than nothing."""

from __future__ import annotations

import pytest

import kvplan
from kvplan.engines import ENGINES
from kvplan.errors import KvplanError

MODELS = (
    "gpt2",
    "llama-3.1-8b",
    "gemma-3-12b",
    "mamba-130m",
    "qwen3-next-80b-a3b",
    "deepseek-v2-lite",
    "qwen2.5-vl-7b",
)
SIZES = ("1MiB", "100MiB", "461MiB", "700MiB", "17GiB", "300GiB")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_fits_lies_within_the_memory(engine: str) -> None:
    """Weights, cache and what is kept back are bytes of 0 and more, and where an engine starts they fit together."""
    verdicts = set()
    for model in MODELS:
        for memory in SIZES:
            for batch, stages in ((1, 1), (16, 2)):
                try:
                    report = kvplan.plan(model, engine=engine, memory=memory, batch=batch, pp=stages, context=4096)
                except KvplanError:  # a model that this engine does not know
                    continue
                assert report.capacity
                parts = [size for _, size in report.memory()]
                assert min(parts) >= 0, (model, memory, report.memory())
                fits = report.capacity.fits
                assert not fits or sum(parts) <= report.capacity.memory_bytes, (model, memory, report.memory())
                assert not fits or report.capacity.kv_pool_bytes <= report.capacity.memory_bytes
                assert fits or memory != "300GiB"
                assert not fits or memory not in ("1MiB", "100MiB")
                verdicts.add(fits)
                assert max(map(len, report.to_text(80).splitlines())) <= 80
    assert verdicts == {True, False}
