"""The reads axis: what is read falls, what is kept does not; published numbers of tokens read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan import formulas
from kvplan.errors import InvalidInput, KvplanError

LLAMA = "llama-2-7b"
ENTRY = 32 * 2 * 32 * 128 * 2
MODELS = (
    LLAMA,
    "llama-3.1-8b",
    "gemma-3-12b",
    "mistral-7b-v0.1",
    "deepseek-v3",
    "gpt-oss-20b",
    "hunyuan-large",
    "llama-4-scout",
)
SPARSE = (
    "topk:256",
    "topk:64,index=32",
    "quest:k=512,page=16",
    "sparsek:k=64,window=64",
    "nsa",
    "nsa:block=8,select=8,count=2,window=9",
)


def read(scheme: str, keys: int) -> float:
    """Entries per layer that a step reads where ``keys`` are in reach."""
    return kvplan.plan(LLAMA, scheme=scheme, context=keys - 1).kv["bytes_read_per_step"] / ENTRY


@pytest.mark.parametrize(("keys", "published"), [(8192, 2048), (16384, 2560), (32768, 3584), (65536, 5632)])
def test_nsa_tokens_read(keys: int, published: int) -> None:
    """Native Sparse Attention, Table 4: s/d + n l' + w with d = 16, 16 blocks of 64, w = 512."""
    assert published == read("nsa:block=16,select=64,count=16,window=512", keys)


@pytest.mark.parametrize(
    ("scheme", "keys", "expected"),
    [
        ("topk:256", 255, 255), ("topk:256", 256, 256), ("topk:256", 10**5, 256), ("topk:128,index=32", 4096, 640),
        ("quest:k=1024,page=16", 1024, 1024), ("quest:k=1024,page=16", 16_384, 2048), ("quest:k=1024,page=16", 1093, 1093),
        ("quest:k=1024,page=16", 1092, 1092), ("quest:k=1024,page=16", 1094, 1093), ("sparsek:k=512,window=512", 1023, 1023),
        ("sparsek:k=512,window=512", 9999, 1024),
    ],
)  # fmt: skip
def test_entries_read(scheme: str, keys: int, expected: int) -> None:
    """By hand, below, at and above each limit."""
    assert expected == read(scheme, keys)


def test_dsa_is_v32s_own() -> None:
    """V3 under dsa is V3.2: its cache with the indexer's key, 2,048 entries read, its FLOPs and parameters."""
    own = kvplan.plan("deepseek-v3.2", context=8192)
    made = kvplan.plan("deepseek-v3", scheme="dsa:k=2048,dim=128,heads=64", context=8192)
    assert own.kv == made.kv
    assert own.answer.prefill == made.answer.prefill
    assert own.answer.decode == made.answer.decode
    assert own.answer.profile.parameters == made.answer.profile.parameters
    assert 61 * (2048 * 576 + 8193 * 128) * 2 == made.kv["bytes_read_per_step"]


def test_dsa_raises_residence_by_its_key() -> None:
    """One key of 128 elements per layer and token, in the layers that look back further than k."""
    for model, layers in ((LLAMA, 32), ("gemma-3-12b", 8), ("gpt-oss-20b", 12)):
        plain, dsa = (kvplan.plan(model, scheme=s, context=5000).kv["bytes"] for s in (None, "dsa"))
        assert layers * 128 * 2 * 5000 == dsa - plain


def test_dsa_where_layers_share() -> None:
    """A layer that reads another's cache scores that layer's index keys: one key per store, queries in every layer."""
    plain, dsa = (kvplan.plan(LLAMA, scheme=s, context=5000) for s in ("cla:2", "cla:2+dsa:k=512,dim=64,heads=8"))
    assert 16 * 64 * 2 * 5000 == dsa.kv["bytes"] - plain.kv["bytes"]
    added = 32 * (4096 * 512 + 4096 * 8) + 16 * (4096 * 64 + 128)
    assert added == dsa.answer.profile.parameters - plain.answer.profile.parameters
    assert 32 * 64 * 2 * 5001 + 512 * ENTRY == dsa.kv["bytes_read_per_step"]


