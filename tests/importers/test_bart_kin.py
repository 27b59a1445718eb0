"""BART's kin. Totals of whole models: sum(p.numel()) of each ForConditionalGeneration in transformers 5.23."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of


@pytest.mark.parametrize(
    ("model_type", "whole"),
    [
        ("bart", 406_291_456),
        ("mbart", 406_295_552),
        ("plbart", 139_220_736),
        ("mvp", 406_293_504),
        ("pegasus", 406_287_360),
        ("blenderbot", 2_696_268_800),
        ("blenderbot-small", 85_113_344),
        ("marian", 414_307_328),
        ("prophetnet", 391_321_600),
    ],
)
def test_decoder_and_encoder_are_the_whole_model(model_type: str, whole: int) -> None:
    """A file that says nothing: the decoder's own class, and the encoder that stands beside it."""
    raw = {"model_type": model_type}
    assert parameters(raw) + sum(tower.parameters for tower in spec_of(raw).towers) == whole


def test_bigbird_pegasus_ties_as_a_whole_only() -> None:
    """The whole model, 576,891,904, has one table of 96,103 x 1,024; the decoder's class has two."""
    raw = {"model_type": "bigbird_pegasus", "attention_type": "original_full"}
    assert parameters(raw) + spec_of(raw).towers[0].parameters == 576_891_904 + 96_103 * 1024


def test_marian_untied_makes_logits_over_the_source_vocabulary() -> None:
    """decoder_vocab_size is the table's; lm_head keeps vocab_size rows."""
    raw = {"model_type": "marian", "vocab_size": 100, "decoder_vocab_size": 70, "d_model": 64, "pad_token_id": 0}
    assert parameters({**raw, "tie_word_embeddings": False}) - parameters(raw) == 100 * 64
    assert spec_of(raw).vocab == 70


def test_marian_apart_the_encoder_has_its_own_table() -> None:
    """share_encoder_decoder_embeddings false: 58,101 x 1,024 more beside the decoder (473,802,752 in all)."""
    raw = {"model_type": "marian", "share_encoder_decoder_embeddings": False}
    assert parameters(raw) + spec_of(raw).towers[0].parameters == 473_802_752


def test_mvp_prompts_are_not_the_decoders() -> None:
    """The decoder's class builds none, and a note says so."""
    spec = spec_of({"model_type": "mvp", "use_prompt": True})
    assert any("ignores use_prompt" in note for note in spec.notes)


def test_prophetnet_keeps_one_stream() -> None:
    """Streams ahead attend and are forgotten: 2 * 1,024 elements a token and layer, for any ngram."""
    raw = {"model_type": "prophetnet", "ngram": 4}
    assert kept(raw, 40) == 12 * 40 * 2 * 1024 * 2
    assert "4 more beside it" in spec_of(raw).notes[0]


def test_heads_must_divide() -> None:
    """One line that names the field."""
    with pytest.raises(InvalidInput, match="decoder_attention_heads"):
        spec_of({"model_type": "pegasus", "decoder_attention_heads": 7})
