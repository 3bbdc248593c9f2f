"""Shared memory that Fast DDS left behind where a process was killed.

Each segment is a file in /dev/shm beside an empty one, ``..._el``, which its process keeps locked
as long as it lives (Fast DDS's own `fastdds shm clean` goes by it too). With our profile a killed
node would else leave 128 MiB, until the machine is started anew.

Ports, some 50 KiB each, are left alone. Only who reads from a port locks it, so that nothing tells
whether a living process still writes to one; and taking it away would let that one write to where
nobody reads any more. They do not add up either: Fast DDS gives the number, and with it the file,
of a dead reader's port to the next process that asks for one.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

__all__ = ["remove_leftovers"]

_FOLDER = Path("/dev/shm")
_LOCK = re.compile(r"(fastrtps_[0-9a-f]{16})_el")
# Between making the file and locking it a living process needs a moment.
_YOUNG_SECONDS = 2.0


def remove_leftovers(folder: Path = _FOLDER) -> list[str]:
    """Remove what belongs to this user and to no living process.

    Args:
        folder: Where shared memory is; nothing is done where it does not exist.

    Returns:
        The segments that were removed.
    """
    removed = []
    for lock in sorted(folder.glob("fastrtps_*_el")):
        match = _LOCK.fullmatch(lock.name)
        if match and _is_left(lock):
            name = match[1]
            # The lock last: as long as it is there, another run finds what this one left.
            for file in (name, f"sem.{name}_mutex", f"{name}_sl", lock.name):
                (folder / file).unlink(missing_ok=True)
            removed.append(name)
    return removed


def _is_left(lock: Path) -> bool:
    try:
        state = lock.stat()
        if state.st_uid != os.getuid() or time.time() - state.st_mtime < _YOUNG_SECONDS:
            return False
        return not _is_locked(lock) and not _is_locked(lock.with_name(lock.name[:-2] + "sl"))
    except FileNotFoundError:  # its process has just ended well
        return False


def _is_locked(path: Path) -> bool:
    import fcntl  # there is none on Windows, nor is there /dev/shm

    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
