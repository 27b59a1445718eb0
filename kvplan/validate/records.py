"""What a run leaves behind: rows of predicted and measured amounts, a JSON record that survives a kill, a JUnit report.

A row keeps the keyword arguments of ``kvplan.plan`` and the path of the number in its answer, so that anybody can ask
again: ``replay`` does, on a machine without the device that was measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from kvplan.errors import InvalidInput
from kvplan.version import __version__

__all__ = ["BAD", "NEAR", "Record", "Row", "environment", "junit", "replay", "written"]

# exact: equal; within: inside the tolerance that the row states; reported: nothing was claimed; skipped: named why
BAD = frozenset({"wrong", "failed"})
# terms that are estimates, and how far off they may be either way
ESTIMATES = frozenset({"activations/peak", "runtime/context"})
NEAR = 2


class Row(NamedTuple):
    """One comparison. ``plan`` are arguments of ``kvplan.plan``, ``quantity`` is a path in its ``to_dict()``, or a word."""

    case: str
    plan: dict[str, Any]
    quantity: str
    predicted: float | int | None
    measured: float | int | None
    verdict: str
    note: str = ""
    stage: str = ""  # of a suite that has stages

    @property
    def ratio(self) -> float | None:
        """Measured over predicted."""
        return self.measured / self.predicted if self.predicted and self.measured is not None else None

    def to_dict(self) -> dict[str, Any]:
        """As the record holds it."""
        kept = {name: value for name, value in self._asdict().items() if name != "stage" or value}
        return kept | {"ratio": self.ratio}


def environment(device: str, suite: str) -> dict[str, Any]:
    """Where and with what a record was made."""
    import torch

    found: dict[str, Any] = {
        "record": 1,
        "suite": suite,
        "kvplan": __version__,
        "git": _git(),
        "sources": _sources(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": device,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device_name": properties.name,
            "device_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return found


def _git() -> str:
    """The commit that is checked out, with -dirty where files differ from it; nothing outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _sources() -> str:
    """A digest of the package's own code, which is what ran, whatever is checked out."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def written(path: Path, text: str) -> None:
    """Writes a file whole or not at all: to a temporary name beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(partial, 0o666 & ~mask)  # mkstemp's file is its owner's alone
    os.replace(partial, path)


class Record:
    """Rows so far, written after every case; with ``resume`` the cases that a record of the same kind holds are kept."""

    def __init__(self, about: dict[str, Any], path: Path | None, *, resume: bool = False) -> None:
        self.about, self.path = about, path
        self.rows: list[Row] = []
        self.notes: dict[str, Any] = {}
        if resume and path is not None and path.exists():
            old = read(path)
            for key in ("suite", "device", "device_name", "torch", "kvplan", "sources"):
                if old.get(key) != about.get(key):
                    raise InvalidInput("--resume", old.get(key), f"a record with {key} = {about.get(key)}", str(path))
            self.rows, self.notes = [_row(row) for row in old["rows"]], old.get("notes", {})

    @classmethod
    def of(cls, path: Path) -> Record:
        """The record of a file, to be read. Raises InvalidInput where it is none."""
        about = read(path)
        made = cls(about, None)
        made.rows, made.notes = [_row(row) for row in about.pop("rows")], about.pop("notes", {})
        return made

    def done(self, case: str) -> bool:
        """Whether a case is there, whole: cases are written at once."""
        return any(row.case == case for row in self.rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Takes the rows of one case and writes the record."""
        self.rows += rows
        self.save()

    def save(self) -> None:
        """Writes the record, if it has a place."""
        if self.path is not None:
            written(self.path, self.to_json())

    def to_dict(self) -> dict[str, Any]:
        """The record as it is written."""
        return {**self.about, "notes": self.notes, "rows": [row.to_dict() for row in self.rows]}

    def to_json(self) -> str:
        """JSON with one row a line, so that a change shows as one."""
        whole = self.to_dict()
        rows = ",\n".join(json.dumps(row) for row in whole.pop("rows"))
        head = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in whole.items())
        return f'{{\n{head} "rows": [\n{rows}\n]}}\n'

    @property
    def bad(self) -> list[Row]:
        """Rows that say no."""
        return [row for row in self.rows if row.verdict in BAD]


def read(path: Path) -> dict[str, Any]:
    """A record from a file. Raises InvalidInput where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InvalidInput("record", str(path), f"a record that kvplan validate wrote ({e})") from None
    if not isinstance(found, dict) or found.get("record") != 1 or not isinstance(found.get("rows"), list):
        raise InvalidInput("record", str(path), 'a record that kvplan validate wrote ("record": 1 and rows)')
    return found


def _row(raw: dict[str, Any]) -> Row:
    return Row(**{name: raw[name] for name in Row._fields if name in raw})


def asked(plan: dict[str, Any], quantity: str, configs: dict[str, Any] | None = None) -> Any:
    """The number that kvplan gives today for a row's question: a path in its answer, or the path of a term (with a slash).

    ``configs`` are those that the record holds, by the names that its rows give as model. None where the quantity is neither.
    """
    from kvplan.api import plan as ask

    question = {**plan, "model": (configs or {}).get(str(plan.get("model")), plan.get("model"))}
    if "/" in quantity:
        room: dict[str, Any] = (
            {} if "gpu" in plan else {"memory": 2**50}
        )  # terms beside the cache are those of a memory
        return next((term.value for term in ask(**question, **room).terms if term.path == quantity), None)
    found: Any = ask(**question).to_dict()
    for name in quantity.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def replay(record: dict[str, Any]) -> Iterator[Row]:
    """Rows of a record that today's formulas contradict, with today's number as ``predicted`` and verdict ``wrong``.

    What was measured exactly must be what is predicted today; an estimate must lie within half to twice of it; where nothing
    was claimed the prediction must be the same. A question that has no answer any more contradicts the record too.
    """
    configs = record.get("notes", {}).get("configs", {})
    for row in map(_row, record["rows"]):
        if row.predicted is None or not row.plan or ("." not in row.quantity and "/" not in row.quantity):
            continue
        today = asked(row.plan, row.quantity, configs)
        if row.quantity in ESTIMATES:
            holds = today is not None and row.measured is not None and today / NEAR <= row.measured <= today * NEAR
        elif row.verdict in ("exact", "wrong"):
            holds = today == row.measured
        else:
            holds = today == row.predicted
        if not holds:
            yield row._replace(predicted=today, verdict="wrong", note=f"the record holds {row.predicted}")


def junit(rows: Iterable[Row], name: str) -> str:
    """A JUnit report: one test case a row."""
    rows = list(rows)
    bad = [row for row in rows if row.verdict in BAD]
    skipped = [row for row in rows if row.verdict == "skipped"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"kvplan validate {name}",
        tests=str(len(rows)),
        failures=str(len(bad)),
        skipped=str(len(skipped)),
    )
    for row in rows:
        case = ElementTree.SubElement(suite, "testcase", classname=row.case, name=row.quantity)
        said = f"predicted {row.predicted}, measured {row.measured}; {row.note}".strip("; ")
        if row.verdict in BAD:
            ElementTree.SubElement(case, "failure", message=said)
        elif row.verdict == "skipped":
            ElementTree.SubElement(case, "skipped", message=row.note)
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def said(text: str) -> None:
    """One line of talk on stderr."""
    print(text, file=sys.stderr, flush=True)
