"""Decoders that read pages, pictures and speech; totals are sum(p.numel()) of the class in transformers 5.23."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import kept, parameters, spec_of


@pytest.mark.parametrize(
    ("model_type", "total", "beside"),
    [
        ("fuyu", 9_408_238_592, [11_063_296]),
        ("got_ocr2", 560_528_640, [89_670_912, 6_947_840]),
        ("moss_transcribe_diarize", 908_513_280, [307_216_384, 5_246_976]),
        ("emu3", 8_492_011_520, [270_740_287]),  # the class counts the decoder alone
    ],
)
def test_a_file_that_says_nothing(model_type: str, total: int, beside: list[int]) -> None:
    """The outer class's own defaults of its decoder, and what stands beside it."""
    raw = {"model_type": model_type}

    assert parameters(raw) == total
    assert [tower.parameters for tower in spec_of(raw).towers] == beside


def test_a_decoder_that_is_there_has_the_defaults_of_its_own_type() -> None:
    """An empty text_config is a Qwen3 of 4,096, not the 1,024 of a missing one."""
    assert spec_of({"model_type": "moss_transcribe_diarize", "text_config": {}}).hidden == 4096
    assert spec_of({"model_type": "moss_transcribe_diarize"}).hidden == 1024


def test_fuyu_files_are_flat() -> None:
    """Keys at the top mean what they mean inside text_config."""
    text = {"num_hidden_layers": 3, "hidden_size": 512, "num_attention_heads": 8}

    assert parameters({"model_type": "fuyu"} | text) == parameters({"model_type": "fuyu", "text_config": text})
    assert kept({"model_type": "fuyu"} | text, 40) == 3 * 40 * 2 * 512 * 2


def test_emu3_says_where_its_tokenizer_is_unknown() -> None:
    """Another vq_config leaves the decoder's numbers alone and gets a note."""
    spec = spec_of({"model_type": "emu3", "vq_config": {"base_channels": 64}})

    assert not spec.towers
    assert "image tokenizer are not counted" in spec.notes[0]


def test_got_ocr2_vision_heads_divide_its_width() -> None:
    """Tables of offsets are as wide as a head."""
    with pytest.raises(InvalidInput, match=r"vision_config\.num_attention_heads: got 7"):
        spec_of({"model_type": "got_ocr2", "vision_config": {"num_attention_heads": 7}})
