"""Regular files: from outside, opened, read and parsed within bounds; ours, written whole. Every failure is one line.

This is the only place of kvplan that opens a file whose path or content somebody else chose; a test walks the source.
What honest files need stands beside each bound, with where it was seen; a bound leaves room for several times as much.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from kvplan.errors import InvalidInput
from kvplan.text import printable

__all__ = [
    "open_file", "open_to_write", "parse_object", "parse_toml", "read_bytes", "read_text", "unreadable",
    "weigh", "write_whole",
]  # fmt: skip

# Bytes that the objects of one JSON text may take in memory: with the interpreter (40 MB) and the text below 300 MB.
# Published files need 10 MB (config.json of 3.1 MB: nvidia/MiniMax-M3-NVFP4) to 100 MB (indexes of 31 MB, below).
OBJECT_LIMIT = 200 * 10**6
# Bytes of a config.json. It is a few kilobytes; the largest published one names every quantised expert and has 3.1 MB
# (nvidia/MiniMax-M3-NVFP4).
CONFIG_LIMIT = 8 * 2**20
TOML_LIMIT = 2**20  # bytes; presets have up to 38 kB (a config.json inside), budgets of a large repository some 20 kB
KEY_PARTS = 200  # of a dotted key, for which the parser takes time as their square; ours have 2


def open_file(path: str | os.PathLike[str], field: str) -> tuple[BufferedReader, int]:
    """An open regular file and its size in bytes. Raises InvalidInput for anything that cannot be read as one."""
    try:
        _regular(os.stat(path), path, field)  # not opened where it is a device: to open one may do something
        # what lies there may have become a pipe since, which without O_NONBLOCK is waited for
        return _opened(path, field, os.O_RDONLY, "rb")
    except (OSError, ValueError) as e:
        if isinstance(e, InvalidInput):
            raise
        raise unreadable(e, path, field) from None


def _opened(path: str | os.PathLike[str], field: str, flags: int, mode: str) -> tuple[Any, int]:
    """A descriptor's file and its size, once it is known to be regular."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = _regular(os.fstat(descriptor), path, field)
        if mode == "wb":
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, mode), size
    except BaseException:
        os.close(descriptor)
        raise


def _regular(about: os.stat_result, path: str | os.PathLike[str], field: str) -> int:
    if not stat.S_ISREG(about.st_mode):
        raise InvalidInput(field, os.fspath(path), "a regular file")
    return about.st_size


def unreadable(error: Exception, path: str | os.PathLike[str], field: str) -> InvalidInput:
    """The one line of a path that the system does not let be read."""
    reason = getattr(error, "strerror", None) or "not a path"  # a NUL in it, a character that no file name has
    return InvalidInput(field, os.fspath(path), f"a readable file ({reason})")


def read_bytes(path: str | os.PathLike[str], field: str, limit: int) -> bytes:
    """All of a regular file of at most ``limit`` bytes. Raises InvalidInput, as for a file that is larger."""
    file, size = open_file(path, field)
    try:
        with file:
            # a file may grow while it is read, and files of /proc say that they hold nothing
            data = b"" if size > limit else file.read(limit + 1)
    except OSError as e:
        raise unreadable(e, path, field) from None
    if max(size, len(data)) > limit:
        raise InvalidInput(field, f"{max(size, len(data)):,} bytes", f"at most {limit:,} bytes", os.fspath(path))
    return data


