"""BERT and its kin. Expected numbers: arithmetic of the classes of transformers 5.23, and what they hold when run."""

import pytest

from kvplan.costs import prefill_flops, profile
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import flops, kept, parameters, spec_of

D, LAYERS, FFN = 768, 12, 3072
LAYER = 4 * (D * D + D) + 2 * D * FFN + FFN + D + 4 * D  # attention, MLP, two LayerNorms


def around(vocab: int, rows: int, types: int) -> int:
    """The tables, the LayerNorm behind them, the layer before the logits with its own, and the logits' bias."""
    return (vocab + rows + types) * D + 2 * D + D * D + D + 2 * D + vocab


def test_bert_base():
    """BertLMHeadModel of bert-base-uncased: 109,514,298."""
    assert LAYERS * LAYER + around(30522, 512, 2) == 109_514_298
    assert parameters({"model_type": "bert"}) == 109_514_298


def test_roberta_base():
    """RobertaForCausalLM of roberta-base: 124,697,433; of its 514 positions two lie at and before the padding token."""
    raw = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    assert LAYERS * LAYER + around(50265, 514, 1) == 124_697_433
    assert parameters(raw) == 124_697_433
    assert spec_of(raw).max_context == 512


def test_untied_logits_have_two_biases():
    """The class makes one on the matrix and one beside it, which are one tensor only where logits are tied."""
    tied, untied = ({"model_type": "bert", "tie_word_embeddings": flag} for flag in (True, False))
    assert parameters(untied) - parameters(tied) == 30522 * D + 30522


@pytest.mark.parametrize("decodes", [True, False])
def test_an_encoder_fills_a_cache_that_it_is_handed(decodes):
    """generate() hands one to both; a note tells an encoder's file from a decoder's."""
    raw = {"model_type": "bert", "is_decoder": decodes}
    assert kept(raw, 10, transformers=True) == 10 * LAYERS * 2 * D * 2
    assert any("is_decoder is false" in note for note in spec_of(raw).notes) is not decodes


def test_cross_attention_wants_a_decoder():
    """The class raises; a decoder gets a second attention and a LayerNorm in each layer."""
    with pytest.raises(InvalidInput, match=r"add_cross_attention.*decoders alone"):
        from_config({"model_type": "roberta", "add_cross_attention": True})
    plain = {"model_type": "roberta", "is_decoder": True}
    more = parameters({**plain, "add_cross_attention": True}) - parameters(plain)
    assert more == LAYERS * (4 * (D * D + D) + 2 * D)


def test_only_tokens_whose_logits_are_asked_for_run_through_the_head():
    """logits_to_keep cuts the states before the layer in front of the logits."""
    p = profile(from_config({"model_type": "bert", "is_decoder": True}))
    every, last = (prefill_flops(p, 40, 1, full=True, all_logits=flag) for flag in (True, False))
    assert every.total - last.total == 39 * 2 * (D * D + D * 30522)


def test_rembert_never_ties():
    """A table of 256, logits of 1664: one matrix cannot be both, whatever the file says."""
    spec = spec_of({"model_type": "rembert", "tie_word_embeddings": True})
    assert not spec.tied
    assert any("tie_word_embeddings" in note for note in spec.notes)
    assert profile(spec).logits == 1152 * 1664 + 1664 * 250300


def test_relative_positions_of_older_files_are_noted():
    """The class of transformers 5 builds absolute ones and nothing else."""
    spec = spec_of({"model_type": "bert", "position_embedding_type": "relative_key"})
    assert any("position_embedding_type (relative_key)" in note for note in spec.notes)


def test_big_bird_in_long_prompts():
    """Of prompts over (5 + 2 * 3) * 64 tokens its block-sparse attention caches nothing, which a note says."""
    assert any("more than 704 tokens" in note for note in spec_of({"model_type": "big_bird"}).notes)
    assert not any(
        "704" in note for note in spec_of({"model_type": "big_bird", "attention_type": "original_full"}).notes
    )
    with pytest.raises(InvalidInput, match="block_sparse or original_full"):
        from_config({"model_type": "big_bird", "attention_type": "sparse"})


def test_xmod_visits_one_adapter():
    """81 languages: each brings 2 * 768 * 384 weights and their biases to every layer, and no FLOPs."""
    one, many = ({"model_type": "xmod", "languages": [f"l{i}" for i in range(n)]} for n in (1, 81))
    assert parameters(many) - parameters(one) == 80 * LAYERS * (2 * D * 384 + 384 + D)
    assert flops(many, 40) == flops(one, 40)
    with pytest.raises(InvalidInput, match="one language or more"):
        from_config({"model_type": "xmod", "languages": []})
