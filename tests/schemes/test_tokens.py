"""The tokens axis: published sizes, the edges of windows, budgets and blocks, and the laws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput, KvplanError
from kvplan.schemes.pyramid import pyramid_budgets

LLAMA = "llama-2-7b"
ENTRY = 32 * 2 * 32 * 128 * 2  # bytes of one entry of every layer
MODELS = ("llama-3.1-8b", "gemma-3-12b", "mistral-7b-v0.1", "deepseek-v3", "deepseek-v3.2", "gpt-oss-20b", "hunyuan-large",
          "gemma-3n-e4b", "llama-4-scout", "jamba-1.5-mini", "minimax-m3")  # fmt: skip
GROWTHS = ("window:1000", "window:1000@5:1", "chunk:1000", "streaming:sinks=4,window=1020", "budget:700", "pyramid:mean=500",
           "compress:m=4,window=128", "landmark:block=50", "landmark:block=50,k=4", "linear", "infini:segment=512", "minicache",
           "compress:m=16,window=64+dsa:k=64", "budget:700+quest:k=256,page=16")  # fmt: skip


def kv(scheme: str | None, context: int, model: str = LLAMA) -> dict[str, int]:
    """What the cache costs."""
    return kvplan.plan(model, scheme=scheme, context=context).kv


def held_and_read(scheme: str, context: int) -> tuple[float, float]:
    """Entries of every layer of Llama-2-7B that are held, and that the next step reads."""
    found = kv(scheme, context)
    return found["bytes"] / ENTRY, found["bytes_read_per_step"] / ENTRY


@pytest.mark.parametrize(
    ("scheme", "context", "held", "read"),
    [
        ("window:1000", 998, 998, 999), ("window:1000", 999, 999, 1000), ("window:1000", 1000, 1000, 1000),
        ("window:1000", 1001, 1000, 1000), ("window:1000", 10**6, 1000, 1000),
        ("streaming:sinks=4,window=1020", 1023, 1023, 1024), ("streaming:sinks=4,window=1020", 1024, 1024, 1024),
        ("streaming", 4_000_000, 1024, 1024), ("streaming:sinks=0,window=10", 99, 10, 10),  # 4M tokens: the paper's abstract
        ("chunk:1000", 999, 999, 1000), ("chunk:1000", 1000, 1000, 1), ("chunk:1000", 1001, 1000, 2),
        ("budget:1000", 999, 999, 1000), ("budget:1000", 1000, 1000, 1000), ("budget:1000", 5000, 1000, 1000),
        ("compress:m=4,window=8", 7, 7 + 1, 8 + 2), ("compress:m=4,window=8", 8, 8 + 2, 8 + 2),
        ("compress:m=4,window=8", 403, 8 + 100, 8 + 101),
        ("landmark:block=50", 49, 49, 51), ("landmark:block=50", 50, 51, 52), ("landmark:50", 5000, 5100, 5101),
        ("landmark:block=50,k=4", 4999, 5098, 250 + 100),
    ],
)  # fmt: skip
def test_entries_at_the_edges(scheme: str, context: int, held: int, read: int) -> None:
    """Entries held after S tokens and read by the next one, below, at and above each limit."""
    assert (held, read) == held_and_read(scheme, context)


def test_every_layer_its_own_budget() -> None:
    """N1_N2_... gives each attention layer a budget; the sum of min(S, N) is what is held."""
    budgets = [64 * (i + 1) for i in range(32)]
    scheme = "budget:" + "_".join(map(str, budgets))
    assert sum(min(1000, n) for n in budgets) == kv(scheme, 1000)["bytes"] * 32 // ENTRY
    assert sum(min(1001, n) for n in budgets) == kv(scheme, 1000)["bytes_read_per_step"] * 32 // ENTRY


def test_a_budget_leaves_the_prompt_alone() -> None:
    """Eviction comes after the prompt: prefill FLOPs are those of the model's own mask, windows included (H2O, SnapKV)."""
    for model in (LLAMA, "gemma-2-9b", "mistral-7b-v0.1"):
        plain, kept = (kvplan.plan(model, scheme=s, context=8192).answer for s in (None, "budget:1024"))
        assert plain.prefill == kept.prefill
        assert plain.decode.attention > kept.decode.attention
    # H2O keeps 20 % of the tokens: a fifth of the cache
    assert kv(None, 2560)["bytes"] == 5 * kv("budget:512", 2560)["bytes"]


def test_the_pyramid_of_the_papers_code() -> None:
    """PyramidKV's update_kv, long prompts: max - i * ((max - min) // (L - 1)), beside a window of 8; mean 128 and 2048."""
    for mean in (64 + 8, 128, 2048):
        low = (mean - 8) // 20
        high = 2 * (mean - 8) - low
        steps = (high - low) // 31
        assert pyramid_budgets(32, mean, 20, 8) == [high - i * steps + 8 for i in range(32)]
    held = sum(pyramid_budgets(32, 128, 20, 8))
    assert held == kv("pyramid:mean=128", 10**5)["bytes"] * 32 // ENTRY
    assert held / 32 == pytest.approx(128, abs=16)  # the mean, up to the rounding of 31 steps


