"""Which towers and projectors each outer ``model_type`` has, under the module paths of its class."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.importers.config import Config
from kvplan.importers.towers import audio, vision
from kvplan.importers.towers.sizes import Size, linear, mlp, norm, part, stack, table
from kvplan.importers.towers.vision import Encoder

__all__ = ["AUDIO", "FAMILIES", "PROJECTOR", "TOWER", "Family", "Sizes"]

Sizes = dict[str, Size]
Family = Callable[[Config, int | None], Sizes]
FAMILIES: dict[str, Family] = {}

TOWER, PROJECTOR = "model.vision_tower", "model.multi_modal_projector"
AUDIO = "model.audio_tower"

# What the configuration classes take where a file has no vision_config at all.
CLIP_L14 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "image_size": 336,
}
GIT_B16 = {"patch_size": 16}
PIXTRAL = {"model_type": "pixtral", "patch_size": 14, "image_size": 1540}

# timm's mobilenetv5_300m_enc, Gemma 3n's vision tower, counted on the meta device: its plan is not in any config.
MOBILENET_V5 = Size(294_126_912 - 285_440, 285_440)
# The VQ-16 tokenizer of Janus (janus/models/vq_model.py), counted on the meta device; its config is never read.
VQ_16 = Size(0, 71_883_403)


def family(*model_types: str) -> Callable[[Family], Family]:
    """Registers a function for outer model types."""

    def register(function: Family) -> Family:
        FAMILIES.update(dict.fromkeys(model_types, function))
        return function

    return register


def _width(c: Config, hidden: int | None, default: int, key: str = "text_config") -> int:
    """The decoder's width, which projectors lead to."""
    return hidden or part(c, key).int("hidden_size", default)


def _features(c: Config, width: int) -> int:
    """The width a projector starts from: as many towers' layers side by side as ``vision_feature_layer`` names."""
    value = c.get("vision_feature_layer")
    return width * (len(value) if isinstance(value, list) else 1)


# --- a CLIP-like tower and a projector ----------------------------------------------------------------------------


@family("llava")
def llava(c: Config, hidden: int | None) -> Sizes:
    """CLIP unless the file says otherwise, two linear layers behind (transformers models/llava)."""
    tower, out = vision.encoder(part(c, "vision_config", CLIP_L14), "clip_vision_model"), _width(c, hidden, 4096)
    bias = c.bool("multimodal_projector_bias", True)
    return {TOWER: tower.size, PROJECTOR: mlp(_features(c, tower.width), out, out, bias)}


@family("minimax_vl_01")
def minimax_vl_01(c: Config, hidden: int | None) -> Sizes:
    """LLaVA-NeXT's shape: a learned separator of image rows besides (the authors' modeling_minimax_vl_01.py)."""
    return llava(c, hidden or _width(c, None, 6144)) | {"model.image_newline": table(hidden or _width(c, None, 6144))}


@family("git")
def git(c: Config, hidden: int | None) -> Sizes:
    """CLIP of its own sizes, one linear layer and a norm; a vector for each frame of a video (transformers models/git)."""
    v, out = part(c, "vision_config"), hidden or 768
    v.raw = GIT_B16 | v.raw
    tower = vision.clip(v)
    frames = c.maybe_int("num_image_with_embedding", least=0) or 0
    return {TOWER: tower.size, PROJECTOR: linear(tower.width, out) + norm(out) + stack(frames, table(tower.width))}


@family("mistral3")
def mistral3(c: Config, hidden: int | None) -> Sizes:
    """Pixtral, then a norm, a merger of patches and two linear layers (transformers models/mistral3)."""
    tower, out = vision.encoder(part(c, "vision_config", PIXTRAL), "pixtral"), _width(c, hidden, 5120)
    merged = tower.width * c.int("spatial_merge_size", 2) ** 2
    bias = c.bool("multimodal_projector_bias", False)
    merger = norm(tower.width, bias=False) + linear(merged, tower.width, bias=False)
    return {TOWER: tower.size, PROJECTOR: merger + mlp(_features(c, tower.width), out, out, bias)}


@family("idefics3")
def idefics3(c: Config, hidden: int | None) -> Sizes:
    """SigLIP and one matrix over shuffled pixels (transformers models/idefics3)."""
    tower = vision.idefics3(part(c, "vision_config"))
    merged = tower.width * c.int("scale_factor", 2) ** 2
    return {
        "model.vision_model": tower.size,
        "model.connector": linear(merged, _width(c, hidden, 4096), bias=False),
    }


