"""DeepSeek and Kimi. Literals are what transformers 5.23 classes held and counted when run on these configs."""

from __future__ import annotations

import pytest

from kvplan import costs
from kvplan.cache import mixer_parts
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import kept, parameters, without
from tests.support import config

V4 = "deepseek-ai__DeepSeek-V4-Flash"


def test_an_explicit_null_query_rank_is_a_plain_projection_and_a_missing_one_is_the_default():
    """V2-Lite as published says null; the copy in our data lost the line, and the class then builds rank 1536."""
    raw = without(config("deepseek-ai__DeepSeek-V2-Lite"), "q_lora_rank")
    assert parameters(raw | {"q_lora_rank": None}) == 15_706_484_224
    assert parameters(raw) == 15_748_993_024


def test_mla_caches_one_latent_and_one_rotary_key_whatever_the_heads():
    """61 layers x (512 + 64) x 2 bytes; V3.2 adds an indexer key of 128: 70,272 and 85,888 bytes a token."""
    assert kept(config("deepseek-ai__DeepSeek-V3"), 1) == 61 * (512 + 64) * 2 == 70_272
    assert kept(config("deepseek-ai__DeepSeek-V3") | {"num_key_value_heads": 4}, 1) == 70_272
    assert kept(config("deepseek-ai__DeepSeek-V3.2"), 1, transformers=True) == 61 * (512 + 64 + 128) * 2 == 85_888


def test_num_experts_beats_n_routed_experts_in_v32_only():
    """V3.2's class takes over the plain name, V3's does not know it."""
    for name, fewer in (("deepseek-ai__DeepSeek-V3.2", True), ("deepseek-ai__DeepSeek-V3", False)):
        raw = config(name)
        assert (parameters(raw | {"num_experts": 128}) < parameters(raw)) is fewer


@pytest.mark.parametrize(
    ("tokens", "held"),
    [
        (3, 583_680),
        (4, 590_080),
        (5, 784_640),
        (127, 12_424_960),
        (128, 6_947_840),
        (129, 7_096_320),
        (131, 7_393_280),
        (4224, 35_128_320),
        (4225, 35_276_800),
    ],
)
def test_v4_cache_of_transformers_around_its_boundaries(tokens: int, held: int):
    """The class's own cache. By hand at 3: 43 x 3 vectors of 512, twice in the 2 plain sliding layers, and buffers.

    45 x 3 x 1024 + 21 CSA x 3 x (4 x 512 + 4 x 128) x 2 + 20 HCA x 3 x 2 x 512 x 2 = 138,240 + 322,560 + 122,880.
    """
    assert 138_240 + 322_560 + 122_880 == 583_680
    assert kept(config(V4), tokens, transformers=True) == held


def test_v4_ideal_never_shrinks_and_grows_by_a_quarter_and_a_128th_of_an_entry():
    """128 more tokens beyond the window: 32 entries of 512 + 128 in 21 CSA layers, 1 of 512 in 20 HCA layers."""
    raw = config(V4)
    sizes = [kept(raw, tokens) for tokens in range(400)]
    assert sizes == sorted(sizes)
    assert kept(raw, 4224) - kept(raw, 4096) == (21 * 32 * (512 + 128) + 20 * 512) * 2


def test_v4_decode_reads_a_window_and_what_the_indexer_keeps():
    """At 65,535: every layer 128 vectors; CSA 512 of 16,384 entries but all index keys; HCA all 512 entries; state."""
    profile = costs.profile(from_config(config(V4)))
    formats = costs.resolve_formats(from_config(config(V4)), "bf16", "bf16", None, None)
    state = sum(costs.held_bytes(held, 0) for held in costs.hold(profile.plan, formats) if held.is_state)
    read = sum(costs.read_bytes(group, formats, 65_535) for group in profile.reads)
    entries = 43 * 128 * 512 + 21 * (512 * 512 + 16_384 * 128) + 20 * 512 * 512
    assert read == entries * 2 + state


def test_v4_prefill_counts_the_pairs_that_window_and_indexer_leave():
    """600 tokens against a loop: the last 128 tokens, then floor(i / 4) entries up to 8, or floor(i / 128)."""
    raw = config(V4) | {"index_topk": 8}
    got = costs.prefill_flops(costs.profile(from_config(raw)), 600, 1, full=False, all_logits=True).attention
    near = sum(min(i, 128) for i in range(1, 601))
    csa, scored = sum(min(i // 4, 8) for i in range(1, 601)), sum(i // 4 for i in range(1, 601))
    hca = sum(i // 128 for i in range(1, 601))
    attention = 2 * 64 * (512 + 512) * (43 * near + 21 * csa + 20 * hca) + 21 * 2 * 64 * 128 * scored
    mixing = 43 * 2 * 2 * 4 * 4 * 4096 * 600  # two mixings of 4 streams a layer
    assert got == attention + mixing


def test_v4_ratios_run_on_with_the_mtp_layer_and_unknown_ratios_are_errors():
    """44 ratios for 43 layers are right, 42 are not, and only 0, 4 and 128 mean something."""
    raw = config(V4)
    assert len(raw["compress_ratios"]) == 44
    assert len(from_config(raw).layers) == 43
    for ratios in (raw["compress_ratios"][:42], [8, *raw["compress_ratios"][1:]]):
        with pytest.raises(InvalidInput, match="compress_ratios"):
            from_config(raw | {"compress_ratios": ratios})


def test_v4_without_ratios_takes_the_class_pattern():
    """Two heavy layers first, then sparse ones at odd places: H H H S H S."""
    raw = without(config(V4), "compress_ratios") | {"num_hidden_layers": 6}
    ratios = [layer.mixers[0].ratio for layer in from_config(raw).layers]  # type: ignore[union-attr]
    assert ratios == [128, 128, 128, 4, 128, 4]


def test_v4_flat_reference_file_is_the_same_model():
    """deepseek_ref names the same facts: same parameters, same bytes."""
    flat, published = config("sgl-project__DeepSeek-V4-Flash-FP8"), config(V4)
    assert parameters(flat) == parameters(published) == 284_332_230_231
    assert kept(flat, 5000) == kept(published, 5000)


def test_v1_is_plain_attention_with_one_dense_layer():
    """DeepSeek-MoE-16B: 28 layers x 2 x 2048 values; 16.38 B parameters, as its checkpoint is described."""
    raw = config("deepseek-ai__deepseek-moe-16b-chat")
    assert kept(raw, 1) == 28 * 2 * 2048 * 2
    assert parameters(raw) == 16_375_728_128


def test_kimi_k25_ties_by_the_outer_flag_whose_default_is_true():
    """The outer class's default ties the table; the published file says false at both places."""
    raw = config("nvidia__Kimi-K2.6-NVFP4")
    assert parameters(raw) == 1_026_879_353_328
    assert parameters(raw) - parameters(without(raw, "tie_word_embeddings")) == 163_840 * 7168


def test_every_part_of_v4_is_read_by_somebody():
    """Stores and reads name the same parts: nothing is held that no layer looks at."""
    plan = costs.profile(from_config(config(V4)), mixer_parts).plan
    for i, store in enumerate(plan.stores):
        looked = {
            name for read in plan.reads if read.store == i for name in (read.own or [p.name for p in store.parts])
        }
        assert {part.name for part in store.parts} <= looked
