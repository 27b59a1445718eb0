"""OPT, BLOOM, MPT, Falcon, Persimmon, StableLM. Expected numbers: transformers 5.23 on the meta device."""

import pytest

from kvplan.cache import build_plan
from kvplan.costs import held_bytes, hold, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.errors import InvalidInput
from kvplan.importers import from_config

FALCON_11B = {
    "model_type": "falcon",
    "new_decoder_architecture": True,
    "num_kv_heads": 8,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 60,
    "num_ln_in_parallel_attn": 1,
    "tie_word_embeddings": False,
    "ffn_hidden_size": 16384,
}


def kv_heads(raw):
    return build_plan(from_config(raw)).stores[0].parts[0].heads


def test_falcon_multi_query_beats_num_kv_heads():
    """Falcon-7B states num_kv_heads 71 and has one KV head: without the new architecture multi_query decides."""
    raw = {"model_type": "falcon", "multi_query": True, "num_kv_heads": 71, "new_decoder_architecture": False}
    assert kv_heads(raw) == 1
    assert kv_heads({**raw, "multi_query": False}) == 71
    assert kv_heads({**raw, "multi_query": None}) == 71  # the class asks for truth: null is false
    assert kv_heads({**FALCON_11B, "multi_query": True}) == 8  # and the new architecture beats multi_query


def test_falcon_transformers_caches_repeated_heads():
    """Ideal holds 8 KV heads of 128, the class repeats them to 32 before caching: 4,152,360,960 bytes at 4,224."""
    spec = from_config(FALCON_11B)
    assert profile(spec).parameters == 11_102_822_400
    bf16 = resolve_formats(spec, "bf16", None, None, None)
    ideal = sum(held_bytes(held, 4224) for held in hold(profile(spec).plan, bf16))
    class_ = sum(held_bytes(held, 4224) for held in hold(profile(spec, parts_of).plan, bf16))
    assert ideal == 60 * 4224 * 2 * 8 * 128 * 2
    assert class_ == 4_152_360_960 == 4 * ideal


def test_opt_350m_projects_its_narrow_table():
    """OPT-350M: tokens of 512, hidden 1,024, two projections, no final norm (norms come last in each layer)."""
    raw = {
        "model_type": "opt",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "ffn_dim": 4096,
        "num_attention_heads": 16,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    }
    assert profile(from_config(raw)).parameters == 331_196_416


def test_mpt_grouped_queries_follow_the_authors():
    """attn_config is nested and its kv_n_heads counts, in a kind of attention that the class does not take."""
    raw = {"model_type": "mpt", "d_model": 3072, "n_heads": 24, "n_layers": 32}
    grouped = {"attn_type": "grouped_query_attention", "kv_n_heads": 8}
    assert kv_heads({**raw, "attn_config": grouped}) == 8
    with pytest.raises(InvalidInput, match=r"attn_config\.attn_type"):
        from_config({**raw, "attn_config": {"attn_type": "linear"}})


def test_mpt_keys_that_the_class_does_not_read():
    """MptForCausalLM builds 24 KV heads, no norm, no bias and an MLP of four times the width: counted so, and said."""
    raw = {"model_type": "mpt", "d_model": 3072, "n_heads": 24, "n_layers": 32}
    asked = {
        "attn_config": {"attn_type": "multiquery_attention", "qk_ln": True},
        "expansion_ratio": 2,
        "no_bias": False,
    }
    spec = from_config(raw | asked)
    assert spec.layers == from_config(raw).layers
    said = " ".join(spec.notes)
    assert all(key in said for key in ("multiquery_attention", "attn_config.qk_ln", "expansion_ratio", "no_bias"))


def test_stablelm_2_12b():
    """A norm per head on queries and keys (weights only) and one LayerNorm per layer where blocks are parallel."""
    raw = {
        "model_type": "stablelm",
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 13824,
        "qk_layernorm": True,
        "use_parallel_residual": True,
        "vocab_size": 100352,
    }
    assert profile(from_config(raw)).parameters == 12_143_185_920


def test_stablelm_ignores_no_head_dim():
    """The class computes head_dim; a file with another one describes another model."""
    assert kv_heads({"model_type": "stablelm", "head_dim": 80}) == 32
    with pytest.raises(InvalidInput, match="head_dim"):
        from_config({"model_type": "stablelm", "head_dim": 128})
