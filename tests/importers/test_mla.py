"""MLA families. Literals are what transformers 5.23 classes held and counted when run on these configs."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import flops, kept, parameters, without
from tests.support import config


def test_minicpm3_caches_the_latent_and_ties_its_table():
    """62 layers x (256 + 32) x 2 bytes; v_head_dim is 2560 / 40 where the file omits it; FLOPs as the counter saw."""
    raw = config("openbmb__MiniCPM3-4B")
    assert kept(raw, 1) == kept(raw, 1, transformers=True) == 62 * (256 + 32) * 2 == 35_712
    assert parameters(raw) == parameters(raw | {"v_head_dim": 64}) == 4_073_875_968
    assert flops(raw, 4224) == 48_572_415_344_640


def test_glm_52_shares_indexers_between_layers():
    """78 latents and rotary keys, but 21 indexer keys: 2 x (78 x 576 + 21 x 128) bytes a token."""
    assert kept(config("zai-org__GLM-5.2"), 1, transformers=True) == 2 * (78 * 576 + 21 * 128) == 95_232
    assert kept(config("zai-org__GLM-5.1"), 1, transformers=True) == 2 * 78 * (576 + 128)


def test_glm_schedule_of_indexers_when_the_list_is_missing():
    """Every fourth layer from the offset on is full, and those before it: the published list follows from the keys."""
    raw = config("zai-org__GLM-5.2")
    assert raw["index_topk_freq"] == 4
    assert from_config(without(raw, "indexer_types")).layers == from_config(raw).layers
    few = without(raw, "indexer_types", "mlp_layer_types") | {"num_hidden_layers": 4, "index_topk_pattern": "FSFS"}
    shares = [layer.mixers[0].indexer.shares for layer in from_config(few).layers]  # type: ignore[union-attr]
    assert shares == [False, True, False, True]


@pytest.mark.parametrize("pattern", ["SFFF", "FSF", "FSFX"])
def test_glm_pattern_must_start_full_and_name_every_layer(pattern: str):
    """A shared layer without a full one before it fails in the class too."""
    raw = without(config("zai-org__GLM-5.2"), "indexer_types", "mlp_layer_types")
    with pytest.raises(InvalidInput, match=r"index"):
        from_config(raw | {"num_hidden_layers": 4, "index_topk_pattern": pattern})


def test_glm_47_flash_takes_head_dim_for_the_rotary_part():
    """The class maps head_dim to qk_rope_head_dim; a small model, run: 5 layers x (20 + 16) x 2 bytes a token."""
    raw = {"model_type": "glm4_moe_lite", "num_hidden_layers": 5, "kv_lora_rank": 20, "qk_rope_head_dim": 8}
    assert kept(raw | {"head_dim": 16}, 5) == 5 * 5 * (20 + 16) * 2 == 1800
    assert kept(raw, 5) == 5 * 5 * (20 + 8) * 2 == 1400


def test_mistral4_latent_is_256_and_all_layers_are_sparse():
    """36 layers x (256 + 64) x 2 bytes."""
    raw = config("mistralai__Mistral-Small-4-119B-2603")
    assert kept(raw, 1) == 36 * 320 * 2
    assert parameters(raw) == 118_972_826_624
