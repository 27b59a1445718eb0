"""A command under one engine's rules: which flags became what, which have no effect on memory, and which nobody knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from kvplan.engines import Option, find_engine
from kvplan.errors import InvalidInput
from kvplan.importers.files import parse_object
from kvplan.launch.commands import Command
from kvplan.launch.flags import MOST, Flag, Given, Table, read_flags
from kvplan.launch.models import Found, find_model
from kvplan.report import Report
from kvplan.text import printable, shorten
from kvplan.units import format_count

__all__ = ["Asked", "Changes", "Named", "Reading", "Rules", "Verdict", "first_of", "human_readable"]

Changes = Mapping[str, str | None]  # a flag's name -> its new value; None: a switch that is given
T = TypeVar("T")
DEEPEST = 32  # objects and lists inside one another; configs have four
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


class Asked(NamedTuple):
    """What a command is checked against."""

    gpu: str | None
    memory: int | str | None
    config: str | None
    version: str | None


class Named(NamedTuple):
    """One flag as given, and what became of it."""

    flag: str
    effect: str


class Verdict(NamedTuple):
    """Whether the engine starts; None where that cannot be said."""

    starts: bool | None
    why: str
    holds: bool = True  # a request of the full length


class Rules(NamedTuple):
    """How one engine's command line is read."""

    engine: str
    table: Table
    caveats: dict[str, str]  # flags whose effect on memory is not modelled, unless the engine has an option for them
    fill: Callable[[Reading], None]
    judge: Callable[[Reading, Report], Verdict]
    attempts: Callable[[Reading, Report], Iterator[Changes]]
    shorten: Callable[[Reading, Report], Report] = lambda reading, report: report  # where ``auto_context`` is set
    human: tuple[str, ...] = ()  # flags whose numbers may end in a suffix
    suffixes: dict[str, int] = {}  # noqa: RUF012
    environment: dict[str, str] = {}  # noqa: RUF012  # variables that stand for flags
    variable_options: dict[str, str] = {}  # noqa: RUF012  # variables that are switches of the engine's rules
    variables: dict[str, str] = {}  # noqa: RUF012  # other variables that matter, and how


def human_readable(text: str, field: str, suffixes: Mapping[str, int]) -> int:
    """A whole number with one of an engine's own suffixes; only powers of 1000 take decimals.

    >>> human_readable("25.6k", "--max-model-len", {"k": 1000, "K": 1024})
    25600
    """
    match = re.fullmatch(r"(-?\d{1,18})|(\d{1,12}(?:\.\d{1,12})?)([A-Za-z]{1,2})", text.strip())
    size = suffixes.get(match[3]) if match and match[3] else 1
    if match is None or size is None or (match[3] and "." in match[2] and size % 10):
        said = ", ".join(f"{name} = {factor:,}" for name, factor in list(suffixes.items())[:6])
        raise InvalidInput(field, text, f"a whole number; to this engine {said}")
    return int(match[1]) if match[1] else int(Fraction(match[2]) * size)


def first_of(items: Sequence[T], show: Callable[[T], str], what: str = "more") -> list[str]:
    """The first of what is listed for a reader, and how many there are besides.

    >>> first_of(range(12_345), str)[MOST - 1 :]
    ['39', 'and 12,305 more']
    """
    more = len(items) - MOST
    return [*map(show, items[:MOST]), *([f"and {more:,} {what}"] if more > 0 else [])]


class Words(NamedTuple):
    """The words of a command by what they are: read once, however many changes of it are tried."""

    given: dict[str, Given]
    positional: list[str]
    unknown: list[Given]
    repeated: list[str]
    paths: dict[str, list[str]]  # the keys of ``given`` that are parts of a flag's object
    objects: dict[str, dict[str, Any]]  # of such flags, once they are read
    joined: list[str]  # --flag=value of a known flag, to an engine that splits no words


