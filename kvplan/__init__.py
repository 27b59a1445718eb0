"""kvplan: KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network.

>>> import kvplan
>>> kvplan.plan("llama-3.1-8b", context="8k", batch=4).kv["bytes"]  # 4 x 8,192 x 131,072
4294967296
"""

from __future__ import annotations

from kvplan.api import compare, load, plan
from kvplan.errors import KvplanError
from kvplan.report import Report
from kvplan.specs import ModelSpec
from kvplan.version import __version__

__all__ = ["KvplanError", "ModelSpec", "Report", "__version__", "compare", "load", "plan"]