@family("lfm2_vl")
def lfm2_vl(c: Config, hidden: int | None) -> Sizes:
    """SigLIP 2 and an MLP over unshuffled pixels, mostly behind a LayerNorm (transformers models/lfm2_vl)."""
    tower = vision.encoder(part(c, "vision_config"), "siglip2_vision_model")
    merged, inner = tower.width * c.int("downsample_factor", 2) ** 2, c.int("projector_hidden_size", 2560)
    projector = mlp(merged, inner, _width(c, hidden, 2560), c.bool("projector_bias", True))
    if c.bool("projector_use_layernorm", True):
        projector += norm(merged)
    return {TOWER: tower.size, PROJECTOR: projector}


@family("gemma3")
def gemma3(c: Config, hidden: int | None) -> Sizes:
    """SigLIP, a norm and one matrix, a bare parameter (transformers models/gemma3)."""
    tower = vision.encoder(part(c, "vision_config"), "siglip_vision_model")
    return {
        TOWER: tower.size,
        PROJECTOR: table(tower.width, _width(c, hidden, 2304)) + norm(tower.width, bias=False),
    }


@family("mllama")
def mllama(c: Config, hidden: int | None) -> Sizes:
    """A two-stage tower and one linear layer (transformers models/mllama)."""
    tower = vision.mllama(part(c, "vision_config"))
    return {"model.vision_model": tower.size, PROJECTOR: linear(tower.width, _width(c, hidden, 4096))}


@family("llama4")
def llama4(c: Config, hidden: int | None) -> Sizes:
    """A tower with an adapter of its own and one matrix (transformers models/llama4)."""
    tower = vision.llama4(part(c, "vision_config"))
    return {
        "vision_model": tower.size,
        "multi_modal_projector": linear(tower.width, _width(c, hidden, 5120), bias=False),
    }


@family("kimi_k25")
def kimi_k25(c: Config, hidden: int | None) -> Sizes:
    """MoonViT, then a norm per patch and an MLP over merged patches (transformers models/kimi_k25)."""
    v = part(c, "vision_config")
    tower = vision.kimi(v)
    kernel = v.ints("merge_kernel_size", 2, least=1) or [2, 2]
    merged = tower.width * kernel[0] * kernel[1]
    projector = norm(c.int("projection_hidden_size", 1152)) + mlp(merged, merged, _width(c, hidden, 7168))
    return {TOWER: tower.size, "model.mm_projector": projector}


@family("minimax_m3_vl")
def minimax_m3_vl(c: Config, hidden: int | None) -> Sizes:
    """An MLP per patch and one over merged patches (transformers models/minimax_m3_vl)."""
    v = part(c, "vision_config")
    tower, out = vision.minimax_m3(v), _width(c, hidden, 6144)
    merged, inner = out * v.int("spatial_merge_size", 2) ** 2, c.int("projector_hidden_size", 6144)
    return {TOWER: tower.size, PROJECTOR: mlp(tower.width, inner, out) + mlp(merged, inner, out)}


@family("step3p7")
def step3p7(c: Config, hidden: int | None) -> Sizes:
    """A tower that narrows the grid by two convolutions and one matrix (transformers models/step3p7)."""
    tower = vision.step(part(c, "vision_config"))
    projector = linear(tower.width, _width(c, hidden, 4096), c.bool("projector_bias", False))
    return {"model.vision_model": tower.size, PROJECTOR: projector}


# --- Qwen: the projector is part of the tower ---------------------------------------------------------------------


def _visual(tower: Encoder) -> Sizes:
    return {"model.visual": tower.size}


@family("qwen2_vl")
def qwen2_vl(c: Config, hidden: int | None) -> Sizes:
    """Qwen2-VL's tower with its merger (transformers models/qwen2_vl)."""
    return _visual(vision.qwen2(part(c, "vision_config")))


@family("qwen2_5_vl")
def qwen2_5_vl(c: Config, hidden: int | None) -> Sizes:
    """Qwen2.5-VL's tower with its merger (transformers models/qwen2_5_vl)."""
    return _visual(vision.qwen2_5(part(c, "vision_config")))


@family("exaone4_5")
def exaone4_5(c: Config, hidden: int | None) -> Sizes:
    """Qwen2.5-VL's tower with grouped queries (transformers models/exaone4_5)."""
    return _visual(vision.qwen2_5(part(c, "vision_config"), kv_heads=8))


@family("qwen3_vl", "qwen3_vl_moe")
def qwen3_vl(c: Config, hidden: int | None) -> Sizes:
    """Qwen3-VL's tower with its mergers (transformers models/qwen3_vl)."""
    return _visual(vision.qwen3(part(c, "vision_config")))


