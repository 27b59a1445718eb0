"""XLM, XLNet, Reformer. Expected numbers: the classes of transformers 5.23, run on the CPU, and arithmetic."""

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import kept, parameters, spec_of


def test_xlm_keeps_nothing_between_calls():
    """Its forward pass drops the cache it fills, and generate() runs 11, 12, 13 … tokens: 0 bytes, ideally K and V."""
    raw = {"model_type": "xlm"}
    assert kept(raw, 100, transformers=True) == 0
    assert kept(raw, 100) == 100 * 12 * 2 * 2048 * 2
    assert any("keeps no cache" in note for note in spec_of(raw).notes)


def test_xlm_names_and_languages():
    """n_words is the older vocab_size; a table of languages where there are several and it is wanted."""
    raw = {"model_type": "xlm", "n_words": 30145, "n_langs": 15}
    assert parameters(raw) == 667_119_041 + 15 * 2048  # XLMWithLMHeadModel of the default, and the table
    assert parameters({**raw, "use_lang_emb": False}) == 667_119_041
    for key, value in (("asm", True), ("is_encoder", False)):
        with pytest.raises(InvalidInput, match=key):
            from_config({"model_type": "xlm", key: value})


XLNET = {"model_type": "xlnet", "d_model": 64, "n_layer": 3, "n_head": 4, "d_inner": 96, "vocab_size": 100}


@pytest.mark.parametrize(
    ("mem_len", "entries"), [({}, 512), ({"mem_len": None}, 700), ({"mem_len": 0}, 700), ({"mem_len": 24}, 24)]
)
def test_xlnet_remembers_states(mem_len, entries):
    """64 elements a token and layer, of the last mem_len tokens; null is all, a missing key 512."""
    assert kept({**XLNET, **mem_len}, 700, transformers=True) == entries * 3 * 64 * 2


def test_xlnet_flags():
    """use_mems_eval false remembers nothing; reuse_len and a d_head of its own are refused."""
    assert kept({**XLNET, "use_mems_eval": False}, 40, transformers=True) == 0
    assert parameters({"model_type": "xlnet"}) == 360_300_800  # XLNetLMHeadModel of xlnet-large's shape
    for key, value in (("reuse_len", 8), ("d_head", 32), ("attn_type", "both")):
        with pytest.raises(InvalidInput, match=key):
            from_config({**XLNET, key: value})


REFORMER = {"model_type": "reformer", "is_decoder": True}


def test_reformer_keeps_states_and_buckets():
    """256 elements a token in six layers, in three of them a bucket of 8 bytes per head and hash besides."""
    assert kept(REFORMER, 130, transformers=True) == 130 * (6 * 256 * 2 + 3 * 12 * 8)
    assert kept({**REFORMER, "num_hashes": 2}, 130, transformers=True) == 130 * (6 * 256 * 2 + 3 * 12 * 2 * 8)
    assert kept({**REFORMER, "attn_layers": ["local"]}, 130, transformers=True) == 130 * 256 * 2


def test_reformer_counts():
    """Axial positions, one matrix less in hashed layers, logits over both streams."""
    d, inner, ffn, vocab = 256, 12 * 64, 512, 320
    layer = 2 * d * ffn + ffn + d + 4 * d
    layers = 3 * (4 * d * inner + layer) + 3 * (3 * d * inner + layer)
    assert parameters(REFORMER) == layers + vocab * d + 64 * 64 + 64 * 192 + 4 * d + 2 * d * vocab + vocab
    for changes in ({"is_decoder": False}, {"axial_pos_embds_dim": [64, 64]}, {"attn_layers": ["global"]}):
        with pytest.raises(InvalidInput, match=next(iter(changes))):
            from_config({**REFORMER, **changes})