def read_words(rules: Rules, command: Command) -> Words:
    """The words of a command against the table of its engine; variables that stand for flags come first."""
    words = Words({}, [], [], [], {}, {}, [])
    table = rules.table
    for name, flag in rules.environment.items():
        if name in command.environment:
            known, value = table.flags[flag], command.environment[name]
            off = known.takes == "switch" and value.lower() in ("0", "false", "off", "disabled")
            words.given[known.name] = Given(f"{name}={value}", known, None if known.takes == "switch" else value, off)
    before: dict[str, tuple[Given, int]] = {}  # of flags that were given otherwise: the first, and how often
    for item in read_flags(command.words, table):
        if isinstance(item, str):
            words.positional.append(item)
        elif item.flag is None:
            words.unknown.append(item)
            flag, equals, _ = item.spelled.partition("=")
            if equals and not table.argparse and flag in table.flags:
                words.joined.append(item.spelled)
        else:
            key = item.flag.name + (f".{item.path}" if item.path else "")
            last = words.given.get(key)
            if last is None and item.path:
                words.paths.setdefault(item.flag.name, []).append(key)
            elif last is not None and (last.value, last.off) != (item.value, item.off):
                first, times = before.get(key, (last, 0))
                before[key] = first, times + 1
            words.given[key] = item
    for key, (first, times) in before.items():
        others = f"{times - 1:,} more, then " if times > 1 else ""
        words.repeated.append(f"{first.words}, then {others}{words.given[key].words}: the last one counts")
    return words


