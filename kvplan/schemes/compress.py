"""The tokens axis: old tokens pooled into fewer entries, new ones kept one by one."""

from __future__ import annotations

from kvplan.cache import mixer_growth
from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, change_attention, scheme
from kvplan.schemes.window import Own
from kvplan.specs import Attention, ModelSpec, replace


@scheme(
    "compress",
    "compress:m=M,window=W",
    "tokens",
    "M tokens pooled into one entry, and the last W tokens one by one",
    "NSA arXiv 2502.11089 (its compressed branch); DeepSeek-V4's CSA and HCA, arXiv 2606.19348",
)
def compress(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Pools every complete group of M tokens into one entry and keeps the last W tokens beside them.

    Formula: min(S, W) + floor(S / M) entries, all of them read by every query; a prompt's queries see the window and
    the groups that are complete. Residence, traffic and attention FLOPs fall towards 1/M; parameters and linear FLOPs
    stay: pooling is a mean here, a learned compressor adds its own weights. W is at least M, so that the tokens of an
    open group are still there when it closes. Layers with a window of their own stay as they are.
    Source: NSA (2502.11089, section 3.3.1); DeepSeek-V4 pools 4 tokens (CSA) or 128 (HCA), arXiv 2606.19348.

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="compress:m=4,window=128", context=4096).kv["bytes"] // 524_288
    1152
    """
    text = arguments.text
    arguments.only("m", "window", bare=True)
    pool = arguments.count("m", bare=True, least=2), arguments.count("window")
    if pool[1] < pool[0]:
        raise InvalidInput("scheme", text, "a window of at least m tokens, so that open groups are kept")

    def change(layer: int, mixer: Own) -> Own:
        if not isinstance(mixer, Attention):
            raise InvalidInput("scheme", text, "a model with per-head keys and values")
        return replace(mixer, pool=pool) if mixer_growth(mixer).kind == "full" else mixer

    return change_attention(spec, text, change, weights=False)
