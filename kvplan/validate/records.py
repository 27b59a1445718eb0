"""What a run leaves behind: rows of predicted and measured amounts, a JSON record that survives a kill, a JUnit report.

A row keeps the keyword arguments of ``kvplan.plan`` and the path of the number in its answer, so that anybody can ask
again: ``replay`` does, on a machine without the device that was measured.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from kvplan.errors import InvalidInput
from kvplan.importers.files import parse_object, read_bytes, write_whole
from kvplan.text import printable
from kvplan.version import __version__

__all__ = ["BAD", "NEAR", "NOTHING", "NOT_RUN", "Record", "Row", "environment", "junit", "replay", "written"]

# exact: equal; within: inside the tolerance that the row states; reported: nothing was claimed; skipped: named why
BAD = frozenset({"wrong", "failed"})
# refused: by kvplan, in the suite types
NOT_RUN = "not run"  # of what another run may still do
NOTHING = frozenset({"skipped", NOT_RUN})  # of what was not compared
VERDICTS = BAD | NOTHING | {"exact", "within", "reported", "refused"}
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
        return kept | {"note": printable(self.note), "ratio": self.ratio}


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


def written(path: Path, text: str, option: str = "--record") -> None:
    """Writes a file whole or not at all, and the folders above it. Raises InvalidInput where that cannot be."""
    try:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidInput(option, str(path), f"a file that can be written ({e.strerror})") from None
    write_whole(path, text.encode(), option)


class Record:
    """Rows so far, written after every case; with ``resume`` the cases that a record of the same kind holds are kept."""

    def __init__(self, about: dict[str, Any], path: Path | None, *, resume: bool = False) -> None:
        self.about, self.path = about, path
        self.rows: list[Row] = []
        self.notes: dict[str, Any] = {}
        if path is None or not (path.exists() and path.is_file()):
            return
        old = read(path, "--resume" if resume else "--record")
        if not resume:
            if old["rows"]:
                rule = f"a new file, or --resume beside it: this one holds {len(old['rows']):,} rows"
                raise InvalidInput("--record", str(path), rule)
            return
        for key in ("suite", "device", "device_name", "torch", "kvplan"):
            if old.get(key) != about.get(key):
                raise InvalidInput("--resume", old.get(key), f"a record with {key} = {about.get(key)}", str(path))
        if old.get("sources") != about.get("sources"):
            rule = "a record that this very code began: kvplan's own has changed since, so begin a new one"
            raise InvalidInput("--resume", str(path), rule)
        self.rows, self.notes = [_row(row) for row in old["rows"]], old["notes"]

    @classmethod
    def of(cls, path: Path, option: str = "record") -> Record:
        """The record of a file, to be read. Raises InvalidInput where it is none."""
        about = read(path, option)
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


WORDS = ("case", "quantity", "verdict", "note", "stage")
LONGEST = 2**23  # bytes of a record's file: nine times what an H100's holds


def read(path: Path, option: str = "record") -> dict[str, Any]:
    """A record from a file, every row of it checked. Raises InvalidInput where it is none."""
    rule = "a record that kvplan validate wrote"
    try:
        found = parse_object(read_bytes(path, option, LONGEST), option, str(path), finite=False)
    except InvalidInput as e:
        raise InvalidInput(option, str(path), f"{rule} ({e.value}: {e.rule})") from None
    if found.get("record") is True or found.get("record") != 1:
        raise InvalidInput(option, str(path), f'{rule} ("record": 1)')
    if not isinstance(found.get("rows"), list) or not isinstance(found.setdefault("notes", {}), dict):
        raise InvalidInput(option, str(path), f"{rule} (rows are a list, notes an object)")
    wrong = _fault_of_notes(found["notes"])
    if wrong:
        raise InvalidInput(option, str(path), f"{rule}: it {wrong}")
    for i, row in enumerate(found["rows"]):
        wrong = _fault(row)
        if wrong:
            raise InvalidInput(option, str(path), f"{rule}: rows[{i}] {wrong}")
    return found


def _fault(row: Any) -> str:
    """What is wrong with a row of a record, or nothing."""
    if not isinstance(row, dict):
        return "is no object"
    for name in ("case", "plan", "quantity", "predicted", "measured", "verdict"):
        if name not in row:
            return f"has no {name}"
    for name in WORDS:
        if not isinstance(row.get(name, ""), str) or not row.get(name, "").isprintable():
            return f"has a {name} that is no printable text"
    if row["verdict"] not in VERDICTS:
        return f"has a verdict that is none of {', '.join(sorted(VERDICTS))}"
    if not isinstance(row["plan"], dict):
        return "has a plan that is no object"
    for name in ("predicted", "measured"):
        value = row[name]
        if value is not None and not _number(value):
            return f"has a {name} that is no number"
    return ""


def _number(value: Any) -> bool:
    """Whether a value is a number that can be divided and shown; what went wrong may be NaN."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < 1000
    return isinstance(value, float)


def _fault_of_notes(notes: dict[str, Any]) -> str:
    """What is wrong with what a record holds beside its rows, or nothing."""
    for name in ("facts", "stages", "configs"):
        if not isinstance(notes.get(name, {}), dict):
            return f"has {name} that are no object"
    for path, each in notes.get("facts", {}).items():
        value = each.get("value") if isinstance(each, dict) else None
        words = (path, each.get("unit"), each.get("source")) if isinstance(each, dict) else (None,)
        if not all(isinstance(word, str) and word.isprintable() for word in words):
            return "has a fact that is no object of value, unit and source"
        if not _number(value) and not (isinstance(value, str) and value.isprintable()):
            return "has a fact whose value is neither a number nor printable text"
    if not all(_number(value) for value in notes.get("stages", {}).values()):
        return "has a stage that ended at no number of seconds"
    return ""


def _row(raw: dict[str, Any]) -> Row:
    return Row(**{name: raw[name] for name in Row._fields if name in raw})


def asked(plan: dict[str, Any], quantity: str, configs: dict[str, Any] | None = None) -> Any:
    """The number that kvplan gives today for a row's question: a path in its answer, or the path of a term (with a slash).

    ``configs`` are those that the record holds, by the names that its rows give as model. None where the quantity is neither.
    """
    from kvplan.api import plan as ask

    question = {**plan, "model": (configs or {}).get(str(plan.get("model")), plan.get("model"))}
    if "/" in quantity:
        # terms beside the cache are those of a memory
        room: dict[str, Any] = {} if "gpu" in plan else {"memory": 2**50}
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
    skipped = [row for row in rows if row.verdict in NOTHING]
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
        elif row.verdict in NOTHING:
            ElementTree.SubElement(case, "skipped", message=row.note)
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def said(text: str) -> None:
    """One line of talk on stderr."""
    print(text, file=sys.stderr, flush=True)
