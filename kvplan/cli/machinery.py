"""How the command line runs: lazy parsers, one line per error, and output that no terminal can choke on."""

import codecs
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.text import json_escaped, printable
from kvplan.units import parse_count

__all__ = ["COMMANDS", "WIDEST", "Command", "Group", "as_stdout_can", "command", "warn"]

# Typer carries its own copy of click since 0.28 and used the package before: take the base class from what it exports.
ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


Command = Callable[..., None]
COMMANDS: dict[str, Command] = {}
WIDEST = 1000  # columns that a terminal may claim to have
# Commands that end in another program's command line.
FOREIGN = ("preflight",)


def command(function: Command) -> Command:
    """Registers a command under its function's name."""
    COMMANDS[function.__name__] = function
    return function


class Subcommand(TyperCommand):
    """A command that refuses a setting given twice with two values, where click would silently take the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's parsing, after a look at every value that was given."""
        if not ctx.resilient_parsing and sum(arg.startswith("-") for arg in args) > 1:
            self._refuse_contradictions(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_contradictions(self, ctx: Any, args: list[str]) -> None:
        parser: Any = type(self.make_parser(ctx))(ctx)
        add = parser.add_option

        def collect(*names: Any, action: str | None = None, **kwargs: Any) -> None:
            add(*names, action={"store": "append", "store_const": "append_const"}.get(action or "", action), **kwargs)

        parser.add_option = collect
        params = self.get_params(ctx)
        for param in params:
            param.add_to_parser(parser, ctx)
        given = parser.parse_args(args=list(args))[0]
        if "help" in given:
            return
        for param in params:
            values = given.get(param.name)
            if param.param_type_name == "option" and not param.multiple and isinstance(values, list):
                other = next((value for value in values if not _same(value, values[0])), None)
                if other is not None:
                    raise InvalidInput(param.opts[0], other, f"one value ({values[0]} was given too)")
        outputs = [param.opts[0] for param in params if param.name in OUTPUTS and param.name in given]
        if len(outputs) > 1:
            raise InvalidInput("output", " ".join(outputs), "one of them")


OUTPUTS = ("as_json", "as_csv", "as_markdown", "latex")


def _same(a: Any, b: Any) -> bool:
    """Whether two values say the same: 8k is 8192."""
    if a == b:
        return True
    try:
        return parse_count(a, "") == parse_count(b, "")
    except InvalidInput:
        return False


class Group(TyperGroup):
    """Builds a command's parser when it is asked for, and turns every expected error into one line and an exit code.

    Typer builds all parsers at start, and `plan` alone has forty options: lazily, one command pays for one parser.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of this file."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The parser of one command; raises UnknownName with the nearest ones."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell asks what could follow
                return None
            raise UnknownName("command", cmd_name, COMMANDS)
        if cmd_name not in self.commands:
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name, cls=Subcommand)(COMMANDS[cmd_name])
            built = typer.main.get_command(alone)
            built.context_settings["help_option_names"] = ["-h", "--help"]
            if cmd_name in FOREIGN:  # what follows the first word of somebody else's command is theirs
                built.context_settings["allow_interspersed_args"] = False
            self.commands[cmd_name] = built
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Click's entry point; bugs keep their traceback, everything else is a line."""
        if sys.stdout is None:
            sys.exit(_fail("cannot write the answer: stdout is closed", 2))
        _never_fail_on_a_character()
        _sound_widths()
        try:
            result = super().main(*args, **(kwargs | {"standalone_mode": False}))
            code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except KvplanError as e:
            code = _fail(str(e), e.exit_code)
        except typer.Abort:
            code = _fail("interrupted", 130)
        except ClickError as e:
            message = printable(" ".join(e.format_message().split()))
            code = _fail(message, 2) if message else 2  # no message: the help was printed instead
        except OSError as e:
            if e.filename is not None:  # of a file that was opened, not of the answer that was written
                code = _fail(f"{os.fspath(e.filename)!r}: {e.strerror}", 2)
                if standalone_mode:
                    sys.exit(code)
                return code
            # the reader has gone (`| head`): say nothing
            code = 0 if isinstance(e, BrokenPipeError) else _fail(f"cannot write the answer: {e.strerror}", 2)
            # keep Python's last flush from complaining
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if standalone_mode:
            sys.exit(code)
        return code


def _sound_widths() -> None:
    """Takes from the environment what Typer and Rich, which draw a help, would fail on or draw for ever."""
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        given = os.environ.get(name, "80")
        if not (given.isascii() and given.isdecimal()):
            del os.environ[name]
        elif len(given) > 4 or int(given) > WIDEST:
            os.environ[name] = str(WIDEST)


def _fail(message: str, code: int) -> int:
    warn(message)
    return code


def warn(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(f"kvplan: {printable(' '.join(message.split()))}", file=sys.stderr)


# What stands for a character that the terminal's encoding lacks; of others, their letters without accents, or "?".
PLAIN = {
    "█": "#", "▓": "=", "▒": "-", "░": ".", "▕": "|", "▏": "|", "✔": "", "✘": "", "●": "*", "·": "-", "…": "...",
    "×": "x", "−": "-", "–": "-", "—": "-", "±": "+-", "≥": ">=", "≤": "<=", "→": "->", "←": "<-", "↓": "down",
    "↑": "up", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")", "µ": "u", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler behind PLAIN; a mark that is left out takes the blank behind it along."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from unicodedata import normalize

    text, end = "", error.end
    for char in error.object[error.start : end]:
        plain = PLAIN.get(char)
        if plain is None:
            # letters and digits alone: a wide colon must not become the one that somebody escaped already
            bare = normalize("NFKD", char).encode("ascii", "ignore").decode()
            plain = bare if bare.isalnum() else "?"
        text += plain
    if not text and error.object[end : end + 1] == " ":
        end += 1
    return text, end


def _never_fail_on_a_character() -> None:
    """Makes stdout and stderr replace what their encoding lacks (LC_ALL=C, latin-1, cp1252) instead of raising."""
    codecs.register_error("kvplan", _plain)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="kvplan")


def as_stdout_can(text: str) -> str:
    """JSON as stdout can carry it: where its encoding lacks a character, all but ASCII is escaped, and the data stay."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json_escaped(text, str.isascii)
    return text
