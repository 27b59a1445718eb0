"""Gemma's traps. Literals are what transformers 5.23 said of the same configs (tests/make_reference.py --print)."""

from __future__ import annotations

import pytest

from kvplan import costs
from kvplan.errors import InvalidInput
from tests.importers.probe import flops, kept, parameters, spec_of, without
from tests.support import config

SMALL = {"vocab_size": 1000}


def test_gemma_heads_are_256_wide_where_the_file_is_silent() -> None:
    """head_dim has a default of its own; hidden / heads would be 192 here."""
    raw = without(config("google__gemma-7b"), "head_dim")

    assert parameters(raw) == 8_537_680_896


def test_gemma2_starts_with_a_local_layer() -> None:
    """Five layers: three local, two global, though the file has no layer_types."""
    raw = config("google__gemma-2-2b") | SMALL | {"num_hidden_layers": 5, "sliding_window": 100}

    # (3 x 99 + 2 x 600) entries of 2 x 4 heads x 256 x 2 bytes
    assert kept(raw, 600, transformers=True) == 6_131_712
    assert kept(raw, 600) == 6_131_712 + 3 * 4096


@pytest.mark.parametrize(("tokens", "entries"), [(99, 99), (100, 99), (101, 99)])
def test_a_window_of_100_keeps_99_in_transformers(tokens: int, entries: int) -> None:
    """The newest token brings its own key, so the class stores W - 1, from W - 1 tokens on."""
    raw = config("google__gemma-2-2b") | SMALL | {"num_hidden_layers": 1, "sliding_window": 100}

    assert kept(raw, tokens, transformers=True) == entries * 4096
    assert kept(raw, tokens) == min(tokens, 100) * 4096


def test_gemma3_pattern_counts_from_one() -> None:
    """Fourteen layers hold two global ones, the sixth and the twelfth."""
    raw = config("google__gemma-3-1b-it") | SMALL | {"num_hidden_layers": 14}

    assert kept(raw, 600, transformers=True) == (12 * 511 + 2 * 600) * 1024 == 7_507_968


def test_gemma3_looking_both_ways_halves_its_window() -> None:
    """512 // 2 + 1 = 257, of which 256 are kept."""
    raw = config("google__gemma-3-1b-it") | SMALL | {"num_hidden_layers": 14, "use_bidirectional_attention": True}

    assert kept(raw, 600, transformers=True) == (12 * 256 + 2 * 600) * 1024 == 4_374_528


def test_gemma3_outer_tie_rules() -> None:
    """The inner tie_word_embeddings is not read; untying outside adds vocab x hidden."""
    raw = config("google__gemma-3-12b-it")
    inner = raw | {"text_config": raw["text_config"] | {"tie_word_embeddings": False}}

    assert parameters(inner) == parameters(raw) == 12_187_079_280
    assert parameters(raw | {"tie_word_embeddings": False}) == 12_187_079_280 + 262_144 * 3840


def test_gemma3_omitted_vocabulary_is_the_classes() -> None:
    """The 27B's file omits vocab_size; the class's default is 262,208, not the tokenizer's 262,144."""
    raw = config("google__gemma-3-12b-it")

    assert spec_of(raw | {"text_config": without(raw["text_config"], "vocab_size")}).vocab == 262_208


def test_gemma3n_counts_altup_and_laurel() -> None:
    """The text model alone, as Gemma3nForCausalLM builds it: parameters, cache and every matmul."""
    raw = config("google__gemma-3n-E4B")["text_config"]

    assert parameters(raw) == 6_835_235_568
    # 16 local layers of 511 entries and 4 global of 4,224; the other 15 of 35 store nothing
    assert kept(raw, 4224, transformers=True) == (16 * 511 + 4 * 4224) * 2048 == 51_347_456
    assert flops(raw, 4224) == 43_024_158_093_312


def test_gemma3n_shares_within_a_kind() -> None:
    """Of twelve layers the last four share: the local ones read layer 7, the global one layer 4."""
    raw = without(config("google__gemma-3n-E4B")["text_config"], "layer_types", "activation_sparsity_pattern")
    raw |= {"num_hidden_layers": 12, "num_kv_shared_layers": 4, "intermediate_size": 2048}
    raw |= SMALL | {"vocab_size_per_layer_input": 500}
    reads = [layer.mixers[0].reads for layer in spec_of(raw).layers]

    assert reads == [None] * 8 + [7, 4, 7, 7]
    assert kept(raw, 600, transformers=True) == (7 * 511 + 600) * 2048 == 8_554_496
    assert parameters(raw) == 319_508_672
    assert flops(raw, 600) == 417_301_632_000


def test_gemma3n_sharing_needs_an_owner_of_each_kind() -> None:
    """With the last eight of twelve shared no global layer is left to read; the class refuses too."""
    raw = without(config("google__gemma-3n-E4B")["text_config"], "layer_types", "activation_sparsity_pattern")
    raw |= {"num_hidden_layers": 12, "num_kv_shared_layers": 8, "intermediate_size": 2048}

    with pytest.raises(InvalidInput, match="num_kv_shared_layers"):
        spec_of(raw)


def test_gemma4_global_layers_have_shapes_of_their_own() -> None:
    """31B: 50 local layers of 16 heads x 256, 10 global of 4 x 512; keys made into values are cached twice."""
    raw = config("google__gemma-4-31b-it")["text_config"]

    assert parameters(raw) == 30_697_345_280
    assert kept(raw, 4224, transformers=True) == 50 * 1023 * 16384 + 10 * 4224 * 8192 == 1_184_071_680
    assert flops(raw, 4224) == 300_245_594_406_912


def test_gemma4_last_layer_is_global() -> None:
    """The class forces it, whatever layer_types says."""
    raw = config("google__gemma-4-31b-it")["text_config"] | {"layer_types": ["sliding_attention"] * 60}

    assert kept(raw, 4224) == 59 * 1024 * 16384 + 4224 * 8192


def test_gemma4_reads_what_transformers_writes() -> None:
    """A file saved by transformers 5 says per_layer_config: the same model; overrides of other kinds are refused."""
    raw = without(config("google__gemma-4-31b-it")["text_config"], "global_head_dim", "num_global_key_value_heads")
    layers = {str(i): {"head_dim": 512, "num_key_value_heads": 4} for i in range(5, 60, 6)}

    assert parameters(raw | {"per_layer_config": layers}) == 30_697_345_280
    assert kept(raw | {"per_layer_config": layers}, 4224, transformers=True) == 1_184_071_680
    with pytest.raises(InvalidInput, match="skip"):
        spec_of(raw | {"per_layer_config": {"3": {"skip": ["mlp"]}}})


def test_gemma4_experts_stand_beside_the_dense_mlp() -> None:
    """26B-A4B: 25.2B of text, of which a token visits 8 of 128 experts in each of 30 layers."""
    raw = config("google__gemma-4-26B-A4B")["text_config"]
    profile = costs.profile(spec_of(raw))

    assert profile.parameters == 25_233_141_760
    assert profile.parameters - profile.active_parameters == 30 * (128 - 8) * 3 * 2816 * 704
