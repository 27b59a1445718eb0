"""MiniMax-M3. Literals are what transformers 5.23 classes held and counted when run on these configs."""

from __future__ import annotations

import pytest

from kvplan import costs
from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from tests.importers.probe import kept, parameters
from tests.support import config

FLAT, NESTED = "MiniMaxAI__MiniMax-M3", "nvidia__MiniMax-M3-NVFP4"


def test_sparse_layers_cache_one_index_key_beside_keys_and_values():
    """60 layers x 2 x 4 heads x 128, and 57 index keys of 128: 137,472 bytes a token."""
    assert kept(config(FLAT), 1, transformers=True) == 2 * (60 * 2 * 4 * 128 + 57 * 128) == 137_472
    assert parameters(config(FLAT)) == 426_174_565_632


def test_the_published_file_is_the_flat_one_and_a_vision_tower():
    """No causal-LM class knows the outer type: the whole is counted."""
    assert kept(config(NESTED), 777) == kept(config(FLAT), 777)
    assert parameters(config(NESTED)) == 427_040_132_864


@pytest.mark.parametrize(("tokens", "keys"), [(0, 1), (2047, 2048), (2048, 15 * 128 + 1), (2175, 2048), (2176, 1921)])
def test_a_query_reads_whole_blocks_and_its_own_as_far_as_it_goes(tokens: int, keys: int):
    """16 blocks of 128, the query's own unfinished block always among them; 3 dense layers read everything."""
    spec = from_config(config(FLAT))
    profile = costs.profile(spec)
    formats = costs.resolve_formats(spec, "bf16", "bf16", None, None)
    read = sum(costs.read_bytes(group, formats, tokens) for group in profile.reads)
    entry, own = 2 * 4 * 128, tokens + 1
    assert read == 2 * (57 * (keys * entry + own * 128) + 3 * own * entry)


def test_a_file_that_switches_sparsity_off_but_marks_layers_is_refused():
    """The class would build indexers all the same, so the file contradicts itself."""
    raw = config(FLAT)
    off = raw["sparse_attention_config"] | {"use_sparse_attention": False}
    with pytest.raises(InvalidInput, match="use_sparse_attention"):
        from_config(raw | {"sparse_attention_config": off})
