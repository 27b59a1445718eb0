"""kvplan: KV-cache memory and FLOPs of LLM inference, planned without a GPU, weights or a network."""

from __future__ import annotations

__version__ = "0.1.0"
