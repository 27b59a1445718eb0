"""Regular files: from outside, opened and parsed within bounds; ours, written whole. Every failure is one line."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from kvplan.errors import InvalidInput

__all__ = ["open_file", "parse_object", "write_whole"]


def open_file(path: Path, field: str) -> tuple[BinaryIO, int]:
    """An open regular file and its size in bytes. Raises InvalidInput for anything that cannot be read as one."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise InvalidInput(field, str(path), "a regular file")
        return path.open("rb"), about.st_size
    except (OSError, ValueError) as e:
        if isinstance(e, InvalidInput):
            raise
        reason = getattr(e, "strerror", None) or "not a path"
        raise InvalidInput(field, str(path), f"a readable file ({reason})") from None


def parse_object(data: bytes, field: str, where: str) -> dict[str, object]:
    """A JSON object from bytes. Raises InvalidInput where they are not UTF-8, not JSON, or not an object."""

    def refuse(constant: str) -> object:
        raise InvalidInput(field, constant, "finite numbers", where)

    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as e:
        raise InvalidInput(field, f"byte {e.start} is not UTF-8", "UTF-8 JSON", where) from None
    except RecursionError:
        raise InvalidInput(field, "nested too deep", "JSON of ordinary depth", where) from None
    except InvalidInput:
        raise
    except ValueError as e:
        raise InvalidInput(field, str(e).splitlines()[0][:100], "a complete JSON object", where) from None
    if not isinstance(value, dict):
        raise InvalidInput(field, value, "a JSON object", where)
    return value


def write_whole(path: Path, data: bytes, field: str, rule: str = "a file that can be written") -> None:
    """Writes a file whole or not at all: to a temporary name beside it, then renamed. Links are followed.

    Raises InvalidInput, with ``rule`` and the reason, for what is no file, and where there is no place or no permission.
    """
    partial = ""
    try:
        place = path.resolve()
        if place.exists() and not place.is_file():
            raise InvalidInput(field, str(path), "the name of a file")
        descriptor, partial = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)  # mkstemp's file is its owner's alone
        os.replace(partial, place)
    except OSError as e:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise InvalidInput(field, str(path), f"{rule} ({e.strerror})") from None
