"""One error tree. Data in fields, text in ``__str__``; the command line prints the text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "InvalidInput",
    "KvplanError",
    "MissingExtra",
    "UnknownName",
    "UnreadKeys",
    "Unsupported",
]


class KvplanError(Exception):
    """Base of every error kvplan raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 2


class InvalidInput(KvplanError, ValueError):
    """A value that cannot be: names the field, the value and what is allowed.

    ``where`` is the file or source the field came from, when there is one.
    """

    def __init__(self, field: str, value: object, rule: str, where: str = "") -> None:
        self.field, self.value, self.rule, self.where = field, value, rule, where
        super().__init__(field, value, rule, where)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        given = "missing" if self.value is None else f"got {shorten(self.value)}"
        return one_line(f"{place}{self.field}: {given}, allowed: {self.rule}")


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

    def __str__(self) -> str:
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

    def __str__(self) -> str:
        return one_line(
            f"{self.where}: model_type {self.model_type!r} holds cache-relevant keys that its importer does not read: "
            f"{', '.join(self.keys)}; describe the model with --layers --kv-heads --head-dim instead"
        )


class Unsupported(KvplanError):
    """Something known that kvplan cannot answer here; the text says what to do instead."""


class MissingExtra(KvplanError, ImportError):
    """An optional dependency is needed: names the pip extra that brings it."""

    def __init__(self, what: str, extra: str, instead: str = "") -> None:
        self.what, self.extra, self.instead = what, extra, instead
        super().__init__(what, extra, instead)

    def __str__(self) -> str:
        text = f"{self.what} needs an optional dependency: pip install 'kvplan[{self.extra}]'"
        return f"{text}; {self.instead}" if self.instead else text


def one_line(text: str) -> str:
    """A message with the unprintable characters that a file's own names brought into it (line ends too) escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shorten(value: object, limit: int = 80) -> str:
    """``repr`` of a value on one line of at most ``limit`` characters, however large; a path loses its middle, not its name."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple, dict, set)) and len(value) > limit:
        return f"a {type(value).__name__} of {len(value)} items"
    path = isinstance(value, str) and "/" in value and len(value) <= 4096
    if isinstance(value, (str, bytes)) and len(value) > 4 * limit and not path:
        value = value[: 4 * limit]
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}" if path else text[: limit - 1] + "…"
