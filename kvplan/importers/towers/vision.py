"""Vision towers: what one encoder of each kind counts, from its own config (defaults: transformers 5.23)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvplan.importers.config import Config
from kvplan.importers.towers.sizes import Size, block, conv, linear, norm, stack, table

__all__ = [
    "Encoder",
    "clip",
    "encoder",
    "gemma4",
    "idefics3",
    "kimi",
    "llama4",
    "minimax_m3",
    "mllama",
    "pixtral",
    "qwen2",
    "qwen2_5",
    "qwen3",
    "siglip",
    "siglip2",
    "step",
    "timm_siglip",
]


class Encoder(NamedTuple):
    """A vision encoder: the width of its outputs and what it counts."""

    width: int
    size: Size


def _patches(v: Config, image: int, patch: int) -> tuple[int, int]:
    """Patch size, and patches of one image."""
    patch = v.int("patch_size", patch)
    side = v.int("image_size", image) // patch
    return patch, side * side


def clip(v: Config) -> Encoder:
    """CLIP: class token, norms before and after (transformers models/clip)."""
    width, channels = v.int("hidden_size", 768), v.int("num_channels", 3)
    patch, patches = _patches(v, 224, 32)
    size = table(width) + conv(channels, width, patch, patch, bias=False) + table(patches + 1, width)
    size += stack(v.layers(default=12), block(width, v.int("intermediate_size", 3072)))
    return Encoder(width, size + stack(2, norm(width)))


def _pooling_head(width: int, inner: int) -> Size:
    """SigLIP's head: a learned probe attends to the patches, then an MLP."""
    return table(width) + stack(4, linear(width, width)) + linear(width, inner) + linear(inner, width) + norm(width)


def siglip(v: Config) -> Encoder:
    """SigLIP: no class token, a pooling head unless the file turns it off (transformers models/siglip)."""
    width, inner = v.int("hidden_size", 768), v.int("intermediate_size", 3072)
    patch, patches = _patches(v, 224, 16)
    size = conv(v.int("num_channels", 3), width, patch, patch) + table(patches, width)
    size += stack(v.layers(default=12), block(width, inner)) + norm(width)
    return Encoder(width, size + _pooling_head(width, inner) if v.bool("vision_use_head", True) else size)


def siglip2(v: Config) -> Encoder:
    """SigLIP 2: patches through a linear layer, ``num_patches`` positions (transformers models/siglip2)."""
    width, inner = v.int("hidden_size", 768), v.int("intermediate_size", 3072)
    patch = v.int("patch_size", 16)
    size = linear(v.int("num_channels", 3) * patch * patch, width) + table(v.int("num_patches", 256), width)
    size += stack(v.layers(default=12), block(width, inner)) + norm(width)
    return Encoder(width, size + _pooling_head(width, inner) if v.bool("vision_use_head", True) else size)


def idefics3(v: Config) -> Encoder:
    """SigLIP without a head, under other defaults (transformers models/idefics3)."""
    width = v.int("hidden_size", 1152)
    patch, patches = _patches(v, 224, 32)
    size = conv(v.int("num_channels", 3), width, patch, patch) + table(patches, width)
    size += stack(v.layers(default=12), block(width, v.int("intermediate_size", 3072)))
    return Encoder(width, size + norm(width))


def pixtral(v: Config) -> Encoder:
    """Pixtral: rotary positions, RMSNorms, gated MLPs, no biases (transformers models/pixtral)."""
    width, patch = v.int("hidden_size", 1024), v.int("patch_size", 16)
    layer = block(width, v.int("intermediate_size", 4096), bias="", norm_bias=False, gated=True)
    size = conv(v.int("num_channels", 3), width, patch, patch, bias=False) + norm(width, bias=False)
    return Encoder(width, size + stack(v.layers(default=24), layer))


_KINDS: dict[str, Callable[[Config], Encoder]] = {
    "clip_vision_model": clip,
    "siglip_vision_model": siglip,
    "siglip2_vision_model": siglip2,
    "pixtral": pixtral,
    "idefics3_vision": idefics3,
}