@pytest.mark.parametrize(
    "scheme", ["sparsek:k=64,window=64", "nsa:block=8,select=8,count=2,window=9", "dsa:k=100,dim=8,heads=2"]
)
@pytest.mark.parametrize("mask", [None, "window:300", "chunk:300", "budget:300", "compress:m=4,window=30"])
def test_prompts_that_are_read_sparsely(scheme: str, mask: str | None) -> None:
    """Pairs of every query with what its mask and the pattern leave it, counted one by one."""
    tokens, shape = 1000, {"layers": 1, "hidden": 64, "heads": 1, "head_dim": 64}
    chain = "+".join(filter(None, (mask, scheme)))
    attention = kvplan.plan(scheme=chain, context=tokens, **shape).answer.prefill.attention

    def kept(n: int) -> int:
        if scheme.startswith("nsa"):
            return min(n, 25 + -(-n // 8))
        return min(n, 128 if scheme.startswith("sparsek") else 100)

    seen = {
        None: lambda i: i,
        "window:300": lambda i: min(i, 300),
        "chunk:300": lambda i: (i - 1) % 300 + 1,
        "budget:300": lambda i: i,  # the prompt is attended to before anything is dropped
        "compress:m=4,window=30": lambda i: i // 4,
    }[mask]
    pairs = sum(kept(seen(i)) for i in range(1, tokens + 1))
    if mask and mask.startswith("compress"):
        pairs += sum(min(i, 30) for i in range(1, tokens + 1))
    scores = sum(seen(i) for i in range(1, tokens + 1)) * 2 * 16 if scheme.startswith("dsa") else 0
    assert 2 * pairs * 128 + scores == attention


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 400), blocks=st.integers(1, 6), block=st.integers(1, 20), window=st.integers(1, 200))
def test_blocks_under_a_window(tokens: int, blocks: int, block: int, window: int) -> None:
    """Pairs of queries that keep whole blocks of what a window leaves, one by one (MiniMax-M3 under `window:`)."""
    top = blocks * block
    kept = [min(window, formulas.keys_blocks(i - 1, top, block)) for i in range(1, tokens + 1)]
    assert sum(kept) == formulas.pairs_blocks_window(tokens, top, block, window)


@settings(max_examples=150, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    scheme=st.sampled_from(SPARSE),
    other=st.sampled_from(
        [None, "mqa", "cla:2", "window:700", "budget:700", "fp8", "kivi:2", "minicache", "infini:segment=99"]
    ),
    context=st.integers(1, 20_000),
)
def test_reading_less_keeps_everything(model: str, scheme: str, other: str | None, context: int) -> None:
    """Residence and parameters are untouched, traffic and FLOPs never rise, and the order does not matter."""
    try:
        plain = kvplan.plan(model, scheme=other, context=context)
    except KvplanError:
        return  # what this model refuses without the reads axis
    try:
        one = kvplan.plan(model, scheme="+".join(filter(None, (scheme, other))), context=context)
    except InvalidInput as error:
        assert "per-head" in str(error)  # noqa: PT017  # an index of latents
        return
    two = kvplan.plan(model, scheme="+".join(filter(None, (other, scheme))), context=context)
    assert one.kv == two.kv
    for name in ("bytes", "bytes_per_token", "state_bytes_per_sequence"):
        assert plain.kv[name] == one.kv[name]
    assert one.kv["bytes_read_per_step"] <= plain.kv["bytes_read_per_step"]
    assert one.answer.profile.parameters == plain.answer.profile.parameters
    assert one.answer.prefill.total <= plain.answer.prefill.total
    assert one.answer.decode.total <= plain.answer.decode.total
    if not scheme.startswith(("sparsek", "nsa")):
        assert one.answer.prefill == plain.answer.prefill


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        ("deepseek-v3.2", "topk:9"), ("deepseek-v3.2", "dsa:k=64"), ("minimax-m3", "quest:k=16"), ("mamba-130m", "nsa"),
        ("deepseek-v4-flash", "sparsek:k=9"), (LLAMA, "tpa+dsa"), (LLAMA, "topk"), (LLAMA, "topk:0"), (LLAMA, "topk:9,index=100"),
        (LLAMA, "topk:9,index=256"), ("deepseek-v3", "topk:9,index=32"), (LLAMA, "quest:k=100,page=16"), (LLAMA, "quest"),
        (LLAMA, "quest:k=16,page=1"), (LLAMA, "nsa:block=1"), (LLAMA, "nsa:16"), (LLAMA, "sparsek:window=9"), (LLAMA, "dsa:2048"),
        (LLAMA, "topk:9+quest:k=16"), (LLAMA, "dsa:k=0"),
    ],
)  # fmt: skip
def test_refusals(model: str, scheme: str) -> None:
    """What makes no sense is one clear line that names the scheme."""
    with pytest.raises(InvalidInput, match="scheme"):
        kvplan.plan(model, scheme=scheme)
