"""A process with ROS nodes: initialises rclpy, handles signals, and always ends in bounded time.

Fast DDS can hang forever if processes leave at the same time (eProsima/Fast-DDS#6513). It then
holds Python's lock, so that no thread and no signal handler of Python runs any more. Therefore a
command first closes all its files, then shuts down DDS under a time limit kept by timers of the C
library: when it expires they end the process, with the exit code that it would have had, and remove
the shared memory that Fast DDS would have removed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import LoggingSeverity, get_logger, set_logger_level
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from upsnet_ros.errors import UpsnetError, first_line
from upsnet_ros.node.parameter_server import warn_of_files
from upsnet_ros.processes.transport import own_segments, remove_leftovers, use_shared_memory_profile


def stop_on_signals() -> Future:
    """Let SIGINT and SIGTERM complete a future from now on.

    rclpy's own handlers would shut down the context at once, so that frames in progress could not
    be published; Python's would run only after the executor's wait, which signals do not end. Call
    this from the main thread.

    Returns:
        A future that is done once one of the signals arrived. Further signals are ignored, since
        some senders repeat them (a terminal and `ros2 launch` both do).
    """
    stop = Future()
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait() -> None:
        os.read(read, 1)
        stop.set_result(None)

    # Python writes a byte here from the signal handler proper, whatever its threads are doing.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=wait, name="upsnet_signals", daemon=True).start()
    return stop


#: Time limit for leaving DDS, which normally takes some tenths of a second.
TEARDOWN_SECONDS = 5.0
#: Then, for the removal of shared memory; with the node's seconds to stop, all of them stay below
#: the 10 s after which `ros2 launch` kills.
_UNLINK_SECONDS = 0.5

_Node = TypeVar("_Node", bound=Node)
_RCLError = rclpy_implementation.RCLError


class RosProcess:
    """Context manager for rclpy in a command; uses shared memory unless the user chose otherwise.

    The command does all its work within the ``with``, including files and messages to the user.
    After leaving it, the process ends within `TEARDOWN_SECONDS`, even if something hangs. A
    parameter or name that rclpy refuses ends it with one line.

    Args:
        args: Command line for ROS, without the program's name; None for that of the process.
        signals: Whether SIGINT and SIGTERM complete ``stop``; otherwise they are not handled.

    Attributes:
        stop: Done once SIGINT or SIGTERM arrived.
        exit_code: Exit code of the process, unless an exception ends it.
    """

    stop: Future

    def __init__(self, args: Sequence[str] | None, *, signals: bool = True) -> None:
        self.exit_code = 0
        self._args, self._signals = args, signals
        self._nodes: list[Node] = []
        self._handler = _ToRos()

    def __enter__(self) -> RosProcess:
        use_shared_memory_profile()
        remove_leftovers()
        # It writes a line of its own when it cannot read the command line, and says less.
        set_logger_level("rcl", LoggingSeverity.FATAL)
        try:
            rclpy.init(
                args=None if self._args is None else ["upsnet", *self._args],
                signal_handler_options=SignalHandlerOptions.NO,
            )
        except RuntimeError as error:  # rcl's, of a command line that it cannot read
            raise SystemExit(f"error: {plain_line(error)}") from None
        finally:
            set_logger_level("rcl", LoggingSeverity.UNSET)
        if self._signals:
            self.stop = stop_on_signals()
        own = logging.getLogger("upsnet_ros")
        own.setLevel(logging.INFO)
        own.addHandler(self._handler)
        # Else the interpreter's last collections walk through all of torch, 0.9 s of a processor:
        # with other processes beside it, too slow for ros2 launch, which kills after 5 s. Here and
        # not at the end, so that what the command itself makes is still collected.
        gc.freeze()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.exit_code = _exit_code(error)
        logging.getLogger("upsnet_ros").removeHandler(self._handler)
        if self._signals:
            # The interpreter removes Python's handlers before it has ended, and a signal that is
            # repeated would then kill the process and change its exit code.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        end_within(TEARDOWN_SECONDS, self.exit_code)
        remove_leftovers()  # of a parent that was killed, for one
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown()
        if isinstance(error, ParameterException | NameValidationException):
            raise SystemExit(f"error: {plain_line(error)}") from None

    def own(self, node: _Node) -> _Node:
        """Destroy a node at the end; returns it."""
        self._nodes.append(node)
        return node

    def make(self, node: Callable[[], _Node], *, log: str) -> _Node | None:
        """Make a node and destroy it at the end.

        Args:
            node: Makes it.
            log: Name in the log for the reason why it cannot be made.

        Returns:
            The node, or None where it cannot be made, which sets the exit code.
        """
        from upsnet_ros.datasets.images import max_pixels  # imports OpenCV

        try:
            max_pixels()  # a limit that is no number is the user's error, not that of each image
            made = self.own(node())
            warn_of_files(made, sys.argv[1:] if self._args is None else self._args)
        except (UpsnetError, ParameterException, NameValidationException, _RCLError) as error:
            # A topic's name that cannot be, for one.
            get_logger(log).error(plain_line(error))
            self.exit_code = 1
            return None
        return made


def plain_line(error: BaseException) -> str:
    """Return an error of rclpy in one line, without places in rcl's source, nor of its parser."""
    text = re.split(r", at /|\. Error: (?:error not set|Expected lexeme)", first_line(error))[0]
    if found := _WRONG_TYPE.match(text):
        kind = "boolean" if found[3] == "BOOL" else found[3].lower()
        return f"{found[1]} must be of type {kind}, not {found[2]}"
    return text.removeprefix("failed to initialize rcl: ").replace("Couldn't parse", "cannot read")