def read_text(path: str | os.PathLike[str], field: str, limit: int) -> str:
    """All of a regular UTF-8 file of at most ``limit`` bytes. Raises InvalidInput."""
    data = read_bytes(path, field, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InvalidInput(field, f"byte {e.start} is not UTF-8", "UTF-8 text", os.fspath(path)) from None


def weigh(data: bytes) -> int:
    """Bytes that the objects of a JSON text take at most in CPython, from the marks in it; strings count as their text.

    A dict of one entry takes 232 bytes, a list 72 and what it grows by, an entry its place, a string or number its head.
    """
    wide = 1 if data.isascii() else 4  # one wide character makes all of a string wide
    containers = 240 * data.count(b"{") + 96 * data.count(b"[")
    return wide * len(data) + containers + 72 * data.count(b",") + 112 * data.count(b":")


def parse_object(
    data: bytes, field: str, where: str, *, table: bool = False, finite: bool = True, **how: Any
) -> dict[str, Any]:
    """A JSON object from bytes. Raises InvalidInput where they are not UTF-8, not JSON, not an object, or would be giants.

    ``table`` is for long lists of like entries: pydantic's parser keeps each word once, and no second copy of the text.
    ``finite=False`` lets NaN and Infinity pass; what else is given goes to ``json.loads``.
    """
    if weigh(data) > OBJECT_LIMIT:
        rule = f"JSON whose objects take at most {OBJECT_LIMIT // 10**6} MB of memory"
        raise InvalidInput(field, f"{len(data):,} bytes of it with {data.count(b','):,} commas", rule, where)
    try:
        if table:
            value = _table(data)
        else:
            value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse if finite else None, **how)
    except UnicodeDecodeError as e:
        raise InvalidInput(field, f"byte {e.start} is not UTF-8", "UTF-8 JSON", where) from None
    except RecursionError:
        raise InvalidInput(field, "nested too deep", "JSON of ordinary depth", where) from None
    except ValueError as e:
        raise InvalidInput(field, printable(str(e), 100), "a complete JSON object", where) from None
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "a JSON object", where)
    return value


def _table(data: bytes) -> Any:
    from pydantic_core import from_json

    try:
        return from_json(data.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False, cache_strings="all")
    except ValueError:
        data.decode()  # says which byte, where that is what is wrong
        raise


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no finite number")


def parse_toml(text: str, field: str, where: str, **how: Any) -> dict[str, Any]:
    """A TOML document. Raises InvalidInput where the text is none."""
    import re
    import tomllib

    bare = text.translate(dict.fromkeys(map(ord, " \t\"'")))  # a key may be quoted, with blanks between its parts
    for run in re.finditer(r"[^\n=\[\]{},#]+", bare):
        is_key = bare[run.end() : run.end() + 1] == "=" or bare[max(run.start() - 1, 0) : run.start()] == "["
        if not is_key or run[0].count(".") <= KEY_PARTS:
            continue
        raise InvalidInput(field, os.path.basename(where), f"TOML with keys of at most {KEY_PARTS} parts", where)
    try:
        return tomllib.loads(text, **how)
    except (ValueError, RecursionError) as e:  # TOMLDecodeError, and what int and date say of their own
        reason = "nested too deep" if isinstance(e, RecursionError) else printable(str(e), 200)
        raise InvalidInput(field, os.path.basename(where), f"a readable TOML file ({reason})", where) from None


def open_to_write(path: str | os.PathLike[str], field: str, mode: str = "wb", *, follow: bool = False) -> BinaryIO:
    """A regular file, new or there, open to be written (``wb``), continued (``ab``) or changed (``r+b``).

    A link is followed only where that is asked for: in a folder that somebody else can write to, it may lead anywhere.

    Raises InvalidInput for what is there and is none (a pipe would be waited for), and where nothing may be written.
    """
    flags = {"wb": os.O_WRONLY | os.O_CREAT, "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND, "r+b": os.O_RDWR}[mode]
    try:
        file, _ = _opened(path, field, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)), mode)
        return file  # type: ignore[no-any-return]  # of the mode
    except (OSError, ValueError) as e:
        if isinstance(e, InvalidInput):
            raise
        reason = getattr(e, "strerror", None) or "not a path"
        raise InvalidInput(field, os.fspath(path), f"a file that can be written ({reason})") from None


def write_whole(path: Path, data: bytes, field: str, rule: str = "a file that can be written") -> None:
    """Writes a file whole or not at all: to a temporary name beside it, then renamed. Links are followed.

    Raises InvalidInput, with ``rule`` and the reason, for what is no file, and where there is no place or no permission.
    """
    import tempfile  # of no use to a plan, which starts in less without it

    partial = ""
    try:
        place = path.resolve()
        if place.exists() and not place.is_file():
            raise InvalidInput(field, str(path), "the name of a file")
        descriptor, partial = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)  # mkstemp's file is its owner's alone
        os.replace(partial, place)
    except (OSError, ValueError, RuntimeError) as e:  # RuntimeError: links in a circle
        if partial:
            Path(partial).unlink(missing_ok=True)
        if isinstance(e, InvalidInput):
            raise
        raise InvalidInput(field, str(path), f"{rule} ({getattr(e, 'strerror', None) or 'not a path'})") from None
