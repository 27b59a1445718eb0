"""JetMoE."""

from __future__ import annotations

from kvplan.importers import from_config
from tests.support.held import active, counted, ideal

# jetmoe/jetmoe-8b: 8 billion parameters, 2.2 billion of them active (the token table apart), per its README
JETMOE = {"model_type": "jetmoe", "num_hidden_layers": 24, "num_key_value_heads": 16, "kv_channels": 128}


def test_published_size() -> None:
    """Per layer: 8 experts of a query and an output matrix, 8 of an MLP, shared keys and values, 2 routers."""
    square = 2048 * 2048
    layer = 8 * 2 * square + 2 * square + 8 * 3 * 2048 * 5632 + 2 * 8 * 2048 + 4 * 2048
    assert counted(JETMOE) == 32000 * 2048 + 24 * layer + 2048
    assert active(JETMOE) == counted(JETMOE) - 24 * 6 * (2 * square + 3 * 2048 * 5632)
    assert (active(JETMOE) - 32000 * 2048) // 10**8 == 22


def test_query_experts_share_keys_and_values() -> None:
    """16 KV heads of 128 a token and layer, however many experts a token visits."""
    for visited in (1, 2, 4):
        assert ideal(JETMOE | {"num_experts_per_tok": visited}, 100) == 24 * 100 * 2 * 16 * 128 * 2


def test_the_class_derives_the_query_heads() -> None:
    """A file's own number changes nothing but a note."""
    spec = from_config(JETMOE | {"num_attention_heads": 16})
    assert spec.layers == from_config(JETMOE).layers
    assert any("num_attention_heads (16) and builds 32" in note for note in spec.notes)
