"""Decoders beside vision or audio towers: the nested (sometimes flat) decoder, plus the towers' weights.

What is cached is the decoder's business alone: an image is a run of ordinary tokens to it. Mllama is the exception,
whose cross-attention layers keep keys and values of the image apart from the text.
"""

from __future__ import annotations

from typing import Any

from kvplan.importers import import_as, import_model, importer
from kvplan.importers.aliases import agree
from kvplan.importers.config import Config
from kvplan.importers.experts import aliased, routed
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.importers.towers import towers
from kvplan.importers.towers.sizes import part
from kvplan.specs import Dense, Layer, ModelSpec, MoE, Weight, replace, vector

PREFIX = "model.language_model.layers"


def _beside_towers(
    c: Config, spec: ModelSpec, *, counted: bool = True, prefix: str = PREFIX, **facts: Any
) -> ModelSpec:
    """The decoder under its outer name, with the towers that stand beside it.

    transformers maps these types to the whole model, so that its count holds the towers, unless ``counted`` is false.
    """
    beside = towers(c, counted=counted, hidden=spec.hidden)
    return replace(spec, model_type=c.str("model_type", ""), prefix=prefix, towers=beside, **facts)


def _with_defaults(c: Config, defaults: dict[str, Any]) -> Config:
    """The text config, filled up with what the outer class takes for keys that the file omits."""
    text = c.sub("text_config", {})
    text.raw = defaults | text.raw
    return text


# --- any decoder ---------------------------------------------------------------------------------------------------


@importer("llava")
def llava(c: Config) -> ModelSpec:
    """LLaVA 1.5 and everything in its shape, Pixtral included (transformers models/llava)."""
    spec = import_model(c.sub("text_config", {}), "llama")
    return _beside_towers(c, spec, tied=c.bool("tie_word_embeddings") or spec.tied)


@importer("idefics3")
def idefics3(c: Config) -> ModelSpec:
    """Idefics3 and SmolVLM (transformers models/idefics3)."""
    spec = import_model(c.sub("text_config", {}), "llama")
    return _beside_towers(c, spec, prefix="model.text_model.layers", tied=c.bool("tie_word_embeddings"))


MISTRAL_SMALL = {
    "model_type": "mistral",
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 131072,
}


@importer("mistral3")
def mistral3(c: Config) -> ModelSpec:
    """Mistral Small 3.1 on, Ministral 3, Devstral 2; tied unless told otherwise (transformers models/mistral3)."""
    spec = import_model(c.sub("text_config", MISTRAL_SMALL), "mistral")
    return _beside_towers(c, spec, tied=c.bool("tie_word_embeddings", True))


@importer("lfm2_vl")
def lfm2_vl(c: Config) -> ModelSpec:
    """LFM2-VL: LFM2's short convolutions and attention (transformers models/lfm2_vl)."""
    spec = import_model(c.sub("text_config", {}), "lfm2")
    # the old name wins where a file has both
    tied = c.bool("tie_embedding" if c.has("tie_embedding") else "tie_word_embeddings", True)
    return _beside_towers(c, spec, tied=tied)


@importer("qwen2_audio")
def qwen2_audio(c: Config) -> ModelSpec:
    """Qwen2-Audio; published files leave the decoder's depth to Qwen2's defaults (transformers models/qwen2_audio)."""
    return _beside_towers(c, import_model(c.sub("text_config", {}), "qwen2"), tied=False)


MINISTRAL_3B = {
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "head_dim": 128,
}


@importer("voxtral")
def voxtral(c: Config) -> ModelSpec:
    """Voxtral: a Llama whose omitted keys are those of Voxtral Mini, never tied (transformers models/voxtral)."""
    return _beside_towers(c, import_model(_with_defaults(c, MINISTRAL_3B), "llama"), tied=False)


@importer("exaone4_5_text")
def exaone4_5_text(c: Config) -> ModelSpec:
    """EXAONE 4.5's decoder, EXAONE 4 under an earlier name (transformers models/exaone4_5)."""
    return import_as(c, "exaone4")


