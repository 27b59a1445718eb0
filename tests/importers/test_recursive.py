"""Weights once, cache once per run; the sums are written out from the paper's cycles."""

from __future__ import annotations

import pytest

from kvplan.errors import InvalidInput
from tests.importers.probe import flops, kept, parameters, spec_of

SMALL = {"model_type": "hrm_text", "num_attention_heads": 2, "head_dim": 8, "hidden_size": 32, "intermediate_size": 48}
SMALL |= {"vocab_size": 100}
LAYER = 5 * 32 * 16 + 3 * 32 * 48  # q, k, v, gate, o and a gated MLP; norms have no weights


def test_hrm_caches_every_run_and_counts_weights_once() -> None:
    """Two layers in each stack; L runs three times before H, and that twice: 16 caches over 4 layers."""
    raw = SMALL | {"num_hidden_layers": 2}

    assert parameters(raw) == 4 * LAYER + 2 * 100 * 32 + 32
    assert kept(raw, 40) == 16 * 40 * 2 * 2 * 8 * 2
    assert flops(raw, 40) == 2 * 40 * (16 * LAYER + 100 * 32) + 16 * 2 * 40 * 40 * 2 * 16


def test_hrm_reads_what_transformers_writes() -> None:
    """The class saves the number of runs and, beside it, the depth; the two must agree."""
    raw = SMALL | {"num_hidden_layers": 16, "num_layers_per_stack": 2}

    assert parameters(raw) == parameters(SMALL | {"num_hidden_layers": 2})
    assert kept(raw, 40) == kept(SMALL | {"num_hidden_layers": 2}, 40)
    with pytest.raises(InvalidInput, match=r"num_hidden_layers: got 20, allowed: num_layers_per_stack .* here 16"):
        spec_of(raw | {"num_hidden_layers": 20})
    with pytest.raises(InvalidInput, match="at most 1024"):
        spec_of(SMALL | {"num_hidden_layers": 1000})
