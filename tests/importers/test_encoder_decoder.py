"""BART, T5, Whisper. Expected numbers: transformers 5.23 on the meta device."""

from kvplan.costs import held_bytes, hold, prefill_flops, profile, resolve_formats
from kvplan.importers import from_config

WHISPER = {"model_type": "whisper"}  # the defaults are whisper-tiny


def held(spec, tokens, encoder_tokens):
    parts = hold(profile(spec).plan, resolve_formats(spec, "bf16", None, None, None))
    return sum(held_bytes(part, tokens, encoder_tokens) for part in parts)


def test_whisper_counts_the_decoder_and_keeps_the_encoder_beside_it():
    """WhisperForCausalLM has 29,552,256 parameters; with the encoder tower the 37,760,640 of the checkpoint."""
    spec = from_config(WHISPER)
    assert profile(spec).parameters == 29_552_256
    assert [tower.counted for tower in spec.towers] == [False]
    assert 29_552_256 + spec.towers[0].parameters == 37_760_640


def test_bart_large():
    """BartForCausalLM: 254,084,096; with the encoder the 406,291,456 of the checkpoint."""
    spec = from_config({"model_type": "bart"})
    assert profile(spec).parameters == 254_084_096
    assert 254_084_096 + spec.towers[0].parameters == 406_291_456


def test_t5_counts_its_encoder_and_ties_its_logits():
    """T5ForConditionalGeneration, 60,506,624 parameters in t5-small, whatever tie_word_embeddings says."""
    for tied in (True, False):
        spec = from_config({"model_type": "t5", "tie_word_embeddings": tied})
        assert profile(spec).parameters == 60_506_624
        assert any("unties" in note for note in spec.notes) is not tied


def test_cross_attention_holds_one_entry_per_encoder_token():
    """Self-attention grows with the decoder's tokens, cross-attention with the encoder's; T5-11B: 128 heads x 128."""
    raw = {"model_type": "t5", "d_model": 1024, "d_kv": 128, "num_heads": 128, "num_layers": 24, "d_ff": 65536}
    entry = 24 * 2 * 128 * 128 * 2
    spec = from_config(raw)
    assert held(spec, 10, 0) == 10 * entry
    assert held(spec, 10, 512) == (10 + 512) * entry


def test_cross_attention_multiplies_nothing_without_an_encoder():
    """The class skips cross-attention that has nothing to look at: whisper-tiny at 4,224 tokens, 337,668,046,848."""
    p = profile(from_config(WHISPER))
    alone = prefill_flops(p, 4224, 1, full=True, all_logits=True)
    assert alone.total == 337_668_046_848
    asked = prefill_flops(p, 4224, 1, full=True, all_logits=True, encoder_tokens=1500)
    d, layers = 384, 4
    # q and o for each token, k and v for each frame, scores and sums for each pair
    assert asked.linear - alone.linear == layers * 2 * d * d * (2 * 4224 + 2 * 1500)
    assert asked.attention - alone.attention == layers * 4 * 4224 * 1500 * d


def test_unequal_stacks():
    """distil-whisper: 32 encoder layers, 2 decoder layers; num_hidden_layers is the encoder's other name."""
    raw = {"model_type": "whisper", "encoder_layers": 32, "decoder_layers": 2, "num_hidden_layers": 32}
    assert len(from_config(raw).layers) == 2
