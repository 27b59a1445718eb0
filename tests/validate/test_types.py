"""The README names the model types that are not run, and those that are refused, as the code has them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan.errors import InvalidInput, KvplanError
from kvplan.validate import front
from kvplan.validate.bases import BASES, NOT_RUN, REDUCED
from kvplan.validate.records import Record, environment, read
from kvplan.validate.types import MODEL_TYPES, Outcome, Variant, check, variants

README = (Path(__file__).parents[2] / "README.md").read_text()


def first_verdict(model_type: str) -> str:
    """Of the default config: ``config`` where not even that is built."""
    first = next(iter(variants(model_type)))
    return next(check(model_type, first)).verdict if isinstance(first, Variant) else "config"


def test_the_readme_lists_the_types_that_are_not_run() -> None:
    """The names and the numbers, and every type is one of transformers'."""
    told = re.search(
        r"Of the (\d+) causal-LM types.*?, (\d+) are byte-exact.*?alone:\s(.*?)\. kvplan refuses", README, re.S
    )
    assert told is not None
    names = [re.sub(r"\(.*?\)", "", name).strip() for name in told[3].split(",")]
    assert sorted(NOT_RUN) == names
    assert (len(MODEL_TYPES), len(MODEL_TYPES) - len(NOT_RUN)) == (int(told[1]), int(told[2]))
    assert set(MODEL_TYPES) >= NOT_RUN.keys() | BASES.keys() | REDUCED


def test_the_readme_names_the_types_that_are_refused() -> None:
    """Refused for what they are, not for what a config lacks: blt and the drafts of Gemma 4."""
    refused = []
    for name in MODEL_TYPES:
        try:
            kvplan.load({"model_type": name})
        except InvalidInput as e:
            refused += [name] if "model_type: got" in str(e) else []
        except KvplanError:
            pass  # a bare type lacks what its config would say
    assert ["blt", "gemma4_assistant", "gemma4_unified_assistant"] == sorted(refused)
    assert "kvplan refuses blt and both assistants by name" in README


@pytest.mark.parametrize("name", [n for n in sorted(NOT_RUN) if n != "gemma3n" or not importlib.util.find_spec("timm")])
def test_a_type_that_is_not_run_still_does_not_run(name: str) -> None:
    """Once its class runs, it must leave the list."""
    assert first_verdict(name) in ("not run", "config")


def test_a_type_that_stops_running_fails_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that breaks without being in the list is no row among others."""

    class Here:
        """Runs in this process what a pool would."""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: Any) -> None: ...

        map = staticmethod(map)

    def broken(name: str) -> list[Outcome]:
        return [Outcome(name, "default", 40, "not run", "prefill: no such thing")]

    monkeypatch.setattr(front, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(front, "_checked", broken)
    record = Record(environment("cpu", "types"), None)
    said = front._types(record, ("llama", "xlnet"), 1)
    assert [("failed"), ("not run")] == [row.verdict for row in record.rows]
    assert "1 model types that do not run and are not known for it: llama" in said


def test_the_readme_says_how_to_measure_on_a_gpu() -> None:
    """The line, and each record that is there; without one it says so."""
    assert "`kvplan validate --suite gpu --device cuda --minutes 7 --record gpu.json`" in README
    found = [p for p in (Path(__file__).parents[1] / "records").glob("*.json") if read(p)["device"] == "cuda"]
    assert (not found) == ("No GPU record is committed yet" in README)
    assert all(f"`tests/records/{place.name}`" in README for place in found)
