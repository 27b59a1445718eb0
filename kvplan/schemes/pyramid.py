"""The tokens axis: budgets that fall from the first layer to the last."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, scheme
from kvplan.schemes.budget import with_budgets
from kvplan.specs import ModelSpec


def pyramid_budgets(layers: int, mean: int, beta: int, window: int) -> list[int]:
    """Entries per layer as PyramidKV's code computes them (pyramidkv_utils.py), the window of newest tokens included.

    >>> pyramid_budgets(32, 2048, 20, 8)[::31]
    [3986, 111]
    """
    if layers < 2:
        return [mean] * layers
    spare = mean - window
    last = spare // beta
    first = 2 * spare - last
    step = (first - last) // (layers - 1)
    return [first - i * step + window for i in range(layers)]


@scheme(
    "pyramid",
    "pyramid:mean=N[,beta=20,window=8]",
    "tokens",
    "budgets that fall linearly from the first to the last layer around a mean of N entries",
    "PyramidKV, Cai et al. 2024, arXiv 2406.02069",
)
def pyramid(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Budgets per layer on a straight line: many entries in the first layer, few in the last.

    Formula: the ``window`` newest tokens stay everywhere; beside them the last layer keeps (N - window) // beta, the
    first 2 (N - window) less that, and each layer between floor((first - last) / (L - 1)) fewer than the one below.
    The mean is N up to that rounding. Everything else is as for ``budget``: prompt FLOPs and parameters stay. For
    prompts shorter than the first layer's budget the code flattens the line; here such a layer keeps S.
    Source: arXiv 2406.02069, equation 5, and its pyramidkv_utils.py (beta 20, window 8).

    >>> from kvplan.api import plan
    >>> kv = plan("llama-2-7b", scheme="pyramid:mean=2048", context=32768).kv
    >>> kv["bytes"] / 524_288 / 2048
    1.000244140625
    """
    arguments.only("mean", "beta", "window")
    mean, beta = arguments.count("mean"), arguments.count("beta", default=20)
    window = arguments.count("window", default=8, least=0)
    if mean <= window or mean - window < beta:
        raise InvalidInput("scheme", arguments.text, "a mean of at least window + beta entries")
    budgets = pyramid_budgets(len(attention_layers(spec)), mean, beta, window)
    return with_budgets(spec, arguments.text, budgets)
