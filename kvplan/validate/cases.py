"""The configurations that a suite runs: a small shape under every scheme, in several dtypes, at lengths around every bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["SHAPE", "Case", "ci_cases", "single"]

# Small enough that a definition can be run key by key, and no dimension equals another, so that none can stand for it.
SHAPE: dict[str, Any] = {"layers": 6, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 96, "vocab": 97}
STEPS = 4
WINDOW = 8
NAMED = ("kv_heads", "head_dim", "window", "tied", "experts", "kv_dtype", "cache_type_k", "cache_type_v", "tp", "pp")


class Case(NamedTuple):
    """One configuration: what ``kvplan.plan`` is asked with, a prompt of ``context`` tokens, and ``steps`` more."""

    plan: dict[str, Any]
    context: int
    steps: int = STEPS
    reserve: bool = False  # caches allocated at full length at once, as serving does
    sequential: bool = False  # the prompt runs token by token, where layers read above themselves
    proved: bool = False  # its logits were shown to be right at another length

    @property
    def name(self) -> str:
        """What it is, on a line: the record's key."""
        p = self.plan
        parts = [str(p.get("model") or f"{p['layers']}x{p['hidden']}"), p.get("scheme") or "mha"]
        parts += [f"{key}={p[key]}" for key in NAMED if p.get(key) not in (None, SHAPE.get(key))]
        parts += [p["dtype"], f"b{p['batch']}", f"S{self.context}+{self.steps}"]
        parts += ["reserved"] if self.reserve else []
        return " ".join(parts + (["sequential"] if self.sequential else []))


# Lengths around bounds: below, at and above a window, chunk, segment or budget of 8; and past two of them.
AROUND = (WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3)
PLAIN = (1, 13)

# scheme -> lengths. Every axis that changes what is computed or kept, and chains over several axes.
SCHEMES: dict[str, tuple[int, ...]] = {
    "mha": PLAIN,
    "gqa:2": PLAIN,
    "mqa": PLAIN,
    "cla:2": PLAIN,
    "cla:4": PLAIN,
    "cla:2,variant=keep-ends": (13,),
    "mlkv:layers=2,heads=2": PLAIN,
    "mlkv:total=3": (13,),
    "shared-last:2": (13,),
    "owners:0_0_2_2_4_4": (13,),
    "owners:0_3*4_5": (13,),
    "owners:1_2_0_3_3_3": (13,),
    "owners:0_1s_1s_3_0s_3,window=8": AROUND,
    "lckv:w=2": (1, 8, 9, 10, 13),
    "lckv:w=0": (13,),
    "lckv:w=4,passes=3": (13,),
    "pizza:l=3,target=bottom": (13,),
    "pizza:l=3,target=top": (13,),
    "sandwich:l=3,target=middle": (13,),
    "sandwich:l=3,target=top": (13,),
    "lasagna:l=2,target=top": (13,),
    "lasagna:l=2,target=middle": (13,),
    "yoco:window=8": AROUND,
    "yoco:retention": PLAIN,
    "window:8": AROUND,
    "window:8@2:1": AROUND,
    "window:1": (1, 2, 5),
    "chunk:8": AROUND,
    "chunk:8@2:1": AROUND,
    "streaming:sinks=2,window=6": AROUND,
    "streaming:sinks=0,window=8": (9,),
    "budget:8": AROUND,
    "pyramid:mean=30": (5, 29, 43),
    "compress:m=4,window=8": (*AROUND, 3, 4, 5),
    "infini:segment=8": AROUND,
    "linear": PLAIN,
    "mla:latent=24,rope=8": PLAIN,
    "mla:latent=24,rope=8,q=20": (13,),
    "mla:latent=24,rope=0": (13,),
    "tpa:q=3,k=2,v=2": PLAIN,
    "tpa:q=2,k=1,v=3": (13,),
    "lowrank:k=24,v=20": PLAIN,
    "lowrank:k=24": (13,),
    "int8": PLAIN,
    "int4": (13,),
    "int4:g=16": PLAIN,
    "int2:g=16": (13,),
    "int4:g=16,residual=4": (3, 4, 5, 13),
    "kivi:2,g=16,r=8": AROUND,
    "q8_0": (13,),
    "q4_0": (13,),
    "fp8": PLAIN,
    "fp8_e5m2": (13,),
    "kv:k=int8,v=int4:g=16": (13,),
    "offload:cpu=0.5": PLAIN,
    "offload:cpu=1.0": (13,),
    # chains over axes
    "mqa+cla:2": (13,),
    "gqa:2+cla:3+window:8": AROUND,
    "cla:2+window:8@2:1": AROUND,
    "cla:2+budget:8": AROUND,
    "cla:3+compress:m=4,window=8": AROUND,
    "lckv:w=2+window:8": AROUND,
    "lckv:w=2+streaming:sinks=2,window=6": AROUND,
    "lckv:w=2+chunk:8": AROUND,
    "gqa:2+lckv:w=2+int8": (13,),
    "mla:latent=24,rope=8+cla:2": (13,),
    "mla:latent=24,rope=8+window:8": AROUND,
    "mla:latent=24,rope=8+lckv:w=2": (13,),
    "mla:latent=24,rope=8+budget:8": AROUND,
    "mla:latent=24,rope=8+int8": (13,),
    "tpa:q=3,k=2,v=2+cla:2": (13,),
    "tpa:q=3,k=2,v=2+window:8": AROUND,
    "tpa:q=3,k=2,v=2+lckv:w=2": (13,),
    "lowrank:k=24,v=20+window:8": AROUND,
    "gqa:2+lowrank:k=24,v=20": (13,),
    "gqa:2+infini:segment=8": (9,),
    "int4:g=16+window:8": AROUND,
    "int4:g=16,residual=4+streaming:sinks=2,window=6": AROUND,
    "int8+budget:8": (9,),
    "mqa+yoco:window=8+fp8": AROUND,
    "cla:2+offload:cpu=0.25+int4:g=16": (13,),
    "linear+gqa:2": (13,),
}

