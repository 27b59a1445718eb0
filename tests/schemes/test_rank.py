"""The rank axis: published sizes of MLA, TPA and low-rank entries, and what they cost in parameters and FLOPs."""

from __future__ import annotations

import pytest

import kvplan
from kvplan.errors import InvalidInput

LLAMA = "llama-2-7b"


def elements(scheme: str | None, **shape: int) -> int:
    """Elements cached per token, over all layers."""
    return kvplan.plan(scheme=scheme, **shape).kv["bytes_per_token"] // 2


def test_deepseek_v2() -> None:
    """576 elements per layer; 98.24 % less than MHA of the same shape; 93.3 % with 6 bits against DeepSeek 67B's GQA-8."""
    v2 = {"layers": 60, "hidden": 5120, "heads": 128, "head_dim": 128}
    big = {"layers": 95, "hidden": 8192, "heads": 64, "head_dim": 128}
    latent, whole = elements("mla:latent=512,rope=64,q=1536", **v2), elements("mha", **v2)

    assert 60 * 576 == latent
    assert 98.24 == round(100 * (1 - latent / whole), 2)
    grouped = elements("gqa:8", **big)
    assert 82.24 == round(100 * (1 - latent / grouped), 2)
    assert 93.3 == round(100 * (1 - latent * 6 / (grouped * 16)), 1)


def test_mla_is_deepseeks_own() -> None:
    """MHA of 128 heads of 128 turned into MLA has the attention of DeepSeek-V3: parameters, cache and FLOPs per pair."""
    shape = {"layers": 61, "hidden": 7168, "heads": 128, "head_dim": 128, "ffn": 100, "vocab": 10}
    made = kvplan.plan(scheme="mla:latent=512,rope=64,q=1536", context=1000, **shape)
    own = kvplan.plan("deepseek-v3", context=1000)
    bare = kvplan.plan(scheme="mha", context=1000, **shape).answer.profile.parameters - 61 * 4 * 7168 * 128 * 128
    mla = 7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168

    assert made.kv["bytes_per_token"] == own.kv["bytes_per_token"] == 61 * 1152
    assert made.answer.prefill.attention == own.answer.prefill.attention
    assert made.answer.decode.attention == own.answer.decode.attention
    assert 278_528 * 61 * 1001 == made.answer.decode.attention  # formulas.md 3.6: absorbed
    assert 61 * mla == made.answer.profile.parameters - bare


@pytest.mark.parametrize(
    ("heads", "dim", "k", "v", "per_layer"),
    [(32, 128, 2, 2, 640), (32, 128, 1, 1, 320), (64, 78, 2, 2, 568), (16, 64, 2, 2, 320), (25, 64, 1, 2, 267)],
)
def test_tpa_elements(heads: int, dim: int, k: int, v: int, per_layer: int) -> None:
    """(R_K + R_V) (heads + head_dim) elements per layer and token (arXiv 2501.06425, section 3)."""
    shape = {"layers": 4, "hidden": 256, "heads": heads, "head_dim": dim}
    assert 4 * per_layer == elements(f"tpa:q=6,k={k},v={v}", **shape)


def test_tpa_parameters_and_flops() -> None:
    """Table 1: d (R_Q + R_K + R_V) (h + d_h) + d h d_h; a decode step's scores and sums from factors."""
    shape = {"layers": 2, "hidden": 1024, "heads": 16, "head_dim": 64}
    tpa, mha = (kvplan.plan(scheme=s, context=99, **shape).answer for s in ("tpa:q=6,k=2,v=2", "mha"))
    saved = 2 * (3 * 1024 * 1024 - 1024 * 10 * (16 + 64))
    assert saved == mha.profile.parameters - tpa.profile.parameters
    assert 2 * 2 * 100 * (6 * 2 * 64 + 16 * 6 * 2 + 16 * 2 * 64) == tpa.decode.attention
    assert mha.prefill.attention == tpa.prefill.attention


