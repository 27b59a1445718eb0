"""Every preset is loaded, sized at three lengths and has a source; names are unique; users can add their own."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

import kvplan
from kvplan.catalog import find_gpu, gpu_names, load, model_names, model_preset, preset_folders
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.schema import check_preset

MODELS, GPUS = model_names(), gpu_names()


def raw(kind: str, name: str) -> dict[str, object]:
    """One preset file as it lies on disk."""
    return tomllib.loads((preset_folders(kind)[-1] / f"{name}.toml").read_text())


def test_there_are_enough() -> None:
    """At least 80 models of all attention kinds and 60 accelerators, 40 of them with the driver's exact bytes."""
    assert len(MODELS) >= 80
    assert len(GPUS) >= 60
    assert sum(find_gpu(name).memory_basis == "exact" for name in GPUS) >= 40
    kinds = " ".join({model_preset(name).attention for name in MODELS})
    for kind in (
        "MHA",
        "GQA",
        "MQA",
        "MLA",
        "DSA",
        "local/global",
        "window",
        "chunked",
        "SSM",
        "linear",
        "CLA",
        "encoder-decoder",
    ):
        assert kind in kinds


@pytest.mark.parametrize("name", MODELS)
def test_a_model_preset(name: str) -> None:
    """It follows the schema, says where it comes from, and can be planned short and long; more never needs less."""
    check_preset(raw("models", name), "models", name)
    assert name == raw("models", name)["name"]
    spec = load(name)
    sizes = [kvplan.plan(spec, context=n).kv["bytes_per_sequence"] for n in (1, 4096, 131072)]
    assert 0 < sizes[0] <= sizes[1] <= sizes[2]
    assert kvplan.plan(spec, context=4096, engine="transformers").kv["bytes_per_sequence"] > 0
    text = json.dumps(kvplan.plan(spec, gpu="h200").to_dict())
    assert "Infinity" not in text
    assert "NaN" not in text


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_preset(name: str) -> None:
    """It follows the schema; rates are dense: no figure is twice its neighbours by mistake of sparsity."""
    check_preset(raw("gpus", name), "gpus", name)
    gpu = find_gpu(name)
    assert name == gpu.name == raw("gpus", name)["name"]
    assert re.search(r"[a-z]", gpu.memory_source)
    if gpu.memory_basis == "exact" and gpu.vendor == "NVIDIA":
        assert gpu.memory_bytes % 2**20 == 0
    rates = gpu.tflops
    if "bf16" in rates and "fp8" in rates:
        assert 1 <= rates["fp8"] / rates["bf16"] <= 2.1
    if "fp8" in rates and "fp4" in rates:
        # three times on Blackwell Ultra; four on GeForce Blackwell, whose FP8 rate is stated with fp32 accumulation
        assert 1 <= rates["fp4"] / rates["fp8"] <= 4.01


@pytest.mark.parametrize("kind", ["models", "gpus"])
def test_names_and_aliases_are_unique(kind: str) -> None:
    """An alias names one preset and is never the name of another."""
    names = MODELS if kind == "models" else GPUS
    seen: dict[str, str] = {name: name for name in names}
    for name in names:
        for alias in raw(kind, name).get("aliases", []):  # type: ignore[attr-defined]
            assert alias not in seen, (alias, name, seen.get(alias))
            seen[alias] = name


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        # nvidia-smi totals as public logs print them
        ("h100-80gb-sxm", 81559), ("h200-141gb-sxm", 143771), ("l4-24gb", 23034), ("l40s-48gb", 46068),
        ("rtx-4090-24gb", 24564), ("rtx-5090-32gb", 32607), ("a100-80gb-sxm", 81920), ("t4-16gb", 15360),
    ],
)  # fmt: skip
def test_memory_is_what_the_driver_prints(name: str, mib: int) -> None:
    """Marketed gigabytes are something else."""
    assert mib * 2**20 == find_gpu(name).memory_bytes


def test_a_short_alias_means_the_sxm_part_and_says_so() -> None:
    """h100 is the SXM part; the report says what was meant."""
    report = kvplan.plan("llama-3.1-8b", gpu="h100")

    assert "h100-80gb-sxm" == report.to_dict()["inputs"]["gpu"]
    assert any("h100 means h100-80gb-sxm" in note for note in report.notes)


def test_a_users_folder_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVPLAN_PRESETS adds presets and may hide shipped ones; a bad file is one clear line."""
    (tmp_path / "gpus").mkdir()
    text = (preset_folders("gpus")[-1] / "t4-16gb.toml").read_text()
    (tmp_path / "gpus/mine-1gb.toml").write_text(
        re.sub(r"memory_bytes = \d+", "memory_bytes = 1073741824", text.replace("t4-16gb", "mine-1gb")).replace(
            "aliases = [", 'aliases = ["only-mine", '
        )
    )
    (tmp_path / "gpus/broken.toml").write_text(text.replace("memory_bytes = ", "memory_bytes = -"))
    (tmp_path / "gpus/garbage.toml").write_bytes(b"\xff\x00")
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))
    find_gpu.cache_clear()

    assert 2**30 == find_gpu("mine-1gb").memory_bytes
    assert "mine-1gb" in gpu_names()
    for name, field in (("broken", "memory_bytes"), ("garbage", "preset")):
        with pytest.raises(InvalidInput) as caught:
            find_gpu(name)
        assert field == caught.value.field
    find_gpu.cache_clear()


@pytest.mark.parametrize("name", ["llama-9", "", "..", "/etc/passwd", "llama 3.1 8b"])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is an error with the nearest names; spaces are forgiven."""
    if name == "llama 3.1 8b":
        assert load(name) == load("llama-3.1-8b")
        return
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")  # what lies around the checkout must not answer
    with pytest.raises(KvplanError):
        load(name)
    with pytest.raises(UnknownName):
        find_gpu(name)


def test_load_takes_everything_that_names_a_model(tmp_path: Path) -> None:
    """A preset, a dict, a path to a file, to a folder, a Path and a spec name the same model."""
    text = model_preset("llama-3.1-8b").config
    (tmp_path / "config.json").write_text(text)
    spec = load("llama-3.1-8b")

    for other in (json.loads(text), str(tmp_path), str(tmp_path / "config.json"), tmp_path, spec):
        assert spec.layers == load(other).layers
    assert load(spec) is spec
