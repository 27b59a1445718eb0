"""Which model a command names: a preset of the same Hub id, a file, or the Hub; never the weights themselves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.catalog import load, model_preset, preset_folders, read_json
from kvplan.errors import InvalidInput, KvplanError, MissingExtra
from kvplan.importers.files import open_file
from kvplan.launch.commands import not_run
from kvplan.specs import ModelSpec, replace

__all__ = ["Found", "find_model", "preset_of_file", "quantized_name"]

HUB = re.compile(r'^hub = "([^"]+)"', re.MULTILINE)
ALIASES = re.compile(r"^aliases = \[([^\]]*)\]", re.MULTILINE)
HEAD = 4096  # the first bytes of a preset file hold its names
LONGEST = 4096  # characters of a path; a longer one is no file's, and says nothing
SPLIT = re.compile(r"-\d{5}-of-\d{5}$")  # one of the parts of a GGUF
# What a file name says of the weights: llama.cpp's types, mixed ones by the type of most of their matrices.
GGUF_TYPE = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|MXFP4(?:_MOE)?))(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Mixtures named after no type of their own, and the type of most of their matrices.
MIXED = {"iq3_m": "iq3_s", "iq2_m": "iq2_s"}


class Found(NamedTuple):
    """A model and how it was found."""

    spec: ModelSpec
    how: str  # "preset llama-3.1-8b", a path, "the Hub"
    config: dict[str, Any] | None  # the raw config.json, where there is one here


def find_model(name: str, config: str | None, overrides: dict[str, Any] | None = None) -> Found:
    """The model of a command. ``config`` (a path or a preset) stands for it; ``overrides`` change its config.json.

    Raises InvalidInput with what to give instead where the name leads nowhere.
    """
    found = _raw(config) if config else _named(name)
    if not overrides:
        return found
    if found.config is None:
        raise InvalidInput("--hf-overrides", overrides, "a config.json to change: give --config PATH")
    changed = _merged(found.config, overrides)
    return Found(replace(load(changed), name=found.spec.name), f"{found.how}, overridden", changed)


def _merged(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    changed = dict(config)
    for key, value in overrides.items():
        old = changed.get(key)
        changed[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return changed


def _raw(config: str) -> Found:
    """The model of --config: a preset by its name, or what ``load`` finds at a path."""
    path = _path(config)
    if not os.path.exists(path) and "/" not in config and not config.endswith((".json", ".gguf")):
        return _preset(model_preset(config).name)
    return _file(path)


def _path(name: str) -> Path:
    """A path, its ``~`` as the home that it stands for; as it is where there is none."""
    path = Path(name)
    try:
        return path.expanduser()
    except (RuntimeError, ValueError):  # no such person, a NUL
        return path


def _named(name: str) -> Found:
    if not name:
        raise InvalidInput("model", None, "a model in the command, or --config PATH with its config.json")
    if "$" in name or not_run([name]):
        raise InvalidInput(
            "model",
            name,
            "a name: kvplan expands no shell variables and runs nothing; --config PATH gives the config.json",
        )
    path = _path(name)
    if os.path.exists(path):  # which answers False where pathlib raises (a name too long for the file system)
        return _file(path)
    if name.endswith(".gguf") or name.startswith((".", "/", "~")):
        near = preset_of_file(name)
        preset = f", or the preset its name says: --config {near}" if near else ""
        raise InvalidInput("model", name, f"a file that is here, or --config PATH with its config.json{preset}")
    same = _preset_of_hub(name)
    if same:
        return _preset(same)
    if "/" not in name:
        try:
            return _preset(model_preset(name).name)
        except KvplanError as e:
            raise InvalidInput("model", name, f"org/name, a path or a preset ({e}), or --config PATH") from None
    try:
        return Found(load(name), "the Hugging Face Hub", None)
    except MissingExtra as e:
        raise InvalidInput(
            "model", name, f"a preset, or one that can be read: {e}; or --config PATH to its config.json"
        ) from None
    except KvplanError as e:
        raise InvalidInput(
            "model", name, f"a model that can be read ({e}); or --config PATH to its config.json"
        ) from None


def _file(path: Path) -> Found:
    # os.path answers False where pathlib raises: a name too long for the file system, a folder that nobody may enter
    inside = path / "config.json" if os.path.isdir(path) else path
    raw = read_json(inside) if os.path.isfile(inside) and inside.suffix == ".json" else None
    return Found(load(path), str(path), raw)


def _preset(name: str) -> Found:
    return Found(load(name), f"preset {name}", json.loads(model_preset(name).config))


def _heads() -> list[tuple[str, str, list[str]]]:
    """Name, Hub id and aliases of every model preset, from the first lines of its file; one that cannot be read has none."""
    found = []
    for folder in preset_folders("models"):
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in entries:
            if not entry.endswith(".toml"):
                continue
            try:
                file, _ = open_file(folder / entry, "preset")
                with file:
                    head = file.read(HEAD).decode(errors="replace")
            except (InvalidInput, OSError):
                continue
            hub, aliases = HUB.search(head), ALIASES.search(head)
            names = re.findall(r'"([^"]+)"', aliases[1]) if aliases else []
            found.append((entry.removesuffix(".toml"), hub[1] if hub else "", names))
    return found


def _preset_of_hub(name: str) -> str | None:
    """The preset of a Hub id: its own, or a sibling's of the same organisation that is an alias of it."""
    repo = name.partition("@")[0].lower()
    heads = _heads()
    for preset, hub, _names in heads:
        if hub.lower() == repo:
            return preset
    organisation, _, short = repo.rpartition("/")
    for preset, hub, aliases in heads:
        if organisation and hub.lower().startswith(organisation + "/") and short in map(str.lower, (preset, *aliases)):
            return preset
    return None


def preset_of_file(name: str) -> str | None:
    """The preset that a GGUF's file or repository name says, quantisation and ending left out."""
    if len(name) > LONGEST:
        return None
    short = SPLIT.sub("", re.sub(r"\.gguf$", "", name.rpartition("/")[2], flags=re.IGNORECASE))
    short = re.sub(r"[-_.]GGUF$", "", GGUF_TYPE.sub("", short.partition(":")[0]).strip("-_. "), flags=re.IGNORECASE)
    wanted = short.strip("-_. ").lower().replace("_", "-")
    for preset, _, aliases in _heads():
        if wanted and wanted in map(str.lower, (preset, *aliases)):
            return preset
    return None


def quantized_name(name: str) -> str | None:
    """The storage format that a GGUF's name says of most of its matrices, e.g. q4_k of ``…-Q4_K_M.gguf``.

    >>> quantized_name("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"), quantized_name("model-IQ4_XS.gguf"), quantized_name("a.gguf")
    ('q4_k', 'iq4_xs', None)
    """
    from kvplan.formats import ALIASES, FORMATS

    if len(name) > 2 * LONGEST:
        return None
    for match in reversed(list(GGUF_TYPE.finditer(name))):
        word = match[2].lower()
        word = MIXED.get(word, word)
        for candidate in (word, re.sub(r"_(?:xxs|xs|s|m|l|xl|moe)$", "", word)):
            known = ALIASES.get(candidate, candidate)
            if known in FORMATS:
                return known
    return None
