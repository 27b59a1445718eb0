"""Gemma: wide heads, tied logits, local layers between global ones, and from 3n on layers that share KV."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder, grouped_attention, layer_windows, windowed
from kvplan.specs import Attention, Dense, Layer, ModelSpec, Weight, replace, vector

__all__ = ["bias_of", "layer_input", "layer_inputs", "shared_kv", "with_towers"]

# transformers nests the text model of an outer class here
NESTED = "model.language_model.layers"


@importer("gemma")
def gemma(c: Config) -> ModelSpec:
    """Gemma 1: heads of 256 whatever hidden / heads is, tied logits (transformers models/gemma)."""
    layers, hidden = c.layers(default=28), c.int("hidden_size", 3072)
    attention = grouped_attention(c, hidden, heads=16, kv_heads=16, head_dim=256, bias=bias_of(c))
    layer = Layer((attention,), (Dense(c.int("intermediate_size", 24576)),), norms=2 * hidden)
    return decoder(c, hidden, (layer,) * layers, vocab=256000, positions=8192, tied=True)


@importer("gemma2")
def gemma2(c: Config) -> ModelSpec:
    """Gemma 2: every other layer is local, from the first on; files omit the pattern (transformers models/gemma2)."""
    c.ignore("sliding_window_size")  # the original code's name beside sliding_window; the class never reads it
    layers, hidden = c.layers(default=26), c.int("hidden_size", 2304)
    windows = layer_windows(c, layers, _window(c, 4096), lambda i: i % 2 == 0)
    attention = grouped_attention(c, hidden, heads=8, kv_heads=4, head_dim=256, bias=bias_of(c))
    return _stack(c, hidden, attention, windows, vocab=256000, positions=8192)


@importer("vaultgemma")
def vaultgemma(c: Config) -> ModelSpec:
    """VaultGemma: Gemma 2 without the norms behind attention and MLP (transformers models/vaultgemma)."""
    layers, hidden = c.layers(default=26), c.int("hidden_size", 2304)
    windows = layer_windows(c, layers, _window(c, 4096), lambda i: i % 2 == 0)
    attention = grouped_attention(c, hidden, heads=8, kv_heads=4, head_dim=256, bias=bias_of(c))
    return _stack(c, hidden, attention, windows, norms=2, vocab=256000, positions=8192)


@importer("gemma3_text")
def gemma3_text(c: Config) -> ModelSpec:
    """Gemma 3's decoder: five local layers to a global one, normed queries and keys (transformers models/gemma3)."""
    layers, hidden = c.layers(default=26), c.int("hidden_size", 2304)
    window = _window(c, 4096)
    if window is not None and c.bool("use_bidirectional_attention"):
        window = window // 2 + 1  # EmbeddingGemma: the class halves the window, which then reaches both ways
    every = c.int("sliding_window_pattern", 6)
    c.ignore("_sliding_window_pattern")  # what transformers 5 writes for the same number; it reads layer_types back
    windows = layer_windows(c, layers, window, lambda i: (i + 1) % every != 0)
    attention = grouped_attention(c, hidden, heads=8, kv_heads=4, head_dim=256, bias=bias_of(c), qk_norm="head")
    return _stack(c, hidden, attention, windows, vocab=262208, positions=131072)


@importer("gemma3")
def gemma3(c: Config) -> ModelSpec:
    """Gemma 3 with its vision tower; the outer tie_word_embeddings rules (transformers models/gemma3)."""
    return with_towers(c, gemma3_text(c.sub("text_config", {})))


