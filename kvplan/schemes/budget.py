"""The tokens axis: a budget of entries that heavy hitters or a prompt's last queries choose."""

from __future__ import annotations

from kvplan.errors import InvalidInput
from kvplan.schemes import Arguments, attention_layers, change_attention, scheme
from kvplan.schemes.window import Own, bounded
from kvplan.specs import Growth, ModelSpec

SOURCE = "H2O arXiv 2306.14048, Scissorhands arXiv 2305.17118, SnapKV arXiv 2404.14469"


def with_budgets(spec: ModelSpec, text: str, budgets: list[int]) -> ModelSpec:
    """The spec whose attention layers keep as many entries as ``budgets`` say, one number per attention layer."""
    of_layer = dict(zip(attention_layers(spec), budgets, strict=True))

    def change(layer: int, mixer: Own) -> Own:
        return bounded(mixer, Growth("budget", of_layer[layer]), text)

    return change_attention(spec, text, change, weights=False)


@scheme(
    "budget",
    "budget:N | budget:N1_N2_...",
    "tokens",
    "N entries per layer and head stay, chosen by their attention scores; one number per attention layer where they differ",
    SOURCE,
)
def budget(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """A budget of N entries per layer: what scored least is evicted, after the prompt was attended to in full.

    Formula: min(S, N) entries are held, a decode step reads min(S + 1, N). The prompt's FLOPs stay (its peak cache,
    before eviction, is the model's own and not counted), parameters stay; attention FLOPs of a decode step fall. One
    number holds for all layers, N1_N2_... gives each attention layer its own. A layer whose window or chunk is no
    larger stays as it is. The running scores of H2O (a number per entry and head) are not counted.
    Source: H2O (2306.14048: 20 % of the tokens), Scissorhands (2305.17118), SnapKV (2404.14469: 1024).

    >>> from kvplan.api import plan
    >>> full, kept = (plan("llama-2-7b", scheme=s, context=4096) for s in (None, "budget:1024"))
    >>> full.kv["bytes"] // kept.kv["bytes"], full.answer.prefill == kept.answer.prefill
    (4, True)
    """
    text, count = arguments.text, len(attention_layers(spec))
    arguments.only("N", bare=True)
    items = arguments.bare.split("_") if "_" in arguments.bare else [arguments.bare] * count
    if not count or len(items) != count:
        raise InvalidInput("scheme", text, f"one budget, or one for each of {count} attention layers, joined by _")
    return with_budgets(spec, text, [arguments._replace(bare=item).count("N", bare=True) for item in items])
