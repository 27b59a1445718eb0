"""One input at a time: what it cost, whether it did what no input may make kvplan do, and nothing beyond a scratch folder."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

try:
    import resource
except ModuleNotFoundError:  # not on every system; memory is then not measured
    resource = None

# of CPU time that one input may take; --slow says another number to the processes that try inputs
SECONDS = float(os.environ.get("KVPLAN_FUZZ_SLOW", "2"))
MEGABYTES = 300  # by which one input may raise the peak
KILLED_AFTER = 20.0  # seconds of CPU time: a hang that no exception ends
ROOM = 4 * 2**30  # bytes of address space beyond what the process has when it starts
LARGEST = 4 * 2**20  # bytes of one input

Run = Callable[[bytes], None]


class WrongOutput(Exception):
    """What kvplan said was not fit to be shown."""


class Fault(NamedTuple):
    """What an input did that none may do."""

    kind: str  # traceback | output | slow | memory | killed
    where: str  # what it is known by: one of a kind and place is enough
    text: str


class Attempt(NamedTuple):
    """One input, tried."""

    seconds: float
    growth: int  # bytes
    fault: Fault | None


def peak() -> int:
    """Bytes of the largest resident set so far, since ``forget_peak`` where the system can forget."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Makes the peak what the process holds now (Linux); elsewhere a later growth is measured from the old peak."""
    with unguarded(), contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def attempt(run: Run, data: bytes) -> Attempt:
    """Runs one input and says what it cost; the process dies by SIGPROF where it does not end."""
    before = peak()
    alarm(KILLED_AFTER)
    places = _look()
    start = time.process_time()
    fault = None
    try:
        run(data)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # whatever it is, nobody may see it
        fault = _fault(e)
    seconds = time.process_time() - start
    alarm(0)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    growth = peak() - before
    if growth > 2**24:
        forget_peak()
    if fault is None and seconds > SECONDS:
        place = places[0] if places else "no function"
        fault = Fault("slow", f"slow in {place}", f"{seconds:.1f} s of CPU time, after a while in {place}")
    if fault is None and growth > MEGABYTES * 10**6:
        fault = Fault("memory", "memory", f"the peak rose by {growth / 1e6:.0f} MB")
    return Attempt(seconds, growth, fault)


