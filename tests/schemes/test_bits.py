"""The bits axis: published bits per element and sizes, formats by name, and MiniCache's merged layers."""

from __future__ import annotations

import doctest
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput
from kvplan.formats import ALIASES, FORMATS, find_format
from kvplan.schemes import SCHEMES

LLAMA = "llama-2-7b"
ELEMENTS = 32 * 2 * 32 * 128


@pytest.mark.parametrize("name", [*FORMATS, *ALIASES])
def test_every_format_is_a_scheme(name: str) -> None:
    """The same bytes as --kv-dtype, by every name that a format has."""
    flag, scheme = kvplan.plan(LLAMA, kv_dtype=name, context=4096), kvplan.plan(LLAMA, scheme=name, context=4096)
    assert flag.kv == scheme.kv
    assert flag.answer.decode == scheme.answer.decode


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("int2:g=128,scale=8,zero=8", 2.125), ("int2:g=64,scale=8,zero=8", 2.25), ("int2:g=32,scale=8,zero=8", 2.5),  # SKVQ
        ("kivi:2,g=32,r=0", 3.0), ("kivi:4,g=32,r=0", 5.0), ("int4:g=32", 5.0), ("fp8", 8), ("q8_0", 8.5), ("int4", 4.5),
        ("kvquant:3,outliers=0.01", 3.32), ("kvquant:2,outliers=0", 2.0), ("kv:k=q8_0,v=q4_0", 6.5), ("kv:k=q8_0", 12.25),
        ("kv:v=int4:g=32,scale=8,zero=8,k=fp8", 6.25),
    ],
)  # fmt: skip
def test_bits_per_element(scheme: str, bits: float) -> None:
    """Scales, zero points and outliers included: KIVI 3.0 bits, SKVQ 2.125 (its Table 4)."""
    kv = kvplan.plan(LLAMA, scheme=scheme, context=128_000).kv
    assert kv["bytes"] * 8 / 128_000 / ELEMENTS == pytest.approx(bits, rel=3e-5)  # outliers round up per row


@pytest.mark.parametrize(
    ("scheme", "gib"),
    [
        ("fp16", 64.0), ("kvquant:4,outliers=0", 16.0), ("kvquant:4,outliers=0.01", 17.3), ("kvquant:3,outliers=0.01", 13.3),
        ("kvquant:2,outliers=0", 8.0), ("kvquant:2", 9.3),
    ],
)  # fmt: skip
def test_kvquant_sizes(scheme: str, gib: float) -> None:
    """LLaMA-7B at 128K tokens, GiB as the paper's appendix prints them (2401.18079)."""
    assert gib == round(kvplan.plan(LLAMA, scheme=scheme, context=131_072).kv["bytes"] / 2**30, 1)


@pytest.mark.parametrize("context", [1, 127, 128, 129, 5000])
def test_kivis_newest_tokens_stay_plain(context: int) -> None:
    """The newest min(S, 128) tokens in 16 bits, the others in 3."""
    plain = min(context, 128)
    bits = (plain * 16 + (context - plain) * 3) * ELEMENTS
    assert bits // 8 == kvplan.plan(LLAMA, scheme="kivi:2,g=32,r=128", context=context).kv["bytes"]


def test_a_scheme_beats_the_checkpoint_and_a_flag_beats_the_scheme() -> None:
    """Latents follow the keys, also where a checkpoint states a format of its own."""
    stated = kvplan.load("deepseek-v3")._replace(kv_dtype="fp8_e4m3")
    assert 61 * 576 == kvplan.plan(stated).kv["bytes_per_token"]
    assert 61 * 576 * 2 == kvplan.plan(stated, scheme="bf16").kv["bytes_per_token"]
    assert 61 * 576 == kvplan.plan(stated, scheme="bf16", kv_dtype="fp8").kv["bytes_per_token"]
    assert 61 * (512 + 64) * 34 // 32 == kvplan.plan(stated, scheme="kv:k=q8_0").kv["bytes_per_token"]


def test_recurrent_state_is_not_quantised() -> None:
    """A hybrid's state keeps its type; a model that is nothing else has no bits axis."""
    plain, small = (kvplan.plan("jamba-1.5-mini", scheme=s, context=4096).kv for s in (None, "int4"))
    assert plain["state_bytes_per_sequence"] == small["state_bytes_per_sequence"]
    assert plain["bytes"] > small["bytes"]


