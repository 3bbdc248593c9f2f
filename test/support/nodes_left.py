"""Finds ROS nodes that a test file left running: later files would see them in their ROS domain."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

#: What this package promises of its processes after they were told to end, seconds.
SECONDS = 10.0


#: Environment variable by which a process knows the process of tests that it descends from.
MARK = "UPSNET_TEST_PROCESS"


def mark_descendants() -> None:
    """Mark what this process starts from now on, apart from what other runs of tests start."""
    os.environ[MARK] = str(os.getpid())


def _processes() -> list[str]:
    """Command lines of processes with DDS loaded that descend from this one, orphans included."""
    mark = f"{MARK}={os.getpid()}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            if mark in environment and "librmw_fastrtps" in (folder / "maps").read_text():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(f"{folder.name} {command[:300]}")
        except (OSError, ProcessLookupError):  # it has just ended
            continue
    return found


_OF_THE_PROCESS = ("dds.shm.wdog", "dds.log")
#: Flag of Linux's /proc/PID/stat: the thread runs no code of its program any more.
_PF_EXITING = 4


def dds_threads() -> list[str]:
    """Names of this process's threads that serve a DDS participant.

    Each node that was not wholly destroyed keeps some. With a few dozen of them, new participants
    of the domain get numbers at which Fast DDS looks for nobody, and never meet.
    """
    names = []
    for folder in Path("/proc/self/task").iterdir():
        try:
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        # The system lists a thread for a moment after it was joined.
        if not int(after.split()[6]) & _PF_EXITING:
            names.append(before.partition("(")[2])
    # Watchdog and log are one for the whole process, and stay.
    return [name for name in names if name.startswith("dds.") and name not in _OF_THE_PROCESS]


def nodes_left() -> list[str]:
    """Wait for the nodes of a test file to end; return those that have not."""
    end = time.monotonic() + SECONDS
    while (found := [*_processes(), *dds_threads()]) and time.monotonic() < end:
        time.sleep(0.05)
    context = sys.modules.get("rclpy.context")
    if context is not None and context.g_logging_ref_count:
        found.append(f"{context.g_logging_ref_count} contexts of rclpy in the process of the tests")
    return found