#: rclpy's own check of its own parameter, `use_sim_time`.
_WRONG_TYPE = re.compile(
    r"Trying to set parameter '(.+?)' to ('.*') of type '.*', expecting type '(\w+)'"
)


class _ToRos(logging.Handler):
    """Writes what modules without ROS log to the log of ROS, as the self-test its progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        # A call each: rclpy allows one severity for each place in the source.
        if record.levelno >= logging.ERROR:
            get_logger("upsnet").error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            get_logger("upsnet").warning(record.getMessage())
        else:
            get_logger("upsnet").info(record.getMessage())


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        code: object = error.code
        return code if isinstance(code, int) else int(code is not None)
    return int(getattr(error, "exit_code", 1))  # typer.Exit has one


def end_within(seconds: float, code: int) -> None:
    """End this process a moment after so many seconds, whatever its threads and Python's lock do.

    It cannot be called off. Files are not flushed; shared memory that this process has made for
    DDS is removed.

    Args:
        seconds: From now on.
        code: The exit code.
    """
    try:
        libc = ctypes.CDLL(None)
        for path in own_segments():
            _call_after(seconds, libc, libc.unlink, _Value(pointer=_kept(path, libc)))
        # Later, for each call has a thread of its own, which a busy machine may start late.
        _call_after(seconds + _UNLINK_SECONDS, libc, libc._exit, _Value(number=code))
    except (AttributeError, OSError):  # a system without POSIX timers
        faulthandler.dump_traceback_later(seconds, exit=True)


class _Value(ctypes.Union):
    """``union sigval``: the one argument of the function that is called."""

    _fields_ = (("number", ctypes.c_int), ("pointer", ctypes.c_void_p))


class _Event(ctypes.Structure):
    """``struct sigevent`` for SIGEV_THREAD."""

    _fields_ = (
        ("value", _Value),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 64),
    )


class _Spec(ctypes.Structure):
    """``struct itimerspec``: seconds and nanoseconds, of the interval and of the first time."""

    _fields_ = (("interval", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


_CLOCK_MONOTONIC, _SIGEV_THREAD = 1, 2


def _kept(path: Path, libc: Any) -> int:
    """Return the address of a copy of a path that is never freed, as it must outlive Python."""
    libc.strdup.restype = ctypes.c_void_p
    return int(libc.strdup(os.fsencode(path)))


def _call_after(seconds: float, libc: Any, function: Any, argument: _Value) -> None:
    """Have a function of the C library called in a thread of its own.

    Raises:
        OSError: If the system has no timer left.
        AttributeError: If its C library has none.
    """
    event = _Event(
        value=argument,
        notify=_SIGEV_THREAD,
        function=ctypes.cast(function, ctypes.c_void_p).value,
    )
    timer, spec = ctypes.c_void_p(), _Spec()
    spec.first[0], spec.first[1] = divmod(round(seconds * 1e9), 1_000_000_000)
    if libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) != 0:
        raise OSError("timer_create failed")
    if libc.timer_settime(timer, 0, ctypes.byref(spec), None) != 0:
        raise OSError("timer_settime failed")
