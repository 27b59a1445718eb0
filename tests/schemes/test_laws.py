"""Laws that hold for any model and any chain of schemes, on engine ideal."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput
from kvplan.report import Report
from kvplan.schemes import AXES, SCHEMES

MODELS = (
    "llama-2-7b", "llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b", "mistral-7b-v0.1", "deepseek-v2-lite", "qwen3-next-80b-a3b",
    "mixtral-8x7b", "falcon-7b", "phi-2", "gemma-3n-e4b", "hunyuan-large", "llama-4-scout",
)  # fmt: skip
MEMBERS = {
    "heads": ["mha", "mqa", "gqa:2", "gqa:4"],
    "layers": ["cla:2", "cla:3", "lckv:w=2", "sandwich:l=5,target=top", "pizza:l=4,target=bottom", "lasagna:l=3,target=middle"],
    "tokens": [
        "window:512", "window:64@3:1", "chunk:128", "streaming:sinks=4,window=60", "budget:300", "landmark:block=50",
        "compress:m=4,window=64",
    ],
    "rank": ["lowrank:k=64,v=96"],
    "reads": ["topk:128", "quest:k=128,page=16", "sparsek:k=64,window=64"],
    "bits": ["fp8", "int4:g=32", "q8_0"],
    "place": ["offload:cpu=0.25"],
}  # fmt: skip


def plan(model: str, scheme: str | None, tokens: int) -> Report:
    """A report, or a draw that is thrown away: a chain may make no sense for a model, and then says so."""
    try:
        return kvplan.plan(model, scheme=scheme, context=tokens)
    except InvalidInput:
        assume(False)
        raise


@st.composite
def chains(draw: st.DrawFn) -> list[str]:
    """One member for each of some axes."""
    axes = draw(st.lists(st.sampled_from(sorted(MEMBERS)), min_size=1, max_size=4, unique=True))
    return [draw(st.sampled_from(MEMBERS[axis])) for axis in axes]


@settings(max_examples=60, deadline=None)
@given(model=st.sampled_from(MODELS), scheme=st.sampled_from(MEMBERS["layers"]), tokens=st.integers(1, 40_000))
def test_layers_alone_save_residence_and_leave_traffic(model: str, scheme: str, tokens: int) -> None:
    """Sharing across layers, windows kept, never raises residence and never changes traffic."""
    plain, shared = plan(model, None, tokens).kv, plan(model, scheme, tokens).kv

    assert shared["bytes"] <= plain["bytes"]
    assert shared["bytes_read_per_step"] == plain["bytes_read_per_step"]


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    size=st.integers(1, 20_000),
    pattern=st.sampled_from(["", "@5:1", "@1:1"]),
    tokens=st.integers(1, 40_000),
)
def test_a_window_raises_neither(model: str, size: int, pattern: str, tokens: int) -> None:
    """Whatever windows a model has already."""
    plain, slid = plan(model, None, tokens).kv, plan(model, f"window:{size}{pattern}", tokens).kv

    assert slid["bytes"] <= plain["bytes"]
    assert slid["bytes_read_per_step"] <= plain["bytes_read_per_step"]


@settings(max_examples=40, deadline=None)
@given(model=st.sampled_from(MODELS), chain=chains(), tokens=st.integers(1, 20_000))
def test_the_order_of_axes_does_not_matter(model: str, chain: list[str], tokens: int) -> None:
    """Members that write different axes give the same answer in any order, or the same refusal."""
    answers = set()
    for order in permutations(chain):
        try:
            report = kvplan.plan(model, scheme="+".join(order), context=tokens)
        except InvalidInput:
            answers.add("refused")
        else:
            answers.add(str((report.kv, report.answer.prefill, report.answer.decode, report.answer.profile.parameters)))
    assert 1 == len(answers)


@settings(max_examples=60, deadline=None)
@given(model=st.sampled_from(MODELS), chain=chains(), tokens=st.integers(1, 20_000), more=st.integers(1, 500))
def test_more_tokens_never_need_fewer_bytes(model: str, chain: list[str], tokens: int, more: int) -> None:
    """Under any chain without a residual window, residence never falls as the context grows."""
    scheme = "+".join(chain)
    assert plan(model, scheme, tokens).kv["bytes"] <= plan(model, scheme, tokens + more).kv["bytes"]


@settings(max_examples=60, deadline=None)
@given(model=st.sampled_from(MODELS), chain=chains(), tokens=st.integers(1, 20_000))
def test_the_ledger_adds_up(model: str, chain: list[str], tokens: int) -> None:
    """The named terms, the lean evaluator and the totals are the same bytes under any chain."""
    report = plan(model, "+".join(chain), tokens)

    assert report.kv["bytes"] == sum(t.value for t in report.terms if t.path.startswith("kv/"))
    assert report.kv["bytes"] == report.answer.stages[0].lean.at(tokens)


@settings(max_examples=40, deadline=None)
@given(model=st.sampled_from(MODELS), chain=chains(), tokens=st.integers(1, 20_000), batch=st.integers(1, 40))
def test_capacity_stays_exact_under_schemes(model: str, chain: list[str], tokens: int, batch: int) -> None:
    """fits(n) and not fits(n + 1) under any chain."""
    scheme, flags = "+".join(chain), {"gpu": "h200-141gb-sxm"}
    try:
        capacity = kvplan.plan(model, scheme=scheme, context=tokens, batch=batch, **flags).capacity
    except InvalidInput:
        assume(False)
    assert capacity
    for field, n in (("batch", capacity.max_batch), ("context", capacity.max_context)):
        if n is not None:
            ask = {"context": tokens, "batch": batch}
            assert n == 0 or kvplan.plan(model, scheme=scheme, **(ask | {field: n}), **flags).fits
            assert not kvplan.plan(model, scheme=scheme, **(ask | {field: n + 1}), **flags).fits


@pytest.mark.parametrize(
    ("model", "identity"),
    [
        ("llama-2-7b", "mha"), ("llama-3.1-8b", "gqa:8"), ("falcon-7b", "mqa"), ("llama-2-7b", "cla:1"),
        ("mistral-7b-v0.1", "window:4096"), ("llama-3.1-8b", "bf16"), ("llama-2-7b", "offload:cpu=0"),
        ("gemma-3-12b", "window:1024@5:1"),
    ],
)  # fmt: skip
def test_identities_change_nothing(model: str, identity: str) -> None:
    """A scheme that says what a model already is gives the same answer."""
    plain, same = (kvplan.plan(model, scheme=s, context=5000) for s in (None, identity))

    assert plain.kv == same.kv
    assert (plain.answer.prefill, plain.answer.decode) == (same.answer.prefill, same.answer.decode)
    assert plain.answer.profile.parameters == same.answer.profile.parameters


@pytest.mark.parametrize("scheme", ["mla:latent=512,rope=64+gqa:8", "mqa+mlkv:total=4", "window:5+chunk:5", "fp8+int4"])
def test_two_members_on_one_axis_are_an_error(scheme: str) -> None:
    """Each is one clear line that names the axis."""
    with pytest.raises(InvalidInput, match="one member per axis"):
        kvplan.plan("llama-2-7b", scheme=scheme)


def test_every_scheme_is_documented() -> None:
    """Notation, axes, a summary, a source and a doctest each."""
    for name, found in SCHEMES.items():
        assert found.notation.startswith(name)
        assert found.axes <= set(AXES)
        assert found.summary
        assert found.source
        assert ">>>" in (found.change.__doc__ or ""), name
        assert "Source:" in (found.change.__doc__ or ""), name
