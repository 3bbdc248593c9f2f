"""Distributes tasks over processes of this machine, and survives the death of a process."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import cv2

from upsnet_ros.errors import ProcessError, UpsnetError
from upsnet_ros.processes.child_processes import end_with_parent, process_context, starting_workers

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Seconds that processes may take to finish their task at the end, before they are killed.
_SECONDS_TO_END = 2.0

#: Seconds that a process may take to start after Ctrl-C if its server is ready: milliseconds.
_SECONDS_TO_START = 0.5


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A task's result."""

    index: int
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """A task raised an error, or its process ended.

    Attributes:
        index: Index of the task.
        error: The raised error; `ProcessError` if the process ended.
        again: Whether the task is retried.
    """

    index: int
    error: Exception
    again: bool


def spread(
    make: Callable[[], Callable[[Task], Result]],
    tasks: Sequence[Task],
    *,
    processes: int,
    attempts: int = 1,
) -> Iterator[Done[Result] | Failed]:
    """Run tasks in processes, one task at a time per process.

    Unlike an executor of the standard library, this survives the death of a process.

    Args:
        make: Called once in each process; returns the function that runs a task. ``make``, tasks
            and results are pickled.
        tasks: The tasks.
        processes: Maximum number of processes.
        attempts: How often to try a task whose process ends or that raises an unexpected error. An
            `UpsnetError` is an expected error and is not retried.

    Yields:
        One final `Done` or `Failed` per task in order of completion, and a `Failed` with ``again``
        before each retry.
    """
    # Fork from a server process without threads: forking this process would copy held locks.
    # The server imports what every process needs, so that they need not import it again.
    context = process_context("forkserver")
    context.set_forkserver_preload(sorted({*_modules_of(make), *_modules_of_main()}))
    waiting, tries = deque(range(len(tasks))), Counter[int]()
    busy: dict[Connection, int] = {}
    started: dict[Connection, BaseProcess] = {}

    def start() -> Connection:
        pipe, far_end = context.Pipe()
        process = context.Process(target=_serve, args=(far_end, make), daemon=True)
        _start(process)
        started[pipe] = process
        far_end.close()  # so that the pipe closes when the process ends
        return pipe

    idle: list[Connection] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < processes:
                pipe = idle.pop() if idle else start()
                busy[pipe] = waiting.popleft()
                with suppress(OSError):  # `_receive` notices that the process has ended
                    pipe.send(tasks[busy[pipe]])
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                index, outcome = busy.pop(ready), _receive(ready, started[ready])
                if ready.closed:
                    del started[ready]
                else:
                    idle.append(ready)
                if not isinstance(outcome, _Error):
                    yield Done(index, outcome)
                    continue
                tries[index] += 1
                lost = isinstance(outcome.error, ProcessError)
                expected = isinstance(outcome.error, UpsnetError) and not lost
                again = not expected and tries[index] < attempts
                if again:
                    waiting.append(index)
                yield Failed(index, outcome.error, again)
    finally:
        _end(started)


def in_order(
    make: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], *, processes: int
) -> Iterator[Result]:
    """Run tasks in processes and yield their results in the order of the tasks.

    Args:
        make: As in `spread`; called in this process if ``processes`` is at most 1.
        tasks: The tasks.
        processes: Maximum number of processes.

    Raises:
        ProcessError: If a process ended.
        Exception: The error of the first task that failed.
    """
    if processes <= 1:
        yield from map(make(), tasks)
        return
    early: dict[int, Done[Result] | Failed] = {}
    position = 0
    for outcome in spread(make, tasks, processes=processes):
        early[outcome.index] = outcome
        while position in early:
            found = early.pop(position)
            position += 1
            if isinstance(found, Failed):
                raise found.error
            yield found.result


def _modules_of(make: object) -> list[str]:
    """Return the modules that unpickling ``make`` imports: those of its function and arguments."""
    if not isinstance(make, partial):
        return [make.__module__ if callable(make) else type(make).__module__]
    parts = (make.func, *make.args, *make.keywords.values())
    return sorted({module for part in parts for module in _modules_of(part)})


def _modules_of_main() -> set[str]:
    """Return the modules of this package that the main script uses, which every process runs."""
    names = (getattr(value, "__module__", None) for value in vars(sys.modules["__main__"]).values())
    return {name for name in names if name and name.startswith("upsnet_ros.")}


class _RemoteError(Exception):
    """The traceback of another process as text; set as the cause of the error raised there."""


@dataclass(frozen=True, slots=True)
class _Error:
    """An error raised in a worker process, with its traceback as text."""

    error: Exception
    trace: str = ""

    @classmethod
    def portable(cls, error: Exception) -> _Error:
        """Wrap an error so that it can be pickled."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - an error of a library may hold anything
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, trace)


def _receive(pipe: Connection, process: BaseProcess) -> Any:
    """Return the result of a task, or an `_Error`; close the pipe if the process has ended."""
    try:
        outcome = pipe.recv()
    except (EOFError, OSError):  # between two messages, or in the middle of one
        pipe.close()
        process.join()
        return _Error(ProcessError(f"its worker ended with code {process.exitcode}"))
    if isinstance(outcome, _Error):
        outcome.error.__cause__ = _RemoteError(f"\n{outcome.trace}")
    return outcome


def _start(process: BaseProcess) -> None:
    """Start a process of the fork server.

    Ctrl-C does not interrupt the start itself, which would leave a process that cannot read what it
    is to do; but it ends the wait for a server that is still importing modules.
    """
    errors: list[Exception] = []

    def start() -> None:
        try:
            process.start()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    with starting_workers():
        forkserver.ensure_running()
    thread = threading.Thread(target=start, name="upsnet_start", daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        thread.join(_SECONDS_TO_START)
    for error in errors:
        raise error


def _end(started: dict[Connection, BaseProcess]) -> None:
    """End processes; kill those that do not finish their task within `_SECONDS_TO_END`."""
    for pipe in started:
        pipe.close()
    until = time.monotonic() + _SECONDS_TO_END
    for process in started.values():
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()


def _serve(pipe: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    end_with_parent()
    # Blocked since `starting_workers`; ignored too, in case that some library unblocks it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the processes are the parallelism
    work: Callable[[Any], Any] | None = None
    with suppress(EOFError, OSError):  # the parent has ended or closed the pipe
        while True:
            task = pipe.recv()
            try:
                work = work or make()
                outcome: object = work(task)
            except Exception as error:  # noqa: BLE001 - any error is passed on to the parent
                outcome = _Error.portable(error)
            pipe.send(outcome)
