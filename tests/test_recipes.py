"""CONTRIBUTING's recipes, performed on a copy of the package: each touches what it says and works as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.S | re.M)


def block(title: str) -> str:
    """The code of the recipe whose title starts so."""
    text = next(body for heading, body in RECIPES if heading.startswith(title))
    found = re.search(r"```\w+\n(.*?)```", text, re.S)
    assert found
    return found[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its presets that may be changed."""
    for folder in ("kvplan", "presets"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def append(path: Path, code: str) -> None:
    """Adds code at the end of a file."""
    path.write_text(path.read_text() + "\n\n" + code)


def ask(folder: Path, *arguments: str) -> dict[str, object]:
    """`kvplan … --json` of the copy."""
    env = {k: v for k, v in os.environ.items() if k != "KVPLAN_PRESETS"} | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", *arguments, "--json"],
        capture_output=True, text=True, check=False, cwd=folder, env=env,
    )  # fmt: skip
    assert "" == done.stderr
    return json.loads(done.stdout)


SHAPE = ("--layers", "8", "--hidden", "64", "--heads", "4", "--ffn", "128", "--vocab", "100", "-c", "100")


def test_a_gpu_is_one_file(copy: Path) -> None:
    """The new accelerator is found by its slug."""
    (copy / "presets/gpus/abacus-24gb.toml").write_text(block("A GPU"))

    assert 25_757_220_864 == ask(copy, "plan", *SHAPE, "--gpu", "abacus-24gb")["capacity"]["memory_bytes"]


def test_a_model_family_is_one_function(copy: Path) -> None:
    """The new type is imported: 6 of 8 layers slide, at 10,000 tokens they hold 4,096."""
    head = (
        "from kvplan.importers import importer\nfrom kvplan.importers.config import Config\n"
        "from kvplan.importers.parts import decoder, grouped_attention, windowed\n"
        "from kvplan.specs import Dense, Layer, ModelSpec\n\n\n"
    )
    (copy / "kvplan/importers/abacus.py").write_text(head + block("A model family"))
    table = copy / "kvplan/importers/__init__.py"
    table.write_text(table.read_text().replace('"llama": "llama', '"abacus": "abacus",\n        "llama": "llama', 1))
    config = {
        "model_type": "abacus", "num_hidden_layers": 8, "hidden_size": 64, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 100,
    }  # fmt: skip
    (copy / "config.json").write_text(json.dumps(config))

    kv = ask(copy, "plan", "./config.json", "-c", "10000")["kv"]
    assert (2 * 10_000 + 6 * 4096) * 2 * 64 * 2 == kv["bytes_per_sequence"]


def test_an_owner_map_is_one_file(copy: Path) -> None:
    """The new owner map keeps 3 of 8 stores and reads as before."""
    (copy / "kvplan/schemes/first.py").write_text(block("A scheme"))
    plain, first = ask(copy, "plan", *SHAPE)["kv"], ask(copy, "plan", *SHAPE, "--scheme", "first:3")["kv"]

    assert 3 * plain["bytes"] == 8 * first["bytes"]
    assert plain["bytes_read_per_step"] == first["bytes_read_per_step"]


def test_an_engine_is_one_entry(copy: Path) -> None:
    """The new engine rounds 100 tokens up to 112 and keeps a tenth of the memory back."""
    append(copy / "kvplan/engines/__init__.py", block("An engine"))
    answer = ask(copy, "plan", *SHAPE, "--engine", "pager", "--block-size", "16", "--memory", "10GB")

    assert 112 * 8 * 2 * 64 * 2 == answer["kv"]["bytes_per_sequence"]
    assert 9 * 10**9 == answer["capacity"]["usable_bytes"]


def test_an_engine_with_a_policy_is_one_module(copy: Path) -> None:
    """The new engine reserves slots of 256 tokens: what fits, in slots, and no context beyond a slot."""
    (copy / "kvplan/engines/slots.py").write_text(block("An engine with a new policy"))
    append(copy / "kvplan/engines/__init__.py", 'ENGINES["slots"] = "kvplan.engines.slots"\n')
    ask_slots = (*SHAPE, "--engine", "slots", "--engine-option", "max_len=256", "--memory", "10MiB", "--batch", "3")
    answer = ask(copy, "plan", *ask_slots)
    # 8 layers, keys and values of 64 elements, 2 bytes each, 256 tokens
    slot = 8 * 2 * 64 * 2 * 256
    left = 10 * 2**20 - answer["weights"]["bytes"]

    assert 3 * slot == answer["kv"]["bytes"]
    assert left // slot == answer["capacity"]["max_batch"] == answer["engine"]["facts"]["slots"]
    assert 256 == answer["capacity"]["max_context"]
    assert [f"KV cache: {left // slot} slots"] == answer["engine"]["printed"]
    assert slot // 2 * 3 == ask(copy, "plan", *ask_slots, "--tp", "2")["kv"]["bytes_per_gpu"]
    # three sequences on two replicas: two on the fuller one
    shared = ask(copy, "plan", *ask_slots, "--dp", "2")["kv"]
    assert (3 * slot, 2 * slot) == (shared["bytes"], shared["bytes_per_gpu"])
    # stages of 4 layers
    assert 3 * slot // 2 == ask(copy, "plan", *ask_slots, "--pp", "2")["kv"]["bytes_per_gpu"]
