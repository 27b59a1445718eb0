"""LMDeploy 0.16.0 through ``kvplan.plan``: blocks, slabs and reserves of its two engines, by the rules of their sources."""

from typing import Any

import pytest

import kvplan
from kvplan.engines.lmdeploy import slab
from kvplan.errors import InvalidInput

GIB, MIB = 2**30, 2**20


def ask(model: Any, options: dict[str, Any] | None = None, **given: Any) -> kvplan.Report:
    return kvplan.plan(model, engine="lmdeploy", engine_options=options, **given)


@pytest.mark.parametrize(("policy", "size"), [("0", 4_194_304), ("8", 2_162_688), ("4", 1_114_112)])
def test_turbomind_blocks(policy: str, size: int) -> None:
    assert size == ask("llama-3.1-8b", {"quant_policy": policy}, tp=2).engine["facts"]["block_bytes"]


def test_turbomind_latents() -> None:
    # one vector of 576 is key and value
    assert 61 * 64 * 576 * 2 == ask("deepseek-v3").engine["facts"]["block_bytes"]


@pytest.mark.parametrize(
    ("block", "size", "objects"),
    [
        (4 * MIB, 32 * MIB, 8),
        (2_162_688, 32 * MIB, 15),  # 97 % of 32 MiB
        (3 * MIB, 64 * MIB, 21),  # 10 fill 94 % of 32 MiB, 21 98 % of 64
        (20 * MIB, 512 * MIB, 25),  # 94 % of all from 64 MiB to 256
        (36 * MIB, 256 * MIB, 7),
        (600 * MIB, GIB, 1),  # never 95 %
    ],
)
def test_slabs(block: int, size: int, objects: int) -> None:
    """Powers of two from 32 MiB to 1 GiB, until 95 % are used."""
    assert (size, objects) == slab(block)


@pytest.mark.parametrize(
    ("policy", "layer"),
    [
        ("0", 2 * 64 * 8 * 128 * 2),
        ("8", 2 * (64 * 8 * 128 + 64 * 8 * 2 * 2)),
        ("4", 2 * (64 * 8 * 64 + 64 * 8 * 2 * 2)),
        ("fp8", 2 * 64 * 8 * 128),
    ],
)
def test_pytorch_blocks(policy: str, layer: int) -> None:
    found = ask("llama-3.1-8b", {"backend": "pytorch", "quant_policy": policy}).engine["facts"]
    assert 32 * layer == found["block_bytes"]


def test_pytorch_tensors_are_aligned_to_256_bytes() -> None:
    numbers = {"layers": 3, "hidden": 40, "heads": 1, "kv_heads": 1, "head_dim": 40, "vocab": 64}
    # a block of 5 tokens: 5 x 40 x 2 = 400 bytes of keys take 512
    found = ask(None, {"backend": "pytorch", "cache_block_seq_len": 5}, **numbers).engine["facts"]
    assert 3 * 2 * 512 == found["block_bytes"]


def test_pytorch_sparse_latents_in_fp8() -> None:
    found = ask("deepseek-v3.2", {"backend": "pytorch"}, kv_dtype="fp8").engine["facts"]
    assert 61 * 64 * (656 + 132) == found["block_bytes"]


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_whole_blocks(tokens: int, blocks: int) -> None:
    assert 3 * blocks * 64 * 131072 == ask("llama-3.1-8b", context=tokens, batch=3).kv["bytes"]
    assert -(-tokens // 128) * 128 * 131072 == ask("llama-3.1-8b", context=tokens, block_size=128).kv["bytes"]


def test_a_share_of_what_weights_leave() -> None:
    given = {"memory": "80GiB", "runtime_overhead": "1GiB"}
    report = ask("llama-3.1-8b", **given)
    free = 79 * GIB - report.to_dict()["weights"]["bytes"]
    # blocks of 8 MiB, four to a slab of 32 MiB
    assert int(free * 0.8) // (32 * MIB) * 4 == report.engine["facts"]["num_gpu_blocks"]
    report = ask("llama-3.1-8b", {"backend": "pytorch"}, **given)
    reserve = (8192 + 2 * 128) * 128256 * 2
    assert int((free - reserve) * 0.8) // (8 * MIB) == report.engine["facts"]["num_gpu_blocks"]
    kept = {term.path: term.value for term in report.terms}
    assert reserve == kept["engine/runtime reserve"]


def test_a_prompt_pass_is_halved_until_blocks_fit() -> None:
    # 2 GiB free: 8192 tokens of logits would take them all, 4096 leave 1.06 GB less a fifth, 108 blocks
    report = ask("llama-3.1-8b", {"backend": "pytorch"}, memory=2 * GIB + 16_060_522_496, runtime_overhead=0)
    assert 16_060_522_496 == report.to_dict()["weights"]["bytes"]
    kept = {term.path: term.value for term in report.terms}
    assert (4096 + 256) * 128256 * 2 == kept["engine/runtime reserve"]


def test_admission() -> None:
    report = ask("llama-3.1-8b", {"num_gpu_blocks": 100}, gpu="h100-80gb-sxm", context=640)
    assert report.capacity is not None
    assert (10, 6400) == (report.capacity.max_batch, report.capacity.max_context)
    report = ask("llama-3.1-8b", {"max_batch_size": 5}, gpu="h100-80gb-sxm", context=640)
    assert report.capacity is not None
    assert 5 == report.capacity.max_batch


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kv_dtype": "q8_0"}, "quant_policy"),
        ({"kv_dtype": "fp8"}, "fp8 has backend pytorch"),
        ({"engine_options": {"quant_policy": "2"}}, "0, 4, 8"),
        ({"gpu": "h100-80gb-sxm", "gpu_memory_utilization": 0.8}, "cache_max_entry_count"),
        ({"engine_version": "0.2"}, "0.16.0"),
    ],
)
def test_bad_input(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kvplan.plan("llama-3.1-8b", engine="lmdeploy", **given)
