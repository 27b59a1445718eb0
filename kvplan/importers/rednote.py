"""Rednote's dots: dots.llm1 with grouped queries, dots3-note with two kinds of latent attention."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.aliases import layer_windows
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed, sparse_layers, stacked
from kvplan.importers.mla import latent, lightning_indexer
from kvplan.importers.parts import decoder, grouped_attention, windowed
from kvplan.importers.towers import towers
from kvplan.specs import MLP, Dense, Growth, Latent, ModelSpec, MoE, Weight, replace, vector


@importer("dots1")
def dots1(c: Config) -> ModelSpec:
    """dots.llm1: normed heads, experts behind dense layers, a window behind ``max_window_layers`` (models/dots1)."""
    layers, hidden = c.layers(default=62), c.int("hidden_size", 4608)
    first_local = c.int("max_window_layers", 62, least=0)
    if "sliding_window" in c.raw and c.raw["sliding_window"] is None:
        first_local = layers
    derived = ["sliding_attention" if i >= first_local else "full_attention" for i in range(layers)]
    windows = layer_windows(c, derived, 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, rounds=True, bias=bias, qk_norm="head")
    dense, first = Dense(c.int("intermediate_size", 10944)), c.int("first_k_dense_replace", 0, least=0)
    mlps: list[MLP] = [dense] * layers
    if first < layers:
        experts, width = aliased(c, "n_routed_experts num_local_experts"), c.int("moe_intermediate_size", 1408)
        moe = MoE(experts, routed(c, experts), width, shared_width=width * c.int("n_shared_experts", least=0))
        mlps[first:] = [moe] * (layers - first)
    stack = stacked(hidden, [windowed(attention, window) for window in windows], mlps)
    return decoder(c, hidden, stack, vocab=152064, positions=2048)


# --- dots3-note ------------------------------------------------------------------------------------------------------

FULL, INDEXED, SLIDING = "full_attention", "indexed_attention", "sliding_attention"
# Of the sliding layers, where the file says nothing of them: a latent twice as wide for half as many heads.
SWA = {
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "head_dim": 256,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
# What a layer may have of its own in per_layer_config.
OWN = {*SWA, "qk_rope_head_dim", "sliding_window"}


@importer("dots3_note_text")
def dots3_note_text(c: Config) -> ModelSpec:
    """The decoder of dots3-note: MLA in all layers, under an indexer or under a window (models/dots3_note).

    Sliding layers have heads and ranks of their own: ``swa_`` keys in published files, ``per_layer_config`` in those
    that transformers 5 wrote.
    """
    layers, hidden = c.layers(default=46), c.int("hidden_size", 5120)
    kinds = _kinds(c, layers)
    mixers = _mixers(c, hidden, kinds)
    experts = aliased(c, "n_routed_experts num_local_experts", 256)
    key = "moe_shared_expert_intermediate_size"  # published files; the class's own name is the other one
    key = key if c.has(key) else "shared_experts_intermediate_size"
    shared = c.int(key, 1536) * c.int("n_shared_experts", 1)
    active, width = routed(c, experts, default=8), c.int("moe_intermediate_size", 1536)
    moe, dense = MoE(experts, active, width, shared_width=shared), Dense(c.int("intermediate_size", 13824))
    c.ignore("mlp_bias")  # the class has none, whatever it says
    mlps: list[MLP] = [moe if is_sparse else dense for is_sparse in sparse_layers(c, layers, _sparse(c, layers))]
    return decoder(c, hidden, stacked(hidden, mixers, mlps), vocab=152064, positions=524288)


@importer("dots3_note")
def dots3_note(c: Config) -> ModelSpec:
    """dots3-note: AutoModelForCausalLM builds the decoder alone; its keys may lie at the top (models/dots3_note)."""
    spec = dots3_note_text(c.sub("text_config") if c.has("text_config") else c)
    note = "the towers for pictures and sound, which the class of the decoder leaves out, are not counted"
    return replace(
        spec,
        model_type="dots3_note",
        towers=towers(c, counted=False),
        prefix="model.language_model.layers",
        notes=(*spec.notes, note),
    )


def _kinds(c: Config, layers: int) -> list[str]:
    """The kind of every layer. In published files ``use_dsa`` says what their "full_attention" means."""
    uses_dsa = c.bool("use_dsa", True)
    decided = "use_dsa" in c.raw or "per_layer_config" not in c.raw
    slides = c.bool("use_sliding_window", True)
    kinds = c.strings("layer_types", layers, (FULL, INDEXED, SLIDING))
    if kinds is None:
        kinds = [INDEXED if not slides or i < 2 or i % 4 == 1 else SLIDING for i in range(layers)]
    if not decided:
        return kinds
    whole = INDEXED if uses_dsa else FULL
    return [kind if kind == SLIDING else whole for kind in kinds]


def _sparse(c: Config, layers: int) -> list[bool]:
    first, every = c.int("first_k_dense_replace", 1, least=0), c.get("moe_layer_freq", 1)
    if isinstance(every, list):
        chosen = c.ints("moe_layer_freq", layers, most=1) or []
        return [i >= first and chosen[i] == 1 for i in range(layers)]
    every = c.int("moe_layer_freq", 1)
    return [i >= first and i % every == 0 for i in range(layers)]


def _mixers(c: Config, hidden: int, kinds: list[str]) -> list[Latent]:
    common = {kind: _mixer(c, hidden, kind) for kind in (FULL, INDEXED, SLIDING)}
    own = _own_shapes(c, kinds)
    return [_mixer(own[i], hidden, kind) if i in own else common[kind] for i, kind in enumerate(kinds)]


def _mixer(c: Config, hidden: int, kind: str) -> Latent:
    """MLA with a gate per head and a norm on the rotary key, under an indexer, under a window, or under neither."""
    bare = latent(c, hidden, heads=128, q_rank=1024, kv_rank=512, nope=128, rope=64, value=128, direct_queries=False)
    gate = Weight("self_attn.g_proj", hidden, bare.heads)
    mixer = replace(bare, extra=(gate, vector("self_attn.k_rope_only_layernorm", bare.rope_dim)))
    # two names of one number, of which the class prefers its own
    window = c.int("sliding_window", c.int("sliding_window_size", 512))
    if kind == SLIDING:
        return replace(mixer, keep=Growth("window", window))
    if kind == FULL:
        return mixer
    # rotated in fp32 and, unlike the keys of attention, never cast back
    return replace(mixer, indexer=replace(lightning_indexer(c, hidden, bare.q_rank or 0, heads=64), store_as="fp32"))


def _own_shapes(c: Config, kinds: list[str]) -> dict[int, Config]:
    """The config of each layer that has shapes of its own."""
    if "per_layer_config" not in c.raw:
        own = {key: c.int(f"swa_{key}", value) for key, value in SWA.items()}
        rope = own["head_dim"] - own["qk_nope_head_dim"]
        own["qk_rope_head_dim"] = c.int("swa_qk_rope_head_dim", max(rope, 1))
        if own["qk_rope_head_dim"] != rope:
            raise c.error("swa_head_dim", own["head_dim"], "the sum of swa_qk_nope_head_dim and swa_qk_rope_head_dim")
        local = Config({**c.raw, **own}, c.where, c.path)
        return {i: local for i, kind in enumerate(kinds) if kind == SLIDING}
    # a file that has the key, even an empty one, has said everything: the class then drops what swa_ keys say
    c.ignore(*(f"swa_{key}" for key in OWN))
    stated = c.get("per_layer_config", {})
    if not isinstance(stated, dict) or not all(key.isdecimal() and int(key) < len(kinds) for key in stated):
        raise c.error("per_layer_config", stated, f"an object whose keys are layers, 0 to {len(kinds) - 1}")
    shapes = {}
    for key, value in stated.items():
        entry = Config(value, c.where, f"{c.path}per_layer_config.{key}.")
        if others := sorted(set(entry.raw) - OWN):
            rule = "a shape of the layer's attention: others are not understood"
            raise entry.error(others[0], entry.raw[others[0]], rule)
        shapes[int(key)] = Config({**c.raw, **entry.raw}, c.where, entry.path)
    return shapes
