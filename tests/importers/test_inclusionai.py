"""Ling 3: the class's default as it comes, and the two meanings of head_dim."""

from __future__ import annotations

from kvplan.weights import active_parameters, count_parameters
from tests.importers.probe import kept, parameters, spec_of

LING = {"model_type": "bailing_hybrid"}


def test_ling_3_flash() -> None:
    """The default is Ling 3.0 Flash; seven of its 42 layers keep a latent, the others a state of 128 x 128 a head."""
    spec = spec_of(LING)
    state = 32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2  # fp32, and three columns of a convolution over q, k and v

    assert (124, 5) == (count_parameters(spec) // 10**9, active_parameters(spec) // 10**9)
    assert 7 * 100 * (512 + 64) * 2 + 35 * state == kept(LING, 100)


def test_head_dim_of_files_that_transformers_wrote() -> None:
    """There it is the rotary one, and the delta rule's stands beside it."""
    written = {**LING, "head_dim": 64, "linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4}

    assert parameters(LING) == parameters(written)
    assert kept(LING, 100) == kept(written, 100)
