"""Which modules a rule touches: a config's lists of names, globs and expressions as few rules, none slow to match.

Names and the beginnings of names are looked up, step by step of a module's path, however many there are. Expressions are
a stranger's programs: RE2 runs them in time linear in the name, and a file may state only so much of them.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    "ROUTERS",
    "by_storage",
    "expression",
    "mapping",
    "names_of",
    "readable",
    "rules_for",
    "says_towers",
]

NAME_LIMIT = 300  # characters of a module name; published ones have up to some 100
ENTRY_LIMIT = 200_000  # entries of a list of modules: MiniMax M3 in NVFP4 names 22,000, every expert of every layer
# Instructions of all expressions of a file, and expressions times layers, since each is searched in each module. Published
# files state up to five, of some 50 instructions each.
PROGRAM_LIMIT = 3000
SEARCH_LIMIT = 8192
LENGTH_LIMIT = (
    64  # lengths that the beginnings of names (``layers.10.mlp*``) have; published files have up to some dozen
)
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
    """Rules that match these module names: literal names, globs (``*``), or expressions written ``re:…``."""
    whole: set[str] = set()
    starts: set[str] = set()
    rules: list[QuantRule] = []
    for name in names:
        if name.startswith("re:"):
            rules.append(expression(c, key, name[3:], storage))
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
            rules.append(QuantRule(storage, pattern=_glob(name), stated=f"{c.path}{key}: {shorten(name)}"))
    named = QuantRule(storage, frozenset(whole), frozenset(starts))
    return [named, *rules] if whole or starts else rules


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


def _glob(name: str) -> str:
    """A glob as an expression: a star may cross dots, as fnmatch's does, and the ends are those of steps."""
    text = "".join(".*" if char == "*" else "." if char == "?" else _quoted(char) for char in name)
    return rf"(?:^|\.){text}(?:\.|$)"


def _quoted(char: str) -> str:
    return char if char.isalnum() or char == "_" else f"\\{char}" if char.isascii() and char.isprintable() else "."


def expression(c: Config, key: str, text: str, storage: Storage) -> QuantRule:
    """The rule of an expression. ``^(?!X)Y``, which files use and RE2 has not, is read as Y where X is not."""
    stated = f"{c.path}{key}: {shorten('re:' + text)}"
    if len(text) > LONGEST:  # refused when it is met, whatever it says
        return QuantRule(storage, pattern=text, stated=stated)
    barred = []
    rest = text.removeprefix("^")
    while rest.startswith("(?!"):
        end = _closing(rest)
        if end < 0:
            break
        barred.append(rest[3:end])
        rest = rest[end + 1 :]
    if not barred:
        return QuantRule(storage, pattern=text or "(?:)", stated=stated)
    # engines match from the start of a name, so that what stands behind the lookahead does too
    unless = "|".join(f"(?:{part})" for part in barred)
    return QuantRule(storage, pattern=f"^(?:{rest})", unless=f"^(?:{unless})", stated=stated)


def _closing(text: str) -> int:
    """Where the group that a text begins with ends, or -1: parentheses in classes and behind a backslash do not count."""
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
        elif char in "()":
            depth += 1 if char == "(" else -1
            if not depth:
                return i
        i += 1
    return -1


def readable(quantization: Quantization, layers: int) -> Quantization:
    """The same, or one whose weights are not known, for a reason that names the rule, where RE2 cannot match it."""
    left, most = PROGRAM_LIMIT, max(SEARCH_LIMIT // max(layers, 1), 1)
    lengths = {len(start) for rule in quantization.rules for start in rule.starts}
    if len(lengths) > LENGTH_LIMIT:
        why = f"globs of {len(lengths)} lengths (up to {LENGTH_LIMIT} are looked up): which weights are quantised is not known"
        return Quantization(quantization.method, Storage(""), why=why)
    stated = [rule for rule in quantization.rules if rule.pattern]
    for rule in stated:
        try:
            if len(stated) > most:
                raise Refused(f"{len(stated)} expressions; up to {most} are searched in {layers} layers")
            left -= sum(size_of(text) for text in (rule.pattern, rule.unless) if text)
            if left < 0:
                raise Refused(f"expressions of more than {PROGRAM_LIMIT} instructions together")
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
