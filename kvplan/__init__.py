"""kvplan: KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network.

>>> import kvplan
>>> kvplan.plan("llama-3.1-8b", context="8k", batch=4).kv["bytes"]  # 4 x 8,192 x 131,072
4294967296
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvplan.api import compare, diff, fit, load, plan
from kvplan.errors import InvalidInput, KvplanError
from kvplan.report import Report
from kvplan.specs import ModelSpec
from kvplan.version import __version__

if TYPE_CHECKING:
    from kvplan import page
    from kvplan.launch import preflight
    from kvplan.sweeps import sweep

__all__ = [
    "InvalidInput", "KvplanError", "ModelSpec", "Report", "__version__", "check", "compare", "diff", "fit", "load", "page",
    "plan", "preflight", "sweep",
]  # fmt: skip

# Imported when asked for: they read other programs' command lines, need numpy, or hold what only a page shows.
LATER = {"check": "kvplan.budgets", "preflight": "kvplan.launch", "sweep": "kvplan.sweeps", "page": ""}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name) if LATER[name] else import_module(f"kvplan.{name}")
