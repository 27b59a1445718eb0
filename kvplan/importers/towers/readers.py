"""Readers of images and sound with towers of their own: one matrix, SAM, a tokenizer of images, a conformer."""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.importers.towers import audio, vision
from kvplan.importers.towers.families import AUDIO, PROJECTOR, TOWER, Family, Sizes
from kvplan.importers.towers.sizes import Size, block, conv, linear, mlp, norm, part, stack, table

__all__ = ["EMU3_VQ", "READERS"]

# The shape of Emu3's published image tokenizer; its count on the meta device is that of the class Emu3VQVAE.
EMU3_VQ = {
    "codebook_size": 32768,
    "embed_dim": 4,
    "latent_channels": 4,
    "double_latent": False,
    "in_channels": 3,
    "out_channels": 3,
    "temporal_downsample_factor": 4,
    "base_channels": 256,
    "channel_multiplier": [1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [3],
}
# Phi-4 multimodal's SigLIP, which its configuration class has as defaults.
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 448,
    "patch_size": 14,
}
EMU3_SIZE = Size(29_360_128, 270_740_287 - 29_360_128)


def fuyu(c: Config, hidden: int | None) -> Sizes:
    """Fuyu has no tower: one linear layer over the pixels of a patch (transformers models/fuyu)."""
    pixels = c.int("patch_size", 30, most=2**20) ** 2 * c.int("num_channels", 3, most=2**20)
    return {"model.vision_embed_tokens": linear(pixels, hidden or 4096)}


def gemma4_unified(c: Config, hidden: int | None) -> Sizes:
    """Gemma 4 12B: merged patches between LayerNorms, raw sound; null means none (models/gemma4_unified)."""
    out, sizes = hidden or 2304, {}
    if c.has("vision_config"):
        v = part(c, "vision_config")
        pixels = 3 * (v.int("patch_size", 16, most=2**20) * v.int("pooling_kernel_size", 3, most=2**20)) ** 2
        width = v.int("mm_embed_dim", 3840)
        size = norm(pixels) + linear(pixels, width) + stack(2, norm(width))
        size += table(v.int("mm_posemb_size", 1120), 2, width)
        sizes["model.embed_vision"] = size + linear(v.int("output_proj_dims", 3840), out, bias=False)
    if c.has("audio_config"):
        width = part(c, "audio_config").int("audio_embed_dim", 640)
        sizes["model.embed_audio"] = linear(width, out, bias=False)
    return sizes


def got_ocr2(c: Config, hidden: int | None) -> Sizes:
    """SAM's encoder with a neck of convolutions, and two more that shrink the grid (transformers models/got_ocr2)."""
    v, out = part(c, "vision_config"), hidden or 1024
    width, channels = v.int("hidden_size", 768), v.int("output_channels", 256)
    patch = v.int("patch_size", 16)
    side = v.int("image_size", 1024) // patch
    dim = v.divides("num_attention_heads", width, v.int("num_attention_heads", 12), "hidden_size")
    layers, window = v.layers(default=12), v.int("window_size", 14, least=0)
    size = conv(v.int("num_channels", 3), width, patch, patch)
    if v.bool("use_abs_pos", True):
        size += table(side, side, width)
    bias = "qkvoud" if v.bool("qkv_bias", True) else "oud"
    size += stack(layers, block(width, v.int("mlp_dim", 3072), bias=bias))
    if v.bool("use_rel_pos", True):
        # a table of offsets for each axis, over the window or over the whole grid
        listed = v.ints("global_attn_indexes", most=layers)
        everywhere = {2, 5, 8, 11} if listed is None else set(listed)
        for i in range(layers):
            reach = side if i in everywhere or not window else window
            size += table(2, 2 * reach - 1, dim)
    neck = conv(width, channels, 1, bias=False) + conv(channels, channels, 3, 3, bias=False) + stack(2, norm(channels))
    shrink = conv(channels, 2 * channels, 3, 3, bias=False) + conv(2 * channels, out, 3, 3, bias=False)
    return {TOWER: size + neck, PROJECTOR: shrink + linear(out, out)}


