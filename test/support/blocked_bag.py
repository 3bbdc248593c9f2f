"""A bag that keeps its reader waiting, so that a test can end the reader in the middle of it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: For processes to start on a loaded machine.
_PATIENCE_S = 120


class BlockedBag:
    """A copy of a bag whose metadata.yaml is a pipe that nobody writes to.

    Args:
        bag: What is copied.
        path: Where the copy shall be.
    """

    def __init__(self, bag: Path, path: Path) -> None:
        self.path = Path(shutil.copytree(bag, path))
        self._pipe = self.path / "metadata.yaml"
        self._metadata = Path(shutil.move(self._pipe, self.path.with_suffix(".yaml")))
        os.mkfifo(self._pipe)

    @contextmanager
    def reader(self) -> Iterator[int]:
        """Wait for a process that reads the bag, and hold it up; its id."""
        pipe = _eventually(self._open)
        try:
            yield _eventually(self._holder)
        finally:
            os.close(pipe)

    def mend(self) -> None:
        """Make it the bag that was copied, for those who read it from now on."""
        self._metadata.replace(self._pipe)

    def _open(self) -> int | None:
        try:
            return os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # nobody reads

    def _holder(self) -> int | None:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            process = int(link.parts[2])
            try:
                if process != os.getpid() and link.readlink() == self._pipe:
                    return process
            except OSError:  # it ended meanwhile
                continue
        return None


def _eventually(what: Callable[[], int | None]) -> int:
    """Ask until there is an answer; there is nothing that tells when."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        answer = what()
        if answer is not None:
            return answer
        time.sleep(0.02)
    raise TimeoutError("nobody reads the bag")
