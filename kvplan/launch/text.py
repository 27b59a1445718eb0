"""A preflight for a terminal: verdict, the lines that the engine would print, what was read, what would do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kvplan.launch.reading import first_of
from kvplan.render import bullets, console, drawn, heading, memory_bar
from kvplan.text import printable

if TYPE_CHECKING:
    from kvplan.launch import Preflight
    from kvplan.launch.reading import Named

__all__ = ["text"]

FLAG, LINE = 200, 600  # characters of a flag with its value, and of a sentence


def text(found: Preflight, width: int, color: bool) -> str:
    """The whole answer as text."""
    c = console(width, color)
    s = found.report.answer.settings
    engine = f"{found.engine['name']} {found.engine['version'] or ''}".strip()
    name = s.gpu.label if s.gpu else "a GPU"
    gpus = s.tp * s.pp * s.dp
    how = found.reading.found.how if found.reading.found else ""
    spec = found.report.answer.spec.name
    model = spec if how.endswith(spec) else f"{spec} ({how})"
    c.print(Text(printable(f"{engine} · {model} · {f'{gpus} × ' if gpus > 1 else ''}{name}", LINE), style="bold"))
    mark, word, style = {
        True: ("✔", "starts", "bold #009E73"),
        False: ("✘", "does not start", "bold #D55E00"),
        None: ("?", "cannot be said", "bold"),
    }[found.starts]
    joint = ", " if found.why.startswith("but ") else ": "
    c.print(Text(printable(f"{mark} {word}{joint}{found.why}", 2 * LINE), style=style))
    if found.report.capacity is not None and not found.reading.refusals:
        c.print()
        for line in memory_bar(found.report, c.width):
            c.print(line)
    body = drawn(c)
    if found.printed:
        body += "\n" + heading(f"{found.engine['name']} would print", width, color)
        body += "".join(f"  {_line(line)}\n" for line in found.printed)
    sections = (
        ("read", _pairs(found.read)),
        ("not modelled", _pairs(found.not_modelled)),
        ("unknown", _pairs(found.unknown)),
        ("no effect on memory", [", ".join(first_of(found.no_effect, _flag))]),
        ("notes", first_of(found.notes, _line)),
        ("try", [_line(f"{change.flags}: {change.why}") for change in found.changes]),
    )
    for title, items in sections:
        if any(items):
            body += "\n" + heading(title, width, color) + bullets(items, width, color)
    if not found.changes and found.starts is False:
        body += "\n" + bullets(["no change of one flag, nor all of them together, makes it start"], width, color)
    return body


def _flag(words: str) -> str:
    return printable(words, FLAG)


def _line(said: str) -> str:
    return printable(said, LINE)


def _pairs(items: tuple[Named, ...]) -> list[str]:
    return first_of(items, lambda item: f"{_flag(item.flag)}: {_line(item.effect)}")
