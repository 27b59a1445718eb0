"""Text from outside, made fit to be shown: on a terminal, in Markdown, in JSON, in CSV and in a command that is printed.

Names in files, folders and links are somebody else's: they may hold escape sequences, line ends, characters that turn
the direction of writing, or markup. Whatever draws text calls one of these functions; what is drawn then says what was
there, and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "LONGEST",
    "Ours",
    "cell",
    "code",
    "inert",
    "json_escaped",
    "markdown",
    "printable",
    "shell",
    "shorten",
    "to_csv",
    "to_json",
]

LONGEST = 2000  # characters of one line; beyond them it loses its middle


def printable(text: str, limit: int = LONGEST) -> str:
    r"""A text on one line of at most ``limit`` characters, with what cannot be seen written as Python writes it.

    >>> printable("a\x1b[2J\nb"), printable("a" * 9, 5)
    ('a\\x1b[2J\\nb', 'aa…aa')
    """
    if len(text) > 2 * limit:  # an escape is at most ten characters long: what is cut away need not be looked at
        text = text[:limit] + text[-limit:]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    text = inert(text)
    if len(text) <= limit:
        return text
    return f"{text[: limit - limit // 2 - 1]}…{text[-(limit // 2) :]}"


def inert(line: str) -> str:
    r"""A line that GitHub's runner takes for no command of its own: it looks for ``::`` in front, ``##[`` anywhere.

    >>> inert("::error::x"), inert("a ##[error]"), inert("a::b")
    ('\\x3a:error::x', 'a #\\x23[error]', 'a::b')
    """
    if "##[" in line:
        line = line.replace("##[", "#\\x23[")
    start = line.lstrip()
    return f"{line[: len(line) - len(start)]}\\x3a{start[1:]}" if start.startswith("::") else line


def shorten(value: object, limit: int = 80) -> str:
    """``repr`` of a value on one line of at most ``limit`` characters, however large; a path loses its middle, not its name."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > limit:
        return f"a {type(value).__name__} of {len(value)} items"
    path = isinstance(value, str) and "/" in value and len(value) <= 4096
    if isinstance(value, (str, bytes)) and len(value) > 4 * limit and not path:
        value = value[: 4 * limit]
    text = _repr(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}" if path else text[: limit - 1] + "…"


def _repr(value: object) -> str:
    """``repr``, which of a value that nests too deep, holds a giant or cannot say what it is, is its kind alone."""
    if isinstance(value, (list, tuple, dict)):
        import reprlib

        small = reprlib.Repr()  # at most six items a level, six levels: a list of long lists is never written out
        small.maxlong = small.maxstring = small.maxother = 80
        try:
            return printable(small.repr(value))
        except Exception:  # of whatever somebody's own ``__repr__`` raises
            return f"a {type(value).__name__}"
    try:
        return printable(repr(value))
    except Exception:
        return f"a {type(value).__name__}"


# --- Markdown --------------------------------------------------------------------------------------------------------

# Characters that begin markup wherever they stand: emphasis, links, code, tables, tags, strikes, formulas; and what makes
# GitHub link an address that stands by itself.
_MARKUP = r"[\\`*\[\]<|~$]|&(?=[#a-zA-Z])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\."
# At the start of a line: headings, lists, quotations.
_START = r"^\s*(?:[#+\-=>]|\d{1,9}[.)])(?=\s|$|[#\-=>])"


def markdown(text: str) -> str:
    r"""A text as Markdown that shows just that text: no image, link, tag, table cell or emphasis comes of it.

    What GitHub itself looks for in the finished page stays: ``@name`` and ``#1`` of its own site, addresses of mail.

    >>> markdown("2**48 ![x](http://a/b.png)"), markdown("q4_k | <b>")
    ('2\\*\\*48 !\\[x\\](http\\://a/b.png)', 'q4_k \\| \\<b>')
    """
    import re  # compiled when Markdown is asked for: a plan on a terminal need not pay for it

    text = re.sub(_MARKUP, lambda found: "\\" + found[0], printable(text))
    start = re.match(_START, text)
    return text if start is None else f"{text[: start.end() - 1]}\\{text[start.end() - 1 :]}"


def code(text: str) -> str:
    """A text as a code span of Markdown, outside of tables: its backquotes are in it, and end nothing.

    >>> code("a`b"), code("a|b")
    ('`` a`b ``', '`a|b`')
    """
    import re

    text = printable(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


# --- data ------------------------------------------------------------------------------------------------------------


def to_json(value: object) -> str:
    r"""JSON on indented lines. What cannot be seen is escaped as JSON escapes it, so that reading it gives the same data.

    >>> to_json("a\x9b\u202e")
    '"a\\u009b\\u202e"'
    """
    import json

    return json_escaped(
        json.dumps(value, indent=2, ensure_ascii=False), lambda char: char == "\n" or char.isprintable()
    )


def json_escaped(json_text: str, keeps: Callable[[str], bool]) -> str:
    """JSON in which the characters that are not kept are escaped: what is not ASCII stands in strings alone."""
    import json

    marks = {ord(char): json.dumps(char)[1:-1] for char in set(json_text) if not keeps(char)}
    return (json_text.translate(marks) if marks else json_text).replace("##[", "#\\u0023[")  # as ``inert`` has it


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV, texts printable; a text that a spreadsheet would take for a formula stands behind an apostrophe.

    >>> to_csv([("name", "bytes"), ("=1+1", 7)])
    "name,bytes\n'=1+1,7\n"
    """
    import csv
    from io import StringIO

    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


class Ours(str):
    """A text that kvplan made, such as a command that begins with a flag: no spreadsheet takes it for a formula of others."""

    __slots__ = ()


def cell(value: object) -> object:
    """One value of a table of data: a text printable and no formula, anything else as it is."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    if isinstance(value, Ours):
        return shown
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


# --- commands --------------------------------------------------------------------------------------------------------


def shell(words: Iterable[str]) -> str:
    r"""A command of these words, to be read and to be pasted: quoted, and what cannot be seen written as ``$'\x1b'``.

    >>> shell(["kvplan", "plan", "a b", "$(id)", "x\x1b"])
    "kvplan plan 'a b' '$(id)' $'x\\x1b'"
    """
    import shlex

    return " ".join(shlex.quote(word) if word.isprintable() else _ansi(word) for word in words)


def _ansi(word: str) -> str:
    r"""A word in the quotes of bash, ksh and zsh that know escapes, byte by byte where a character cannot be seen."""
    pieces = []
    for char in word:
        if char in "\\'":
            pieces.append("\\" + char)
        elif char.isprintable():
            pieces.append(char)
        else:  # what came as an undecodable byte goes back as one; other surrogates come from no shell
            how = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
            pieces += [f"\\x{byte:02x}" for byte in char.encode("utf-8", how)]
    return f"$'{''.join(pieces)}'"
