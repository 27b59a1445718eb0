"""Mixers with a state of fixed size that several families share: Mamba 1 and 2, the gated delta rule, layer lists.

FLOPs of a recurrence (``mix_flops``) are an estimate: the arithmetic of the recurrent form, per element of the state
and token. Chunked kernels do more work for the same result, so no counter of matmuls will agree with it. State is fp32
in every class of transformers 5.23 that uses these mixers; convolution state has the dtype of the activations.
"""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.specs import Growth, Part, Recurrent, Weight, vector

__all__ = [
    "LEGACY_KINDS",
    "ONE",
    "gated_delta",
    "kv_heads_default",
    "layer_kinds",
    "mamba1",
    "mamba2",
    "parameters",
    "short_conv",
    "time_step_rank",
]

ONE = Growth("constant", 1)

# Names of layer kinds in files older than transformers 5, as configuration_utils.py renames them.
LEGACY_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}

# FLOPs per element of the state and token, matmuls aside.
MAMBA1_FLOPS = 6  # exp(dt A): 1, decay times state: 1, plus dt x times B: 2, times C summed: 2
MAMBA2_FLOPS = 5  # one decay per head: 1, plus dt x times B: 2, times C summed: 2
DELTA_FLOPS = 7  # decay: 1, state times key: 2, plus key times correction: 2, state times query: 2


def parameters(module: str, elements: int) -> Weight:
    """Elements that belong to channels or heads (A, D, biases, gated norms): no matmul, split like their channels."""
    return Weight(module, 1, elements, kind="vector")


def kv_heads_default(c: Config, default: int) -> int | None:
    """The default of ``num_key_value_heads`` in classes where null means "as many as heads" and missing does not."""
    return None if "num_key_value_heads" in c.raw else default


def layer_kinds(c: Config, key: str, layers: int, allowed: tuple[str, ...]) -> list[str] | None:
    """The kind of every layer under its present name, or None where the file does not list them."""
    old = tuple(name for name, new in LEGACY_KINDS.items() if new in allowed)
    kinds = c.strings(key, layers, (*allowed, *old))
    return None if kinds is None else [LEGACY_KINDS.get(kind, kind) for kind in kinds]


def time_step_rank(c: Config, key: str, hidden: int) -> int:
    """The rank of Mamba 1's step-size projection: "auto" is a sixteenth of the hidden size, rounded up."""
    if c.get(key, "auto") == "auto":
        return -(-hidden // 16)
    return c.int(key)


def mamba1(
    hidden: int,
    inner: int,
    state: int,
    kernel: int,
    rank: int,
    *,
    bias: bool,
    conv_bias: bool,
    module: str = "mixer",
    heads: int = 1,
    norms: bool = False,
) -> Recurrent:
    """Mamba's selective SSM (arXiv 2312.00752): a state of ``inner x state``, a convolution over ``inner`` channels.

    ``heads`` cuts the selective projections into independent blocks (Zamba); ``norms`` adds weighted norms on the step
    size, B and C (Jamba).
    """
    width = inner // heads
    weights = [
        Weight(f"{module}.in_proj", hidden, 2 * inner, bias),
        Weight(f"{module}.conv1d", kernel, inner, conv_bias, kind="conv"),
        Weight(f"{module}.x_proj", width, rank + 2 * state, copies=heads),
        Weight(f"{module}.dt_proj", rank, width, True, copies=heads),
        parameters(f"{module}.A_log", inner * state),
        parameters(f"{module}.D", inner),
        Weight(f"{module}.out_proj", inner, hidden, bias),
    ]
    if norms:
        weights.append(vector(f"{module}.layernorms", rank + 2 * state))
    return Recurrent(
        "mamba",
        tuple(weights),
        conv=((inner, kernel),),
        state=(Part("recurrent", inner, state, "fp32", ONE),),
        mix_flops=MAMBA1_FLOPS * inner * state,
        conv_heads=inner,
        # discretised A, discretised B and its product with the input, [inner, tokens, state] each; step, gate, input twice
        scan_bytes=4 * inner * (3 * state + 6),
    )


def mamba2(
    hidden: int,
    heads: int,
    head_dim: int,
    groups: int,
    state: int,
    kernel: int,
    *,
    bias: bool,
    conv_bias: bool,
    out_bias: bool | None = None,
    norm: bool = True,
    module: str = "mamba",
    inner: int | None = None,
    chunk: int = 256,
) -> Recurrent:
    """Mamba 2 (arXiv 2405.21060): a state of ``head_dim x state`` per head; x, B and C pass the convolution together.

    ``groups`` share B and C between heads; ``norm`` is the gated norm before the output; ``out_bias`` defaults to
    ``bias``; ``inner`` where the class does not derive it from the heads. The scan goes by ``chunk`` tokens.
    """
    inner = inner or heads * head_dim
    channels = inner + 2 * groups * state
    weights = [
        Weight(f"{module}.in_proj", hidden, inner + channels + heads, bias),
        Weight(f"{module}.conv1d", kernel, channels, conv_bias, kind="conv"),
        parameters(f"{module}.dt_bias_A_log_D", 3 * heads),
        Weight(f"{module}.out_proj", inner, hidden, bias if out_bias is None else out_bias),
    ]
    if norm:
        weights.append(parameters(f"{module}.norm", inner))
    return Recurrent(
        "mamba2",
        tuple(weights),
        conv=((channels, kernel),),
        state=(Part("recurrent", heads, inner // heads * state, "fp32", ONE),),
        mix_flops=MAMBA2_FLOPS * inner * state,
        conv_heads=heads,
        # decays within a chunk, their exponential and the weights; B and C repeated per head, and what becomes of them; x
        scan_bytes=4 * heads * (3 * chunk + 6 * state + 4 * (inner // heads)),
    )


def gated_delta(
    projections: tuple[Weight, ...],
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
    kernel: int,
    *,
    module: str = "linear_attn",
    kind: str = "gated_delta",
    decays: int | None = None,
) -> Recurrent:
    """The gated delta rule (arXiv 2412.06464): ``key_dim x value_dim`` per value head; q, k, v pass a convolution.

    ``projections`` are the matrices around it, which families cut differently; ``decays`` counts the elements of its
    step bias (one per value head, or one per channel in Kimi's form).
    """
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    weights = (
        *projections,
        Weight(f"{module}.conv1d", kernel, channels, kind="conv"),
        parameters(f"{module}.dt_bias_A_log", (decays or value_heads) + value_heads),
        vector(f"{module}.norm", value_dim),
    )
    return Recurrent(
        kind,
        weights,
        conv=((channels, kernel),),
        state=(Part("recurrent", value_heads, key_dim * value_dim, "fp32", ONE),),
        mix_flops=DELTA_FLOPS * value_heads * key_dim * value_dim,
        conv_heads=key_heads,
        # queries, keys and values per value head, scaled, decayed and as chunks see them: 13 copies in all
        scan_bytes=4 * 13 * value_heads * value_dim,
    )


def short_conv(hidden: int, kernel: int, bias: bool) -> Recurrent:
    """Liquid's gated short convolution: nothing of a sequence stays but the last columns."""
    return Recurrent(
        "short_conv",
        (
            Weight("conv.conv", kernel, hidden, bias, kind="conv"),
            Weight("conv.in_proj", hidden, 3 * hidden, bias),
            Weight("conv.out_proj", hidden, hidden, bias),
        ),
        conv=((hidden, kernel),),
        mix_flops=2 * hidden,  # two gates, one multiplication per channel each
        conv_heads=hidden,
    )
