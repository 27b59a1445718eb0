"""Which stage of a pipeline binds: a plan's memory is looked at where the least room is left."""

from __future__ import annotations

from kvplan.planner import Answer, on_gpu
from kvplan.stages import Stage

__all__ = ["need", "stage_words", "tightest"]


def need(a: Answer, stage: Stage, tokens: int) -> int:
    """Bytes of one sequence of ``tokens`` on the GPU, what windows keep alive behind them included."""
    storage = stage.lean.storage(tokens) if a.settings.engine.prefill_storage else 0
    return on_gpu(a.spec, stage.lean.at(tokens)) + storage


def tightest(a: Answer, tokens: int, sequences: int) -> int:
    """The pipeline stage that has the least room left at so many tokens and sequences per replica."""
    left = [-stage.weights - sequences * need(a, stage, tokens) for stage in a.stages]
    return left.index(min(left))


def stage_words(a: Answer, i: int) -> str:
    """Which stage of the pipeline, where there are several."""
    if len(a.stages) == 1:
        return ""
    layers = a.stages[i].layers
    return f"pipeline stage {i + 1} of {len(a.stages)} (layers {layers.start:,} to {layers.stop - 1:,})"
