"""DDS configuration: transport profile, free ROS domains, and cleanup of leftover shared memory.

A killed node leaves its Fast DDS shared-memory segments behind: with this package's profile 128 MiB
until the next reboot. A segment is a file in /dev/shm beside an empty file ``..._el``, which its
process keeps locked while it lives; Fast DDS's own `fastdds shm clean` relies on this too.

Ports (about 50 KiB each) are not removed. Only the reader of a port locks it, so it is unknown
whether a living process still writes to it, and that process would then write to a removed file.
They do not accumulate: Fast DDS reuses the port number, and the file, of a dead reader.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from upsnet_ros.errors import listed
from upsnet_ros.shipped_files import share_folders, shipped_path

#: Kilted reads the first, Humble and Jazzy the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")

#: If one of these is set, the user has chosen Fast DDS's transports.
TRANSPORT_VARIABLES = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")

_SHARED_MEMORY = Path("/dev/shm")
_LOCK = re.compile(r"(fastrtps_[0-9a-f]{16})_el")
# A living process needs a moment between creating the file and locking it.
_YOUNG_SECONDS = 2.0

#: Sockets that reserve this process's domains; the system closes them when it ends.
_claims: list[socket.socket] = []


def use_shared_memory_profile() -> None:
    """Set the variables of `transport_environment` in this process. Call before `rclpy.init`."""
    os.environ.update(transport_environment(os.environ))


def transport_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make a process use ``config/fastdds_shm.xml``.

    By default Fast DDS splits a camera image into many fragments, and a best-effort subscriber then
    loses most images. Other middlewares ignore these variables.

    Args:
        environment: Environment of the process.

    Returns:
        Variables to add; empty if the user has chosen transports in the environment.

    Raises:
        FileNotFoundError: If the profile was not installed.
    """
    if any(environment.get(name) for name in TRANSPORT_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(shared_memory_profile()))


def shared_memory_profile() -> Path:
    """Return the path of the installed ``fastdds_shm.xml``.

    Raises:
        FileNotFoundError: If it is not installed.
    """
    path = shipped_path("config/fastdds_shm.xml")
    if path is None:
        raise FileNotFoundError(
            f"cannot find config/fastdds_shm.xml in any of {listed(share_folders(), most=8)}:"
            " build the package with colcon, or run `make setup`"
        )
    return path


def private_environment() -> dict[str, str]:
    """Return environment variables that isolate a group of processes from all other ROS nodes."""
    environment = {"ROS_DOMAIN_ID": str(free_domain())}
    if os.environ.get("ROS_DISTRO") == "humble":
        environment["ROS_LOCALHOST_ONLY"] = "1"
    else:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment


def free_domain() -> int:
    """Return an unused ROS domain of this machine and reserve it until this process ends.

    Concurrent callers get different domains, and so do repeated calls.

    Raises:
        RuntimeError: If every domain is in use.
    """
    # Each process starts at a different number, so that most find a free domain immediately.
    first = os.getpid() % 100
    for domain in (*range(first + 1, 101), *range(1, first + 1)):
        claim = _claim(domain)
        if claim is None:
            continue
        if _has_participants(domain):
            claim.close()
            continue
        _claims.append(claim)
        return domain
    raise RuntimeError("every ROS domain from 1 to 100 is in use on this machine")


def _claim(domain: int) -> socket.socket | None:
    """Reserve a domain among the processes of this package; None if it is already reserved."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if sys.platform != "linux":
        return claim  # no abstract sockets: concurrent callers may get the same domain
    try:
        claim.bind(f"\0upsnet_ros domain {domain}")  # abstract: exists while the socket is open
    except OSError:
        claim.close()
        return None
    return claim


def _has_participants(domain: int) -> bool:
    """Return whether a DDS participant on this machine is in the domain."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # The discovery port of a domain's first participant, by the DDS specification.
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return True
    return False


def remove_leftovers(folder: Path = _SHARED_MEMORY) -> list[str]:
    """Remove this user's segments that do not belong to a living process.

    Args:
        folder: Shared-memory folder; need not exist.

    Returns:
        Names of the removed segments.
    """
    removed = []
    for lock in sorted(folder.glob("fastrtps_*_el")):
        match = _LOCK.fullmatch(lock.name)
        if match and _is_left(lock):
            name = match[1]
            with contextlib.suppress(OSError):  # for example, a folder with that name
                for file in _files(folder, name):
                    file.unlink(missing_ok=True)
                removed.append(name)
    return removed


def own_segments(folder: Path = _SHARED_MEMORY) -> list[Path]:
    """Return the files of the segments created by this process; some may not exist."""
    files: list[Path] = []
    with contextlib.suppress(OSError):  # a system without /proc
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since
                opened = descriptor.readlink()
                if opened.parent == folder and (match := _LOCK.fullmatch(opened.name)):
                    files += _files(folder, match[1])
    return files


def _files(folder: Path, name: str) -> list[Path]:
    """Return the files of a segment, the lock last: a partial removal can then be resumed."""
    return [folder / file for file in (name, f"sem.{name}_mutex", f"{name}_sl", f"{name}_el")]


def _is_left(lock: Path) -> bool:
    try:
        state = lock.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
            return False
        if time.time() - state.st_mtime < _YOUNG_SECONDS:
            return False
        return not _is_locked(lock) and not _is_locked(lock.with_name(lock.name[:-2] + "sl"))
    except OSError:  # its process has just removed it, or it is not a file of Fast DDS
        return False


def _is_locked(path: Path) -> bool:
    import fcntl  # missing on Windows, as is /dev/shm

    # Non-blocking, because a FIFO with that name would block until it has a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
