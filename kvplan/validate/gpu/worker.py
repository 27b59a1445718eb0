"""A process of its own for whatever may crash, hang or run out of memory: it takes tasks and sends back rows.

It lives from task to task, because importing torch and transformers costs seconds; a task that breaks ends it and costs
that one row. Nothing of the parent's touches the device.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from kvplan.errors import KvplanError, MissingExtra, Unsupported
from kvplan.validate.gpu.task import Bench, Facts, Task
from kvplan.validate.records import NOT_RUN, Row

__all__ = ["FIRST_S", "START_S", "Done", "Worker"]

START_S = 20.0  # at the longest until another worker has imported what it needs
FIRST_S = 120.0  # and the first, which may read torch from a cold disk
# segments are those of the default allocator, which reads these when torch is loaded
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


class Done(NamedTuple):
    """What came of a task: its rows, and the facts known after it."""

    rows: list[Row]
    facts: Facts


class Worker:
    """A worker process, started when there is something to do and no process that does it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.process: Any = None
        self.connection: Any = None

    @property
    def alive(self) -> bool:
        """Whether a process waits for the next task."""
        return self.process is not None and self.process.is_alive()

    def start(self, within: float | None = None) -> None:
        """Starts a process; raises TimeoutError or EOFError where it does not come up."""
        self.end()
        within = START_S if within is None else within
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.device), daemon=False)
        kept = {name: os.environ.pop(name) for name in ALLOCATOR if name in os.environ}
        try:
            self.process.start()
        finally:
            os.environ.update(kept)
        theirs.close()
        if not self.connection.poll(within):
            raise TimeoutError(f"a worker did not start in {within:.0f} s")
        self.connection.recv()

    def end(self) -> None:
        """Ends the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join(10)  # one that waits for a driver may take its time, and nobody waits for it
            self.connection.close()
            self.process = None

    def about(self, suite: str) -> dict[str, Any]:
        """Where and with what a record is made, as the worker sees it: asking the device takes memory of it.

        Raises Unsupported where the first worker does not come up.
        """
        try:
            self.start(FIRST_S)
            self.connection.send(suite)
            if not self.connection.poll(FIRST_S):
                raise TimeoutError("no answer")
            found: dict[str, Any] = self.connection.recv()
        except (TimeoutError, EOFError, OSError) as e:
            self.end()
            raise Unsupported(
                f"no worker process that uses {self.device} comes up here: {str(e) or 'it ended'}"
            ) from None
        return found

    def ask(self, task: Task, facts: Facts) -> Done:
        """Runs one task within its limit; a worker that breaks, hangs or ends is a row, beside those that it sent before."""
        rows: list[Row] = []
        try:
            if not self.alive:
                self.start()
        except (TimeoutError, EOFError, OSError) as e:
            self.end()
            return Done([_ended(task, NOT_RUN, f"no worker came up: {str(e) or 'it ended'}")], facts)
        begun = time.monotonic()
        try:
            self.connection.send((task, facts))
            while True:
                if not self.connection.poll(max(begun + task.limit_s - time.monotonic(), 0)):
                    self.end()
                    return Done([*rows, _ended(task, NOT_RUN, f"no end after {task.limit_s:.0f} s, its limit")], facts)
                kind, row, facts = self.connection.recv()
                if row is not None:
                    rows.append(row)
                if kind == "broke":  # it says why and ends
                    self.end()
                if kind != "row":
                    return Done(rows, facts)
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            self.end()
            reason = f"killed by signal {-code}" if code and code < 0 else f"gone, code {code}"
            note = f"the worker was {reason}, after {time.monotonic() - begun:.0f} s"
            return Done([*rows, _ended(task, "failed", note)], facts)


def _ended(task: Task, verdict: str, note: str) -> Row:
    return Row(task.name, {}, "run", None, None, verdict, note)


# --- in the worker ---------------------------------------------------------------------------------------------------


def _serve(connection: Connection, device: str) -> None:
    """Takes tasks until the parent closes the pipe, or is gone."""
    os.dup2(2, 1)  # stdout is the parent's data
    threading.Thread(target=_follow, daemon=True).start()
    from kvplan.validate.allocator import allocator_of
    from kvplan.validate.records import environment

    if device == "cpu":
        import torch

        torch.set_num_threads(1)  # small sizes gain nothing from more, and lose much where cores are busy
    allocator = allocator_of(device)
    allocator.settle()
    connection.send("ready")
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, str):
            connection.send(environment(device, message))
            continue
        task, facts = message
        bench = Bench(allocator, dict(facts))
        for kind, row in _answers(task, bench):
            connection.send((kind, row, bench.facts))
            if kind == "broke":
                return


def _answers(task: Task, bench: Bench) -> Iterator[tuple[str, Row | None]]:
    """The rows of a task as they come, then none; or the row that says why it broke."""
    from kvplan.validate.measure import out_of_memory
    from kvplan.validate.suite import first_line

    try:
        for row in task.run(bench, **task.arguments):
            yield "row", row
    except (MissingExtra, Unsupported) as e:
        yield "row", _ended(task, "skipped", str(e))
    except KvplanError as e:
        yield "row", _ended(task, "failed", str(e))
    except Exception as e:
        if out_of_memory(e):
            yield "broke", _ended(task, "skipped", f"out of memory: {first_line(e)}")
        else:
            at = traceback.extract_tb(e.__traceback__)[-1]
            yield "broke", _ended(task, "failed", f"{first_line(e)} ({at.name}, line {at.lineno})")
        return
    bench.allocator.give_back()
    gc.freeze()  # modules and what they keep: the next collection need not walk them (0.3 s with transformers loaded)
    yield "done", None


def _follow() -> None:
    """Ends this process when its parent is gone: a killed run leaves nothing on the device."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
