"""Starts child processes that end with their parent, and groups of `upsnet` processes.

Child processes import the same modules as this process, never files in the working directory,
where users keep their data. (``python -m`` and ``python -c``, which `multiprocessing` uses too, put
the working directory first in ``sys.path``.)

A process killed by SIGKILL cannot end its children, so the children watch a pipe that closes with
their parent. Unlike Linux's PR_SET_PDEATHSIG, this works on every system, has no race if the parent
ends early, and does not depend on the thread that started the child.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal

from upsnet_ros.errors import ProcessError, printable

#: Seconds that a process may take to end when asked to: a node finishes the current frame, a
#: recorder its video.
SECONDS_TO_END = 60.0

#: First argument of an `upsnet` process that ends when its stdin closes.
WHILE_STDIN_IS_OPEN = "--while-stdin-is-open"

_TAIL_LINES = 15
#: Exit code of a command that is interrupted while it starts.
_INTERRUPTED = 130
#: Longest part of a child's last line that is repeated, characters.
_LONGEST_LINE = 300
#: Signals that other processes send, such as the system when memory runs out; a fault of the child
#: itself raises other signals.
_SENT = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

#: Children of `listen_to_child` that run now, and whether this process is about to end.
_children: set[subprocess.Popen[bytes]] = set()
_ending = False
_children_lock = threading.Lock()


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package in a new process.

    Args:
        module: Full name, such as ``upsnet_ros.cli``.
        *arguments: The module's ``sys.argv[1:]``.
    """
    return [sys.executable, str(Path(__file__).with_name("run_module.py")), module, *arguments]