class Reading:
    """The flags of one command, and the keyword arguments of ``kvplan.plan`` that they amount to.

    ``fill`` of the rules takes flags one by one with ``text``, ``count``, ``number`` and ``switch``, and says with
    ``uses`` what each became; what is left over has no effect on memory, or one that nobody models.
    """

    def __init__(
        self,
        rules: Rules,
        command: Command,
        asked: Asked,
        given: Mapping[str, Given] | None = None,
        like: Reading | None = None,  # the same command without ``given``: what was read of it need not be read again
    ) -> None:
        self.rules, self.command, self.asked, self.like = rules, command, asked, like
        self.words: Words = read_words(rules, command) if like is None else like.words
        self.given: dict[str, Given] = self.words.given | dict(given or {})
        self.positional, self.unknown, self.repeated = self.words.positional, self.words.unknown, self.words.repeated
        self.known: dict[str, Option] = {o.name: o for o in find_engine(rules.engine, asked.version).options}
        self.plan: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.used: dict[str, str] = {}
        self.caveats: list[Named] = []
        self.refusals: list[str] = []
        self.notes: list[str] = []
        self.auto_context = False  # the engine shortens the context until it fits
        self.found: Found | None = None
        rules.fill(self)
        self._take_options()
        if like is None:  # a change is planned, and not described
            self._take_caveats()

    def changed(self, changes: Changes) -> Reading:
        """The same command with other values of some flags."""
        flags = self.rules.table.flags
        given = {flags[name].name: Given(name, flags[name], value) for name, value in changes.items()}
        return Reading(self.rules, self.command, self.asked, given, self)

    # --- taking flags ------------------------------------------------------------------------------------------------

    def _flag(self, name: str) -> Given | None:
        return self.given.get(self.rules.table.flags[name].name)

    def text(self, name: str) -> str | None:
        """The value of a flag as it stands, None where it is not given."""
        given = self._flag(name)
        if given is None:
            return None
        if given.value is None or not given.value.strip():
            raise InvalidInput(given.spelled, given.value, "a value behind it")
        return given.value

    def count(self, name: str, least: int = 1) -> int | None:
        """A whole number in the engine's own notation."""
        text = self.text(name)
        if text is None:
            return None
        given = self._flag(name)
        assert given is not None
        if self.rules.table.flags[name].name in self.rules.human:
            value = human_readable(text, given.spelled, self.rules.suffixes)
        elif re.fullmatch(r"[+-]?\d{1,18}", text.strip()):
            value = int(text)
        else:
            raise InvalidInput(given.spelled, text, f"a whole number of at least {least}")
        if value < least:
            raise InvalidInput(given.spelled, text, f"a whole number of at least {least}")
        return value

    def number(self, name: str) -> float | None:
        """A number from 0 up."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 2**60:
            raise InvalidInput(name, text, "a number, e.g. 0.9")
        return value

    def first(self) -> str | None:
        """The first word that belongs to no flag: a model, where a command names it so.

        Where there is none, it may have been taken for the value of a flag that is unknown here.
        """
        if self.positional:
            return self.positional[0]
        for given in self.unknown:
            if given.value is not None and "=" not in given.spelled and "/" in given.value:
                name, flag = shorten(given.value), printable(given.spelled, 100)
                self.notes.append(f"{name} is taken for the model, not for a value of {flag}")
                return given.value
        return None

    def stray(self, words: Sequence[str]) -> None:
        """Notes words that belong to no flag and mean nothing to the engine."""
        self.notes += first_of(words, lambda word: f"{shorten(word)} belongs to no flag, and is not read", "more words")

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object of a flag, with the keys that --flag.key gives one by one; empty where it is not given."""
        found = self.words.objects.get(name)
        if found is None:
            found = self.words.objects[name] = self._object(name)
        self.used |= dict.fromkeys(self.words.paths.get(name, ()), "a part of its object")
        return dict(found)

    def _object(self, name: str) -> dict[str, Any]:
        text = self.text(name)
        found = {} if text is None else parse_object(text.encode(errors="surrogatepass"), name, "the command")
        if not _shallow(found):
            raise InvalidInput(name, text, f"at most {DEEPEST} objects and lists inside one another")
        for key in self.words.paths.get(name, ()):
            given, inner = self.given[key], found
            *parents, last = given.path.split(".", DEEPEST)
            if "." in last:
                raise InvalidInput(f"{name}.{given.path}", given.value, f"at most {DEEPEST} keys inside one another")
            for part in parents:
                inner = inner.setdefault(part, {})
                if not isinstance(inner, dict):
                    raise InvalidInput(f"{name}.{given.path}", given.value, "a key of an object")
            try:
                inner[last] = json.loads(given.value or "null")
            except (ValueError, RecursionError):
                inner[last] = given.value
            if not _shallow(inner[last]):
                raise InvalidInput(f"{name}.{given.path}", given.value, f"at most {DEEPEST} lists inside one another")
        return found

    def is_given(self, name: str) -> bool:
        """Whether a flag is given at all."""
        return self._flag(name) is not None

    def switch(self, name: str) -> bool | None:
        """Whether a switch is on; None where it is not given."""
        given = self._flag(name)
        if given is None:
            return None
        if given.value is not None and given.value.lower() in ("false", "0", "off", "no"):
            return False
        return not given.off

    def uses(self, name: str, effect: str) -> None:
        """Notes what a given flag became; does nothing where it is not given."""
        if self._flag(name) is not None:
            self.used[self.rules.table.flags[name].name] = effect

    def refuse(self, why: str) -> None:
        """Notes a reason for which the engine will not start at all."""
        self.refusals.append(why)

    def put(self, name: str, value: Any, effect: str = "") -> None:
        """Sets an engine option that a flag amounts to, where the engine has it; else the flag stays a caveat."""
        keys = self.rules.table.flags[name].keys
        key = next((key for key in keys if key in self.known), None)
        if key is None or value is None:
            return
        if key.startswith("no_") and isinstance(value, bool):  # a switch that the engine names by its negation
            value = not value
        self.options[key] = value
        self.uses(name, effect or f"{key} = {_said(value)}")

    def has(self, option: str) -> bool:
        """Whether the engine's rules have an option."""
        return option in self.known

    def model(self, name: str | None, overrides: dict[str, Any] | None = None) -> Found:
        """The model of the command, looked up once."""
        if self.like is not None and self.like.found is not None:  # no change is one of the model
            self.found = self.like.found
        else:
            self.found = find_model(name or "", self.asked.config, overrides)
        return self.found

    # --- what is left over -------------------------------------------------------------------------------------------

    def _take_options(self) -> None:
        """Flags and variables that are options of the engine by their very name."""
        for given in self.given.values():
            flag = given.flag
            assert flag is not None
            if flag.name in self.used or given.path:
                continue
            option = next((self.known[name] for name in flag.keys if name in self.known), None)
            if option is not None and option.name not in self.options:
                self.put(flag.name, self._value(flag, option))
        for name, option_name in self.rules.variable_options.items():
            if name in self.command.environment and option_name in self.known and option_name not in self.options:
                self.options[option_name] = self.command.environment[name].lower() not in ("0", "false", "off")

    def _take_caveats(self) -> None:
        """What is left of the flags and variables that have an effect on memory."""
        caveats = self.rules.caveats
        for given in self.given.values():
            assert given.flag is not None
            if not given.path and given.flag.name in caveats and given.flag.name not in self.used:
                self.caveats.append(Named(given.words, caveats[given.flag.name]))
        for key, given in self.given.items():
            assert given.flag is not None
            if given.path and key not in self.used:
                why = caveats.get(given.flag.name, "a part of a structured setting, which is not modelled")
                self.caveats.append(Named(f"{given.spelled}.{given.path} {given.value}", why))
        for name, why in self.rules.variables.items():
            if name in self.command.environment:
                self.caveats.append(Named(f"{name}={self.command.environment[name]}", why))

    def _value(self, flag: Flag, option: Option) -> Any:
        if flag.takes == "switch" or option.kind == "flag":
            return (
                self.switch(flag.name)
                if flag.takes == "switch" or self.text(flag.name) is None
                else self.text(flag.name)
            )
        if option.kind in ("count", "bytes"):
            return self.count(flag.name, option.least if option.kind == "count" else 0)
        if option.kind in ("share", "number"):
            return self.number(flag.name)
        return self.text(flag.name)

    def read(self) -> list[Named]:
        """Flags and variables that entered the plan, in the order given."""
        flags = [
            Named(g.words, self.used[g.flag.name])
            for g in self.given.values()
            if g.flag and not g.path and g.flag.name in self.used
        ]
        paths = [
            Named(f"{g.spelled}.{g.path} {g.value}", self.used[key])
            for key, g in self.given.items()
            if g.path and key in self.used
        ]
        environment = self.command.environment
        options = [
            Named(f"{name}={environment[name]}", f"{option} = {_said(self.options[option])}")
            for name, option in self.rules.variable_options.items()
            if name in environment and option in self.options
        ]
        return [*flags, *paths, *options]

    def without_effect(self) -> list[str]:
        """Flags that the table knows and that have no effect on memory."""
        named = {named.flag for named in self.caveats}
        return [
            g.words
            for g in self.given.values()
            if g.flag and g.flag.name not in self.used and g.words not in named and not g.path
        ]

    # --- the number of GPUs ------------------------------------------------------------------------------------------

    def check_gpus(self, wanted: int) -> None:
        """Refuses where the environment shows the engine fewer GPUs than it is told to use."""
        if self.visible is not None and wanted > self.visible:
            self.refuse(f"it asks for {wanted} GPUs, and the environment shows {self.visible}")

    @cached_property
    def visible(self) -> int | None:
        """GPUs that the environment shows; None where it does not say."""
        for name in VISIBLE:
            text = self.command.environment.get(name, "").strip()
            if text and text.lower() not in ("all", "void", "none") and "$" not in text:
                return len([part for part in text.split(",") if part.strip()])
        return None


def _shallow(value: object) -> bool:
    """Whether objects and lists are inside one another no more than ``DEEPEST`` times."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inside = [item for item in level if isinstance(item, (dict, list))]
        level = [item for outer in inside for item in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return True
    return False


def _said(value: Any) -> str:
    return format_count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value).lower()
