"""Which modules a rule touches: a config's lists of names, globs and expressions as few rules, none slow to match.

Names and the beginnings of names are looked up, step by step of a module's path, however many there are. Expressions are
a stranger's programs: RE2 runs them in time linear in the name, and a file may state only so much of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kvplan.importers.config import Config
from kvplan.patterns import LONGEST, Refused, size_of
from kvplan.specs import PLAIN, Quantization, QuantRule, Storage
from kvplan.text import shorten

__all__ = [
    "ENTRY_LIMIT",
    "HEAD",
    "INDEXER",
    "NAME_LIMIT",
    "PATTERN_LENGTH",
    "PIECES_LIMIT",
    "ROUTERS",
    "by_storage",
    "expression",
    "mapping",
    "merged",
    "names_of",
    "readable",
    "rules_for",
    "says_towers",
]

NAME_LIMIT = 300  # characters of a module name; published ones have up to some 100
ENTRY_LIMIT = 200_000  # entries of a list of modules: MiniMax M3 in NVFP4 names 22,000, every expert of every layer
# Instructions of all expressions of a file, and their number, times layers: each module is searched, which takes up to a
# nanosecond for each instruction and character. Published files state up to five of some 50 instructions.
PROGRAM_LIMIT = 250_000
SEARCH_LIMIT = 8192
PIECES_LIMIT = 1000  # expressions of one list, which are searched as one
LENGTH_LIMIT = 64  # lengths of the beginnings of names (``layers.10.mlp*``); published files have up to some dozen
PATTERN_LENGTH = 2**16  # characters of a name that is one, before RE2 is asked

# Modules that stay in dtype unless the file names them: every walker leaves the output embedding alone, routers are
# parameters or small matrices that no published checkpoint quantises, and DeepSeek's indexer weights stay in 16 bits.
HEAD = QuantRule(PLAIN, frozenset({"lm_head"}))
ROUTERS = QuantRule(PLAIN, ends=frozenset({"gate", "router", "shared_expert_gate"}))
# DeepSeek V4's hyper-connections and the compressors of its caches are neither.
INDEXER = QuantRule(PLAIN, frozenset(), frozenset({"hc_"}), frozenset({"weights_proj", "compressor"}))
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
            # what an expression may not say, RE2 decides
            if not isinstance(item, str) or (len(item) > NAME_LIMIT and not item.startswith("re:")):
                raise c.error(key, item, f"module names of at most {NAME_LIMIT} characters")
        return value
    return []


def rules_for(c: Config, key: str, names: Iterable[str], storage: Storage) -> list[QuantRule]:
    """Rules that match these module names: literal names, globs (``*``), or expressions written ``re:…``.

    All give the same storage, so that their order says nothing: names are looked up, expressions searched as one.
    """
    whole: set[str] = set()
    starts: set[str] = set()
    stated: list[str] = []
    globs: dict[Template, list[set[str]]] = {}
    for name in names:
        if name.startswith("re:"):
            stated.append(name[3:])
            continue
        name = _local(name)
        if not name or name.endswith(("norm", "bias")):
            continue  # vectors are never quantised
        plain, star, rest = name.partition("*")
        if not star and "?" not in name:
            whole.add(name)
        elif star and not rest and "?" not in name:
            starts.add(plain)
        else:
            _group(globs, name)
    rules = [QuantRule(storage, frozenset(whole), frozenset(starts))] if whole or starts else []
    if globs:
        pattern = "|".join(f"(?:{_glob(template, numbers)})" for template, numbers in globs.items())
        rules.append(QuantRule(storage, pattern=pattern, stated=f"{c.path}{key}"))
    if len(stated) > PIECES_LIMIT:
        why = f"{len(stated)} expressions; up to {PIECES_LIMIT} of a list are read"
        return [*rules, QuantRule(storage, stated=f"{c.path}{key}: {shorten('re:' + stated[0])}", refused=why)]
    return [*rules, *merged(expression(c, key, text, storage) for text in _numbered(stated))]


NUMBER = r"(?<=\.)\d{1,5}(?=\\?\.)"  # of a layer: a step of a path, its dots escaped or not


def _numbered(texts: list[str]) -> list[str]:
    """Expressions with those that differ in one number of a path made one: quantisers write a line for each layer."""
    found: dict[str, list[str]] = {}
    for text in texts:
        numbers = re.findall(NUMBER, text) if not set(text) & set("#[{") and "(?" not in text else []
        template = re.sub(NUMBER, "#", text) if len(numbers) == 1 else text
        found.setdefault(template, []).extend(numbers[:1] if len(numbers) == 1 else [])
    return [
        text.replace("#", f"(?:{'|'.join(dict.fromkeys(numbers))})") if numbers else text
        for text, numbers in found.items()
    ]


def merged(rules: Iterable[QuantRule]) -> list[QuantRule]:
    """Expressions with those of the same storage that stand next to each other made one, which is searched at once."""
    found: list[QuantRule] = []
    for rule in rules:
        last = found[-1] if found else None
        plain = rule.pattern and not rule.unless and not rule.refused
        if last and plain and last.pattern and not last.unless and not last.refused and last.storage == rule.storage:
            found[-1] = last._replace(pattern=f"{last.pattern}|(?:{rule.pattern})")
        else:
            found.append(rule._replace(pattern=f"(?:{rule.pattern})") if plain else rule)
    return found


def by_storage(c: Config, key: str, pairs: Iterable[tuple[str, Storage]]) -> list[QuantRule]:
    """Rules for modules that are each given a storage of their own."""
    names: dict[Storage, list[str]] = {}
    for name, storage in pairs:
        names.setdefault(storage, []).append(name)
    return [rule for storage, group in names.items() for rule in rules_for(c, key, group, storage)]


WRAPPERS = ("model", "language_model", "text_model", "module", "thinker", "base_model")


def _local(name: str) -> str:
    """A module path without the wrappers around a decoder, which differ between files of one model, and without stars
    that stand for whole steps in front or behind: a rule touches what lies inside of what it names.
    """
    while "**" in name:
        name = name.replace("**", "*")
    steps = name.strip().removesuffix(".weight").split(".")
    first, last = 0, len(steps)
    while first < last - 1 and (steps[first] in WRAPPERS or steps[first] == "*"):
        first += 1
    while first < last and (not steps[last - 1] or (steps[last - 1] == "*" and last - first > 1)):
        last -= 1
    steps = steps[first:last]
    return "lm_head" if steps == ["head"] else ".".join(steps)


Template = tuple[str | None, ...]  # steps of a path; None is a number


def _group(globs: dict[Template, list[set[str]]], name: str) -> None:
    """Adds a glob to those that differ from it in the numbers of layers and experts alone."""
    steps = name.split(".")
    numbers = [step for step in steps if step.isascii() and step.isdigit()]
    template = tuple(None if step.isascii() and step.isdigit() else step for step in steps)
    for known, number in zip(globs.setdefault(template, [set() for _ in numbers]), numbers, strict=True):
        known.add(number)


def _glob(template: Template, numbers: list[set[str]]) -> str:
    """Globs as one expression: a star may cross dots, as fnmatch's does, and the ends are those of steps."""
    left = iter(numbers)
    steps = [
        f"(?:{'|'.join(sorted(next(left)))})" if step is None else "".join(map(_quoted, step)) for step in template
    ]
    return r"(?:^|\.)" + r"\.".join(steps) + r"(?:\.|$)"