@importer("exaone4_5")
def exaone4_5(c: Config) -> ModelSpec:
    """EXAONE 4.5: EXAONE 4 and a Qwen2.5-like tower (transformers models/exaone4_5)."""
    spec = import_model(c.sub("text_config", {}), "exaone4")
    return _beside_towers(c, spec, tied=c.bool("tie_word_embeddings"))


# --- Qwen-VL -------------------------------------------------------------------------------------------------------


@importer("qwen2_vl_text", "qwen2_5_vl_text")
def qwen2_vl_text(c: Config) -> ModelSpec:
    """The decoder of Qwen2-VL and Qwen2.5-VL: Qwen2 with the 72B model's defaults (transformers models/qwen2_vl)."""
    layers, hidden = c.layers(default=80), c.int("hidden_size", 8192)
    full = grouped_attention(c, hidden, heads=64, kv_heads=8, bias="qkv")
    agree(c, "head_dim", c.divides("num_attention_heads", hidden, full.heads, "hidden_size"))
    window = c.maybe_int("sliding_window") if "sliding_window" in c.raw else 4096
    used = window if c.bool("use_sliding_window") else None
    first = c.int("max_window_layers", 80, least=0)
    windows = layer_windows(c, layers, used, lambda i: used is not None and i >= first)
    mlp = Dense(c.int("intermediate_size", 29568))
    stack = tuple(Layer((windowed(full, size),), (mlp,), norms=2 * hidden) for size in windows)
    return decoder(c, hidden, stack, vocab=152064, positions=32768)


@importer("qwen2_vl", "qwen2_5_vl")
def qwen2_vl(c: Config) -> ModelSpec:
    """Qwen2-VL and Qwen2.5-VL; hub files keep the decoder's keys at the top (transformers models/qwen2_vl)."""
    spec = qwen2_vl_text(c.sub("text_config") if c.has("text_config") else c)
    return _beside_towers(c, spec, tied=c.bool("tie_word_embeddings") or spec.tied)


@importer("qwen3_vl_text")
def qwen3_vl_text(c: Config) -> ModelSpec:
    """The decoder of Qwen3-VL: Qwen3 with defaults of its own (transformers models/qwen3_vl)."""
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=32, kv_heads=32, head_dim=128, bias=bias, qk_norm="head")
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 22016)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=151936, positions=128000)


@importer("qwen3_vl_moe_text")
def qwen3_vl_moe_text(c: Config) -> ModelSpec:
    """The decoder of Qwen3-VL-MoE: experts where Qwen3-MoE has them (transformers models/qwen3_vl_moe)."""
    layers, hidden = c.layers(default=24), c.int("hidden_size", 2048)
    bias = "qkvo" if c.bool("attention_bias") else ""
    attention = grouped_attention(c, hidden, heads=16, kv_heads=16, bias=bias, qk_norm="head")
    step, dense_only = c.int("decoder_sparse_step", 1), set(c.ints("mlp_only_layers") or ())
    dense = Layer((attention,), (Dense(c.int("intermediate_size", 5632)),), norms=2 * hidden)
    sparse = dense
    if experts := aliased(c, "num_experts num_local_experts", 60, least=0):
        moe = MoE(experts, routed(c, experts, default=4), c.int("moe_intermediate_size", 1408))
        sparse = replace(dense, mlps=(moe,))
    stack = tuple(sparse if i not in dense_only and (i + 1) % step == 0 else dense for i in range(layers))
    # the text class alone is tied by default; inside the whole model the outer key decides
    return decoder(c, hidden, stack, vocab=151936, positions=128000, tied=True)


@importer("qwen3_vl")
def qwen3_vl(c: Config) -> ModelSpec:
    """Qwen3-VL, dense; the outer ``tie_word_embeddings`` alone counts (transformers models/qwen3_vl)."""
    return _beside_towers(c, qwen3_vl_text(c.sub("text_config", {})), tied=c.bool("tie_word_embeddings"))


