"""A bag that keeps its reader busy, so that a test can end the reader in the middle of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

#: For processes to start on a loaded machine, those of a cluster too. Tests have their own limit.
_PATIENCE_S = 600
#: Empty records of nine bytes: reading them takes an hour. They take no place on the disk.
_SIZE = 8 << 30


class BlockedBag:
    """A copy of a bag, without its metadata, and with a file that takes an hour to read.

    Args:
        bag: What is copied.
        path: Where the copy shall be.
    """

    def __init__(self, bag: Path, path: Path) -> None:
        self.path = Path(shutil.copytree(bag, path))
        self._metadata = Path(shutil.move(path / "metadata.yaml", path.with_suffix(".yaml")))
        self._long = path / "a_long_one.mcap"
        self._long.write_bytes(b"\x89MCAP0\r\n")
        os.truncate(self._long, _SIZE)

    @contextmanager
    def reader(self) -> Iterator[int]:
        """Wait for a process that reads the bag; its id."""
        try:
            pid = _eventually(self._holder)
        except TimeoutError:
            # Else who comes later reads for an hour, and no limit of time ends a test within Ray.
            os.truncate(self._long, 0)
            raise
        yield pid

    def mend(self) -> None:
        """Make it the bag that was copied, for those who read it from now on."""
        self._metadata.rename(self.path / "metadata.yaml")
        self._long.unlink()

    def _holder(self) -> int | None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it ended in the meantime
                files = {file.path for file in process.open_files()}
                if process.pid != os.getpid() and str(self._long) in files:
                    return process.pid
        return None


def has_ended(pid: int) -> bool:
    """Whether a process ends; one that waits for its parent to read its exit code has ended."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def _eventually(what: Callable[[], int | None]) -> int:
    """Ask until there is an answer; there is nothing that tells when."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        answer = what()
        if answer is not None:
            return answer
        time.sleep(0.02)
    raise TimeoutError("nobody reads the bag")
