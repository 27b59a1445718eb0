"""``kvplan preflight``: an engine's own command line, read and planned, never run.

One table per engine says what its flags mean: a keyword of ``kvplan.plan``, an option of the engine's rules, nothing for
memory, or something that is not modelled, which is then named. What no table holds is named too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from os import PathLike, fspath
from typing import Any, NamedTuple

from kvplan.api import plan
from kvplan.errors import InvalidInput, KvplanError
from kvplan.launch.commands import Command, not_run, read_command
from kvplan.launch.reading import Asked, Changes, Named, Reading, Rules, Verdict, first_of
from kvplan.report import Report
from kvplan.text import shell, shorten, to_json
from kvplan.units import format_bytes
from kvplan.version import __version__

__all__ = ["ENGINES", "Change", "Preflight", "preflight"]

# kvplan's name of an engine, and the module that reads its command line
ENGINES = {
    "vllm": "kvplan.launch.vllm",
    "llama.cpp": "kvplan.launch.llama_cpp",
    "sglang": "kvplan.launch.sglang",
    "tensorrt-llm": "kvplan.launch.tensorrt_llm",
    "mlx": "kvplan.launch.mlx",
}
UNKNOWN = "unknown to kvplan"


class Change(NamedTuple):
    """Flags that make the command start, checked by planning it again with them."""

    flags: str  # as they would be typed
    why: str  # what the verdict then says
    command: tuple[str, ...]  # the words behind the program, flags replaced or added


class _Found(NamedTuple):
    command: Command
    reading: Reading
    report: Report
    verdict: Verdict


class Preflight(_Found):
    """What one command would do. ``starts`` is None where the bytes of the weights are not known."""

    @property
    def starts(self) -> bool | None:
        """Whether the engine will start."""
        return self.verdict.starts

    @property
    def why(self) -> str:
        """One sentence that says so, with the numbers that decide."""
        return self.verdict.why

    @property
    def holds(self) -> bool:
        """Whether it then holds a request of the full length, all on the GPU."""
        return self.starts is True and self.verdict.holds

    @property
    def engine(self) -> dict[str, Any]:
        """Name, version, facts and printed lines of the engine, as ``Report.engine`` has them."""
        return self.report.engine

    @property
    def printed(self) -> tuple[str, ...]:
        """The lines that the engine would print, in its own units and rounding; none where it refuses its flags."""
        return () if self.reading.refusals else tuple(self.report.engine["printed"])

    @property
    def read(self) -> tuple[Named, ...]:
        """Flags that entered the plan, and what they became."""
        return tuple(self.reading.read())

    @property
    def not_modelled(self) -> tuple[Named, ...]:
        """Flags whose effect on memory is not modelled, and what is therefore missing."""
        return tuple(self.reading.caveats)

    @property
    def no_effect(self) -> tuple[str, ...]:
        """Flags without effect on memory."""
        return tuple(self.reading.without_effect())

    @property
    def unknown(self) -> tuple[Named, ...]:
        """Flags that kvplan does not know, the first of them with the nearest one that it does."""
        return tuple(
            Named(given.words, f"{UNKNOWN}; nearest: {given.nearest}" if given.nearest else UNKNOWN)
            for given in self.reading.unknown
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a reader should know."""
        left = self.command.left_out.partition(" ")[0]
        typed = not_run((*self.command.words, *self.command.environment.values()))
        return (
            *self.reading.notes,
            *self.reading.repeated,
            *self._close(),
            *first_of(typed, lambda word: f"{shorten(word)} stands as typed: kvplan runs nothing", "more such words"),
            *([f"read up to {left!r}"] if left else []),
        )

    def _close(self) -> list[str]:
        """A note where less decides than may be wrong with what is estimated."""
        c, served = self.report.capacity, self.report.answer.served
        if c is None or served is None or self.reading.refusals:
            return []
        free = c.usable_bytes - sum(size for _, size in self.report.memory())
        guessed = sum(line.size for line in served.kept if line.basis != "exact")
        if 2 * abs(free) >= guessed:
            return []
        return [
            f"a close call: {format_bytes(abs(free))} {'are left' if free >= 0 else 'are missing'}, and the "
            f"{format_bytes(guessed)} that the engine keeps back for itself are an estimate"
        ]

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The smallest changes that make it start and hold a full request, smallest first; empty where it does."""
        return tuple(_changes(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what `kvplan preflight --json` prints."""
        s = self.report.answer.settings
        return {
            "schema": 1,
            "kvplan_version": __version__,
            "command": {
                "program": self.command.program,
                "words": list(self.command.words),
                "environment": self.command.environment,
            },
            "engine": self.engine,
            "model": {
                "name": self.report.answer.spec.name,
                "from": self.reading.found.how if self.reading.found else "",
            },
            "gpu": s.gpu.name if s.gpu else None,
            "gpus": s.tp * s.pp * s.dp,
            "starts": self.starts,
            "holds_full_request": self.holds,
            "why": self.why,
            "printed": list(self.printed),
            "flags": {
                "read": [named._asdict() for named in self.read],
                "no_effect_on_memory": list(self.no_effect),
                "not_modelled": [named._asdict() for named in self.not_modelled],
                "unknown": [named._asdict() for named in self.unknown],
            },
            "changes": [change._asdict() for change in self.changes],
            "notes": list(self.notes),
            "plan": self.report.to_dict(),
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return to_json(self.to_dict())

    def to_text(self, width: int = 80, color: bool = False) -> str:
        """The answer for a terminal of ``width`` columns."""
        from kvplan.launch.text import text

        return text(self, width, color)


def preflight(
    command: str | Sequence[str],
    gpu: str | None = None,
    *,
    memory: int | str | None = None,
    config: str | PathLike[str] | None = None,
    engine_version: str | None = None,
) -> Preflight:
    """Whether the engine that a command starts will start on this GPU, what it will print, and else what would do.

    ``command`` is the command as typed, in one text or as its words. ``gpu`` is a slug of ``kvplan gpus`` (or ``memory``
    bytes per GPU); how many there are, the command says. ``config`` is a config.json, a folder or a preset that stands
    for the model. Nothing is run. Raises a KvplanError that names what cannot be read.
    """
    if config is not None and not isinstance(config, (str, PathLike)):
        raise InvalidInput("--config", config, "a path, or the name of a preset")
    if gpu is None and memory is None:
        raise InvalidInput("--gpu", None, "the accelerator to start on, e.g. l40s; `kvplan gpus` lists them")
    read = read_command(command)
    rules = _rules(read.engine)
    stands_for = None if config is None else fspath(config)
    return _answered(read, Reading(rules, read, Asked(gpu, memory, stands_for, engine_version)))


def _rules(engine: str) -> Rules:
    module: Any = import_module(ENGINES[engine])
    rules: Rules = module.RULES
    return rules


def _answered(command: Command, reading: Reading) -> Preflight:
    report, verdict = _asked(reading)
    return Preflight(command, reading, report, verdict)


def _asked(reading: Reading) -> tuple[Report, Verdict]:
    """The plan of a reading, its context shortened where the engine itself would, and the verdict on it."""
    asked = reading.asked
    keywords = {**reading.plan, "engine_options": reading.options}
    if asked.version is not None:
        keywords["engine_version"] = asked.version
    if asked.memory is not None:
        keywords["memory"] = asked.memory
    assert reading.found is not None
    try:
        report = plan(reading.found.spec, engine=reading.rules.engine, gpu=asked.gpu, **keywords)
    except InvalidInput as e:
        if e.field not in ("tp", "pp"):
            raise
        # what the engine, too, finds out before it allocates anything: answer for one GPU, and refuse
        reading.refuse(f"{e.field} {e.value} cannot be: it must be {e.rule}")
        keywords |= {e.field: 1}
        report = plan(reading.found.spec, engine=reading.rules.engine, gpu=asked.gpu, **keywords)
    if reading.auto_context:
        report = reading.rules.shorten(reading, report)
    verdict = reading.rules.judge(reading, report)
    if reading.refusals:
        verdict = Verdict(False, "; ".join(reading.refusals), False)
    return report, verdict


# --- what would make it start ----------------------------------------------------------------------------------------


def _changes(found: Preflight) -> list[Change]:
    """Single changes that were planned again and hold, one per kind; where none does, the first sum of them that does."""
    if found.holds:
        return []
    rules, reading = found.reading.rules, found.reading
    done: dict[tuple[str, ...], Change] = {}
    tried: dict[tuple[str, ...], Changes] = {}
    for changes in rules.attempts(reading, found.report):
        kind = tuple(changes)
        if kind in done:
            continue
        tried[kind] = changes
        change = _checked(found, changes)
        if change is not None:
            done[kind] = change
    if done:
        return list(done.values())
    together: dict[str, str | None] = {}
    for changes in tried.values():
        together.update(changes)
        change = _checked(found, together) if len(together) > len(changes) else None
        if change is not None:
            return [change]
    return []


def _checked(found: Preflight, changes: Changes) -> Change | None:
    """A change with the verdict on the command that it makes, None where that does not start or hold."""
    try:
        reading = found.reading.changed(changes)
        if reading.refusals:  # no plan mends what the engine refuses to read
            return None
        _, verdict = _asked(reading)
    except KvplanError:
        return None
    if not (verdict.starts and verdict.holds):
        return None
    flags = shell(word for name, value in changes.items() for word in (name, value) if word is not None)
    return Change(flags, verdict.why, tuple(_replaced(found, changes)))


def _replaced(found: Preflight, changes: Changes) -> list[str]:
    """The words of the command with flags replaced: the old ones left out, the new ones at the end."""
    flags = found.reading.rules.table.flags
    gone = {flags[name].name for name in changes}
    words = list(found.reading.positional)
    for given in (*found.reading.given.values(), *found.reading.unknown):
        if given.flag is not None and given.flag.name in gone:
            continue
        spelled = f"{given.spelled}.{given.path}" if given.path else given.spelled
        if spelled.partition("=")[0] in found.command.environment:
            continue
        if found.reading.rules.table.argparse and (given.value or "").startswith("-"):  # else a flag of its own
            words.append(f"{spelled}={given.value}")
            continue
        several = given.flag is not None and given.flag.takes == "list"
        words += [
            spelled,
            *((given.value or "").split() if several else [given.value] if given.value is not None else []),
        ]
    for name, value in changes.items():
        words += [name] if value is None else [name, value]
    return words