@importer("qwen3_vl_moe")
def qwen3_vl_moe(c: Config) -> ModelSpec:
    """Qwen3-VL, mixture of experts (transformers models/qwen3_vl_moe)."""
    return _beside_towers(c, qwen3_vl_moe_text(c.sub("text_config", {})), tied=c.bool("tie_word_embeddings"))


# --- cross-attention -----------------------------------------------------------------------------------------------


@importer("mllama_text_model")
def mllama_text(c: Config) -> ModelSpec:
    """The decoder of Llama 3.2 Vision (transformers models/mllama).

    ``cross_attention_layers`` hold no text at all: their keys and values are the image's, one entry per vision token,
    and without an image the class skips the whole layer. Eight rows of the table are the image's; logits never tied.
    """
    layers, hidden = c.layers(default=40), c.int("hidden_size", 4096)
    attention = grouped_attention(c, hidden, heads=32, kv_heads=8)
    agree(c, "head_dim", c.divides("num_attention_heads", hidden, attention.heads, "hidden_size"))
    mlp = Dense(c.int("intermediate_size", 14336))
    text = Layer((attention,), (mlp,), norms=2 * hidden)
    gates = (vector("cross_attn_attn_gate", 1), vector("cross_attn_mlp_gate", 1))
    image = replace(text, mixers=(replace(attention, cross=True, qk_norm="head", module="cross_attn"),), extra=gates)
    chosen = c.ints("cross_attention_layers")
    crossing = {3, 8, 13, 18, 23, 28, 33, 38} if chosen is None else set(chosen)
    stack = tuple(image if i in crossing else text for i in range(layers))
    rows = Weight("embed_tokens", 8, hidden, kind="lookup")
    spec = decoder(c, hidden, stack, vocab=128256, positions=131072, extra=(rows,), encoder="image tiles")
    return replace(spec, tied=False)


@importer("mllama")
def mllama(c: Config) -> ModelSpec:
    """Llama 3.2 Vision: AutoModelForCausalLM builds the decoder alone, the vision tower stands beside it."""
    spec = mllama_text(c.sub("text_config", {}))
    v = part(c, "vision_config")
    patches = (v.int("image_size", 448) // v.int("patch_size", 14)) ** 2 + 1
    tiles = v.int("max_num_tiles", 4)
    note = f"one image is up to {tiles} tiles of {patches:,} encoder tokens, {tiles * patches:,} in all"
    return _beside_towers(c, spec, counted=False, prefix="model.layers", notes=(*spec.notes, note))


# --- remote code ---------------------------------------------------------------------------------------------------


@importer("phi3_v")
def phi3_v(c: Config) -> ModelSpec:
    """Phi-3-vision: Phi-3 with the image embedding inside (the authors' modeling_phi3_v.py)."""
    return _beside_towers(c, import_as(c, "phi3"), prefix="model.layers")


@importer("multi_modality")
def multi_modality(c: Config) -> ModelSpec:
    """Janus: a Llama that reads images and draws them (the authors' janus/models/modeling_vlm.py)."""
    spec = import_model(c.sub("language_config", {}), "llama")
    return _beside_towers(c, spec, prefix="language_model.model.layers")


def _with_correction_bias(layer: Layer) -> Layer:
    mlps = (replace(mlp, router_extra=mlp.experts) if isinstance(mlp, MoE) else mlp for mlp in layer.mlps)
    return replace(layer, mlps=tuple(mlps))


@importer("deepseek_vl_v2")
def deepseek_vl_v2(c: Config) -> ModelSpec:
    """DeepSeek-VL2: a DeepSeek-V2, in the tiny model without MLA.

    Source: the authors' deepseek_vl2/models (modeling_deepseek_vl_v2.py, modeling_deepseek.py). Without MLA the layers
    are those of the first DeepSeek-MoE; the correction bias of ``noaux_tc`` routing is a parameter there.
    """
    text = c.sub("language_config", {})
    spec = import_model(text, "deepseek_v2") if text.bool("use_mla", True) else import_as(text, "deepseek")
    if text.get("topk_method") == "noaux_tc":
        spec = replace(spec, layers=tuple(map(_with_correction_bias, spec.layers)))
    return _beside_towers(c, spec, prefix="language.model.layers")
