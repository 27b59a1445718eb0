"""SK Telecom's A.X: K1 with DeepSeek-V3's attention, K2 with that of V3.2, gated."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import sparse_layers
from kvplan.importers.mla import latent, lightning_indexer, routed, stack
from kvplan.importers.parts import decoder
from kvplan.specs import Dense, Layer, ModelSpec, Weight, replace, vector


def _sparse(c: Config, layers: int, *, longer: bool) -> list[bool]:
    """Which layers hold experts: ``mlp_layer_types``, else by the two keys of published files."""
    first, every = c.int("first_k_dense_replace", 1, least=0), c.int("moe_layer_freq", 1)
    return sparse_layers(c, layers, [i >= first and i % every == 0 for i in range(layers)], longer=longer)


@importer("axk1")
def axk1(c: Config) -> ModelSpec:
    """A.X K1: DeepSeek-V3 with one more norm behind the experts (transformers models/axk1)."""
    layers, hidden = c.layers(default=61), c.int("hidden_size", 7168)
    mixer = latent(c, hidden, heads=64, q_rank=1536, kv_rank=512, nope=128, rope=64, value=128, direct_queries=False)
    moe = routed(c, experts=192, active=8, width=2048, shared=1)
    moe = replace(moe, extra=(vector("mlp.post_mlp_layernorm", hidden),))
    dense = Dense(c.int("intermediate_size", 18432))
    sparse = _sparse(c, layers, longer=True)
    return decoder(c, hidden, stack(hidden, [mixer] * layers, sparse, dense, moe), vocab=163840, positions=32768)


def _gated_norm(module: str, hidden: int, rank: int) -> tuple[Weight, ...]:
    """What a norm that gates its own output by a low-rank MLP has besides its weight."""
    return (
        Weight(f"{module}.mlp.fc1", hidden, rank, shard="none"),
        Weight(f"{module}.mlp.fc2", rank, hidden, shard="none"),
    )


@importer("axk2")
def axk2(c: Config) -> ModelSpec:
    """A.X K2: MLA under a DSA indexer, its output gated, and norms that gate themselves (transformers models/axk2)."""
    layers, hidden = c.layers(default=48), c.int("hidden_size", 2048)
    c.strings("layer_types", layers, ("indexed_attention", "deepseek_sparse_attention"))
    bare = latent(c, hidden, heads=32, q_rank=384, kv_rank=128, nope=64, rope=32, value=64, direct_queries=False)
    q_rank, query = bare.q_rank or 0, bare.nope_dim + bare.rope_dim
    # One matrix makes queries and gates, from the query latent before and after its norm: twice as many inputs, and
    # value_dim more outputs per head. q_b_proj is a part of it, this the rest.
    gate = Weight("self_attn.q_gate_proj", q_rank, bare.heads * (query + 2 * bare.value_dim))
    mixer = replace(bare, extra=(gate,), indexer=lightning_indexer(c, hidden, q_rank, heads=16))
    moe = routed(c, experts=128, active=8, width=512, shared=1)
    dense = Dense(c.int("intermediate_size", 5120))
    rank = c.int("gated_norm_rank", 16)
    before = _gated_norm("input_layernorm", hidden, rank)
    behind = _gated_norm("post_attention_layernorm", hidden, rank)
    plain = Layer((mixer,), (dense,), norms=2 * hidden, extra=before)
    experts = Layer((mixer,), (moe,), norms=2 * hidden, extra=before + behind)
    sparse = _sparse(c, layers, longer=False)
    chosen = tuple(experts if is_sparse else plain for is_sparse in sparse)
    return decoder(c, hidden, chosen, vocab=163840, positions=131072)
