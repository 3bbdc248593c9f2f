"""The `upsnet` command; `upsnet_ros.cli.commands` holds its subcommands.

This module imports almost nothing, so that Ctrl-C ends a command quietly from its first moment on.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

#: Exit code after Ctrl-C, as in a shell.
_INTERRUPTED = 130

#: Ctrl-C within so many seconds of the first one belongs to it: many press it twice.
_SAME_SECONDS = 2.0
#: Time between two looks whether an import has ended.
_POLL_SECONDS = 0.05


@contextmanager
def quiet_interrupts(
    *, then: Callable[[int, FrameType | None], object] = signal.default_int_handler
) -> Iterator[None]:
    """Let Ctrl-C end the process at once, with exit code 130, while modules are imported.

    A KeyboardInterrupt out of a half-imported module would be a traceback, or some library would
    swallow it. Where SIGINT is ignored, as in background processes, it stays ignored.

    Args:
        then: Handler of SIGINT after the block.
    """
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    guarded = raises and _in_main_thread()
    if guarded:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        if guarded:
            signal.signal(signal.SIGINT, then)


class _OneInterrupt:
    """Handler of SIGINT: the first one raises KeyboardInterrupt, and no other one does.

    A second KeyboardInterrupt would hit the code that closes files after the first one, or the end
    of the interpreter, and leave tracebacks. It is ignored within `_SAME_SECONDS`; after that,
    whoever presses Ctrl-C does not want to wait, and the process ends at once with its children.

    While a module is imported, the first one waits for the end of the import: half a module may
    swallow it, or fail later. If that takes `_SAME_SECONDS`, the process ends at once too.

    Attributes:
        taken: Whether there was a first one.
        over: Whether to ignore all from now on, because the process is about to end.
    """

    def __init__(self) -> None:
        self.taken = self.over = False
        self._time = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            return
        if not self.taken:
            self.taken, self._time = True, time.monotonic()
            self._raise_after_imports(number, frame)
        elif time.monotonic() - self._time >= _SAME_SECONDS:
            _end_at_once()

    def _raise_after_imports(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            return
        if not _is_importing(frame):
            raise KeyboardInterrupt
        if time.monotonic() - self._time >= _SAME_SECONDS:
            _end_at_once()
        signal.signal(signal.SIGALRM, self._raise_after_imports)
        signal.setitimer(signal.ITIMER_REAL, _POLL_SECONDS)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end_at_once() -> None:
    import psutil  # here, because it takes time

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since
            child.kill()
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
    os._exit(_INTERRUPTED)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line and exit.

    Exit codes: 0; 1 for an error, reported in one line; 2 for wrong usage; 130 after Ctrl-C.

    Args:
        argv: The command line. None: that of the process, which ends afterwards; SIGINT is handled
            until then.
    """
    interrupts = _OneInterrupt()
    try:
        try:
            with quiet_interrupts(then=interrupts if argv is None else signal.default_int_handler):
                if argv is None:  # `ProcessGroup.start` blocks it, until it would be quiet
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                from upsnet_ros.cli.commands import run
            run(argv)
        finally:
            interrupts.over = True
            if interrupts.taken:
                signal.setitimer(signal.ITIMER_REAL, 0)  # its handler goes with the interpreter
            # Else the interpreter's last collections walk through every module. `RosProcess` has
            # frozen them at its start, and what was made since is collected.
            if argv is None and (interrupts.taken or "rclpy" not in sys.modules):
                gc.freeze()
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    except SystemExit:
        if interrupts.taken:  # whatever a library made of the KeyboardInterrupt
            raise SystemExit(_INTERRUPTED) from None
        raise
    finally:
        if argv is None and _in_main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter removes its handlers
