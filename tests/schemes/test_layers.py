"""The layers axis: owner maps as their papers draw them, published figures, laws, and counts made another way."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput
from kvplan.schemes import SCHEMES, apply, attention_layers
from kvplan.specs import Factored, ModelSpec

# One row per owner map: notation, attention layers, and whose KV each reads, from a paper's figure or its repository.
MAPS = [
    # CLA, Figure 2: ten layers in threes leave layer 0 alone; Table 1's non-uniform variants, all 11 of 20
    ("cla:2", 6, [0, 0, 2, 2, 4, 4]),
    ("cla:3", 10, [0, 1, 1, 1, 4, 4, 4, 7, 7, 7]),
    ("cla:3,ends=last", 10, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]),
    ("cla:1", 3, [0, 1, 2]),
    ("cla:9", 4, [0, 0, 0, 0]),
    ("cla:2,variant=keep-ends", 20, [0, *[i - 1 + i % 2 for i in range(1, 19)], 19]),
    ("cla:2,variant=dense-front", 20, [*range(10), *[9] * 9, 19]),
    ("cla:2,variant=dense-back", 20, [0, 1, *[1] * 9, *range(11, 20)]),
    # MLKV, convert_to_mlkv.py: five of twelve are 0, 2, 4, 7, 9
    ("mlkv:layers=5,heads=1", 12, [0, 0, 2, 2, 4, 4, 4, 7, 7, 9, 9, 9]),
    ("mlkv:total=6", 12, [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]),
    ("mlkv:layers=4,heads=4", 12, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]),
    ("mlkv:total=1", 4, [0, 0, 0, 0]),
    # LCKV, README and test_latency.py
    ("lckv:w=2", 22, [0, *[20] * 20, 21]),
    ("lckv:w=10", 22, [*range(5), *[16] * 12, *range(17, 22)]),
    ("lckv:w=0", 4, [3, 3, 3, 3]),
    # the systematic study: parts and targets; sandwich-middle and the Llama-like ends from LCKV's README
    ("pizza:l=11,target=bottom", 22, [*range(10), *[10] * 12]),
    ("pizza:l=3,target=top", 8, [0, 1, *[7] * 6]),
    ("pizza:l=3,target=middle", 8, [0, 1, *[4] * 6]),
    ("sandwich:l=3,target=middle", 22, [0, *[10] * 20, 21]),
    ("sandwich:l=11,target=top", 22, [*range(5), *[16] * 12, *range(17, 22)]),
    ("sandwich:l=4", 8, [0, 1, 2, 2, 2, 2, 2, 7]),
    ("sandwich:l=1,target=top", 3, [2, 2, 2]),
    ("lasagna:l=2,target=top", 6, [2, 2, 2, 5, 5, 5]),
    ("lasagna:l=3,target=middle", 9, [1, 1, 1, 4, 4, 4, 7, 7, 7]),
    ("lasagna:l=10,target=bottom", 20, [i - i % 2 for i in range(20)]),
    ("owners:0_3*2_3_0*2", 6, [0, 3, 3, 3, 0, 0]),
    ("shared-last:3", 6, [0, 1, 2, 2, 2, 2]),
    ("yoco:window=8", 6, [0, 1, 2, 3, 3, 3]),
    ("yoco:window=8", 5, [0, 1, 2, 2, 2]),
]  # fmt: skip
SHAPE = {"hidden": 512, "heads": 8, "ffn": 1024, "vocab": 1000}
PRESETS = {
    name: kvplan.load(name)
    for name in (
        "gemma-3-1b",
        "deepseek-v2-lite",
        "glm-5.2",
        "minimax-m3",
        "gpt-oss-20b",
        "jamba-1.5-mini",
        "gemma-3n-e4b",
    )
}


def numbers(layers: int, **changes: Any) -> ModelSpec:
    """A small model in plain numbers."""
    return kvplan.plan(layers=layers, **SHAPE | changes).answer.spec


def owners_of(spec: ModelSpec) -> list[int]:
    """Whose KV each attention layer reads, counted among attention layers."""
    positions = attention_layers(spec)
    found = []
    for i in positions:
        mixer = next(m for m in spec.layers[i].mixers if hasattr(m, "reads"))
        found.append(positions.index(i if mixer.reads is None else mixer.reads))
    return found


def readable(spec: ModelSpec) -> list[int]:
    """Attention layers that any other may read: those with an indexer's keys where there are any."""
    mixers = [next(m for m in spec.layers[i].mixers if hasattr(m, "reads")) for i in attention_layers(spec)]
    keyed = [i for i, m in enumerate(mixers) if m.indexer is not None and not m.indexer.shares]
    return keyed or list(range(len(mixers)))


