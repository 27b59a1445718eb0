"""StepFun's Step 3.7 Flash."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder
from kvplan.importers.towers import towers
from kvplan.specs import Attention, Dense, Layer, ModelSpec, MoE, Weight, replace

KINDS = ("full_attention", "sliding_attention")
PREFIX = "model.language_model.layers"


def _trimmed(c: Config, key: str, layers: int, allowed: tuple[str, ...]) -> list[str] | None:
    """A list of one entry per layer; hub files append entries for the MTP layers, which are cut off."""
    kinds = c.strings(key, None, allowed)
    extra = c.int("num_nextn_predict_layers", 0, least=0)
    if kinds is not None and len(kinds) == layers + extra:
        return kinds[:layers]
    return c.strings(key, layers, allowed)


def _sparse(c: Config, layers: int) -> list[bool]:
    """Which layers hold experts: ``mlp_layer_types``, else the indices in ``moe_layers_enum``, else all but three."""
    kinds = _trimmed(c, "mlp_layer_types", layers, ("sparse", "dense"))
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    named = c.get("moe_layers_enum")
    if named is None:
        first = c.int("first_k_dense_replace", 3, least=0)
        return [i >= first for i in range(layers)]
    if isinstance(named, str):
        items = [item.strip() for item in named.split(",") if item.strip()]
        if not all(item.isascii() and item.isdigit() and len(item) < 10 for item in items):
            raise c.error("moe_layers_enum", named, "layer indices with commas between them")
        indices = {int(item) for item in items}
    else:
        indices = set(c.ints("moe_layers_enum") or ())
    return [i in indices for i in range(layers)]


def _attention(c: Config, hidden: int) -> dict[str, Attention]:
    """Full and sliding attention: the latter with a number of query heads of its own (64 and 96 as published)."""
    heads, dim = c.int("num_attention_heads", 64), c.int("head_dim", 128)
    kv_heads = aliased(c, "num_key_value_heads num_attention_groups", 8)
    other = c.sub("attention_other_setting", {})
    local_heads = c.maybe_int("num_sliding_attention_heads") or other.int("num_attention_heads", heads)
    local_kv = other.int("num_attention_groups", kv_heads)
    local_dim = other.int("head_dim", dim)
    other.ignore("true_head_dim", "attention_type")  # a copy of head_dim; the kind of layer the setting is for
    bias = "qkvo" if c.bool("attention_bias") else ""
    shapes = {"full_attention": (heads, kv_heads, dim), "sliding_attention": (local_heads, local_kv, local_dim)}
    made = {}
    for kind, (query_heads, key_heads, width) in shapes.items():
        c.divides("num_key_value_heads", query_heads, key_heads, f"the query heads of {kind} layers")
        gate = Weight("self_attn.g_proj", hidden, query_heads)
        made[kind] = Attention(query_heads, key_heads, width, width, bias=bias, qk_norm="head", extra=(gate,))
    return made


def _text(c: Config) -> ModelSpec:
    """The decoder alone; its own model_type, step3p5, is read by nobody else."""
    layers, hidden = c.layers(default=45), c.int("hidden_size", 4096)
    attention = _attention(c, hidden)
    kinds = _trimmed(c, "layer_types", layers, KINDS) or ["full_attention"] * layers
    c.ignore("mtp_layer_types")  # of the MTP layers
    window = c.maybe_int("sliding_window")
    if "sliding_attention" in kinds:
        if window is None:
            raise c.error("sliding_window", "missing", "a window, as layer_types names sliding_attention")
        attention["sliding_attention"] = replace(attention["sliding_attention"], window=window)
    bias = "ud" if c.bool("mlp_bias") else ""
    experts = aliased(c, "n_routed_experts moe_num_experts num_local_experts num_experts", 288)
    moe = MoE(
        experts,
        routed(c, experts, "num_experts_per_tok moe_top_k", 8),
        c.int("moe_intermediate_size", 1280),
        shared_width=aliased(c, "share_expert_dim share_expert_dims", 1280),
        shared_bias=bias,
    )
    dense = Dense(c.int("intermediate_size", 11264), bias=bias)
    stack = tuple(
        Layer((attention[kind],), (moe if is_sparse else dense,), norms=2 * hidden)
        for kind, is_sparse in zip(kinds, _sparse(c, layers), strict=True)
    )
    return decoder(c, hidden, stack, vocab=128815, positions=128000, prefix=PREFIX)


@importer("step3p7")
def step3p7(c: Config) -> ModelSpec:
    """Step 3.7 Flash: sliding layers with more query heads, a gate per head (transformers models/step3p7).

    The class is the whole model; it builds the vision tower even where a file leaves ``vision_config`` out. A flat
    file, without ``text_config``, holds the decoder's keys at the top.
    """
    spec = _text(c.sub("text_config") if c.has("text_config") else c)
    tied = c.bool("tie_word_embeddings", spec.tied)
    return replace(spec, model_type="step3p7", tied=tied, towers=towers(c, counted=True))
