"""One error tree. Data in fields, text in ``__str__``; the command line prints the text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.text import printable, shorten

__all__ = [
    "InvalidInput",
    "KvplanError",
    "MissingExtra",
    "UnknownName",
    "UnreadKeys",
    "Unsupported",
]

SOME = 12  # names of a list that a message holds


class KvplanError(Exception):
    """Base of every error kvplan raises on purpose; ``exit_code`` is what the command line returns.

    ``str()`` of one is always a single printable line: kinds of errors say theirs in ``said``.
    """

    exit_code = 2

    def said(self) -> str:
        """What is wrong and what instead, before it is made one line."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return printable(self.said())


class InvalidInput(KvplanError, ValueError):
    """A value that cannot be: names the field, the value and what is allowed.

    ``where`` is the file or source the field came from, when there is one.
    """

    def __init__(self, field: str, value: object, rule: str, where: str = "") -> None:
        self.field, self.value, self.rule, self.where = field, value, rule, where
        super().__init__(field, value, rule, where)

    def said(self) -> str:
        """Where it stands, the field, what was given and what is allowed."""
        place = f"{self.where}: " if self.where else ""
        given = "missing" if self.value is None else f"got {shorten(self.value)}"
        return f"{place}{printable(self.field, 200)}: {given}, allowed: {self.rule}"


class UnknownName(KvplanError, KeyError):
    """A name that no registry holds: says the kind, the name and the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.hint = kind, name, hint
        self.known = tuple(sorted(known))
        super().__init__(kind, name, self.known, hint)

    @property
    def nearest(self) -> tuple[str, ...]:
        """Up to four known names that look like the one given."""
        import difflib

        wanted = self.name[:100].lower()
        close = difflib.get_close_matches(wanted, self.known, n=4, cutoff=0.5)
        if not close:
            close = [known for known in self.known if wanted and wanted in known][:4]
        return tuple(close)

    def said(self) -> str:
        """The kind and the name, and the nearest that are known."""
        if self.nearest:
            instead = f"nearest: {', '.join(self.nearest)}"
        elif len(self.known) <= 12:
            instead = f"known: {', '.join(self.known)}"
        else:
            instead = f"{len(self.known)} are known"
        return f"unknown {self.kind} {shorten(self.name)}; {instead}{'; ' + self.hint if self.hint else ''}"


class UnreadKeys(KvplanError):
    """A config holds keys that change the cache and that its importer did not read."""

    def __init__(self, where: str, model_type: str, keys: Iterable[str]) -> None:
        self.where, self.model_type, self.keys = where, model_type, tuple(sorted(keys))
        super().__init__(where, model_type, self.keys)

    def said(self) -> str:
        """The file and the keys, as many as a line has room for."""
        named = [printable(key, 100) for key in self.keys[:SOME]]
        more = f" and {len(self.keys) - SOME} more" if len(self.keys) > SOME else ""
        return (
            f"{self.where}: model_type {shorten(self.model_type)} holds cache-relevant keys that its importer does not"
            f" read: {', '.join(named)}{more}; describe the model with --layers --kv-heads --head-dim instead"
        )


class Unsupported(KvplanError):
    """Something known that kvplan cannot answer here; the text says what to do instead."""


class MissingExtra(KvplanError, ImportError):
    """An optional dependency is needed: names the pip extra that brings it."""

    def __init__(self, what: str, extra: str, instead: str = "") -> None:
        self.what, self.extra, self.instead = what, extra, instead
        super().__init__(what, extra, instead)

    def said(self) -> str:
        """What needs it, and how to have it."""
        text = f"{self.what} needs an optional dependency: pip install 'kvplan[{self.extra}]'"
        return f"{text}; {self.instead}" if self.instead else text
