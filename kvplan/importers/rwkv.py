"""RWKV 4, the first with a class in transformers."""

from __future__ import annotations

from kvplan.importers import importer
from kvplan.importers.config import Config
from kvplan.importers.parts import decoder
from kvplan.importers.recurrent import ONE, parameters
from kvplan.specs import Layer, ModelSpec, Part, Recurrent, Weight, replace, vector


@importer("rwkv")
def rwkv(c: Config) -> ModelSpec:
    """RWKV 4 (arXiv 2305.13048; transformers models/rwkv): five vectors of the hidden size per layer, whatever S is.

    The last input of both blocks (token shifts) in the dtype of the activations; numerator, denominator and maximum of
    the average over the past in fp32.
    """
    layers, hidden = c.layers(default=32), c.int("hidden_size", 4096)
    inner, width = c.int("attention_hidden_size", hidden), c.int("intermediate_size", 4 * hidden)
    if inner != hidden:
        raise c.error("attention_hidden_size", inner, f"hidden_size ({hidden}): the class keeps states of that width")
    mixer = Recurrent(
        "rwkv4",
        (
            Weight("attention.key", hidden, inner),
            Weight("attention.value", hidden, inner),
            Weight("attention.receptance", hidden, inner),
            parameters("attention.time_decay_first", 2 * inner),
            vector("attention.time_mix", 3 * hidden),
            Weight("attention.output", inner, hidden),
            Weight("feed_forward.key", hidden, width),
            Weight("feed_forward.receptance", hidden, hidden),
            Weight("feed_forward.value", width, hidden),
            vector("feed_forward.time_mix", 2 * hidden),
        ),
        state=(
            Part("shift", 1, 2 * hidden, "compute", ONE),
            Part("recurrent", 1, 3 * inner, "fp32", ONE),
        ),
        # per channel: two weighted means over numerator and denominator (3 + 2 each), one quotient
        mix_flops=11 * inner,
    )
    layer = Layer((mixer,), norms=4 * hidden)
    first = replace(layer, norms=6 * hidden)  # a norm behind the token table is the first block's
    c.ignore("rescale_every")  # halves weights against overflow in fp16
    return decoder(
        c,
        hidden,
        (first, *(layer,) * (layers - 1)),
        vocab=50277,
        positions=c.int("context_length", 1024),
        final_norm=2 * hidden,
        prefix="rwkv.blocks",
    )
