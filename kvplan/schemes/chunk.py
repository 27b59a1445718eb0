"""The tokens axis: attention that starts anew every C tokens."""

from __future__ import annotations

from kvplan.schemes import Arguments, scheme
from kvplan.schemes.window import patterned
from kvplan.specs import ModelSpec


@scheme(
    "chunk",
    "chunk:C[@L:G]",
    "tokens",
    "layers see their own chunk of C tokens only; @3:1 leaves every fourth layer as it is",
    "Llama 4's local layers, transformers models/llama4",
)
def chunk(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Attention within chunks of C tokens: a token sees its own chunk up to itself.

    Formula: min(S, C) entries are held (the fullest moment of a chunk), a decode step reads S mod C + 1, a prompt has
    C (C + 1) / 2 pairs per complete chunk. Parameters and linear FLOPs stay. Layers that look back no further than C
    tokens stay as they are.
    Source: Llama 4's local layers (transformers models/llama4, attention_chunk_size).

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="chunk:1024", context=4096).kv["bytes_read_per_step"] // 524_288  # a new chunk
    1
    """
    return patterned(spec, arguments, "chunk")
