"""MLX-LM: ``mlx_lm.server``, ``python -m mlx_lm.server``. Flags as ``mlx_lm/server.py`` of 0.32.2 has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvplan.launch.flags import table
from kvplan.launch.reading import Changes, Reading, Rules, Verdict
from kvplan.report import Report
from kvplan.units import format_bytes, format_count

__all__ = ["RULES"]

QUANTIZED = ("2", "3", "4", "8")  # bits that a weight format here has


def fill(r: Reading) -> None:
    """Takes the model and the formats of its cache; how long requests are, no flag says."""
    r.stray(r.positional)
    name = r.text("--model")
    found = r.model(name)
    r.uses("--model", found.how)
    bits = re.search(r"[-_](\d)-?bit\b", name or "", re.IGNORECASE)
    if bits and found.spec.quantization is None:
        if bits[1] in QUANTIZED:
            r.plan["weight_dtype"] = f"int{bits[1]}:g=64,scale=16,zero=16"
            r.notes.append(f"matrices count as {bits[1]} bits in groups of 64, which the model's name says")
        else:
            r.notes.append(f"the model's name says {bits[1]} bits; its weights count in the type of the config")
    r.plan["context"] = found.spec.max_context or 8192
    r.notes.append("the server sets no limit on requests: the cache of one at the model's own length is shown")


def judge(r: Reading, report: Report) -> Verdict:
    """Starts where the weights fit; its caches then grow with the requests."""
    c = report.capacity
    length = report.answer.settings.context
    if c is None:
        return Verdict(None, "the bytes of the weights are not known")
    if not c.fits and not c.max_context:
        return Verdict(False, f"the weights leave nothing for a cache (binding: {c.binding})")
    if c.fits:
        size = format_bytes(report.answer.bytes_per_gpu)
        return Verdict(True, f"one request of {format_count(length)} tokens takes {size} beside the weights")
    return Verdict(True, f"but one request of more than {format_count(c.max_context or 0)} tokens does not fit", False)


def attempts(r: Reading, report: Report) -> Iterator[Changes]:
    """Bits of the cache, from the most."""
    yield from ({"--kv-bits": bits} for bits in ("8", "4") if r.text("--kv-bits") is None and r.has("kv_bits"))


VALUES = """
--model --adapter-path --host --port --allowed-origins --draft-model --num-draft-tokens --log-level --chat-template
--temp --top-p --top-k --min-p --max-tokens --chat-template-args --decode-concurrency --prompt-concurrency
--prefill-step-size --prompt-cache-size --prompt-cache-bytes --kv-bits --kv-group-size --quantized-kv-start
"""
SWITCHES = "--trust-remote-code --use-default-chat-template --pipeline"
CAVEATS = {
    "--draft-model": "the weights and the cache of a draft model are not counted",
    "--adapter-path": "memory of LoRA adapters is not counted",
    "--decode-concurrency": "requests that run at once share the memory; one is planned",
    "--prompt-concurrency": "requests that run at once share the memory; one is planned",
    "--prompt-cache-size": "caches kept of earlier prompts are not counted",
    "--prompt-cache-bytes": "caches kept of earlier prompts are not counted",
    "--pipeline": "layers spread over machines are not modelled",
}

RULES = Rules("mlx", table(VALUES, SWITCHES), CAVEATS, fill, judge, attempts)