# again in half precision: one of each kind of cache
HALF = (
    "mha", "gqa:2", "cla:2", "lckv:w=2", "yoco:window=8", "window:8@2:1", "chunk:8", "streaming:sinks=2,window=6", "linear",
    "compress:m=4,window=8", "infini:segment=8", "mla:latent=24,rope=8", "tpa:q=3,k=2,v=2", "int8", "int4:g=16,residual=4",
    "fp8", "lowrank:k=24,v=20", "offload:cpu=0.5",
)  # fmt: skip
RESERVED = ("mha", "gqa:2+cla:2", "lckv:w=2", "window:8@2:1", "chunk:8", "mla:latent=24,rope=8", "yoco:window=8", "fp8")
SEQUENTIAL = ("lckv:w=2", "owners:1_2_0_3_3_3", "lasagna:l=2,target=top", "lckv:w=2+window:8")


def _asked(scheme: str, dtype: str = "fp32", batch: int = 2, **shape: Any) -> dict[str, Any]:
    return {**SHAPE, **shape, "scheme": None if scheme == "mha" else scheme, "dtype": dtype, "batch": batch}


def ci_cases() -> Iterator[Case]:
    """Every configuration of the suite ``ci``."""
    for scheme, lengths in SCHEMES.items():
        for context in lengths:
            yield Case(_asked(scheme), context)
    for dtype in ("bf16", "fp16"):
        for scheme in HALF:
            yield Case(_asked(scheme, dtype, batch=1), SCHEMES[scheme][-1])
    for scheme in RESERVED:
        yield Case(_asked(scheme), 11, reserve=True)
    for scheme in SEQUENTIAL:
        yield Case(_asked(scheme), 13, sequential=True)
    # other shapes: few KV heads from the start, heads wider than hidden / heads, a window of the model's own, experts
    for shape in ({"kv_heads": 2}, {"kv_heads": 1, "head_dim": 24}, {"window": WINDOW}, {"layers": 5}, {"tied": True}):
        for context in AROUND if "window" in shape else (13,):
            yield Case(_asked("mha", **shape), context)
    yield Case(_asked("cla:2", layers=5), 13)
    yield Case(_asked("gqa:2", experts=4, active_experts=2), 13)


def single(plan: dict[str, Any], context: int, steps: int) -> Case:
    """The configuration that somebody asks for by its plan."""
    return Case(plan, context, steps)
