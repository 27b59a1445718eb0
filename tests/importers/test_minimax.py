"""MiniMax-M2; expected numbers are those of MiniMaxM2ForCausalLM of transformers 5.23 on the meta device."""

from __future__ import annotations

from kvplan.importers import from_config
from tests.support import config
from tests.support.held import counted

SHALLOW = {"num_hidden_layers": 3, "vocab_size": 1000, "num_key_value_heads": 4, "attn_type_list": [1, 1, 1]}


def test_norms_span_all_heads() -> None:
    """Norms of q and k have heads x head_dim elements, KV heads of their own included."""
    assert counted(config("MiniMaxAI__MiniMax-M2.7") | SHALLOW) == 11002864128


def test_linear_attention_is_not_this_model() -> None:
    """The class does not read attn_type_list: a 0, the hybrid generation's linear attention, is a note and no layer."""
    raw = config("MiniMaxAI__MiniMax-M2.7") | SHALLOW
    spec = from_config(raw | {"attn_type_list": [1, 0, 1]})
    assert spec.layers == from_config(raw).layers
    assert "attn_type_list" in " ".join(spec.notes)
