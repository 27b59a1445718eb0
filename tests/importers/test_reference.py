"""Every published config against its own class in transformers 5.23: parameters, cache bytes, FLOPs.

The recorded figures come from tests/make_reference.py, which imports nothing of kvplan; a few are measured again here,
so that the record cannot go stale unnoticed.
"""

from __future__ import annotations

import json

import pytest

from kvplan.cache import Read
from kvplan.costs import held_bytes, hold, prefill_flops, profile, resolve_formats
from kvplan.engines.transformers import parts_of
from kvplan.importers import MODULES, from_config, model_types
from kvplan.specs import Attention, Dense, Latent, ModelSpec
from tests.support import CONFIGS, config, provenance, reference

REFERENCE = reference()
NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))
COUNTED = [name for name in NAMES if "parameters" in REFERENCE[f"{name}.json"]]
RAN = [name for name in NAMES if "cache_bytes_next" in REFERENCE[f"{name}.json"]]


def cache_bytes(spec: ModelSpec, tokens: int) -> int:
    """What kvplan says the class's cache holds after a prefill of ``tokens``, batch 1, bf16."""
    formats = resolve_formats(spec, "bf16", "bf16", None, None)
    return sum(held_bytes(held, tokens) for held in hold(profile(spec, parts_of).plan, formats))


def is_dense(spec: ModelSpec) -> bool:
    """Softmax attention and dense MLPs only, no sparse reads: what FlopCounterMode counts as it is."""
    reads: tuple[Read, ...] = profile(spec).plan.reads
    return all(
        isinstance(m, (Attention, Latent)) for layer in spec.layers for m in layer.mixers
    ) and all(isinstance(m, Dense) for layer in spec.layers for m in layer.mlps) and all(r.top_k is None for r in reads)  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_equal_the_class(name: str) -> None:
    """count_parameters is sum(p.numel()) of what AutoModelForCausalLM.from_config builds."""
    spec = from_config(config(name))

    assert REFERENCE[f"{name}.json"]["parameters"] == profile(spec).parameters


@pytest.mark.parametrize("name", RAN)
def test_cache_equals_the_class(name: str) -> None:
    """Bytes of the cache after a prefill and after one token more, tensor for tensor."""
    row, spec = REFERENCE[f"{name}.json"], from_config(config(name))

    assert row["cache_bytes"] == cache_bytes(spec, row["tokens"])
    assert row["cache_bytes_next"] == cache_bytes(spec, row["tokens"] + 1)


def test_flops_of_dense_families_equal_torch() -> None:
    """With full attention and all logits, FLOPs equal FlopCounterMode on the class with eager attention."""
    checked = []
    for name in RAN:
        row, spec = REFERENCE[f"{name}.json"], from_config(config(name))
        if is_dense(spec):
            flops = prefill_flops(profile(spec), row["tokens"], 1, full=True, all_logits=True)
            assert row["flops_full_all"] == flops.total, name
            checked.append(spec.model_type)
    assert len(checked) > 120
    assert len(set(checked)) > 35


def test_every_published_type_is_imported() -> None:
    """Every model_type of the data and the further ones that issue and README name."""
    published = {row["model_type"] for row in provenance().values()}
    further = "gptj opt phi granite glm4 glm4_moe glm4_moe_lite bart internlm3 olmo_hybrid xlstm"

    assert published | set(further.split()) <= set(model_types())
    for name in NAMES:
        from_config(config(name))


def test_the_table_and_the_decorators_agree() -> None:
    """MODULES lists exactly what the modules register."""
    from importlib import import_module

    from kvplan import importers

    for module in set(MODULES.values()):
        import_module(f"kvplan.importers.{module}")
    assert set(MODULES) == set(importers._IMPORTERS)


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB__SmolLM2-135M-Instruct", "google__gemma-3-1b-it", "Qwen__Qwen3-0.6B", "openai__gpt-oss-20b",
        "deepseek-ai__DeepSeek-V2-Lite", "EleutherAI__pythia-70m", "state-spaces__mamba-130m-hf",
    ],
)  # fmt: skip
def test_the_record_is_what_the_class_says_today(name: str) -> None:
    """Measured again, on the meta device, at another length."""
    from tests.make_reference import measure

    fresh = measure(config(name), 300, flops=False)
    spec = from_config(config(name))

    assert REFERENCE[f"{name}.json"]["parameters"] == fresh["parameters"]
    assert fresh["cache_bytes"] == cache_bytes(spec, 300)
    assert fresh["cache_bytes_next"] == cache_bytes(spec, 301)


def test_every_row_names_its_version() -> None:
    """A reference without a version is a rumour."""
    assert {"5.23.0"} == {row["transformers"] for row in REFERENCE.values()}
    assert json.dumps(REFERENCE)  # plain data
