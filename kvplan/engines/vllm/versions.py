"""Which rules each release of vLLM plans its KV cache with; read from the wheels of the releases named below."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput

__all__ = ["NEWEST", "OLDEST", "VERSIONS", "Rules", "parse", "rules"]

NEWEST = "0.33.0"
OLDEST = "0.1.0"


class Rules(NamedTuple):
    """What changed between releases. The defaults are those of the first ones."""

    utilization: float = 0.9  # --gpu-memory-utilization
    v0: bool = True  # the old engine exists
    v1: bool = False  # and is not what runs unless VLLM_USE_V1=0
    latent: bool = False  # MLA caches a latent; before, every head's keys and values
    state_layers: bool = False  # V1 plans recurrent layers
    hybrid: str = "never"  # which layers of different kinds share a pool: never | equal (pages) | unify (pages)
    uniform_type: bool = False  # full attention of different sizes makes one group
    global_groups: bool = False  # groups are made of the whole model, not of each pipeline stage
    stage_types: bool = False  # the check, and groups of full attention of several sizes, count one stage's layers
    factor: tuple[int, int] = (1, 1)  # larger buckets below this multiple of the smallest set the group size
    pads_state: bool = False  # unifying pads recurrent pages
    pads_attention: bool = False  # and attention pages
    # What one request needs at start: the sum of its layers, before grouping | the blocks of the first group alone, as if
    # the others took none | groups
    check: str = "layers"
    null_block: bool = False  # one block is kept back before that check
    in_flight_batches: bool = False  # windows keep the tokens of every batch in flight, not of one
    v2_runner: bool = False  # the model runner that keeps PP + 1 batches in flight is the default
    tokens: str = "blocks"  # how "GPU KV cache size" is counted: blocks | concurrency
    concurrency: str = "tokens"  # "Maximum concurrency": tokens of the pool per max_model_len | blocks
    state_modes: tuple[str, ...] = ("none",)  # mamba_cache_mode
    hybrid_prefix: bool = False  # prefix caching is on by default where there are recurrent layers
    speculative_blocks: bool = False  # a state block per speculative token
    speculative_all: bool = False  # in mode "all" as well
    speculative_conv: tuple[str, ...] = ()  # kinds of recurrent layers whose convolution state grows with them
    checkpoints: tuple[str, ...] = ()  # kinds that keep one block more in mode "align"
    gdn_checkpoints: bool = False  # and gated delta layers, where FlashInfer prefills
    latent_alignment: int = 16  # of blocks beside recurrent layers, where attention is MLA
    configured_alignment: bool = False  # that alignment is at least the configured block
    latent_blocks: bool = True  # FlashMLA forces blocks of 64, CUTLASS MLA of 128
    value_width: bool = False  # values narrower than keys are stored as narrow as they are
    sparse_fp8: bool = False  # sparse MLA models store fp8_ds_mla unless asked otherwise
    large_class: bool = False  # GPUs of 160 GiB and more have defaults of their own
    wide_seqs: bool = False  # max_num_seqs is 1024 on GPUs of 70 GiB and more
    async_scheduling: bool = False
    graphs: bool = False  # the estimate of CUDA graphs is kept back
    one_line: bool = False  # size and concurrency are logged in one line
    rounds: bool = False  # GiB in messages are rounded floats ("16.0"), not "%.2f"
    unit: str = "GB"
    models: str = "models's"
    blocks_word: str = "GPU"  # "# GPU blocks" or "# cuda blocks"
    estimates: bool = False  # the refusal names an estimated maximum length
    details: bool = False  # refusals point to the documentation
    host_note: bool = False  # and say what the flag means on a CPU
    virtual_check: bool = False  # V0's check at start counts the blocks of one virtual engine, not of all stages


# (release, what it changed). A release between two of these follows the one below it. Releases read: 0.6.4.post1, 0.7.3,
# 0.8.0, 0.8.3, 0.8.5, 0.9.0.1, 0.9.1, 0.9.2, 0.10.0, 0.10.1.1, 0.10.2, 0.11.0, 0.12.0 ... 0.33.0 (one of each minor).
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("0.7.0", {"blocks_word": "cuda"}),
    ("0.7.1", {"latent": True}),
    ("0.8.0", {"v1": True, "virtual_check": True}),
    ("0.8.3", {"unit": "GiB"}),
    ("0.9.0", {"wide_seqs": True}),
    ("0.9.1", {"hybrid": "equal", "concurrency": "blocks", "estimates": True}),
    ("0.10.0", {"state_layers": True}),
    ("0.11.0", {"v0": False, "uniform_type": True, "global_groups": True, "sparse_fp8": True}),
    (
        "0.12.0",
        {
            "hybrid": "unify",
            "factor": (5, 4),
            "latent_alignment": 64,
            "speculative_conv": ("gated_delta",),
            "state_modes": ("none", "all"),
        },
    ),
    ("0.13.0", {"sparse_fp8": False, "async_scheduling": True, "details": True}),
    ("0.14.0", {"rounds": True, "value_width": True, "check": "first"}),
    ("0.15.0", {"state_modes": ("none", "align", "all"), "speculative_blocks": True}),
    ("0.17.0", {"stage_types": True, "speculative_conv": ("gated_delta", "mamba2")}),
    ("0.18.0", {"factor": (3, 2)}),
    ("0.19.0", {"check": "groups"}),
    (
        "0.20.0",
        {
            "utilization": 0.92,
            "graphs": True,
            "latent_alignment": 128,
            "configured_alignment": True,
            "latent_blocks": False,
        },
    ),
    ("0.20.1", {"tokens": "concurrency"}),
    ("0.22.0", {"models": "model's", "host_note": True}),
    ("0.24.0", {"pads_state": True}),
    ("0.26.0", {"in_flight_batches": True, "hybrid_prefix": True, "speculative_all": True}),
    ("0.27.0", {"speculative_conv": ("gated_delta", "mamba2", "kimi_delta")}),
    ("0.28.0", {"one_line": True}),
    (
        "0.29.0",
        {
            "null_block": True,
            "pads_attention": True,
            "v2_runner": True,
            "large_class": True,
            "gdn_checkpoints": True,
            "speculative_conv": ("gated_delta", "mamba2", "kimi_delta", "short_conv"),
        },
    ),
    ("0.32.0", {"state_modes": ("none", "align"), "checkpoints": ("mamba2",)}),
)

VERSIONS = (OLDEST, *(release for release, _ in CHANGES))

Release = tuple[int, int, int]
_RELEASE = re.compile(
    r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:\.\d{1,6})?(?:\.?(?:post|rc|dev)\d{1,8}){0,3}(?:\+[\w.]+)?", re.ASCII
)


def parse(version: str) -> Release:
    """(major, minor, patch) of a release; a development or candidate build counts as the release it leads to.

    A minor release alone means its last patch. Raises InvalidInput for what is no release between OLDEST and NEWEST.

    >>> parse("0.6.4.post1"), parse("0.10.1.dev101"), parse("0.15.0rc3"), parse("0.20")
    ((0, 6, 4), (0, 10, 1), (0, 15, 0), (0, 20, 99))
    """
    found = _RELEASE.fullmatch(str(version).strip())
    if found is not None:
        major, minor, patch = (int(part) if part else 99 for part in found.groups())
        if (0, 1, 0) <= (major, minor, patch) <= (0, 33, 99):
            return major, minor, patch
    raise InvalidInput("engine_version", version, f"a release of vllm from {OLDEST} to {NEWEST}, e.g. 0.11.0")


@cache
def rules(version: str) -> Rules:
    """The rules of a release: every change up to it."""
    asked, found = parse(version), Rules()
    for release, changes in CHANGES:
        if parse(release) <= asked:
            found = found._replace(**changes)
    return found
