"""A command under one engine's rules: which flags became what, which have no effect on memory, and which nobody knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from kvplan.engines import Option, find_engine
from kvplan.errors import InvalidInput
from kvplan.launch.commands import Command
from kvplan.launch.flags import Flag, Given, Table, read_flags
from kvplan.launch.models import Found, find_model
from kvplan.report import Report
from kvplan.units import format_count

__all__ = ["Asked", "Changes", "Named", "Reading", "Rules", "Verdict", "human_readable"]

Changes = Mapping[str, str | None]  # a flag's name -> its new value; None: a switch that is given
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


class Reading:
    """The flags of one command, and the keyword arguments of ``kvplan.plan`` that they amount to.

    ``fill`` of the rules takes flags one by one with ``text``, ``count``, ``number`` and ``switch``, and says with
    ``uses`` what each became; what is left over has no effect on memory, or one that nobody models.
    """

    def __init__(self, rules: Rules, command: Command, asked: Asked, given: Mapping[str, Given] | None = None) -> None:
        self.rules, self.command, self.asked = rules, command, asked
        self.given: dict[str, Given] = {}
        self.positional: list[str] = []
        self.unknown: list[Given] = []
        self.repeated: list[str] = []
        self._read_words()
        self.given |= given or {}
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

    def _read_words(self) -> None:
        table = self.rules.table
        for name, flag in self.rules.environment.items():
            if name in self.command.environment:
                known = table.flags[flag]
                value = self.command.environment[name]
                off = known.takes == "switch" and value.lower() in ("0", "false", "off", "disabled")
                self.given[known.name] = Given(
                    f"{name}={value}", known, None if known.takes == "switch" else value, off
                )
        for item in read_flags(self.command.words, table):
            if isinstance(item, str):
                self.positional.append(item)
            elif item.flag is None:
                self.unknown.append(item)
            else:
                key = item.flag.name + (f".{item.path}" if item.path else "")
                before = self.given.get(key)
                if before is not None and (before.value, before.off) != (item.value, item.off):
                    self.repeated.append(f"{before.words}, then {item.words}: the last one counts")
                self.given[key] = item

    def changed(self, changes: Changes) -> Reading:
        """The same command with other values of some flags."""
        flags = self.rules.table.flags
        given = {flags[name].name: Given(name, flags[name], value) for name, value in changes.items()}
        return Reading(self.rules, self.command, self.asked, given)

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
                self.notes.append(f"{given.value!r} is taken for the model, not for a value of {given.spelled}")
                return given.value
        return None

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
        self.found = find_model(name or "", self.asked.config, overrides)
        return self.found

    # --- what is left over -------------------------------------------------------------------------------------------

    def _take_options(self) -> None:
        """Flags that are options of the engine by their very name, then those with a caveat."""
        for key, given in self.given.items():
            flag = given.flag
            assert flag is not None
            if flag.name in self.used or given.path:
                continue
            option = next((self.known[name] for name in flag.keys if name in self.known), None)
            if option is not None and option.name not in self.options:
                self.put(flag.name, self._value(flag, option))
            elif flag.name in self.rules.caveats and key not in self.used:
                self.caveats.append(Named(given.words, self.rules.caveats[flag.name]))
        for key, given in self.given.items():
            assert given.flag is not None
            if given.path and key not in self.used:
                why = self.rules.caveats.get(given.flag.name, "a part of a structured setting, which is not modelled")
                self.caveats.append(Named(f"{given.spelled}.{given.path} {given.value}", why))
        for name, option_name in self.rules.variable_options.items():
            if name in self.command.environment and option_name in self.known and option_name not in self.options:
                self.options[option_name] = self.command.environment[name].lower() not in ("0", "false", "off")
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

    @property
    def visible(self) -> int | None:
        """GPUs that the environment shows; None where it does not say."""
        for name in VISIBLE:
            text = self.command.environment.get(name, "").strip()
            if text and text.lower() not in ("all", "void", "none") and "$" not in text:
                return len([part for part in text.split(",") if part.strip()])
        return None


def _said(value: Any) -> str:
    return format_count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value).lower()
