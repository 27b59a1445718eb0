"""Which modules a rule touches: a config's lists of names, globs and expressions as few rules, none slow to match."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kvplan.importers.config import Config
from kvplan.specs import PLAIN, QuantRule, Storage

__all__ = [
    "ENTRY_LIMIT",
    "HEAD",
    "INDEXER",
    "NAME_LIMIT",
    "ROUTERS",
    "by_storage",
    "guarded",
    "mapping",
    "names_of",
    "rules_for",
    "says_towers",
]

NAME_LIMIT = 300  # characters of a module name or pattern
ENTRY_LIMIT = 200_000  # entries of a list of modules: a file names every expert of every layer at most

# Modules that stay in dtype unless the file names them: every walker leaves the output embedding alone, routers are
# parameters or small matrices that no published checkpoint quantises, and DeepSeek's indexer weights stay in 16 bits.
HEAD = QuantRule(r"(?:^|\.)lm_head$", PLAIN)
ROUTERS = QuantRule(r"\.(?:gate|router|shared_expert_gate)(?:\.\w+)?$", PLAIN)
# DeepSeek V4's hyper-connections and the compressors of its caches are neither.
INDEXER = QuantRule(r"\.weights_proj$|(?:^|\.)hc_\w+\.fn$|\.compressor\.\w+$", PLAIN)
TOWER_WORDS = ("vision", "visual", "audio", "speech", "image", "tower", "projector")


def names_of(c: Config, *keys: str) -> list[str]:
    """The strings of the first of these lists that is there."""
    for key in keys:
        value = c.get(key)
        if isinstance(value, str):
            value = [value]
        if value is None:
            continue
        if not isinstance(value, list) or len(value) > ENTRY_LIMIT:
            raise c.error(key, value, "a list of module names")
        for item in value:
            if not isinstance(item, str) or len(item) > NAME_LIMIT:
                raise c.error(key, item, f"module names of at most {NAME_LIMIT} characters")
        return value
    return []


def rules_for(c: Config, key: str, names: Iterable[str], storage: Storage) -> list[QuantRule]:
    """Rules that match these module names: literal names, globs (``*``), or expressions written ``re:…``.

    Names that differ in layer or expert numbers alone become one rule, so that 20,000 names stay a handful of rules.
    """
    rules: list[QuantRule] = []
    templates: dict[tuple[str, ...], list[set[str]]] = {}
    for name in names:
        if name.startswith("re:"):
            rules.append(QuantRule(guarded(c, key, name[3:]), storage))
            continue
        name = re.sub(r"\*+", "*", name)
        if name.count("*") > 4:
            raise c.error(key, name, "module names with at most 4 stars")
        steps = _local(name)
        if not steps or steps[-1].endswith(("norm", "bias")):
            continue  # vectors are never quantised
        template = tuple("#" if step.isascii() and step.isdigit() else step for step in steps)
        numbers = [step for step in steps if step.isascii() and step.isdigit()]
        seen = templates.setdefault(template, [set() for _ in numbers])
        for known, number in zip(seen, numbers, strict=True):
            known.add(number)
    for template, seen in templates.items():
        numbers_at = iter(seen)
        path = [
            "(?:" + "|".join(sorted(next(numbers_at), key=int)) + ")" if step == "#" else _glob(step)
            for step in template
        ]
        rules.append(QuantRule(r"(?:^|\.)" + r"\.".join(path) + r"(?:\.|$)", storage))
    return rules


def by_storage(c: Config, key: str, pairs: Iterable[tuple[str, Storage]]) -> list[QuantRule]:
    """Rules for modules that are each given a storage of their own."""
    names: dict[Storage, list[str]] = {}
    for name, storage in pairs:
        names.setdefault(storage, []).append(name)
    return [rule for storage, group in names.items() for rule in rules_for(c, key, group, storage)]


def _local(name: str) -> list[str]:
    """The steps of a module path without the wrappers around a decoder: they differ between files of one model."""
    steps = name.strip().removesuffix(".weight").split(".")
    while len(steps) > 1 and steps[0] in ("model", "language_model", "text_model", "module", "thinker", "base_model"):
        steps.pop(0)
    while steps and not steps[-1]:
        steps.pop()
    if steps == ["head"]:
        return ["lm_head"]
    return steps


def _glob(step: str) -> str:
    """One step of a path as an expression. A star may cross dots, as fnmatch's does."""
    return "".join(".*?" if char == "*" else "." if char == "?" else re.escape(char) for char in step)


def guarded(c: Config, key: str, text: str) -> str:
    """A user's expression, if it compiles and cannot take exponential time: no repeated group, few open repeats."""
    rule = f"an expression of at most {NAME_LIMIT} characters, no repeated groups, at most 4 open repeats"
    text = re.sub(r"^\^?(?:\.\*\??)+|(?:\.\*\??)+\$?$", "", text)  # ends that match anything say nothing in a search
    while ".*.*" in text:
        text = text.replace(".*.*", ".*")
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", text)
    if len(text) > NAME_LIMIT or re.search(r"\)[*+{]", bare) or len(re.findall(r"[*+]|,\}|\{\d{2,}", bare)) > 4:
        raise c.error(key, f"re:{text}", rule)
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise c.error(key, f"re:{text}", rule) from None
    return text


def says_towers(names: Iterable[str]) -> bool:
    """Whether one of these names is a tower's."""
    return any(word in name.lower() for name in names for word in TOWER_WORDS)


def mapping(c: Config, key: str) -> list[tuple[str, Any]]:
    """The entries of a nested object, or none."""
    value = c.get(key)
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > ENTRY_LIMIT:
        raise c.error(key, value, "a JSON object")
    for name in value:
        if len(name) > NAME_LIMIT:
            raise c.error(key, name, f"names of at most {NAME_LIMIT} characters")
    return list(value.items())
