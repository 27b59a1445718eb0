"""The place axis: which share of the cache leaves the GPU."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, scheme
from kvplan.specs import ModelSpec, Offload, replace


@scheme(
    "offload",
    "offload:cpu=0.5[,disk=0.2]",
    "place",
    "shares of the cache in host memory and on disk, read back over the link at every step",
    "FlexGen, Sheng et al. 2023, arXiv 2303.06865",
)
def offload(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Keeps shares of every cache in host memory (``cpu``) and on disk; the rest stays on the GPU.

    Formula: GPU bytes = ceil(bytes x (1 - cpu - disk)), and every decode step brings the shares of what it reads over
    the link to the host. Residence in all, traffic of attention, FLOPs and parameters stay; the GPU's part falls,
    and the link's time joins the roofline (transfers overlap with compute at best, so the step takes the longer).
    Source: FlexGen's placement policy, arXiv 2303.06865; its attention on the CPU is not modelled.

    >>> from kvplan.catalog import load
    >>> from kvplan.schemes import apply
    >>> apply(load("llama-2-7b"), "offload:cpu=0.5").offload
    Offload(cpu=0.5, disk=0.0)
    """
    rule = "shares of 1, e.g. offload:cpu=0.5,disk=0.2, together at most 1"
    if arguments.bare or set(arguments.named) - {"cpu", "disk"} or not arguments.named:
        raise InvalidInput("scheme", arguments.text, rule)
    shares = {name: _share(arguments.named.get(name, "0"), arguments.text, rule) for name in ("cpu", "disk")}
    if sum(shares.values()) > 1:
        raise InvalidInput("scheme", arguments.text, rule)
    return replace(spec, offload=Offload(**shares))


def _share(text: str, whole: str, rule: str) -> float:
    digits = text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit() and len(text) < 12) or float(text) > 1:
        raise InvalidInput("scheme", whole, rule)
    return float(text)