def encoder(v: Config, default: str) -> Encoder:
    """The encoder that a vision config names by its ``model_type``."""
    kind = v.str("model_type", default)
    if kind not in _KINDS:
        raise v.error("model_type", kind, "one of " + ", ".join(_KINDS))
    return _KINDS[kind](v)


# --- Qwen and those built like it ---------------------------------------------------------------------------------


def _spacetime(v: Config, width: int, patch: int, bias: bool = False) -> Size:
    """The convolution over ``temporal_patch_size`` frames that makes Qwen's patches."""
    patch, frames = v.int("patch_size", patch), v.int("temporal_patch_size", 2)
    return conv(v.int("in_channels", 3), width, frames, patch, patch, bias=bias)


def _merged(v: Config, width: int) -> int:
    """The width of ``spatial_merge_size`` squared patches side by side."""
    return int(width * v.int("spatial_merge_size", 2) ** 2)


def _depth(v: Config, default: int) -> int:
    return v.layers("num_hidden_layers" if v.has("num_hidden_layers") and not v.has("depth") else "depth", default)


def _merger(width: int, merged: int, out: int, norm_width: int, norm_bias: bool = True) -> Size:
    return norm(norm_width, norm_bias) + linear(merged, merged) + linear(merged, out)


def qwen2(v: Config) -> Encoder:
    """Qwen2-VL: ``embed_dim`` is the tower's width, ``hidden_size`` the decoder's (transformers models/qwen2_vl)."""
    width, out = v.int("embed_dim", 1280), v.int("hidden_size", 3584)
    layer = block(width, int(width * v.float("mlp_ratio", 4, most=1024)))
    size = _spacetime(v, width, 14) + stack(_depth(v, 32), layer)
    return Encoder(out, size + _merger(width, _merged(v, width), out, width))


def qwen2_5(v: Config, kv_heads: int | None = None) -> Encoder:
    """Qwen2.5-VL: RMSNorms, gated MLPs (transformers models/qwen2_5_vl); EXAONE 4.5 with grouped queries."""
    width, out = v.int("hidden_size", 3584), v.int("out_hidden_size", 3584)
    keys = width
    if kv_heads is not None:
        heads = v.int("num_heads", 16)
        keys = v.divides("num_heads", width, heads, "hidden_size") * v.int("num_key_value_heads", kv_heads)
    layer = block(width, v.int("intermediate_size", 3420), norm_bias=False, gated=True, keys=keys)
    size = _spacetime(v, width, 14) + stack(_depth(v, 32), layer)
    return Encoder(out, size + _merger(width, _merged(v, width), out, width, norm_bias=False))


def qwen3(v: Config, deepstack: bool = True) -> Encoder:
    """Qwen3-VL: learned positions, one more merger per DeepStack layer (transformers models/qwen3_vl)."""
    width, out = v.int("hidden_size", 1152), v.int("out_hidden_size", 3584)
    merged = _merged(v, width)
    size = _spacetime(v, width, 16, bias=True) + table(v.int("num_position_embeddings", 2304), width)
    size += stack(_depth(v, 27), block(width, v.int("intermediate_size", 4304))) + _merger(width, merged, out, width)
    if deepstack:
        indices = v.ints("deepstack_visual_indexes")
        size += stack(3 if indices is None else len(indices), _merger(width, merged, out, merged))
    return Encoder(out, size)


# --- one of a kind ------------------------------------------------------------------------------------------------


def mllama(v: Config) -> Encoder:
    """Llama 3.2 Vision: gated positions per aspect ratio, local and gated global layers (models/mllama)."""
    width, tiles = v.int("hidden_size", 1280), v.int("max_num_tiles", 4)
    patch, patches = _patches(v, 448, 14)
    ratios = v.get("supported_aspect_ratios")
    if ratios is not None and not isinstance(ratios, list):
        raise v.error("supported_aspect_ratios", ratios, "a list of pairs")
    rows = (8 if ratios is None else len(ratios)) + 1
    positions = table(1) + table(patches + 1, width) + table(rows, tiles * (patches + 1) * width)
    size = conv(v.int("num_channels", 3), width, patch, patch, bias=False) + table(width) + positions
    size += stack(2, table(rows, tiles * width) + table(1)) + stack(2, norm(width))
    layer = block(width, v.int("intermediate_size", 5120), bias="ud")
    size += stack(v.layers(default=32), layer) + stack(v.layers("num_global_layers", 8), layer + table(2))
    return Encoder(v.int("vision_output_dim", 7680), size)