def moss_transcribe_diarize(c: Config, hidden: int | None) -> Sizes:
    """Whisper's encoder; the projector takes frames side by side (transformers models/moss_transcribe_diarize)."""
    a, out = part(c, "audio_config"), hidden or 1024

    def fact(name: str, other: str, default: int) -> int:
        return a.int(other if a.has(other) else name, default, most=2**20)

    width = fact("hidden_size", "d_model", 1024)
    tower = audio.whisper(
        width,
        fact("num_hidden_layers", "encoder_layers", 24),
        fact("intermediate_size", "encoder_ffn_dim", 4096),
        a.int("num_mel_bins", 80),
        a.int("max_source_positions", 1500),
    )
    merged = width * c.int("audio_merge_size", 4, most=2**20)
    return {AUDIO: tower, PROJECTOR: mlp(merged, out, out, c.bool("projector_bias", True)) + norm(out)}


def emu3(c: Config, hidden: int | None) -> Sizes:
    """Emu3's VQ tokenizer, where it has the published shape (transformers models/emu3)."""
    v = part(c, "vq_config")
    published = all(v.get(key, value) == value for key, value in EMU3_VQ.items())
    return {"model.vqmodel": EMU3_SIZE} if published else {}


def _conformer(a: Config, width: int) -> Size:
    """Phi-4's conformer layer: an MLP on either side of attention and a convolution cut in depth and points."""
    inner = a.int("intermediate_size", 1536)
    half = norm(width) + linear(width, 2 * inner) + linear(inner, width)
    out, deep = a.int("ext_pw_out_channel", 1024), a.int("depthwise_separable_out_channel", 1024)
    spread = width * a.int("depthwise_multiplier", 1)
    glu = conv(width, 2 * out, 1) + table(2, out)
    light = norm(width) + glu + conv(1, spread, a.int("kernel_size", 3)) + conv(spread, deep, 1) + conv(width, out, 1)
    return stack(2, half) + stack(4, linear(width, width)) + light + stack(2, norm(width))


def phi4_multimodal(c: Config, hidden: int | None) -> Sizes:
    """SigLIP, and a conformer behind strided convolutions, each with projectors (transformers models/phi4_multimodal)."""
    v, a, out = part(c, "vision_config"), part(c, "audio_config"), hidden or 3072
    v.raw = SIGLIP_SO400M | {key: value for key, value in v.raw.items() if key != "vision_use_head"}
    tower, width = vision.siglip(v), a.int("hidden_size", 1024)
    size, channels, bins = Size(), a.int("nemo_conv_channels", 1024), a.int("input_size", 80)
    steps = a.int("time_reduction", 8, least=2).bit_length() - 1
    for step in range(steps):
        bins = (bins + 1) // 2
        size += conv(1, channels, 9) + (conv(channels, channels, 1) if step else Size())
    distances = a.int("bias_max_distance", 1000) * (1 if a.bool("bias_symmetric") else 2)
    size += linear(channels * bins, width) + table(distances, a.int("num_attention_heads", 16))
    size += stack(a.layers("num_blocks", 24), _conformer(a, width))
    speech = mlp(width * a.int("downsample_rate", 1), out, out)
    return {
        "model.embed_tokens_extend.image_embed": tower.size + mlp(tower.width, out, out) + table(2, tower.width),
        "model.embed_tokens_extend.audio_embed": size + stack(2, speech),  # for speech alone, and beside images
    }


READERS: dict[str, Family] = {
    "emu3": emu3,
    "fuyu": fuyu,
    "gemma4_unified": gemma4_unified,
    "got_ocr2": got_ocr2,
    "moss_transcribe_diarize": moss_transcribe_diarize,
    "phi4_multimodal": phi4_multimodal,
}
