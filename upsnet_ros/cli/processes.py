"""Several `upsnet` processes that live and end together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from upsnet_ros.orphans import SECONDS_TO_END

_TAIL_LINES = 15


class ProcessError(RuntimeError):
    """A process ended that should not have, or ended badly; the message shows its last words."""


class ProcessGroup:
    """Runs `upsnet` subcommands beside each other; leaving the context ends those still running.

    Where this process is killed, they end by themselves.

    Args:
        logs: Folder for the processes' output, ``NAME.log`` each.
        environment: Variables that the processes get beside this process's own.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ProcessGroup:
        self._logs.mkdir(parents=True, exist_ok=True)
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
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "upsnet_ros.cli.supervised", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C shall reach this process alone, which then ends the others in order.
                start_new_session=True,
            )

    def pid(self, name: str) -> int:
        """The process's id."""
        return self._processes[name].pid

    def running(self, name: str) -> bool:
        """Whether the process goes on.

        Raises:
            ProcessError: If it ended with another exit code than 0.
        """
        code = self._processes[name].poll()
        if code:
            raise self._failure(name, f"ended with {_describe(code)}")
        return code is None

    def require(self, name: str) -> None:
        """Raise `ProcessError` if the process has ended, well or badly."""
        if not self.running(name):
            raise self._failure(name, "ended too early")

    def end(self, name: str) -> None:
        """Interrupt the process and wait for it.

        Raises:
            ProcessError: If it does not end well.
        """
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            raise self._failure(name, f"did not end within {SECONDS_TO_END:.0f} s") from None
        self.running(name)

    def last_words(self, name: str) -> str:
        """The end of what the process wrote, with the name of the file that holds all of it."""
        text = self._log(name).read_text(errors="replace").strip()
        lines = text.splitlines()[-_TAIL_LINES:] or ["(it wrote nothing)"]
        words = "\n".join(f"  | {line}" for line in lines)
        return f"{self._log(name)} ends:\n{words}"

    def _end_all(self) -> None:
        """Ask all to end, and make those that do not; a second Ctrl-C makes them at once."""
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
        return ProcessError(f"`upsnet {name}` {what}; {self.last_words(name)}")


def _describe(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
