"""Audio towers: Whisper's encoder, and the conformer of Gemma 3n and 4 (defaults: transformers 5.23)."""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.importers.towers.sizes import Size, block, conv, linear, mlp, norm, stack, table

__all__ = ["gemma3n", "gemma4", "whisper"]


def whisper(width: int, layers: int, inner: int, mel_bins: int, positions: int) -> Size:
    """Whisper's encoder, which Qwen2-Audio and Voxtral keep: two convolutions, keys without a bias."""
    size = conv(mel_bins, width, 3) + conv(width, width, 3) + table(positions, width)
    return size + stack(layers, block(width, inner, bias="qvoud")) + norm(width)


def _conformer(a: Config, width: int, key: str, kernel: int) -> Size:
    """A conformer layer: half an MLP on either side of attention and a depthwise convolution, RMSNorms, no biases."""
    half = mlp(width, 4 * width, width, bias=False) + stack(2, norm(width, bias=False))
    dim = a.divides(key, width, a.int(key, 8), "hidden_size")
    # q, k, v, the output and the relative positions' projection; a scale per head dimension
    attention = stack(5, linear(width, width, bias=False)) + table(dim) + stack(2, norm(width, bias=False))
    light = linear(width, 2 * width, bias=False) + linear(width, width, bias=False) + conv(1, width, kernel, bias=False)
    return stack(2, half) + attention + light + stack(3, norm(width, bias=False))


def _pair(a: Config, key: str, default: tuple[int, int]) -> tuple[int, int]:
    values = a.ints(key, least=1)
    if values is None:
        return default
    if len(values) != 2:
        raise a.error(key, f"{len(values)} entries", "two whole numbers")
    return values[0], values[1]


def _subsampling(channels: tuple[int, int], kernels: tuple[int, int], bins: int, width: int) -> Size:
    """Two convolutions over time and frequency, each with a norm, then a linear layer over the ``bins`` left."""
    size = conv(1, channels[0], kernels[0], bias=False) + norm(channels[0], bias=False)
    size += conv(channels[0], channels[1], kernels[1], bias=False) + norm(channels[1], bias=False)
    return size + linear(channels[1] * bins, width, bias=False)


def _grid(a: Config, key: str, default: int) -> list[tuple[int, int]]:
    """Two pairs (time, frequency), one per convolution."""
    value = a.get(key)
    if value is None:
        return [(default, default)] * 2
    if not isinstance(value, list) or len(value) != 2:
        raise a.error(key, value, "two pairs of whole numbers")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(n) is not int or not 0 < n < 4096 for n in pair):
            raise a.error(key, value, "two pairs of whole numbers")
        pairs.append((pair[0], pair[1]))
    return pairs


def gemma3n(a: Config) -> Size:
    """Gemma 3n's audio encoder, a universal speech model (transformers models/gemma3n)."""
    width, bins = a.int("hidden_size", 1536), a.int("input_feat_size", 128)
    kernels, strides = _grid(a, "sscp_conv_kernel_size", 3), _grid(a, "sscp_conv_stride_size", 2)
    for (_, kernel), (_, stride) in zip(kernels, strides, strict=True):
        bins = (bins + 2 - kernel) // stride + 1  # one bin of padding on either side
    if bins < 1:
        raise a.error("input_feat_size", a.raw.get("input_feat_size"), "wide enough for the convolutions in front")
    channels = _pair(a, "sscp_conv_channel_size", (128, 32))
    size = _subsampling(channels, (kernels[0][0] * kernels[0][1], kernels[1][0] * kernels[1][1]), bins, width)
    layer = _conformer(a, width, "conf_num_attention_heads", a.int("conf_conv_kernel_size", 5))
    return size + stack(a.layers("conf_num_hidden_layers", 12), layer)


def gemma4(a: Config) -> Size:
    """Gemma 4's audio encoder: the same conformer, narrower, with an output projection (transformers models/gemma4)."""
    width = a.int("hidden_size", 1024)
    channels = _pair(a, "subsampling_conv_channels", (128, 32))
    size = _subsampling(channels, (9, 9), channels[0] // 4, width)
    layer = _conformer(a, width, "num_attention_heads", a.int("conv_kernel_size", 5))
    return size + stack(a.layers(default=12), layer) + linear(width, a.int("output_proj_dims", 1536))