def _quoted(char: str) -> str:
    if char in "*?":
        return ".*" if char == "*" else "."
    return char if char.isalnum() or char == "_" else f"\\{char}" if char.isascii() and char.isprintable() else "."


def expression(c: Config, key: str, text: str, storage: Storage) -> QuantRule:
    """The rule of an expression. ``^(?!X)Y``, which files use and RE2 has not, is read as Y where X is not."""
    stated = f"{c.path}{key}: {shorten('re:' + text)}"
    pattern, unless = text or "(?:)", ""
    try:
        if len(text) > LONGEST:
            raise Refused(f"{len(text)} characters; up to {LONGEST} are read")
        barred, rest = _lookaheads(text)
        if barred:
            if _alternatives(rest):
                raise Refused("alternatives behind a lookahead, which bars the first alone")
            # engines match from the start of a name, so that what stands behind the lookahead does too
            pattern, unless = f"^(?:{rest})", f"^(?:{'|'.join(f'(?:{part})' for part in barred)})"
        size_of(pattern)
        if unless:
            size_of(unless)
    except Refused as e:
        return QuantRule(storage, stated=stated, refused=str(e))
    return QuantRule(storage, pattern=pattern, unless=unless, stated=stated)


def _lookaheads(text: str) -> tuple[list[str], str]:
    """The insides of the negative lookaheads that an expression begins with, and what stands behind them."""
    barred, rest = [], text.removeprefix("^")
    while rest.startswith("(?!"):
        end = next((i for i, depth, _ in _levels(rest) if not depth), -1)
        if end < 0:
            break
        barred.append(rest[3:end])
        rest = rest[end + 1 :]
    return barred, rest


