"""An engine's command line as data: its flags and how many values each takes, and a command read against them.

Nothing is dropped: what no table holds comes back as a ``Given`` without a flag, together with the word that follows it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kvplan.errors import InvalidInput

__all__ = ["MOST", "Flag", "Given", "Table", "read_flags", "table"]

MOST = 40  # things of one kind that are looked into, or listed for a reader, one by one; real commands have fewer
LONGEST = 100  # characters of an unknown flag for which a known one is looked up that looks like it

# What argparse takes for a value although it begins with a dash.
NEGATIVE = re.compile(r"^-\d+$|^-\d*\.\d+$")
NEGATIONS = ("--no-", "-no-", "-nocb", "-nkvo", "-nr")


class Flag(NamedTuple):
    """One flag: its spellings, the first of which is shown, and what it takes."""

    names: tuple[str, ...]
    takes: str  # value | switch | list (values up to the next flag) | maybe (a value, or none)

    @property
    def name(self) -> str:
        """The spelling that output uses."""
        return self.names[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """Its spellings as an engine option would be called."""
        return tuple(name.lstrip("-").replace("-", "_") for name in self.names)


class Given(NamedTuple):
    """One flag as a command line gives it."""

    spelled: str  # as typed
    flag: Flag | None  # None: unknown here
    value: str | None  # None: nothing was given beside the flag
    off: bool = False  # a switch in its negated spelling
    path: str = ""  # of --flag.path.to value
    nearest: str = ""  # of an unknown flag: a known one that looks like it

    @property
    def words(self) -> str:
        """The flag and its value; of a variable of the environment, its assignment."""
        if self.value is None or self.spelled.endswith(f"={self.value}"):
            return self.spelled
        return f"{self.spelled} {self.value}"


class Table(NamedTuple):
    """The flags of one program."""

    flags: dict[str, Flag]  # by spelling
    argparse: bool = True  # --flag=value and lists, as Python's argparse has them
    prefixes: bool = True  # the beginning of one flag alone is that flag
    underscores: bool = False  # --max_model_len is --max-model-len
    pairs: tuple[tuple[str, str], ...] = ()  # prefixes whose switches negate each other
    ordered: tuple[str, ...] = ()  # the spellings, in the order of their characters


def table(
    values: str,
    switches: str,
    lists: str = "",
    maybe: str = "",
    *,
    argparse: bool = True,
    prefixes: bool = True,
    underscores: bool = False,
    negated: bool = False,
    pairs: tuple[tuple[str, str], ...] = (),
) -> Table:
    """A table from words: flags apart by blanks, spellings of one flag by ``|``. ``negated``: every switch has --no-."""
    flags: dict[str, Flag] = {}
    for takes, text in (("value", values), ("switch", switches), ("list", lists), ("maybe", maybe)):
        for word in text.split():
            flag = Flag(tuple(word.split("|")), takes)
            for name in flag.names:
                assert name not in flags, f"{name} twice"
                flags[name] = flag
            if takes != "switch" or not negated:
                continue
            for name in flag.names:
                if name.startswith("--"):
                    flags.setdefault("--no-" + name[2:], flag)
                for here, there in pairs:
                    if name.startswith(here):
                        flags.setdefault(there + name.removeprefix(here), flag)
    return Table(flags, argparse, prefixes, underscores, pairs, tuple(sorted(flags)))


def _off(spelled: str, flag: Flag, pairs: tuple[tuple[str, str], ...]) -> bool:
    """Whether a spelling turns a switch off: a negation of the name that the flag goes by."""
    if spelled == flag.name:
        return False
    if spelled.startswith(NEGATIONS) and not flag.name.startswith(NEGATIONS):
        return True
    return any(flag.name.startswith(here) and spelled.startswith(there) for here, there in pairs)


def read_flags(words: Sequence[str], known: Table) -> Iterator[Given | str]:
    """Flags with their values in the order given; a word that belongs to none comes back as text.

    Of unknown flags the first ``MOST`` come with the known one that looks like them: to look takes a millisecond.
    Raises InvalidInput for a flag that needs a value and has none.
    """
    words = list(words)
    i = looked = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not _is_flag(word, known):
            yield word
            continue
        name, equals, value = word.partition("=") if known.argparse else (word, "", "")
        path = ""
        if known.underscores and name.startswith("--"):
            name, _, path = name.partition(".")
            name = name.replace("_", "-")
        elif not known.argparse and name.startswith("--"):
            name = name.replace("_", "-")
        spelled, flag = _find(name, known)
        short = known.flags.get(word[:2]) if known.argparse and not word.startswith("--") else None
        if flag is None and short is not None and short.takes == "value":  # -O3
            yield Given(word[:2], short, word[2:].removeprefix("="))
            continue
        if flag is None:
            follows = None if equals or i >= len(words) or _is_flag(words[i], known) else words[i]
            i += follows is not None
            near = _nearest(name, known.flags) if looked < MOST and len(name) <= LONGEST else ""
            looked += 1
            yield Given(word.partition("=")[0] if equals else word, None, value if equals else follows, nearest=near)
            continue
        off = flag.takes == "switch" and _off(spelled, flag, known.pairs)
        if equals:
            yield Given(spelled, flag, value, off, path)
        elif flag.takes == "switch" and not path:
            yield Given(spelled, flag, None, off)
        elif flag.takes == "list" and not path:
            taken = []
            while i < len(words) and not _is_flag(words[i], known):
                taken.append(words[i])
                i += 1
            yield Given(spelled, flag, " ".join(taken))
        elif flag.takes == "maybe":
            follows = words[i] if i < len(words) and _may_be(words[i], flag, known) else None
            i += follows is not None
            yield Given(spelled, flag, follows)
        else:
            if i >= len(words) or (known.argparse and _is_flag(words[i], known)):
                raise InvalidInput(spelled, None, "a value behind it")
            yield Given(spelled, flag, words[i], path=path)
            i += 1


def _is_flag(word: str, known: Table) -> bool:
    if word in known.flags:
        return True
    return len(word) > 1 and word.startswith("-") and not NEGATIVE.match(word)


def _may_be(word: str, flag: Flag, known: Table) -> bool:
    """Whether the word behind a flag of ``maybe`` is its value: of on/off flags, only such words are."""
    if flag.name in ("-fa", "-fit"):
        return word.lower() in ("on", "off", "auto", "true", "false", "enabled", "disabled", "1", "0", "-1")
    return not _is_flag(word, known)


def _find(name: str, known: Table) -> tuple[str, Flag | None]:
    """The flag of a spelling, or of the beginning of one where argparse takes that."""
    flag = known.flags.get(name)
    if flag is not None or not (known.argparse and known.prefixes) or not name.startswith("--") or len(name) < 4:
        return name, flag
    at = bisect_left(known.ordered, name)
    begun = [spelled for spelled in known.ordered[at : at + 2] if spelled.startswith(name)]
    return (begun[0], known.flags[begun[0]]) if len(begun) == 1 else (name, None)


def _nearest(name: str, flags: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [flag for flag in flags if flag.startswith("--") == name.startswith("--")], 1, 0.75)
    return close[0] if close else ""
