"""Finished chunks in a folder beside the output, so that a sweep goes on where it was killed.

``<output>.parts/`` holds a manifest (what was asked), one file per finished chunk, and a log with a line per chunk: rows,
a checksum, what was skipped. A chunk counts only once its line is there and its file has that checksum. At the end the
chunks are joined into one file under a temporary name, that file is renamed, and the folder goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from kvplan.errors import InvalidInput
from kvplan.importers.files import open_file, open_to_write, parse_object, read_bytes
from kvplan.sweeps.evaluate import Skips

__all__ = ["Done", "Parts"]

MANIFEST_LIMIT = 2**20  # bytes; what was asked, in some hundred
# What ``remove`` may: chunks, and what was being written.
OURS = re.compile(r"[0-9]{8}\.[a-z]+(\.new)?|(sweep\.json|whole\.[a-z]+)\.new")
LOG_LIMIT = 2**26  # bytes; some 200 for each chunk, of up to a million points


class Done(NamedTuple):
    """One finished chunk."""

    rows: int
    sha256: str
    skips: Skips


class Parts:
    """The folder of one output. Opening it checks what it holds and takes it for this process alone."""

    def __init__(self, output: Path, asked: dict[str, str], kind: str) -> None:
        """``kind`` is the format of the parts.

        Raises InvalidInput where the folder holds another sweep, is in use, or cannot be written.
        """
        self.output, self.kind = output, kind
        self.folder = output.with_name(output.name + ".parts")
        self.asked = {**asked, "format": output.suffix.lower()}
        if not os.path.isdir(output.parent):
            raise InvalidInput("output", str(output), "a file in a folder that exists")
        if os.path.isdir(output):
            raise InvalidInput("output", str(output), "a file, and this is a folder")
        if os.path.islink(self.folder):
            raise InvalidInput("output", str(output), f"another file: {self.folder} is a link")
        try:
            self.folder.mkdir(exist_ok=True)
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or "not a path"
            raise InvalidInput("output", str(output), f"a file in a folder that can be written to ({reason})") from None
        self._lock = self._taken()
        self._match()

    @property
    def _manifest(self) -> Path:
        return self.folder / "sweep.json"

    @property
    def _log(self) -> Path:
        return self.folder / "chunks.jsonl"

    def path(self, chunk: int) -> Path:
        """The file of one chunk."""
        return self.folder / f"{chunk:08d}.{self.kind}"

    def _taken(self) -> IO[bytes]:
        """A lock that goes with the process, however it ends."""
        lock = open_to_write(self.folder / "lock", "output", "ab")  # whatever it holds is not touched
        with contextlib.suppress(ImportError):  # Windows has none of its kind
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise InvalidInput(
                    "output", str(self.output), f"a file that no other sweep writes ({self.folder} is in use)"
                ) from None
        return lock

    def _match(self) -> None:
        if os.path.lexists(self._manifest):
            try:
                held = parse_object(read_bytes(self._manifest, "output", MANIFEST_LIMIT), "output", str(self._manifest))
            except InvalidInput:
                held = {}
            if held == self.asked:
                return
            differs = next((name for name in self.asked if held.get(name) != self.asked[name]), "format")
            was = str(held.get(differs, "unreadable"))
            self.close()
            raise InvalidInput(
                "output",
                str(self.output),
                f"another file, or none in its place: {self.folder} holds an unfinished sweep with other {differs} ({was[:60]})",
            )
        strangers = [p.name for p in self.folder.iterdir() if p.name not in ("lock", "sweep.json.new")]
        if strangers:
            self.close()
            raise InvalidInput(
                "output", str(self.output), f"another file: {self.folder} exists and is no sweep's ({strangers[0]})"
            )
        _written(self._manifest, json.dumps(self.asked, indent=1).encode())

    def finished(self) -> dict[int, Done]:
        """Chunks whose file is whole, by checksum; others are asked again."""
        found: dict[int, Done] = {}
        if not os.path.lexists(self._log):
            return found
        whole = read_bytes(self._log, "output", LOG_LIMIT)
        end = whole.rfind(b"\n") + 1
        if end < len(whole):  # the line that was being written
            with open_to_write(self._log, "output", "r+b") as log:
                log.truncate(end)
        for line in whole[:end].splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_entry(entry):
                skips = Skips(Counter(entry["cells"]), Counter(entry["points"]))
                found[entry["chunk"]] = Done(entry["rows"], entry["sha256"], skips)
        return {number: done for number, done in sorted(found.items()) if self._holds(number, done)}

    def _holds(self, chunk: int, done: Done) -> bool:
        try:
            with open_file(self.path(chunk), "output")[0] as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == done.sha256
        except (InvalidInput, OSError):
            return False

    def keep(self, chunk: int, data: bytes, rows: int, skips: Skips) -> Done:
        """Puts a finished chunk away: its file under its name first, its line after that."""
        done = Done(rows, hashlib.sha256(data).hexdigest(), skips)
        _written(self.path(chunk), data)
        line = {"chunk": chunk, "rows": rows, "sha256": done.sha256, "cells": skips.cells, "points": skips.points}
        with open_to_write(self._log, "output", "ab") as log:
            log.write(json.dumps(line).encode() + b"\n")
        return done

    @contextlib.contextmanager
    def result(self) -> Iterator[IO[bytes]]:
        """The output under a temporary name; renamed when the block ends well, removed when it does not."""
        temporary = self.folder / f"whole{self.output.suffix}.new"
        try:
            with open_to_write(temporary, "output") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self.output)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """The folder and what this sweep put there; the manifest last, so that a kill in between is understood."""
        for name in sorted(os.listdir(self.folder)):
            if OURS.fullmatch(name):
                (self.folder / name).unlink()
        for path in (self._log, self._manifest, self.folder / "lock"):
            path.unlink(missing_ok=True)
        self.close()
        with contextlib.suppress(OSError):  # somebody put a file of theirs there
            self.folder.rmdir()

    def close(self) -> None:
        """Gives the folder free."""
        self._lock.close()


def _is_entry(entry: object) -> bool:
    """Whether a line of the log is one that ``keep`` writes."""
    if not isinstance(entry, dict) or not all(_is_count(entry.get(name)) for name in ("chunk", "rows")):
        return False
    counts = (entry.get("cells"), entry.get("points"))
    return isinstance(entry.get("sha256"), str) and all(
        isinstance(count, dict) and all(map(_is_count, count.values())) for count in counts
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _written(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    with open_to_write(temporary, "output") as file:
        file.write(data)
    temporary.replace(path)
