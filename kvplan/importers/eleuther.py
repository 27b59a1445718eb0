"""EleutherAI: GPT-Neo, GPT-J and GPT-NeoX (Pythia, Polyglot, StableLM alpha), and ABEJA's Japanese GPT-NeoX."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import either, equal_heads
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.specs import Dense, Layer, ModelSpec, replace

NEOX = "query_key_value query_key_value query_key_value dense"
NEOX_MLP = "dense_h_to_4h dense_h_to_4h dense_4h_to_h"


@importer("gptj")
def gptj(c: Config) -> ModelSpec:
    """GPT-J: attention and MLP side by side behind one LayerNorm, a bias in the logits (transformers models/gptj)."""
    hidden = c.int(either(c, "n_embd", "hidden_size"), 4096)
    layers = c.layers(either(c, "n_layer", "num_hidden_layers"), 28)
    context = c.int(either(c, "n_positions", "max_position_embeddings"), 2048)
    attention = equal_heads(
        c, hidden, either(c, "n_head", "num_attention_heads"), 16, module="attn", names="q_proj k_proj v_proj out_proj"
    )
    mlp = Dense(c.int("n_inner", 4 * hidden), gated=False, bias="ud", names="fc_in fc_in fc_out")
    layer = Layer((attention,), (mlp,), norms=2 * hidden)
    return decoder(
        c,
        hidden,
        (layer,) * layers,
        vocab=50400,
        positions=context,
        final_norm=2 * hidden,
        head_bias=True,
        prefix="transformer.h",
    )


@importer("gpt_neox")
def gpt_neox(c: Config) -> ModelSpec:
    """GPT-NeoX: a fused QKV matrix, two LayerNorms, in parallel or not (transformers models/gpt_neox)."""
    hidden, layers = c.int("hidden_size", 6144), c.layers(default=44)
    attention = equal_heads(
        c,
        hidden,
        "num_attention_heads",
        64,
        bias="qkvo" if c.bool("attention_bias", True) else "",
        module="attention",
        names=NEOX,
    )
    mlp = Dense(c.int("intermediate_size", 24576), gated=False, bias="ud", names=NEOX_MLP)
    layer = Layer((attention,), (mlp,), norms=4 * hidden)
    return decoder(
        c, hidden, (layer,) * layers, vocab=50432, positions=2048, final_norm=2 * hidden, prefix="gpt_neox.layers"
    )


@importer("gpt_neo")
def gpt_neo(c: Config) -> ModelSpec:
    """GPT-Neo: GPT-2 whose every other layer looks back 256 tokens (transformers models/gpt_neo).

    ``attention_types`` lists [kinds, repeats] pairs, as many kinds as layers in all. The class masks what is further
    back, and caches it all the same.
    """
    hidden, layers = c.int("hidden_size", 2048), c.layers(either(c, "num_layers", "num_hidden_layers"), 24)
    attention = equal_heads(
        c, hidden, either(c, "num_heads", "num_attention_heads"), 16, bias="o", module="attn.attention",
        names="q_proj k_proj v_proj out_proj",
    )  # fmt: skip
    local = replace(attention, window=c.int("window_size", 256), transformers_keeps_all=True)
    kinds = {"global": attention, "local": local}
    mlp = Dense(c.int("intermediate_size", 4 * hidden), gated=False, bias="ud", names="c_fc c_fc c_proj")
    spec = decoder(
        c,
        hidden,
        tuple(Layer((kinds[kind],), (mlp,), norms=4 * hidden) for kind in _neo_kinds(c, layers)),
        vocab=50257,
        positions=2048,
        tied=True,
        final_norm=2 * hidden,
        prefix="transformer.h",
    )
    return replace(spec, positions=(spec.max_context or 2048) * hidden)


def _neo_kinds(c: Config, layers: int) -> list[str]:
    """The kind of every layer: ``attention_layers``, what the class makes of ``attention_types``, wins where both stand."""
    listed = c.strings("attention_layers", layers, ("global", "local"))
    pairs = c.get("attention_types", [[["global", "local"], 12]])
    rule = f"a list of [kinds, repeats] pairs that makes {layers} layers, each global or local"
    kinds: list[str] = []
    if listed is not None:
        return listed
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], list) or type(pair[1]) is not int:
            raise c.error("attention_types", pairs, rule)
        if not 0 <= pair[1] <= layers or any(kind not in ("global", "local") for kind in pair[0]):
            raise c.error("attention_types", pairs, rule)
        kinds += pair[0] * pair[1]
        if len(kinds) > layers:
            break
    if len(kinds) != layers:
        raise c.error("attention_types", pairs, rule)
    return kinds


@importer("gpt_neox_japanese")
def gpt_neox_japanese(c: Config) -> ModelSpec:
    """GPT-NeoX Japanese: no bias but one, behind the last layer's attention (transformers models/gpt_neox_japanese)."""
    hidden, layers = c.int("hidden_size", 2560), c.layers(default=32)
    attention = equal_heads(c, hidden, "num_attention_heads", 32, module="attention", names=NEOX)
    width = hidden * c.int("intermediate_multiple_size", 4, most=4096)
    layer = Layer((attention,), (Dense(width, gated=False, names=NEOX_MLP),), norms=4 * hidden)
    last = replace(layer, mixers=(replace(attention, bias="o"),))
    return decoder(
        c,
        hidden,
        (*(layer,) * (layers - 1), last),
        vocab=32000,
        positions=2048,
        tied=True,
        final_norm=2 * hidden,
        prefix="gpt_neox_japanese.layers",
    )