@importer("gemma3n_text")
def gemma3n_text(c: Config) -> ModelSpec:
    """Gemma 3n's decoder: AltUp, LAuReL, per-layer embeddings, last layers that share KV (transformers models/gemma3n).

    Each shared layer reads the last layer of its own kind that keeps KV. AltUp's router runs twice a layer.
    """
    layers, hidden = c.layers(default=35), c.int("hidden_size", 2048)
    windows = layer_windows(c, layers, c.int("sliding_window", 512), lambda i: (i + 1) % 5 != 0)
    reads = shared_kv(c, windows, default=15)
    attention = grouped_attention(c, hidden, heads=8, kv_heads=2, head_dim=256, bias=bias_of(c), qk_norm="head")
    widths = c.get("intermediate_size")
    if isinstance(widths, list):
        widths = c.ints("intermediate_size", layers, least=1)
    else:
        widths = [c.int("intermediate_size", 16384)] * layers
    c.ignore("activation_sparsity_pattern")  # zeroes activations; the kernels multiply them all the same
    streams, rank = c.int("altup_num_inputs", 4, most=64), c.int("laurel_rank", 64)
    width = c.int("hidden_size_per_layer_input", 256)
    router = Weight("altup.modality_router", hidden, streams, shard="none")
    around = (
        vector("altup.correct_output_scale", hidden),
        vector("altup.router_norm", hidden),
        Weight("altup.correction_coefs", streams, streams, shard="none"),
        Weight("altup.prediction_coefs", streams, streams * streams, shard="none"),
        Weight("laurel.linear_left", hidden, rank, shard="none"),
        Weight("laurel.linear_right", rank, hidden, shard="none"),
        vector("laurel.post_laurel_norm", hidden),
        *layer_input(hidden, width),
    )
    stack = tuple(
        Layer(
            (replace(attention, window=windows[i], reads=reads[i]),),
            (Dense(widths[i]),),
            norms=4 * hidden,
            # one router, met before and after the layer: two entries, tied, are one tensor and two products
            extra=(*(router._replace(tie=f"altup.modality_router.{i}"),) * 2, *around),
            mix_flops=2 * hidden * streams * streams,  # the predictions: hidden x streams times streams x streams
        )
        for i in range(layers)
    )
    outer = (
        *layer_inputs(c, hidden, width, layers),
        Weight("altup_projections", hidden, hidden, copies=streams - 1, shard="none"),
        Weight("altup_unembed_projections", hidden, hidden, copies=streams - 1, shard="none"),
    )
    return decoder(c, hidden, stack, vocab=262400, positions=32768, tied=True, extra=outer)


@importer("gemma3n")
def gemma3n(c: Config) -> ModelSpec:
    """Gemma 3n with its vision and audio towers (transformers models/gemma3n)."""
    return with_towers(c, gemma3n_text(c.sub("text_config", {})))


def bias_of(c: Config) -> str:
    """Which projections carry a bias: all or none."""
    return "qkvo" if c.bool("attention_bias") else ""


def _window(c: Config, default: int) -> int | None:
    # the class's window for a missing key, none for null
    return c.maybe_int("sliding_window") if "sliding_window" in c.raw else default


def with_towers(c: Config, text: ModelSpec) -> ModelSpec:
    """The decoder under its outer name, beside its towers; the outer tie_word_embeddings rules."""
    from kvplan.importers.towers import towers  # text-only files never need it

    return replace(
        text,
        model_type=c.str("model_type", ""),
        tied=c.bool("tie_word_embeddings", True),
        towers=towers(c, counted=True, hidden=text.hidden),
        prefix=NESTED,
    )


def _stack(
    c: Config,
    hidden: int,
    attention: Attention,
    windows: list[int | None],
    *,
    vocab: int,
    positions: int,
    norms: int = 4,
) -> ModelSpec:
    # four norms: before and after both attention and MLP
    mlp = Dense(c.int("intermediate_size", 9216))
    stack = tuple(Layer((windowed(attention, w),), (mlp,), norms=norms * hidden) for w in windows)
    return decoder(c, hidden, stack, vocab=vocab, positions=positions, tied=True)


def shared_kv(c: Config, windows: list[int | None], *, default: int) -> list[int | None]:
    """Whose KV each layer reads: the last ``num_kv_shared_layers`` read the last owner of their own kind."""
    count = len(windows)
    shared = c.int("num_kv_shared_layers", default, least=0)
    first = count - shared
    if first < 1:
        raise c.error("num_kv_shared_layers", shared, f"fewer than the layers ({count})")
    reads: list[int | None] = [None] * count
    for i in range(first, count):
        owners = [j for j in range(first) if (windows[j] is None) == (windows[i] is None)]
        if not owners:
            raise c.error("num_kv_shared_layers", shared, f"a number that leaves layer {i} a layer of its kind to read")
        reads[i] = owners[-1]
    return reads


def layer_input(hidden: int, width: int) -> tuple[Weight, ...]:
    """What a layer holds to take its own embedding of the token; nothing where ``width`` is 0."""
    if not width:
        return ()
    return (
        Weight("per_layer_input_gate", hidden, width, shard="none"),
        Weight("per_layer_projection", width, hidden, shard="none"),
        vector("post_per_layer_input_norm", hidden),
    )


def layer_inputs(c: Config, hidden: int, width: int, layers: int) -> tuple[Weight, ...]:
    """The table of all layers' own embeddings and its projection; nothing where ``width`` is 0."""
    if not width:
        return ()
    vocab = c.int("vocab_size_per_layer_input", 262144)
    return (
        Weight("embed_tokens_per_layer", vocab, layers * width, kind="lookup"),
        Weight("per_layer_model_projection", hidden, layers * width, shard="none"),
        vector("per_layer_projection_norm", width),
    )