def _alternatives(text: str) -> bool:
    """Whether a bar stands outside of all groups."""
    return any(char == "|" and not depth for _, depth, char in _levels(text))


def _levels(text: str) -> Iterator[tuple[int, int, str]]:
    """Parentheses and bars of an expression, with how deep in groups it is behind them; not those in classes or escaped."""
    depth, i, in_class = 0, 0, False
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            i += text[i + 1 : i + 2] == "^"
            i += text[i + 1 : i + 2] == "]"  # the first character of a class is no end of it
        elif char in "()|":
            depth += {"(": 1, ")": -1, "|": 0}[char]
            yield i, depth, char
        i += 1


def readable(quantization: Quantization, layers: int) -> Quantization:
    """The same, or one whose weights are not known, for a reason that names the rule, where it cannot be matched."""
    layers = max(layers, 1)
    lengths = {len(start) for rule in quantization.rules for start in rule.starts}
    if len(lengths) > LENGTH_LIMIT:
        why = f"globs of {len(lengths)} lengths (up to {LENGTH_LIMIT} are looked up): which weights are quantised is not known"
        return Quantization(quantization.method, Storage(""), why=why)
    stated = [rule for rule in quantization.rules if rule.pattern or rule.refused]
    size = 0
    for rule in stated:
        try:
            if rule.refused:
                raise Refused(rule.refused)
            if len(stated) * layers > SEARCH_LIMIT:
                raise Refused(
                    f"{len(stated)} expressions; up to {SEARCH_LIMIT // layers} are searched in {layers} layers"
                )
            size += sum(size_of(text) for text in (rule.pattern, rule.unless) if text)
            if size * layers > PROGRAM_LIMIT:
                raise Refused(f"expressions of {size} instructions in {layers} layers; up to {PROGRAM_LIMIT // layers}")
        except Refused as e:
            why = f"{rule.stated} cannot be matched ({e}), so which weights are quantised is not known"
            return Quantization(quantization.method, Storage(""), why=why)
    return quantization


def says_towers(names: Iterable[str]) -> bool:
    """Whether one of these names is a tower's."""
    return any(word in name.lower() for name in names for word in TOWER_WORDS)


def mapping(c: Config, key: str, limit: int = NAME_LIMIT) -> list[tuple[str, Any]]:
    """The entries of a nested object, or none; their names have up to ``limit`` characters."""
    value = c.get(key)
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > ENTRY_LIMIT:
        raise c.error(key, value, "a JSON object")
    for name in value:
        if len(name) > limit:
            raise c.error(key, name, f"names of at most {limit} characters")
    return list(value.items())
