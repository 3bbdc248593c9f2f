"""Runs `upsnet` again and again without importing torch and ROS each time.

A process imports them, and forks before each command: arguments, logging and exit are those of a
process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_SERVER = """
import importlib, json, os, sys
from upsnet_ros.cli import main
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    arguments, log = json.loads(line)
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    output: str


class ForkedCli:
    """The process; a context manager.

    Args:
        folder: For the output of the commands.
        modules: To import before the first fork. None of them may start a thread.
    """

    def __init__(self, folder: Path, modules: list[str]) -> None:
        self._log = folder / "forked_cli.txt"
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Ended:
        """Runs ``upsnet ARGUMENTS`` to its end."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps([arguments, str(self._log)]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ended(code, self._log.read_text(errors="replace"))

    def __enter__(self) -> ForkedCli:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()