def test_infini_attention_memory() -> None:
    """12 layers x 8 heads x 128 x 129 = 1,585,152 elements: the 1.6M of its Table 2, whatever the length."""
    shape = {"layers": 12, "hidden": 1024, "heads": 8, "head_dim": 128}
    for context in (1, 32_768, 10**6):
        report = kvplan.plan(scheme="infini:segment=2048", context=context, **shape)
        assert 1_585_152 * 4 == report.kv["state_bytes_per_sequence"]
        assert report.kv["bytes"] - 1_585_152 * 4 == min(context, 2048) * 12 * 2 * 8 * 128 * 2
    gates = (
        kvplan.plan(scheme="infini", **shape).answer.profile.parameters - kvplan.plan(**shape).answer.profile.parameters
    )
    assert 12 * 8 == gates


def test_linear_attention_keeps_its_projections() -> None:
    """The same parameters and matrices; a state of heads x 128 x 128 in fp32 and no attention but the recurrence."""
    plain, linear = (kvplan.plan("llama-3.1-8b", scheme=s, context=4096) for s in (None, "linear"))
    assert plain.answer.profile.parameters == linear.answer.profile.parameters
    assert plain.answer.prefill.linear == linear.answer.prefill.linear
    assert plain.to_dict()["weights"] == linear.to_dict()["weights"]
    assert 32 * 32 * 128 * 128 * 4 == linear.kv["bytes"] == linear.kv["state_bytes_per_sequence"]
    assert 4 * 32 * 32 * 128 * 128 == linear.answer.decode.attention


def test_streaming_pairs_by_hand() -> None:
    """A query of the prompt sees min(i, sinks + window) keys."""
    pairs = sum(min(i, 1024) for i in range(1, 3001))
    assert 2 * pairs * 32 * 32 * 256 == kvplan.plan(LLAMA, scheme="streaming", context=3000).answer.prefill.attention


