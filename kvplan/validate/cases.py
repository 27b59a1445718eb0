"""The configurations that a suite runs: one shape under every scheme, in several dtypes, at lengths around every bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["REAL", "SHAPE", "TOY", "WIDE", "Case", "Scale", "ci_cases", "covering", "single"]

# Small enough that a definition can be run key by key, and no dimension equals another, so that none can stand for it.
SHAPE: dict[str, Any] = {"layers": 6, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 96, "vocab": 97}
STEPS = 4
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


class Scale(NamedTuple):
    """A shape and the sizes that its schemes take: the same configurations, small or at real widths."""

    shape: dict[str, Any]
    dtype: str  # of most configurations
    halves: tuple[str, ...]  # in which one of each kind of cache runs again
    window: int
    sinks: int
    kv_heads: int  # of a grouped model
    latent: int
    rope: int
    q_rank: int
    ranks: tuple[int, int]  # of low-rank keys and values
    group: int  # elements that share a scale
    residual: int
    mean: int  # of a pyramid of budgets
    narrow: dict[str, Any]  # one head, of another width than hidden / heads

    @property
    def around(self) -> tuple[int, ...]:
        """Lengths below, at and above the window, chunk, segment or budget; and past two of them."""
        return self.window - 1, self.window, self.window + 1, 2 * self.window + 3

    @property
    def past(self) -> int:
        """A length past the window."""
        return self.window + 5


TOY = Scale(SHAPE, "fp32", ("bf16", "fp16"), 8, 2, 2, 24, 8, 20, (24, 20), 16, 4, 30, {"kv_heads": 1, "head_dim": 24})
# Llama 2 7B's widths
WIDE = {"hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "ffn": 11008, "vocab": 32000}
REAL = Scale(
    {"layers": 6, **WIDE}, "bf16", ("fp16",), 1024, 4, 8, 512, 64, 1536, (1024, 768), 32, 128, 512,
    {"kv_heads": 1, "head_dim": 192},
)  # fmt: skip


def schemes(scale: Scale) -> dict[str, tuple[int, ...]]:
    """Scheme -> lengths: every axis that changes what is computed or kept, and chains over several axes."""
    s, w, g, h = scale, scale.window, scale.group, scale.kv_heads
    around, past = scale.around, scale.past
    plain = (1, past)
    streaming = f"streaming:sinks={s.sinks},window={w - s.sinks}"
    mla = f"mla:latent={s.latent},rope={s.rope}"
    lowrank = f"lowrank:k={s.ranks[0]},v={s.ranks[1]}"
    return {
        "mha": plain,
        f"gqa:{h}": plain,
        "mqa": plain,
        "cla:2": plain,
        "cla:4": plain,
        "cla:2,variant=keep-ends": (past,),
        f"mlkv:layers=2,heads={h}": plain,
        "mlkv:total=3": (past,),
        "shared-last:2": (past,),
        "owners:0_0_2_2_4_4": (past,),
        "owners:0_3*4_5": (past,),
        "owners:1_2_0_3_3_3": (past,),
        f"owners:0_1s_1s_3_0s_3,window={w}": around,
        "lckv:w=2": (1, 8, 9, 10, past),
        "lckv:w=0": (past,),
        "lckv:w=4,passes=3": (past,),
        "pizza:l=3,target=bottom": (past,),
        "pizza:l=3,target=top": (past,),
        "sandwich:l=3,target=middle": (past,),
        "sandwich:l=3,target=top": (past,),
        "lasagna:l=2,target=top": (past,),
        "lasagna:l=2,target=middle": (past,),
        f"yoco:window={w}": around,
        "yoco:retention": plain,
        f"window:{w}": around,
        f"window:{w}@2:1": around,
        "window:1": (1, 2, 5),
        f"chunk:{w}": around,
        f"chunk:{w}@2:1": around,
        streaming: around,
        f"streaming:sinks=0,window={w}": (w + 1,),
        f"budget:{w}": around,
        f"pyramid:mean={s.mean}": (5, s.mean - 1, s.mean + 13),
        f"compress:m=4,window={w}": (*around, 3, 4, 5),
        f"infini:segment={w}": around,
        "linear": plain,
        mla: plain,
        f"{mla},q={s.q_rank}": (past,),
        f"mla:latent={s.latent},rope=0": (past,),
        "tpa:q=3,k=2,v=2": plain,
        "tpa:q=2,k=1,v=3": (past,),
        lowrank: plain,
        f"lowrank:k={s.ranks[0]}": (past,),
        "int8": plain,
        "int4": (past,),
        f"int4:g={g}": plain,
        f"int2:g={g}": (past,),
        f"int4:g={g},residual={s.residual}": (s.residual - 1, s.residual, s.residual + 1, past),
        f"kivi:2,g={g},r={w}": around,
        "q8_0": (past,),
        "q4_0": (past,),
        "fp8": plain,
        "fp8_e5m2": (past,),
        f"kv:k=int8,v=int4:g={g}": (past,),
        "offload:cpu=0.5": plain,
        "offload:cpu=1.0": (past,),
        # chains over axes
        "mqa+cla:2": (past,),
        f"gqa:{h}+cla:3+window:{w}": around,
        f"cla:2+window:{w}@2:1": around,
        f"cla:2+budget:{w}": around,
        f"cla:3+compress:m=4,window={w}": around,
        f"lckv:w=2+window:{w}": around,
        f"lckv:w=2+{streaming}": around,
        f"lckv:w=2+chunk:{w}": around,
        f"gqa:{h}+lckv:w=2+int8": (past,),
        f"{mla}+cla:2": (past,),
        f"{mla}+window:{w}": around,
        f"{mla}+lckv:w=2": (past,),
        f"{mla}+budget:{w}": around,
        f"{mla}+int8": (past,),
        "tpa:q=3,k=2,v=2+cla:2": (past,),
        f"tpa:q=3,k=2,v=2+window:{w}": around,
        "tpa:q=3,k=2,v=2+lckv:w=2": (past,),
        f"{lowrank}+window:{w}": around,
        f"gqa:{h}+{lowrank}": (past,),
        f"gqa:{h}+infini:segment={w}": (w + 1,),
        f"int4:g={g}+window:{w}": around,
        f"int4:g={g},residual={s.residual}+{streaming}": around,
        f"int8+budget:{w}": (w + 1,),
        f"mqa+yoco:window={w}+fp8": around,
        f"cla:2+offload:cpu=0.25+int4:g={g}": (past,),
        f"linear+gqa:{h}": (past,),
    }


def kinds(scale: Scale) -> tuple[str, ...]:
    """One of each kind of cache, to run again in half precision."""
    s, w = scale, scale.window
    return (
        "mha", f"gqa:{s.kv_heads}", "cla:2", "lckv:w=2", f"yoco:window={w}", f"window:{w}@2:1", f"chunk:{w}",
        f"streaming:sinks={s.sinks},window={w - s.sinks}", "linear", f"compress:m=4,window={w}", f"infini:segment={w}",
        f"mla:latent={s.latent},rope={s.rope}", "tpa:q=3,k=2,v=2", "int8", f"int4:g={s.group},residual={s.residual}", "fp8",
        f"lowrank:k={s.ranks[0]},v={s.ranks[1]}", "offload:cpu=0.5",
    )  # fmt: skip


def _asked(scale: Scale, scheme: str, dtype: str | None = None, batch: int = 2, **shape: Any) -> dict[str, Any]:
    named = None if scheme == "mha" else scheme
    return {**scale.shape, **shape, "scheme": named, "dtype": dtype or scale.dtype, "batch": batch}


def ci_cases(scale: Scale = TOY) -> Iterator[Case]:
    """Every configuration of the suite ``ci``."""
    s, w = scale, scale.window
    lengths = schemes(scale)
    for scheme, each in lengths.items():
        for context in each:
            yield Case(_asked(s, scheme), context)
    for dtype in s.halves:
        for scheme in kinds(scale):
            yield Case(_asked(s, scheme, dtype, batch=1), lengths[scheme][-1])
    reserved = (
        "mha", f"gqa:{s.kv_heads}+cla:2", "lckv:w=2", f"window:{w}@2:1", f"chunk:{w}",
        f"mla:latent={s.latent},rope={s.rope}", f"yoco:window={w}", "fp8",
    )  # fmt: skip
    for scheme in reserved:
        yield Case(_asked(s, scheme), w + 3, reserve=True)
    # token by token: a few are enough, however wide
    for scheme in ("lckv:w=2", "owners:1_2_0_3_3_3", "lasagna:l=2,target=top", f"lckv:w=2+window:{w}"):
        yield Case(_asked(s, scheme), 13, sequential=True)
    # other shapes: few KV heads from the start, heads wider than hidden / heads, a window of the model's own, experts
    for shape in ({"kv_heads": s.kv_heads}, s.narrow, {"window": w}, {"layers": 5}, {"tied": True}):
        for context in s.around if "window" in shape else (s.past,):
            yield Case(_asked(s, "mha", **shape), context)
    yield Case(_asked(s, "cla:2", layers=5), s.past)
    yield Case(_asked(s, f"gqa:{s.kv_heads}", experts=4, active_experts=2), s.past)


def covering(cases: Iterable[Case]) -> list[Case]:
    """The same, those first that cover every axis: each scheme once, at its longest, then the others in their order."""
    cases = list(cases)
    longest: dict[str, Case] = {}
    for case in cases:
        scheme = str(case.plan["scheme"])
        if scheme not in longest or case.context > longest[scheme].context:
            longest[scheme] = case
    first = list(longest.values())
    return first + [case for case in cases if case not in first]


def single(plan: dict[str, Any], context: int, steps: int) -> Case:
    """The configuration that somebody asks for by its plan."""
    return Case(plan, context, steps)
