"""Writes presets/models/index.json: the facts that `kvplan models` lists, so that listing builds no specs.

    python tests/make_index.py

Run it after adding a model preset, or after a change that alters parameters or bytes per token; tests/test_faces.py
compares the file with what the specs say.
"""

from __future__ import annotations

import json
import os

# the shipped presets alone
os.environ.pop("KVPLAN_PRESETS", None)

from kvplan.catalog import preset_folders
from kvplan.listings import INDEX, model_index


def main() -> None:
    """One line per model, so that a change is a short difference."""
    lines = [f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in model_index().items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (preset_folders("models")[-1] / INDEX).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