def test_landmark_pairs_by_hand() -> None:
    """A query sees the tokens before it and the landmarks of complete blocks."""
    pairs = sum(i + i // 50 for i in range(1, 3001))
    attention = kvplan.plan(LLAMA, scheme="landmark:block=50", context=3000).answer.prefill.attention
    assert 2 * pairs * 32 * 32 * 256 == attention
    sparse = kvplan.plan(LLAMA, scheme="landmark:block=50,k=2", context=3000).answer.prefill.attention
    assert attention == sparse


def test_an_own_window_is_kept() -> None:
    """Gemma's local layers see 1,024 tokens: a larger window changes them no more than a budget does."""
    for scheme in ("window:2048@5:1", "window:1024@5:1"):
        assert kv(None, 8192, "gemma-3-12b") == kv(scheme, 8192, "gemma-3-12b")


def test_windows_reach_latents_and_factors() -> None:
    """MLA and TPA slide as well: W latents, W factors."""
    assert 61 * 576 * 2 * 1000 == kv("window:1000", 5000, "deepseek-v3")["bytes"]
    both = [kv(s, 5000) for s in ("tpa+window:1000", "window:1000+tpa:q=6,k=2,v=2")]
    assert both[0] == both[1]
    assert 32 * 640 * 2 * 1000 == both[0]["bytes"]


@settings(max_examples=150, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    context=st.integers(1, 20_000),
    window=st.integers(1, 10_000),
    scheme=st.sampled_from(["window:{}", "window:{}@5:1", "window:{}@1:3", "streaming:sinks=0,window={}"]),
)
def test_a_window_never_raises_anything(model: str, context: int, window: int, scheme: str) -> None:
    """On any model, whatever windows and chunks it has: neither residence nor traffic nor FLOPs."""
    plain = kvplan.plan(model, context=context)
    try:
        slid = kvplan.plan(model, scheme=scheme.format(window), context=context)
    except InvalidInput as error:
        assert "chunks" in str(error)  # noqa: PT017  # Llama 4 alone: a window inside its chunks
        assert model == "llama-4-scout"
        return
    for name in ("bytes", "bytes_read_per_step"):
        assert slid.kv[name] <= plain.kv[name]
    assert slid.answer.prefill.total <= plain.answer.prefill.total
    assert slid.answer.decode.total <= plain.answer.decode.total
    assert slid.answer.profile.parameters == plain.answer.profile.parameters


@settings(max_examples=120, deadline=None)
@given(
    model=st.sampled_from([LLAMA, "llama-3.1-8b", "gemma-3-12b", "jamba-1.5-mini", "deepseek-v3"]),
    scheme=st.sampled_from(GROWTHS),
    context=st.integers(1, 50_000),
    batch=st.integers(1, 5),
    bits=st.sampled_from([None, "int4", "q8_0", "int2:g=32,residual=128"]),
    page=st.sampled_from([None, 16]),
)
def test_the_lean_evaluator_gives_the_ledgers_numbers(
    model: str, scheme: str, context: int, batch: int, bits: str | None, page: int | None
) -> None:
    """The solver's fast path and the named terms of the report are the same bytes for every growth, and so is its end."""
    flags = {"scheme": scheme, "context": context, "batch": batch, "kv_dtype": bits, "block_size": page}
    try:
        report = kvplan.plan(model, memory="80GiB", **flags)
    except KvplanError:
        return  # a scheme that this model refuses: test_refusals says which
    held = sum(t.value for t in report.terms if t.path.startswith("kv/") or t.path == "engine/block rounding")
    assert report.kv["bytes"] == held
    assert report.kv["bytes"] == batch * report.answer.stages[0].lean.at(context) == report.kv["bytes_per_gpu"]
    capacity = report.capacity
    assert capacity is not None
    if capacity.max_context:
        assert kvplan.plan(model, memory="80GiB", **flags | {"context": capacity.max_context}).fits
        assert not kvplan.plan(model, memory="80GiB", **flags | {"context": capacity.max_context + 1}).fits


@pytest.mark.parametrize("scheme", GROWTHS)
def test_every_growth_can_be_explained(scheme: str) -> None:
    """`explain` puts the numbers in, `plan` prints, and what stops growing is unbounded."""
    from kvplan.explain import explain

    report = kvplan.plan(LLAMA, scheme=scheme, context=5000, gpu="h100")
    assert f"{report.kv['bytes_read_per_step']:,}" in explain(report)
    assert report.to_text()
    grows = report.kv["bytes_per_token_marginal"] > 0
    assert report.capacity is not None
    if not grows and "chunk" not in scheme and "budget" not in scheme and "pyramid" not in scheme:
        assert report.capacity.max_context is None


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        ("mamba-130m", "window:10"), ("mamba-130m", "budget:10"), ("mamba-130m", "pyramid:mean=99"), ("mamba-130m", "linear"),
        ("deepseek-v4-flash", "streaming"), ("deepseek-v4-flash", "landmark:block=50"), ("deepseek-v3", "linear"),
        ("deepseek-v3", "infini:segment=9"), ("deepseek-v3", "compress:m=4,window=8"), ("hunyuan-large", "linear"),
        ("llama-4-scout", "window:1024"), ("deepseek-v3.2", "landmark:block=50,k=2"), (LLAMA, "lowrank:k=8+linear"),
        (LLAMA, "window:0"), (LLAMA, "window"), (LLAMA, "window:10@0:1"), (LLAMA, "window:10,sinks=4"), (LLAMA, "chunk:0"),
        (LLAMA, "streaming:sinks=4,windo=10"), (LLAMA, "streaming:4"), (LLAMA, "budget"), (LLAMA, "budget:1_2"),
        (LLAMA, "budget:" + "_".join(["0"] * 32)), (LLAMA, "pyramid:mean=20"), (LLAMA, "pyramid"), (LLAMA, "linear:4"),
        (LLAMA, "compress:m=1,window=8"), (LLAMA, "compress:m=16,window=8"), (LLAMA, "compress:m=4"),
        (LLAMA, "landmark:block=1"), (LLAMA, "infini:segment=0"), (LLAMA, "window:9+budget:9"),
        (LLAMA, "landmark:block=50,k=1+topk:9"), (LLAMA, "linear+cla:2"), (LLAMA, "linear+int4"),
    ],
)  # fmt: skip
def test_refusals(model: str, scheme: str) -> None:
    """What makes no sense is one clear line that names the scheme."""
    with pytest.raises(InvalidInput, match=r"scheme") as error:
        kvplan.plan(model, scheme=scheme)
    assert "\n" not in str(error.value)


def test_an_ssm_state_is_constant() -> None:
    """Mamba-2's state: heads x head_dim x d_state in fp32 per layer, whatever the context; other kinds are refused."""
    sizes = {kvplan.plan("llama-2-7b", scheme="constant:ssm,state=128", context=n).kv["bytes"] for n in (1, 100_000)}

    assert {32 * 32 * 128 * 128 * 4} == sizes
    for text in ("constant", "constant:ssm", "constant:rnn", "constant:linear,state=3"):
        with pytest.raises(InvalidInput, match="scheme"):
            kvplan.plan("llama-2-7b", scheme=text)


def test_local_is_a_window_for_mixes() -> None:
    """MixAttention: local layers in a pattern beside global layers that share their KV."""
    mixed = kvplan.plan("llama-2-7b", scheme="local:1024@3:1+cla:2", context=4096).kv["bytes"]
    same = kvplan.plan("llama-2-7b", scheme="window:1024@3:1+cla:2", context=4096).kv["bytes"]

    assert same == mixed < kvplan.plan("llama-2-7b", scheme="local:1024@3:1", context=4096).kv["bytes"]
