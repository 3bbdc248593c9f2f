"""A file system that is really full soon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# In a mount namespace of its own, which ends with the process. Who may not mount may do so in a
# user namespace, where the system has those.
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo mounted && exec cat'
_NAMESPACES = (
    (["--mount"], ["--mount"]),
    (["--mount", "--map-root-user"], ["--mount", "--user", "--preserve-credentials"]),
)


@dataclass(frozen=True)
class SmallDisk:
    """A small file system that only some processes have at its place.

    Attributes:
        place: Where those have it.
        outside: The same folder as all others see it. What resolves links, as SQLite does, leaves
            it.
    """

    place: Path
    outside: Path
    _enter: tuple[str, ...]

    def command(self, *command: str) -> list[str]:
        """A command that sees the file system."""
        return [*self._enter, *command]


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[SmallDisk]:
    """An empty file system of ``size`` bytes; skips the test where this user may not make one.

    Args:
        place: Where to mount it; exists.
        size: In bytes, a multiple of 4096.
    """
    reasons = []
    for make, enter in _NAMESPACES:
        try:
            holder = subprocess.Popen(
                ["unshare", *make, "sh", "-c", _MOUNT, str(place), str(size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            reasons.append(str(error))
            continue
        with holder:
            assert holder.stdin and holder.stdout and holder.stderr
            if holder.stdout.readline() == "mounted\n":
                try:
                    yield SmallDisk(
                        place,
                        Path(f"/proc/{holder.pid}/root{place}"),
                        ("nsenter", "--target", str(holder.pid), *enter),
                    )
                finally:
                    holder.stdin.close()
                return
            reasons.append(holder.stderr.read().strip())
    pytest.skip(f"no file system can be mounted here: {'; '.join(reasons)}")