@family("qwen3_5", "qwen3_5_moe", "qwen4_exp")
def qwen3_5(c: Config, hidden: int | None) -> Sizes:
    """The same without DeepStack, whatever the file lists (transformers models/qwen3_5)."""
    return _visual(vision.qwen3(part(c, "vision_config"), deepstack=False))


# --- with ears ----------------------------------------------------------------------------------------------------


@family("qwen2_audio")
def qwen2_audio(c: Config, hidden: int | None) -> Sizes:
    """Whisper's encoder under its own keys, one linear layer (transformers models/qwen2_audio)."""
    a = part(c, "audio_config")
    width = a.int("d_model", 1280)
    tower = audio.whisper(
        width,
        a.layers("encoder_layers", 32),
        a.int("encoder_ffn_dim", 5120),
        a.int("num_mel_bins", 128),
        a.int("max_source_positions", 1500),
    )
    return {AUDIO: tower, PROJECTOR: linear(width, _width(c, hidden, 4096))}


@family("voxtral")
def voxtral(c: Config, hidden: int | None) -> Sizes:
    """Whisper's encoder; the projector takes frames side by side, ``intermediate_size`` wide (models/voxtral)."""
    a, out = part(c, "audio_config"), _width(c, hidden, 3072)
    inner = a.int("intermediate_size", 5120)
    tower = audio.whisper(
        a.int("hidden_size", 1280),
        a.layers(default=32),
        inner,
        a.int("num_mel_bins", 128),
        a.int("max_source_positions", 1500),
    )
    return {AUDIO: tower, PROJECTOR: mlp(inner, out, out, bias=False)}


@family("gemma3n")
def gemma3n(c: Config, hidden: int | None) -> Sizes:
    """MobileNet V5 (timm) and a speech encoder, each with a small vocabulary (transformers models/gemma3n)."""
    v, a, out = part(c, "vision_config"), part(c, "audio_config"), _width(c, hidden, 2048)
    name = v.str("architecture", "mobilenetv5_300m_enc")
    if name != "mobilenetv5_300m_enc":
        raise v.error("architecture", name, "mobilenetv5_300m_enc, the only one with a known count")

    def embedder(reader: Config, default: int) -> Size:
        width = reader.int("hidden_size", default)
        size = table(reader.int("vocab_size", 128), width) + stack(2, norm(width, bias=False))
        return size + linear(width, out, bias=False)

    return {
        TOWER: MOBILENET_V5,
        AUDIO: audio.gemma3n(a),
        "model.embed_vision": embedder(v, 2048),
        "model.embed_audio": embedder(a, 1536),
    }


@family("gemma4")
def gemma4(c: Config, hidden: int | None) -> Sizes:
    """A vision tower and, in the small models, a speech encoder; null means none (transformers models/gemma4)."""
    out, sizes = _width(c, hidden, 2304), {}
    if c.has("vision_config"):
        tower = vision.gemma4(part(c, "vision_config"))
        sizes = {TOWER: tower.size, "model.embed_vision": linear(tower.width, out, bias=False)}
    if c.has("audio_config"):
        a = part(c, "audio_config")
        projector = linear(a.int("output_proj_dims", 1536), out, bias=False)
        sizes |= {AUDIO: audio.gemma4(a), "model.embed_audio": projector}
    return sizes


# --- remote code --------------------------------------------------------------------------------------------------


@family("phi3_v")
def phi3_v(c: Config, hidden: int | None) -> Sizes:
    """CLIP ViT-L/14 at 336, a projection and separators of tiles.

    Source: Phi3ImageEmbedding in the authors' image_embedding_phi3_v.py; with it Phi-3-vision comes to the
    4,146,621,440 parameters of its published files.
    """
    embedding, processor = part(c, "embd_layer"), part(c, "img_processor")
    if embedding.str("embedding_cls", "") != "image" or not processor.raw:
        return {}
    name = processor.str("name", "clip_vision_model")
    if name != "clip_vision_model":
        raise processor.error("name", name, "clip_vision_model")
    out, features = hidden or c.int("hidden_size", 3072), processor.int("image_dim_out", 1024)
    tiled = embedding.bool("use_hd_transform")
    start = 4 * features if tiled else features
    kind = embedding.str("projection_cls", "linear")
    if kind not in ("linear", "mlp"):
        raise embedding.error("projection_cls", kind, "linear or mlp")
    projection = mlp(start, out, out) if kind == "mlp" else linear(features, out)
    if embedding.bool("with_learnable_separator"):
        projection += table(2, 4 * features)
    tower = vision.clip(Config(CLIP_L14, c.where))
    return {"model.vision_embed_tokens": tower.size + projection}