def test_low_rank_entries() -> None:
    """Cached are k + v elements; two factors instead of each projection; a step expands keys and weighs values in rank."""
    plain, low = (kvplan.plan(LLAMA, scheme=s, context=999) for s in (None, "lowrank:k=1024,v=2048"))
    assert 32 * 2 * 3072 == low.kv["bytes_per_token"]
    difference = 32 * (2 * 4096 * 4096 - 3072 * (4096 + 4096))
    assert difference == plain.answer.profile.parameters - low.answer.profile.parameters
    assert plain.answer.prefill.attention == low.answer.prefill.attention
    assert 32 * 2 * 1000 * (1024 * 4096 + 4096 + 32 * 2048) == low.answer.decode.attention
    keys = kvplan.plan(LLAMA, scheme="lowrank:k=2048").kv["bytes_per_token"]
    assert 32 * 2 * (2048 + 4096) == keys


def test_tied_factors_are_counted_once_each() -> None:
    """Zamba 2's shared attention keeps both halves of a factored projection."""
    plain, low = (kvplan.plan("zamba2-7b", scheme=s).answer for s in (None, "lowrank:k=256"))
    spec = low.spec
    widths = {(m.input_hidden or spec.hidden, m.kv_heads * m.key_dim) for layer in spec.layers for m in layer.mixers
              if hasattr(m, "kv_heads")}  # fmt: skip
    ((inputs, outputs),) = widths
    saved = inputs * outputs - 256 * (inputs + outputs)
    assert (plain.profile.parameters - low.profile.parameters) % saved == 0
    assert plain.profile.parameters > low.profile.parameters


@pytest.mark.parametrize("rank", ["mla:latent=256,rope=32", "tpa:q=6,k=2,v=2", "lowrank:k=512,v=512"])
@pytest.mark.parametrize(
    "other", ["cla:2", "streaming", "budget:500", "fp8", "topk:99", "offload:cpu=0.5", "window:99@5:1"]
)
def test_any_order_is_the_same(rank: str, other: str) -> None:
    """Schemes that write different axes give the same answer in any order, and both take effect."""
    one, two = (kvplan.plan(LLAMA, scheme=s, context=3000) for s in (f"{rank}+{other}", f"{other}+{rank}"))
    alone = kvplan.plan(LLAMA, scheme=rank, context=3000)
    assert one.kv == two.kv
    assert one.answer.prefill == two.answer.prefill
    assert one.answer.decode == two.answer.decode
    assert one.kv != alone.kv


def test_windows_survive_a_new_rank() -> None:
    """Gemma's local layers keep their window under MLA and TPA."""
    for scheme, width in (("mla:latent=512,rope=64", 576), ("tpa:q=6,k=2,v=2", 4 * (16 + 256))):
        kv = kvplan.plan("gemma-3-12b", scheme=scheme, context=8192).kv
        assert (40 * 1024 + 8 * 8192) * width * 2 == kv["bytes"]


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        (LLAMA, "mla:latent=512,rope=64+gqa:8"), (LLAMA, "gqa:8+tpa"), (LLAMA, "mla:latent=512"), (LLAMA, "mla:rope=64"),
        (LLAMA, "mla:latent=512,rope=64,k=2"), (LLAMA, "mla:latent=512,rope=64+lowrank:k=8"), (LLAMA, "lowrank"),
        (LLAMA, "lowrank:k=5000"), (LLAMA, "lowrank:k=0"), (LLAMA, "tpa:q=0"), (LLAMA, "tpa:6"),
        ("deepseek-v3", "mla:latent=512,rope=64"), ("deepseek-v3", "tpa"), ("deepseek-v3", "lowrank:k=8"),
        ("mamba-130m", "tpa"), ("deepseek-v4-flash", "mla:latent=512,rope=64"), ("zamba2-7b", "tpa"), ("minimax-m3", "tpa"),
        ("mimo-v2-flash", "tpa"), ("gemma-4-31b", "lowrank:v=8"),
    ],
)  # fmt: skip
def test_refusals(model: str, scheme: str) -> None:
    """What makes no sense is one clear line that names the scheme."""
    with pytest.raises(InvalidInput, match="scheme"):
        kvplan.plan(model, scheme=scheme)