@pytest.mark.parametrize(("scheme", "layers", "owners"), MAPS)
def test_owner_maps(scheme: str, layers: int, owners: list[int]) -> None:
    """Each layer reads whose KV the paper says, and a store is there for each layer that is read."""
    report = kvplan.plan(layers=layers, **SHAPE, scheme=scheme)

    assert owners == owners_of(report.answer.spec)
    assert sorted(set(owners)) == sorted(store.layer for store in report.answer.profile.plan.stores)


def test_every_scheme_of_the_axis_has_a_row() -> None:
    """A new owner map is one file and one row; MiniCache merges stores and is no owner map."""
    mapped = {name for name, scheme in SCHEMES.items() if "layers" in scheme.axes and name != "minicache"}
    assert mapped == {scheme.partition(":")[0] for scheme, _, _ in MAPS}


# --- published figures -----------------------------------------------------------------------------------------------

CLA_1B = {"layers": 20, "hidden": 2048, "heads": 16, "head_dim": 128, "ffn": 5472, "vocab": 32000, "dtype": "fp16"}


@pytest.mark.parametrize(
    ("scheme", "published"),
    [
        ("mha", 163_840), ("gqa:2", 20_480), ("mqa", 10_240), ("mqa+cla:2", 5_120), ("mqa+cla:3", 3_584), ("mqa+cla:4", 2_560),
        ("gqa:4+cla:2", 20_480), ("gqa:2+cla:2", 10_240), ("mqa+cla:2,variant=keep-ends", 5_632),
        ("mqa+cla:2,variant=dense-front", 5_632), ("mqa+cla:2,variant=dense-back", 5_632),
    ],
)  # fmt: skip
def test_cla_table_1(scheme: str, published: int) -> None:
    """KV bytes per token of the 1B family, Table 1 of arXiv 2405.12981."""
    assert published == kvplan.plan(scheme=scheme, **CLA_1B).kv["bytes_per_token"]


def test_cla_drops_two_projections_per_layer() -> None:
    """4 d n_kv h (L - ceil(L / f)) FLOPs a token: 2.62M weights on MQA, 41.9M on MHA for 10 of 20 layers; attention stays."""
    for heads, dropped in (("mqa", 10 * 2 * 2048 * 128), ("mha", 10 * 2 * 2048 * 2048)):
        plain, shared = (kvplan.plan(scheme=s, **CLA_1B, context=1000).answer for s in (heads, f"{heads}+cla:2"))
        assert dropped == plain.profile.parameters - shared.profile.parameters
        assert 2 * dropped == plain.decode.linear - shared.decode.linear
        assert 2 * dropped * 1000 == plain.prefill.linear - shared.prefill.linear
        assert plain.decode.attention == shared.decode.attention
        assert plain.prefill.attention == shared.prefill.attention


@pytest.mark.parametrize(("kept", "heads"), [(12, 12), (12, 1), (6, 1), (4, 12), (4, 3), (2, 1), (1, 1)])
def test_mlkv_measurements(kept: int, heads: int) -> None:
    """Pythia-160M with an fp32 cache: 2 m g 64 x 4 x 2047 bytes (the CSV beside arXiv 2406.09297)."""
    pythia = {"layers": 12, "hidden": 768, "heads": 12, "ffn": 3072, "vocab": 50304, "dtype": "fp32", "context": 2047}
    report = kvplan.plan(scheme=f"mlkv:layers={kept},heads={heads}", **pythia)
    assert 2 * kept * heads * 64 * 4 * 2047 == report.kv["bytes"]


@pytest.mark.parametrize(
    ("model", "warm", "kept"), [("llama-2-7b", 2, 3), ("llama-2-7b", 10, 11), ("tinyllama-1.1b", 2, 3)]
)
def test_lckv_keeps_w_plus_one_layers(model: str, warm: int, kept: int) -> None:
    """Of 32 and 22 layers; at 4,096 tokens 3 / 32 of the bytes and all of the traffic."""
    plain, shared = (kvplan.plan(model, context=4096, scheme=s) for s in (None, f"lckv:w={warm}"))
    layers = len(plain.answer.spec.layers)

    assert kept == len(shared.answer.profile.plan.stores)
    assert plain.kv["bytes"] * kept == shared.kv["bytes"] * layers
    assert plain.kv["bytes_read_per_step"] == shared.kv["bytes_read_per_step"]
    assert plain.answer.decode.attention == shared.answer.decode.attention


