"""The place axis: what stays, what travels per step, over which link, and the roofline's answer."""

from __future__ import annotations

import pytest

import kvplan
from kvplan.errors import InvalidInput

QUESTION = {"gpu": "a100-80gb-sxm", "context": 4096, "batch": 64}


def test_shares_add_up_to_everything() -> None:
    """GPU, host and disk hold the whole cache between them; FLOPs, parameters and traffic stay."""
    plain = kvplan.plan("llama-2-7b", **QUESTION)
    away = kvplan.plan("llama-2-7b", scheme="offload:cpu=0.5,disk=0.2", **QUESTION)
    kv = away.kv

    assert plain.kv["bytes"] == kv["bytes"]
    assert abs(kv["bytes_per_gpu"] + kv["bytes_host"] + kv["bytes_disk"] - kv["bytes"]) <= QUESTION["batch"]
    assert kv["bytes_host"] == pytest.approx(0.5 * kv["bytes"], abs=1)
    assert kv["bytes_disk"] == pytest.approx(0.2 * kv["bytes"], abs=1)
    assert plain.kv["bytes_read_per_step"] == kv["bytes_read_per_step"]
    assert kv["bytes_over_link_per_step"] == pytest.approx(0.7 * kv["bytes_read_per_step"], abs=1)
    assert plain.answer.decode == away.answer.decode
    assert plain.fits is False
    assert away.fits is True


def test_the_link_binds_the_step() -> None:
    """Half of 64 x 4,097 x 524,288 bytes over PCIe 4.0 x16 at 31.5 GB/s; faster with a faster link."""
    times = kvplan.plan("llama-2-7b", scheme="offload:cpu=0.5", **QUESTION).answer.times
    assert times is not None

    assert "link" == times.decode.side
    assert times.decode.seconds == pytest.approx(0.5 * 64 * 4097 * 524_288 / 31.5e9, rel=1e-6)
    faster = kvplan.plan("llama-2-7b", scheme="offload:cpu=0.5", host_bandwidth="450GB", **QUESTION).answer.times
    assert faster is not None
    assert times.decode.seconds / faster.decode.seconds == pytest.approx(450 / 31.5, rel=1e-6)


@pytest.mark.parametrize("share", ["0", "0.25", "0.9", "1"])
def test_capacity_stays_exact(share: str) -> None:
    """fits(n) and not fits(n + 1) with a part of the cache away; everything away leaves the batch to activations."""
    flags = QUESTION | {"scheme": f"offload:cpu={share}"}
    capacity = kvplan.plan("llama-2-7b", **flags).capacity
    assert capacity is not None
    for field, n in (("batch", capacity.max_batch), ("context", capacity.max_context)):
        if n is None:
            continue
        assert kvplan.plan("llama-2-7b", **(flags | {field: n})).fits
        assert not kvplan.plan("llama-2-7b", **(flags | {field: n + 1})).fits


@pytest.mark.parametrize(
    "text", ["offload", "offload:cpu=2", "offload:cpu=0.7,disk=0.7", "offload:gpu=0.5", "offload:0.5", "offload:cpu=x"]
)
def test_shares_that_cannot_be(text: str) -> None:
    """Each is one clear line that names the scheme."""
    with pytest.raises(InvalidInput, match="offload"):
        kvplan.plan("llama-2-7b", scheme=text)