def llama4(v: Config) -> Encoder:
    """Llama 4: unfolded patches, class token, a pixel-shuffle MLP behind (transformers models/llama4)."""
    width, inner = v.int("hidden_size", 768), v.int("intermediate_size", 5632)
    patch, patches = _patches(v, 448, 14)
    size = linear(v.int("num_channels", 3) * patch * patch, width, bias=False) + table(width)
    size += table(patches + 1, width) + stack(2, norm(width)) + stack(v.layers(default=34), block(width, inner))
    out = v.int("projector_output_dim", 4096)
    adapter = linear(inner, v.int("projector_input_dim", 4096), bias=False) + linear(out, out, bias=False)
    return Encoder(v.int("vision_output_dim", 7680), size + adapter)


def gemma4(v: Config) -> Encoder:
    """Gemma 4: a position table per axis, four RMSNorms a layer, q and k norms (transformers models/gemma4)."""
    width, patch = v.int("hidden_size", 768), v.int("patch_size", 16)
    dim = v.int("head_dim", 64)
    queries, keys = (dim * v.int(key, 12) for key in ("num_attention_heads", "num_key_value_heads"))
    layer = block(
        width, v.int("intermediate_size", 3072), bias="", norm_bias=False, gated=True, queries=queries, keys=keys
    )
    layer += stack(2, norm(width, bias=False)) + stack(2, norm(dim, bias=False))
    size = linear(3 * patch * patch, width, bias=False) + table(2, v.int("position_embedding_size", 10240), width)
    return Encoder(width, size + stack(v.layers(default=16), layer))


def kimi(v: Config) -> Encoder:
    """MoonViT of Kimi K2.5; hub files write ``vt_`` before the names (transformers models/kimi_k25)."""

    def fact(name: str, default: int) -> int:
        return v.int(f"vt_{name}" if v.has(f"vt_{name}") else name, default, most=2**20)

    width, patch = fact("hidden_size", 1152), v.int("patch_size", 14)
    grid = [v.int(f"init_{key}" if v.has(f"init_{key}") else key, 64) for key in ("pos_emb_height", "pos_emb_width")]
    size = conv(3, width, patch, patch) + table(*grid, width)
    layers = fact("num_hidden_layers", 27)
    return Encoder(width, size + stack(layers, block(width, fact("intermediate_size", 4304))) + norm(width))


def minimax_m3(v: Config) -> Encoder:
    """MiniMax M3: a CLIP with rotary positions and patches over two frames (transformers models/minimax_m3_vl)."""
    width, patch = v.int("hidden_size", 1280), v.int("patch_size", 14)
    frames = v.int("temporal_patch_size", 2)
    size = conv(v.int("num_channels", 3), width, frames, patch, patch, bias=False) + norm(width)
    return Encoder(width, size + stack(v.layers(default=32), block(width, v.int("intermediate_size", 5120))))


def step(v: Config) -> Encoder:
    """Step 3.7: layer scales, two convolutions that halve the grid and double the width (models/step3p7)."""

    def fact(name: str, other: str, default: int) -> int:
        return v.int(other if v.has(other) else name, default, most=2**20)

    width = fact("hidden_size", "width", 1536)
    patch, patches = _patches(v, 728, 14)
    inner = int(width * v.float("mlp_ratio", 8960 / 1536, most=1024))
    size = conv(v.int("num_channels", 3), width, patch, patch, bias=False) + table(patches, width) + norm(width)
    size += stack(fact("num_hidden_layers", "layers", 47), block(width, inner) + table(2, width))
    return Encoder(4 * width, size + conv(width, 2 * width, 3, 3) + conv(2 * width, 4 * width, 3, 3))


def timm_siglip(width: int, layers: int, inner: int, patch: int, image: int) -> Size:
    """SigLIP as DeepSeek's own code builds it after timm: the pooling head is there, though its output is not used."""
    patches = (image // patch) ** 2
    size = conv(3, width, patch, patch) + table(patches, width) + stack(layers, block(width, inner)) + norm(width)
    return size + _pooling_head(width, inner)
