"""MusicGen and Moshi, whose causal LM is a decoder of sound; totals are sum(p.numel()) of the classes of 5.23."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of


@pytest.mark.parametrize(("model_type", "whole"), [("musicgen", 470_291_938), ("musicgen_melody", 369_592_802)])
def test_a_file_that_says_nothing(model_type: str, whole: int) -> None:
    """The whole class: T5 small, EnCodec at 24 kHz, projections, and the decoder that counts."""
    raw = {"model_type": model_type}
    assert parameters(raw) + sum(tower.parameters for tower in spec_of(raw).towers) == whole
    assert parameters(raw) == parameters({"model_type": f"{model_type}_decoder"})


def test_musicgen_keeps_frames_of_all_codebooks() -> None:
    """One entry a frame, whatever the number of codebooks; tables and logits for each."""
    raw = {"model_type": "musicgen_decoder"}
    assert kept(raw, 40) == kept({**raw, "num_codebooks": 8}, 40) == 24 * 40 * 2 * 1024 * 2
    assert parameters({**raw, "num_codebooks": 8}) - parameters(raw) == 4 * (2 * 2048 + 1) * 1024


def test_another_codec_is_not_counted() -> None:
    """A note in place of a guess."""
    spec = spec_of({"model_type": "musicgen", "audio_encoder": {"model_type": "dac"}, "decoder": {"num_codebooks": 9}})
    spec_32 = spec_of(
        {"model_type": "musicgen", "audio_encoder": {"num_filters": 64, "upsampling_ratios": [8, 5, 4, 4]}}
    )
    odd = spec_of({"model_type": "musicgen", "audio_encoder": {"num_filters": 48}})
    assert spec.vocab == 9 * 2048
    assert spec_32.towers[-1].parameters == 57_584_834
    assert any("weights are not counted" in note for note in odd.notes)


def test_moshi_beside_its_decoder() -> None:
    """Tables of both speakers' codes, the depth decoder and Mimi: 7,767,037,761 with the decoder."""
    raw = {"model_type": "moshi", "audio_vocab_size": 2048}
    beside = [tower.parameters for tower in spec_of(raw).towers]
    assert beside == [16 * 2049 * 4096, 714_362_880, 79_308_609]
    assert parameters(raw) + sum(beside) == 7_767_037_761


def test_moshi_width_is_even() -> None:
    """ffn_dim is gate and up together."""
    with pytest.raises(InvalidInput, match=r"ffn_dim.*even"):
        spec_of({"model_type": "moshi", "ffn_dim": 99})