def test_lckv_prefill_runs_the_block_nine_times() -> None:
    """The block between the warm-up layers has m + b = 9 passes over its L - w layers (arXiv 2405.10637); decode is one."""
    d, ffn, kv, layers, tokens = 512, 1024, 512, 10, 300
    around, projections = 2 * d * d + 3 * d * ffn, 2 * d * kv
    report = kvplan.plan(layers=layers, **SHAPE, scheme="lckv:w=4", context=tokens).answer
    quick = kvplan.plan(layers=layers, **SHAPE, scheme="lckv:w=4,passes=3", context=tokens).answer

    block = 6 * around + projections  # layers 2-7, of which 7 makes keys and values
    assert 2 * tokens * (4 * (around + projections) + 9 * block) == report.prefill.linear
    assert 2 * tokens * (4 * (around + projections) + 3 * block) == quick.prefill.linear
    assert 2 * (4 * (around + projections) + block) == report.decode.linear == quick.decode.linear
    assert 4 * (tokens * (tokens + 1) // 2) * d * (4 + 9 * 6) == report.prefill.attention
    assert 4 * (tokens + 1) * d * layers == report.decode.attention


def test_yoco_fits_128k_tokens_in_a_gib() -> None:
    """The 65B model's one global layer of 16 KV heads: 8,192 bytes a token, 80 times fewer (section 4.4, Figure 8)."""
    shape = {
        "layers": 80,
        "hidden": 8192,
        "heads": 64,
        "kv_heads": 16,
        "ffn": 22016,
        "vocab": 100_288,
        "context": 10_000,
    }
    plain, shared = (kvplan.plan(scheme=s, **shape).kv for s in (None, "yoco:window=1024"))

    assert 2**30 // 131_072 == shared["bytes_per_token_marginal"]
    assert 80 == plain["bytes_per_token_marginal"] // shared["bytes_per_token_marginal"]
    assert (10_000 + 40 * 1024) * 8192 == shared["bytes"]


# --- YOCO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["window=64", "retention"])
@pytest.mark.parametrize("layers", [8, 9])
def test_yoco_counted_another_way(kind: str, layers: int) -> None:
    """Parameters, bytes, traffic and FLOPs of both self-decoders, from the shapes in YOCO's repository."""
    d, ffn, n, h, tokens, vocab = 512, 1024, 8, 64, 1000, 1000
    lower, upper = layers // 2, layers - layers // 2
    report = kvplan.plan(layers=layers, **SHAPE, scheme=f"yoco:{kind}", context=tokens)
    a, kv = report.answer, report.kv
    mlp, projections, cross = 3 * d * ffn, 2 * d * d, 2 * d * d
    if kind == "retention":
        mixer, state, mix = 5 * d * d + d * n, 4 * n * h * h, 5 * n * h * h
        held, seen, look, prompt = state, state, mix, mix * tokens
    else:
        mixer, entry = 4 * d * d, 2 * 2 * d
        pairs = sum(min(i, 64) for i in range(1, tokens + 1))
        held, seen, look, prompt = 64 * entry, 64 * entry, 4 * 64 * d, 4 * pairs * d
    weights = lower * (mixer + mlp) + upper * (cross + mlp) + projections

    assert weights + d + d * (2 * layers + 1) + 2 * vocab * d == a.profile.parameters  # one norm before shared KV
    assert lower * held + tokens * 4 * d == kv["bytes"]
    assert lower * seen + upper * (tokens + 1) * 4 * d == kv["bytes_read_per_step"]
    assert 2 * weights == a.decode.linear
    assert lower * look + upper * 4 * (tokens + 1) * d == a.decode.attention
    assert 2 * tokens * (lower * (mixer + mlp) + projections) + 2 * upper * (cross + mlp) == a.prefill.linear
    assert lower * prompt + upper * 4 * tokens * d == a.prefill.attention


def test_yoco_runs_whole_where_every_logit_is_asked_for() -> None:
    """With --logits all no position leaves early: every token goes through all layers."""
    a = kvplan.plan(layers=8, **SHAPE, scheme="yoco:window=64", context=100, logits="all").answer
    assert 100 * a.decode.linear == a.prefill.linear


# --- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(PRESETS)), tokens=st.integers(1, 5000))
def test_any_owner_map_on_any_model(data: st.DataObject, name: str, tokens: int) -> None:
    """Windows kept, a map never raises residence and never changes traffic or decode attention; no parameter is added."""
    spec = PRESETS[name]
    count = len(attention_layers(spec))
    owners = data.draw(st.lists(st.sampled_from(readable(spec)), min_size=count, max_size=count))
    plain = kvplan.plan(apply(spec, f"owners:{'_'.join(map(str, range(count)))}"), context=tokens)
    shared = kvplan.plan(spec, context=tokens, scheme=f"owners:{'_'.join(map(str, owners))}")

    assert shared.kv["bytes"] <= plain.kv["bytes"]
    assert shared.kv["bytes_read_per_step"] == plain.kv["bytes_read_per_step"]
    assert shared.answer.decode.attention == plain.answer.decode.attention
    assert shared.answer.profile.parameters <= plain.answer.profile.parameters


@settings(max_examples=60, deadline=None)
@given(
    owners=st.lists(st.integers(0, 9), min_size=10, max_size=10),
    windows=st.lists(st.none() | st.integers(1, 300), min_size=10, max_size=10),
    tokens=st.integers(1, 600),
)
def test_a_store_keeps_what_its_longest_reader_needs(owners: list[int], windows: list[int | None], tokens: int) -> None:
    """Layer by layer by hand: entries, weights and prefill passes of any map over any windows, cycles included."""
    spec = numbers(10)
    layers = tuple(
        layer._replace(mixers=(layer.mixers[0]._replace(window=w),))
        for layer, w in zip(spec.layers, windows, strict=True)
    )
    mixed = spec._replace(layers=layers)
    report = kvplan.plan(mixed, context=tokens, scheme="owners:" + "_".join(map(str, owners)), dtype="bf16")
    sees = [tokens if w is None else min(w, tokens) for w in windows]
    kept = {target: max(sees[i] for i in range(10) if owners[i] == target) for target in set(owners)}
    d, ffn, kv = 512, 1024, 512
    per_layer = [2 * d * d + 3 * d * ffn + (2 * d * kv if i in kept else 0) for i in range(10)]
    # a cut between two layers holds unless some reader below it waits for an owner above it
    cut = [not any(i < c <= owners[i] for i in range(10)) for c in range(1, 10)]
    again = [i for i in range(10) if (i > 0 and not cut[i - 1]) or (i < 9 and not cut[i])]

    assert sum(kept.values()) * 2 * 2 * kv == report.kv["bytes"]
    assert 2 * sum(per_layer) == report.answer.decode.linear
    assert (
        2 * tokens * sum(w * (9 if i in again else 1) for i, w in enumerate(per_layer)) == report.answer.prefill.linear
    )


@pytest.mark.parametrize("name", ["hunyuan-large", "gemma-3n-e4b", "llama-2-7b", "gemma-4-e4b", "deepseek-v4-flash"])
def test_a_models_own_map_changes_nothing(name: str) -> None:
    """The identities give back the very spec; another map says that it joins the model's, and never stores more."""
    spec = kvplan.load(name)
    own = "owners:" + "_".join(map(str, owners_of(spec)))

    assert apply(spec, own) is spec
    if len(set(owners_of(spec))) < len(spec.layers):
        assert apply(spec, "cla:1") is spec
    if name in ("hunyuan-large", "gemma-3n-e4b"):  # Gemma 4's local and global layers differ in heads and cannot share
        coarser = apply(spec, "cla:3")
        assert any("joins the owner map" in note for note in coarser.notes)
        assert set(owners_of(coarser)) < set(owners_of(spec))


def test_schemes_join_a_models_own_sharing() -> None:
    """Hunyuan-Large shares in pairs: with groups of four, 16 of 64 layers keep KV, and FLOPs fall with the projections."""
    own, four = (kvplan.plan("hunyuan-large", scheme=s, context=4096) for s in (None, "cla:4"))

    assert 2 * four.kv["bytes"] == own.kv["bytes"]
    assert 16 == len(four.answer.profile.plan.stores)
    # 16 layers less of K and V: 2 x 6,400 x 8 x 80 weights each
    assert 16 * 2 * 6400 * 8 * 80 == own.answer.profile.linear - four.answer.profile.linear


@pytest.mark.parametrize(
    "chain",
    [
        ("mqa", "cla:3", "window:100@2:1"), ("shared-last:4", "window:64@3:1", "gqa:2"),
        ("lckv:w=2", "gqa:4", "streaming:sinks=4,window=60"), ("mlkv:total=3", "window:50", "offload:cpu=0.5"),
        ("yoco:window=64", "mqa", "offload:cpu=0.5"), ("owners:0_0s*7_8_8_8_8,window=9", "mqa", "offload:cpu=0.1"),
    ],
)  # fmt: skip
def test_order_does_not_matter(chain: tuple[str, ...]) -> None:
    """Members that write different axes give the same spec in any order."""
    spec = numbers(12)
    assert 1 == len({apply(spec, "+".join(order)).layers for order in permutations(chain)})


def test_shared_last_keeps_types_apart() -> None:
    """Under three local layers to one full, the last five read layer 5 (local) and layer 3 (full)."""
    spec = apply(numbers(11), "window:64@3:1+shared-last:5")
    assert [0, 1, 2, 3, 4, 5, 5, 3, 5, 5, 5] == owners_of(spec)


def test_mixattention_of_the_lckv_readme() -> None:
    """22 layers, 9 stores: 0 and 12 grow, seven keep a window; the s writes the tokens axis."""
    text = "0_1s_1s_3s_3s_3s_0_7s_7s_9s_9s_9s_12_13s_13s_15s_15s_15s_12_19s_19s_19s"
    scheme = f"owners:{text},window=1024"
    report = kvplan.plan(layers=22, **SHAPE, context=5000, scheme=scheme)

    assert (2 * 5000 + 7 * 1024) * 2 * 2 * 512 == report.kv["bytes"]
    with pytest.raises(InvalidInput, match="both write tokens"):
        kvplan.plan(layers=22, **SHAPE, scheme=f"{scheme}+window:64")
    kvplan.plan(layers=22, **SHAPE, scheme="cla:2+window:64")


# --- other mixers ----------------------------------------------------------------------------------------------------


def test_latents_and_factors_share() -> None:
    """MLA drops its joint projection and norm, TPA its factors of keys and values, in the layers that read another's."""
    mla = kvplan.load("deepseek-v2-lite")
    whole, shared = (kvplan.plan(apply(mla, s), context=100) for s in ("cla:1", "cla:3"))
    assert 18 * (2048 * 576 + 512) == whole.answer.profile.parameters - shared.answer.profile.parameters
    assert 3 * shared.kv["bytes"] == whole.kv["bytes"]

    def factored(reads: int | None) -> Factored:
        return Factored(8, 64, 6, 2, 2, reads=reads)

    spec = numbers(6)
    layers = tuple(layer._replace(mixers=(factored(None),)) for layer in spec.layers)
    tpa = spec._replace(layers=layers)
    whole, shared = (kvplan.plan(tpa, context=100, scheme=s) for s in (None, "cla:2"))
    assert [0, 0, 2, 2, 4, 4] == owners_of(shared.answer.spec)
    assert 3 * 4 * 512 * (8 + 64) == whole.answer.profile.parameters - shared.answer.profile.parameters
    assert 2 * shared.kv["bytes"] == whole.kv["bytes"]
    assert shared.kv["bytes_read_per_step"] == whole.kv["bytes_read_per_step"]


def test_yoco_of_a_latent_leaves_early_too() -> None:
    """The owner's joint projection runs on every token of the prompt, its expansion on the last alone (absorbed)."""
    a = kvplan.plan("deepseek-v2-lite", scheme="yoco:window=512", context=1000).answer
    assert 2048 * 576 < a.profile.prompt.linear < a.profile.linear
    one = kvplan.plan("deepseek-v2-lite", scheme="yoco:window=512", context=999).answer
    assert a.profile.last == one.profile.last
    full = 14 * 2 * 16 * 1000 * (576 + 512)  # absorbed scores and weighted sum of the last token in 14 of 27 layers
    windowed = 13 * 2 * 16 * sum(min(i, 512) for i in range(1, 1001)) * (192 + 128)
    assert full + windowed == a.prefill.attention


def test_pooled_entries_share_with_equals_only() -> None:
    """DeepSeek-V4 alternates two ratios: neighbours cannot share, every other layer can."""
    spec = kvplan.load("deepseek-v4-flash")
    with pytest.raises(InvalidInput, match="first layer: layers"):
        apply(spec, "cla:2")
    count = len(spec.layers)
    owners = [i if i < 2 else 2 + i % 2 for i in range(count)]
    shared = kvplan.plan(apply(spec, f"owners:{'_'.join(map(str, owners))}"), context=10_000)
    plain = kvplan.plan(spec, context=10_000)
    assert 4 == len(shared.answer.profile.plan.stores)
    assert shared.kv["bytes_read_per_step"] == plain.kv["bytes_read_per_step"]
    assert shared.kv["bytes"] < plain.kv["bytes"] / 5


def test_hybrids_iterate_what_lies_between() -> None:
    """Under a cycle the recurrent layers between reader and target run again; a recurrent upper half refuses YOCO."""
    jamba = apply(kvplan.load("jamba-1.5-mini"), "lckv:w=2")
    assert [9 if 12 <= i <= 20 else 1 for i in range(32)] == [layer.prefill_passes for layer in jamba.layers]
    plain = kvplan.plan("jamba-1.5-mini", context=100).answer
    again = kvplan.plan(jamba, context=100).answer
    assert again.profile.prompt.mixing > plain.profile.prompt.mixing == plain.profile.mixing
    with pytest.raises(InvalidInput, match="without recurrent layers"):
        apply(kvplan.load("jamba-1.5-mini"), "yoco:window=64")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "rule"),
    [
        ("cla:0", "whole number from 1"), ("cla", "whole number from 1"), ("cla:2,ends=middle", "ends=first"),
        ("cla:2,variant=best", "keep-ends"), ("cla:2,end=first", "these arguments"),
        ("mlkv:total=13", "at most 12"), ("mlkv:layers=2", "heads as a whole number"), ("mlkv:total=2,heads=1", "either"),
        ("mlkv:layers=2,heads=3", "divides the 8"), ("lckv:w=3", "even"), ("lckv:w=12", "below the 12"), ("lckv", "w as"),
        ("yoco", "yoco:window=W or"), ("yoco:retention,window=4", "yoco:window=W or"), ("yoco:sliding", "yoco:window=W or"),
        ("pizza:l=13", "l from 1 to the 12"), ("pizza:l=2,target=side", "target=bottom"), ("lasagna", "l as a whole"),
        ("owners:0*11", "12 integers"), ("owners:0*13", "12 integers"), ("owners:0*11_12", "12 integers"),
        ("owners:0*99999_0*99999", "12 integers"), ("owners:0*0_0*12x", "12 integers"), ("owners:0s*12", "window=W together"),
        ("owners:0*12,window=4", "window=W together"), ("owners:0*12,passes=0", "passes as"), ("shared-last:12", "fewer"),
        ("cla:2+lckv:w=2", "both write layers"), ("yoco:window=4+window:8", "both write tokens"), ("mqa+mlkv:total=2", "both write heads"),
    ],
)  # fmt: skip
def test_bad_arguments_say_what_instead(scheme: str, rule: str) -> None:
    """One clear line that names the scheme as it was written."""
    with pytest.raises(InvalidInput, match=rule) as error:
        apply(numbers(12), scheme)
    assert error.value.value in (scheme, scheme.partition("+")[0])


@pytest.mark.parametrize(
    "scheme", ["cla:2", "lckv:w=2", "owners:0_0", "shared-last:1", "pizza:l=1", "mlkv:total=1", "yoco:retention"]
)
def test_nothing_to_share(scheme: str) -> None:
    """A model without attention is told so."""
    with pytest.raises(InvalidInput):
        apply(kvplan.load("mamba-130m"), scheme)


def test_unequal_heads_cannot_share() -> None:
    """Gemma 4's global layers have wider heads: neighbours of two types cannot share, the last of each type can."""
    spec = kvplan.load("gemma-4-e4b")
    with pytest.raises(InvalidInput, match="equal KV heads, head dims and parts"):
        apply(spec, "cla:42")
    assert 6 == len(kvplan.plan(apply(spec, "shared-last:36")).answer.profile.plan.stores)