# Width, layers, MLP width and patch size of the towers that DeepSeek's code knows by name.
SIGLIPS = {
    "siglip_so400m_patch14_384": (1152, 27, 4304, 14),
    "siglip_so400m_patch14_224": (1152, 27, 4304, 14),
    "siglip_large_patch16_384": (1024, 24, 4096, 16),
}


def _projector(p: Config, kinds: tuple[str, ...], kind: str, inputs: int, outputs: int, depth: int) -> Size:
    """DeepSeek's MlpProjector, whose missing keys are the arguments."""
    kind = p.str("projector_type", kind)
    if kind not in kinds:
        raise p.error("projector_type", kind, "one of " + ", ".join(kinds))
    inputs, outputs = p.int("input_dim", inputs), p.int("n_embed", outputs)
    if kind == "identity":
        return Size()
    size = linear(4 * inputs, inputs) if p.bool("token_pooling") else Size()
    depth, inner = p.int("depth", depth, most=256), outputs
    if kind == "downsample_mlp_gelu":
        inputs, inner = inputs * p.int("downsample_ratio", 2) ** 2, outputs * p.int("mlp_ratio", 1)
        size += stack(max(depth - 2, 0), linear(inner, inner))
        return size + mlp(inputs, inner, outputs)
    more = depth - 1 if kind == "mlp_gelu" else 0
    return size + linear(inputs, outputs) + stack(more, linear(outputs, outputs))


@family("multi_modality")
def multi_modality(c: Config, hidden: int | None) -> Sizes:
    """Janus: SigLIP to look, a VQ tokenizer, a table and a head of its own to draw.

    Source: the authors' janus/models (modeling_vlm.py, siglip_vit.py, projector.py, vq_model.py).
    """
    params = {
        key: part(part(c, f"{key}_config"), "params")
        for key in ("vision", "aligner", "gen_vision", "gen_aligner", "gen_head")
    }
    v, g, h = params["vision"], params["gen_vision"], params["gen_head"]
    name = v.str("model_name", "siglip_large_patch16_384")
    if name not in SIGLIPS:
        raise v.error("model_name", name, "one of " + ", ".join(SIGLIPS))
    width, layers, inner, patch = SIGLIPS[name]
    chosen = v.get("select_layer", -2)
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not -layers <= chosen <= layers:
        raise v.error("select_layer", chosen, f"a whole number from {-layers} to {layers}")
    layers = min(layers, layers + chosen + 1) if chosen <= 0 else chosen
    tower = vision.timm_siglip(width, layers, inner, patch, v.int("image_size", 336))
    out, kinds = _width(c, hidden, 2048, "language_config"), ("identity", "linear", "mlp_gelu")
    table_width = g.int("n_embed", 8)
    embed = h.int("image_token_embed", out)
    return {
        "vision_model": tower,
        "aligner": _projector(params["aligner"], kinds, "mlp_gelu", width, out, 1),
        "gen_vision_model": VQ_16,
        "gen_aligner": _projector(params["gen_aligner"], kinds, "mlp_gelu", table_width, out, 1),
        "gen_head": mlp(h.int("n_embed", out), embed, h.int("image_token_size", 16384)),
        "gen_embed": table(g.int("image_token_size", 16384), table_width),
    }


@family("deepseek_vl_v2")
def deepseek_vl_v2(c: Config, hidden: int | None) -> Sizes:
    """SigLIP and an MLP over four patches, with learned separators of rows and views.

    Source: the authors' deepseek_vl2/models (modeling_deepseek_vl_v2.py, siglip_vit.py).
    """
    v, p = part(c, "vision_config"), part(c, "projector_config")
    width = v.int("width", 1024)
    inner = int(width * v.float("mlp_ratio", 4, most=1024))
    tower = vision.timm_siglip(width, v.layers("layers", 24), inner, v.int("patch_size", 16), v.int("image_size", 384))
    kinds = ("identity", "linear", "mlp_gelu", "downsample_mlp_gelu")
    out = p.int("n_embed", 2048)
    tags, tag = ("2D", "1D"), c.str("tile_tag", "2D")
    if tag not in tags:
        raise c.error("tile_tag", tag, "2D or 1D")
    tiles = c.get("candidate_resolutions", [[384, 384]])
    if not isinstance(tiles, list):
        raise c.error("candidate_resolutions", tiles, "a list of pairs")
    separators = table(2, out) if tag == "2D" else table(len(tiles) + 1, out)
    return {
        "vision": tower,
        "projector": _projector(p, kinds, "downsample_mlp_gelu", 1152, 2048, 2),
        "separators": separators,
    }