def run_upsnet(*arguments: str) -> int:
    """Run ``upsnet ARGUMENTS`` in a process that ends with this one; return its exit code."""
    protect_children()
    command = child_command("upsnet_ros.cli", WHILE_STDIN_IS_OPEN, *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        # Not `communicate`: it closes the pipe, which would end the process.
        return process.wait()


def protect_children() -> None:
    """Keep the working directory out of ``sys.path`` of Python processes started from now on.

    This includes processes started by `multiprocessing` and by other libraries. A PYTHONSAFEPATH
    set by the user is kept.
    """
    if sys.version_info >= (3, 11):
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    else:
        # Python 3.10 does not support that variable, and its isolated mode ignores PYTHONPATH.
        # `multiprocessing` does not need PYTHONPATH: it passes on this process's sys.path.
        util: Any = multiprocessing.util
        flags = util._args_from_interpreter_flags()
        util._args_from_interpreter_flags = lambda: [*(one for one in flags if one != "-I"), "-I"]


def process_context(
    method: Literal["spawn", "forkserver"],
) -> SpawnContext | ForkServerContext:
    """Return the `multiprocessing` context of a start method, after `protect_children`."""
    protect_children()
    if method == "spawn":
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, so that nothing in it is left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.getsignal(signal.SIGINT)
    if before is None:  # set by C code, which Python can neither call nor restore
        yield
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Start workers of `multiprocessing`, or their server, in this block: no Ctrl-C reaches them.

    A terminal sends Ctrl-C to workers too, even while they import modules, and they would print a
    traceback. They inherit the signal mask, so it is blocked in them from their first moment; their
    parent ends them. In the parent Ctrl-C is deferred, so that no worker is half started.
    """
    with uninterrupted():
        resource_tracker.ensure_running()  # first, because starting it unblocks the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_workers(workers: Collection[BaseProcess]) -> None:
    """Kill workers of torch that have sent nothing yet: it would wait 5 s for each that starts."""
    if threading.current_thread() is not threading.main_thread():
        return  # handlers of signals can only be changed in the main thread
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises where a worker dies
    try:
        for worker in workers:
            worker.kill()
            worker.join()
    finally:
        signal.signal(signal.SIGCHLD, before)


def end_with_pipe(descriptor: int) -> None:
    """End this process when the write end of a pipe is closed: by SIGTERM, later by SIGKILL.

    Args:
        descriptor: The read end of the pipe. Data written to it is discarded.
    """
    _in_background(_wait_for_pipe, descriptor)


def end_with_parent() -> None:
    """End this `multiprocessing` worker immediately when its parent process ends.

    For the ``initializer`` of an executor of the standard library, whose workers would otherwise
    wait forever for the next task.

    Raises:
        RuntimeError: If this process was not started by `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process is not a worker of multiprocessing")
    _in_background(_wait_for_parent, parent)


def _in_background(wait: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=wait, args=arguments, name="upsnet_orphan", daemon=True).start()


def _wait_for_pipe(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    # Not SIGINT, which is ignored in processes that a shell started in the background.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnd:
    """How a child of `listen_to_child` ended.

    Attributes:
        reason: In words.
        timed_out: Whether it was killed at a time limit.
        by_others: Whether something other than a fault of the child may have ended it.
        stopped: Whether `end_children` was called.
    """

    reason: str
    timed_out: bool = False
    by_others: bool = False
    stopped: bool = False


def end_children() -> None:
    """Kill the children of `listen_to_child` and start no more: this process is about to end.

    May be called from any thread. A child also ends when its parent does, but one in which a GPU
    kernel hangs cannot react to that.
    """
    global _ending
    with _children_lock:
        _ending = True
        for child in _children:
            child.kill()


def listen_to_child(
    module: str, argument: str, *, hear: Callable[[bytes], float], first: float, closing: float
) -> ChildEnd:
    """Run a module that may crash or hang in a child, until it ends or takes too long.

    The child's ``sys.argv[1:]`` is the descriptor of a pipe, to which it writes lines, and the
    argument. Its stdin closes when this process ends.

    Args:
        module: Full name of the module.
        argument: Passed on to the child.
        hear: Called with each line; returns how many seconds the next one may take.
        first: Seconds until the first line.
        closing: Seconds from the end of the pipe to that of the process.
    """
    with _children_lock:
        if _ending:
            return _STOPPED
    if not sys.executable:
        return ChildEnd(reason="Python's executable is unknown", by_others=True)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            child = subprocess.Popen(
                child_command(module, str(writing), argument),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl-C is for this process
            )
        except OSError as error:
            return ChildEnd(reason=f"no process can be started: {error}", by_others=True)
        finally:
            os.close(writing)
        try:
            with _children_lock:
                _children.add(child)
                if _ending:
                    child.kill()
            if _pipe_ended(pipe, hear, first):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(closing)
            code = child.poll()
        finally:
            child.kill()
            # Where a kernel hangs, the process may not end before the driver stops it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            with _children_lock:
                _children.discard(child)
                stopped = _ending
            assert child.stdin is not None
            child.stdin.close()
        if stopped:
            return _STOPPED
        return _end_of(code, errors)


_STOPPED = ChildEnd(reason="the process was stopped", by_others=True, stopped=True)


def _pipe_ended(pipe: IO[bytes], hear: Callable[[bytes], float], seconds: float) -> bool:
    """Read lines until the pipe ends; return False if a line takes too long."""
    end = time.monotonic() + seconds
    rest = b""
    while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
        data = pipe.read(65536)
        if not data:
            return True
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            end = time.monotonic() + hear(line)
    return False


def _end_of(code: int | None, errors: IO[bytes]) -> ChildEnd:
    if code is None:
        return ChildEnd(reason="it takes too long", timed_out=True)
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
    said = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if code < 0:
        return ChildEnd(
            reason=f"its process was ended by {_signal(code)}", by_others=-code in _SENT
        )
    last = f": {printable(said[-1])[:_LONGEST_LINE]}" if said else ""
    return ChildEnd(reason=f"its process ended with exit code {code}{last}")


class ProcessGroup:
    """Runs `upsnet` subcommands concurrently; leaving the context ends those still running.

    If this process is killed, they end by themselves.

    Args:
        logs: Folder for the output of the processes, in files ``NAME.log``.
        environment: Environment variables of the processes, in addition to this process's own.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        protect_children()
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_all()

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start ``upsnet ARGUMENTS`` under ``name``."""
        # Inherited; `upsnet_ros.cli.main` lifts it. While Python itself starts, SIGINT would be
        # a traceback and exit code 1.
        self._logs.mkdir(parents=True, exist_ok=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self._log(name).open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    child_command("upsnet_ros.cli", WHILE_STDIN_IS_OPEN, *arguments),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    # Ctrl-C must only reach this process, which then ends the others.
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def pid(self, name: str) -> int:
        """Return the process id."""
        return self._processes[name].pid

    def running(self, name: str) -> bool:
        """Return whether the process is still running.

        Raises:
            ProcessError: If it ended with a non-zero exit code.
        """
        code = self._processes[name].poll()
        if code:
            raise self._failure(name, f"ended with {_describe(code)}")
        return code is None

    def require(self, name: str) -> None:
        """Raise `ProcessError` if the process has ended, with any exit code."""
        if not self.running(name):
            raise self._failure(name, "ended too early")

    def end(self, name: str) -> None:
        """Interrupt the process and wait for it.

        Raises:
            ProcessError: If it does not end in time, or ends with a non-zero exit code other than
                that of a command that is interrupted while it starts.
        """
        process = self._processes[name]
        interrupted = process.poll() is None
        if interrupted:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            raise self._failure(name, f"did not end within {SECONDS_TO_END:.0f} s") from None
        if not (interrupted and process.returncode == _INTERRUPTED):
            self.running(name)

    def log_tail(self, name: str) -> str:
        """Return the last lines of the process's log, headed by the name of the log file."""
        text = self._log(name).read_text(errors="replace").strip()
        lines = text.splitlines()[-_TAIL_LINES:] or ["(it wrote nothing)"]
        tail = "\n".join(f"  | {line}" for line in lines)
        return f"{self._log(name)} ends:\n{tail}"

    def _end_all(self) -> None:
        """Interrupt all processes and kill those that do not end in time, or on a second Ctrl-C."""
        left = [process for process in self._processes.values() if process.poll() is None]
        for process in left:
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + SECONDS_TO_END
        try:
            for process in left:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:
            for process in left:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for process in self._processes.values():
                assert process.stdin is not None
                process.stdin.close()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _failure(self, name: str, what: str) -> ProcessError:
        error = ProcessError(f"`upsnet {name}` {what}")
        error.details = self.log_tail(name)
        return error


def _describe(code: int) -> str:
    return f"exit code {code}" if code > 0 else _signal(code)


def _signal(code: int) -> str:
    """The signal that ended a process, by its (negative) exit code."""
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # such as a real-time signal
        return f"signal {-code}"