# --- MiniCache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "hidden", "heads"), [(32, 4096, 32), (40, 5120, 40), (8, 256, 4)])
def test_minicache_ratio(layers: int, hidden: int, heads: int) -> None:
    """The paper's appendix: b r (s + n) (3.1 h + 2) bytes against 4 b r h (s + n); 0.775 at h = 4096."""
    shape = {"layers": layers, "hidden": hidden, "heads": heads}
    plain, merged = (kvplan.plan(scheme=s, context=4000, **shape) for s in (None, "minicache"))
    assert layers * 4000 * (31 * hidden + 20) == 10 * merged.kv["bytes"]
    assert layers * 4000 * 4 * hidden == plain.kv["bytes"]
    assert plain.answer.profile.parameters == merged.answer.profile.parameters
    assert plain.answer.prefill == merged.answer.prefill
    assert plain.answer.decode == merged.answer.decode


def test_minicache_reads() -> None:
    """A merged layer reads the directions, its own magnitudes (2) and its own retained tokens (1 of 20)."""
    shape = {"layers": 4, "hidden": 256, "heads": 4}
    read = kvplan.plan(scheme="minicache", context=3999, **shape).kv["bytes_read_per_step"]
    assert 2 * (4 * 4000 * 512 + 2 * (4000 * 2 + 200 * 512)) == read


def test_minicache_pairs() -> None:
    """Pairs from the share on, a layer left over alone; nothing retained is nothing stored."""
    spec = kvplan.plan(scheme="minicache:from=0.25,retain=0", layers=10, hidden=256, heads=4).answer.spec
    owners = [layer.mixers[0].reads for layer in spec.layers]
    assert [None, None, None, 2, None, 4, None, 6, None, 8] == owners
    odd = kvplan.plan(scheme="minicache", layers=5, hidden=256, heads=4, context=100)
    assert 3 * 100 * 512 * 2 + 2 * 100 * 512 + 2 * 2 * 100 * 2 + 0 < odd.kv["bytes"] + 2 * 100 * 512


@settings(max_examples=60, deadline=None)
@given(bits=st.sampled_from(["fp8", "int4:g=32", "q4_0", "kivi:2,r=0", "kvquant:3", "kv:k=q8_0,v=q4_0"]),
       other=st.sampled_from(["mqa", "cla:2", "window:512", "budget:512", "topk:64", "lowrank:k=512,v=512", "offload:cpu=0.5"]),
       context=st.integers(1, 9000))  # fmt: skip
def test_bits_change_bytes_alone(bits: str, other: str, context: int) -> None:
    """In any order; FLOPs and parameters stay what they are."""
    one, two = (kvplan.plan(LLAMA, scheme=s, context=context) for s in (f"{bits}+{other}", f"{other}+{bits}"))
    alone = kvplan.plan(LLAMA, scheme=other, context=context)
    assert one.kv == two.kv
    assert one.answer[:1] != alone.answer[:1]
    for name in ("prefill", "decode"):
        assert getattr(one.answer, name) == getattr(alone.answer, name)
    assert one.answer.profile.parameters == alone.answer.profile.parameters
    assert one.kv["bytes"] < alone.kv["bytes"]
    assert one.kv["bytes_read_per_step"] < alone.kv["bytes_read_per_step"]


def test_the_docstring_of_a_format_holds() -> None:
    """Formats are registered in a loop, where doctest does not look."""
    found = doctest.DocTestFinder().find(SCHEMES["int4"].change, "int4", globs={})
    with open(os.devnull, "w") as nowhere:
        results = [doctest.DocTestRunner().run(test, out=nowhere.write) for test in found]
    assert [r for r in results if r.attempted]
    assert not any(r.failed for r in results)
    assert find_format("int4:g=32").bits_per_element == 5.0


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        ("mamba-130m", "fp8"), (LLAMA, "fp8:g=32"), (LLAMA, "int4:foo"), (LLAMA, "int4+kivi:2"), (LLAMA, "kivi:5"),
        (LLAMA, "kivi:2,q=1"), (LLAMA, "kvquant"), (LLAMA, "kvquant:3,outliers=0.0005"), (LLAMA, "kvquant:3,outliers=2"),
        (LLAMA, "kv"), (LLAMA, "kv:fp8"), (LLAMA, "kv:k=fp8,k=fp8"), (LLAMA, "minicache:retain=0.03"),
        (LLAMA, "minicache:retain=1"), (LLAMA, "minicache:half"), (LLAMA, "minicache+cla:2"),
        (LLAMA, "minicache+lowrank:k=8"), ("gemma-3-12b", "minicache"), ("deepseek-v3", "minicache"),
        ("hunyuan-large", "minicache"), (LLAMA, "mla:latent=512,rope=64+minicache"),
    ],
)  # fmt: skip
def test_refusals(model: str, scheme: str) -> None:
    """What makes no sense is one clear line that names the scheme."""
    with pytest.raises(InvalidInput, match="scheme"):
        kvplan.plan(model, scheme=scheme)


def test_unknown_formats_within_kv() -> None:
    """The error knows the nearest format."""
    with pytest.raises(kvplan.KvplanError, match="q8_0"):
        kvplan.plan(LLAMA, scheme="kv:k=q8_9")