def alarm(seconds: float) -> None:
    """Ends the process after this much CPU time, whatever it is doing: the signal has no handler."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


late: list[Callable[[str], None]] = []  # who is told where the program is, of an input that may have to be killed


def _look() -> list[str]:
    """Where the program is after most of the time that an input may take, once it is that late."""
    found: list[str] = []

    def look(_: int, frame: FrameType | None) -> None:
        while frame is not None and "kvplan" not in Path(frame.f_code.co_filename).parts:
            frame = frame.f_back
        found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}" if frame else "no function")
        for tell in late:
            tell(found[0])

    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGVTALRM, look)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS * 0.8)
    return found


def _fault(error: BaseException) -> Fault:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "kvplan" in Path(frame.filename).parts]
    frames = [frame for frame in frames if "fuzz" not in Path(frame.filename).parts]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside"
    if isinstance(error, WrongOutput):
        said = str(error.args[0])
        return Fault("output", f"{said.partition(':')[0]} at {_last_call(error)}", said[:4000])
    lines = traceback.format_exception(error, limit=-25)
    text = "".join(lines)
    return Fault("traceback", f"{type(error).__name__} at {place}", text if len(text) < 8000 else text[-8000:])


CHECKS = ("shown", "as_json", "as_xml", "one_line", "refuse", "refused", "about", "__exit__")


def _last_call(error: BaseException) -> str:
    """Where a text came from that is not fit to be shown: the line of the target, or where kvplan raised it."""
    origin = error.__cause__ if error.__cause__ is not None and error.__cause__.__traceback__ else error
    frames = [
        frame
        for frame in traceback.extract_tb(origin.__traceback__)
        if frame.name not in CHECKS and Path(frame.filename).name not in ("guard.py", "contextlib.py")
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}: {frames[-1].line}" if frames else "outside"


def key(target: str, fault: Fault) -> str:
    """A file name for faults of one kind and place."""
    return f"{target}-{fault.kind}-{hashlib.sha256(fault.where.encode()).hexdigest()[:8]}"


# --- nothing beyond a scratch folder ---------------------------------------------------------------------------------

WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
NEVER = (
    "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
    "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "webbrowser.open", "os.startfile",
)  # fmt: skip
_inside: str | None = None  # the folder that may be written to; None: anything may be done
_hooked = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _inside is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) if isinstance(flags, int) else 0
        if writing or (isinstance(mode, str) and set(mode) & set("wax+")):
            _refuse_outside(path)
    elif event in WRITES:
        for argument in arguments:
            _refuse_outside(argument)
    elif event in NEVER:
        raise PermissionError(13, f"{event} of a fuzzed input")


def _refuse_outside(path: object) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    text = os.path.realpath(os.fsdecode(path))
    if not text.startswith(_inside or "") and text != os.devnull:
        raise PermissionError(13, "Permission denied", os.fsdecode(path))


def in_memory() -> str | None:
    """The folder of temporary folders: in memory where the system has one, else the usual one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """A fresh folder, of ``place`` or in memory, which is all that is written to until it goes.

    It is the working folder meanwhile, and processes, sockets and foreign presets are out of reach.
    """
    global _inside, _hooked
    here, environment = os.getcwd(), dict(os.environ)
    above = place or in_memory()
    with tempfile.TemporaryDirectory(prefix="kvplan-fuzz-", dir=above, ignore_cleanup_errors=True) as folder:
        if not _hooked:
            sys.addaudithook(_watch)
            _hooked = True
        for name in ("KVPLAN_PRESETS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
            os.environ.pop(name, None)
        os.environ.update(HF_HUB_OFFLINE="1", NO_COLOR="1", COLUMNS="80", HOME=folder)
        os.chdir(folder)
        before, _inside = _inside, os.path.realpath(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield Path(folder)
        finally:
            _inside = before
            os.chdir(here)
            os.environ.clear()
            os.environ.update(environment)


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """For the fuzzer's own files, which lie outside."""
    global _inside
    before, _inside = _inside, None
    try:
        yield
    finally:
        _inside = before


def limit_memory() -> None:
    """A bomb meets a MemoryError instead of the machine's last page."""
    if resource is None:
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- what outlives a process that was killed -------------------------------------------------------------------------


class Tally(NamedTuple):
    """What the inputs of one target came to."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    growth: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.inputs + other.inputs,
            self.seconds + other.seconds,
            max(self.slowest, other.slowest),
            max(self.growth, other.growth),
        )


class State:
    """Tallies and the input being tried, in a file that two processes map: the parent reads it when the child is gone."""

    ROW = struct.Struct("<QddQ")
    NOW = struct.Struct("<qQ100p")  # index of the target, -1 for none; bytes of the input; where it is, once it is late

    def __init__(self, path: Path, targets: int) -> None:
        self.targets = targets
        size = self.NOW.size + targets * self.ROW.size + LARGEST
        if not path.exists():
            path.write_bytes(self.NOW.pack(-1, 0, b"") + b"\0" * (size - self.NOW.size))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), size)

    def begins(self, target: int, data: bytes) -> None:
        """Remembers what is about to be tried."""
        start = self.NOW.size + self.targets * self.ROW.size
        self.map[start : start + len(data)] = data
        self.NOW.pack_into(self.map, 0, target, len(data), b"")

    def is_at(self, place: str) -> None:
        """Remembers where the program is."""
        target, length, _ = self.NOW.unpack_from(self.map, 0)
        self.NOW.pack_into(self.map, 0, target, length, place.encode("utf-8", "replace"))

    def ends(self, target: int, tried: Attempt) -> None:
        """Adds it to the target's tally."""
        row = self.tally(target).plus(Tally(1, tried.seconds, tried.seconds, max(tried.growth, 0)))
        self.ROW.pack_into(self.map, self.NOW.size + target * self.ROW.size, *row)
        self.NOW.pack_into(self.map, 0, -1, 0, b"")

    def tally(self, target: int) -> Tally:
        """What a target's inputs came to so far."""
        return Tally(*self.ROW.unpack_from(self.map, self.NOW.size + target * self.ROW.size))

    def forget(self) -> None:
        """Nothing is being tried any more."""
        self.NOW.pack_into(self.map, 0, -1, 0, b"")

    def now(self) -> tuple[int, bytes, str]:
        """The target being tried, or -1; the input; where the program is, if it is late."""
        target, length, place = self.NOW.unpack_from(self.map, 0)
        start = self.NOW.size + self.targets * self.ROW.size
        return target, bytes(self.map[start : start + length]), place.decode("utf-8", "replace")
