"""JetMoE: experts of attention heads beside experts of the MLP."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder
from kvplan.specs import Attention, Layer, ModelSpec, MoE, Weight, vector


@importer("jetmoe")
def jetmoe(c: Config) -> ModelSpec:
    """JetMoE-8B: each expert of attention has a query and an output matrix, all share keys and values (models/jetmoe).

    The class derives the number of query heads, KV heads times experts that a token visits, and overrules the file's.
    """
    layers, hidden = c.layers(default=12), c.int("hidden_size", 2048)
    kv_heads, dim = c.int("num_key_value_heads", 16), aliased(c, "kv_channels head_dim", 128)
    experts = c.int("num_local_experts", 8)
    active = routed(c, experts, default=2)
    heads = kv_heads * active
    c.overruled("num_attention_heads", heads)
    module = "self_attention.experts"
    attention = Attention(
        heads,
        kv_heads,
        dim,
        dim,
        experts=(experts, active),
        module="self_attention",
        names="experts.input_linear kv_proj kv_proj experts.output_linear",
        extra=(Weight(f"{module}.router.layer", hidden, experts, shard="none"), vector(f"{module}.bias", hidden)),
    )
    width = c.int("intermediate_size", 5632)
    moe = MoE(experts, active, width, router="router.layer", extra=(vector("mlp.bias", hidden),))
    layer = Layer((attention,), (moe,), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=32000, positions=4096, tied=True)
