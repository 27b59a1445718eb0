"""What several tests share: where the data lies, and real configs by name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.checkpoint import weight_bytes, weights_known
from kvplan.specs import ModelSpec, replace

DATA = Path(__file__).parents[1] / "data"
CONFIGS = DATA / "configs"


@cache
def config_text(name: str) -> str:
    """The text of one published config, by its file name without ``.json``."""
    return (CONFIGS / f"{name}.json").read_text()


def config(name: str) -> dict[str, Any]:
    """A fresh copy of one published config."""
    return json.loads(config_text(name))


def provenance() -> dict[str, dict[str, Any]]:
    """Where every config of tests/data/configs comes from, by file name."""
    rows = map(json.loads, (DATA / "configs.jsonl").read_text().splitlines())
    return {row["file"]: row for row in rows}


def reference() -> dict[str, dict[str, Any]]:
    """What the transformers classes said (tests/make_reference.py), by file name."""
    rows = map(json.loads, (DATA / "reference.jsonl").read_text().splitlines())
    return {row["file"]: row for row in rows}


def checkpoint_bytes(spec: ModelSpec) -> int | None:
    """Bytes of the checkpoint as shapes and formats say, headers left aside; None where the method is unknown."""
    bare = replace(spec, weight_bytes=None)
    return (
        weight_bytes(bare, bare.dtype, bare.quantization).total
        if weights_known(bare, bare.dtype, bare.quantization)
        else None
    )
