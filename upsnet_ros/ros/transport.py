"""How processes find and reach each other, chosen before they join the network."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "PROFILE_VARIABLES",
    "TRANSPORT_VARIABLES",
    "free_domain",
    "private_environment",
    "shared_memory_profile",
    "transport_environment",
    "use_shared_memory_profile",
]

#: Kilted reads the first, Humble and Jazzy the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")

#: Where one of these is set, the user has chosen Fast DDS's transports.
TRANSPORT_VARIABLES = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")


def use_shared_memory_profile() -> None:
    """Give this process the variables of `transport_environment`. Call before `rclpy.init`."""
    os.environ.update(transport_environment(os.environ))


def transport_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that let a process use ``config/fastdds_shm.xml``.

    By default Fast DDS cuts a camera's image into many pieces, and a best-effort subscriber then
    loses most images. Other middlewares do not read these variables.

    Args:
        environment: That of the process.

    Returns:
        What to add to it: nothing where the user has chosen transports there.

    Raises:
        FileNotFoundError: If the profile was not installed.
    """
    if any(environment.get(name) for name in TRANSPORT_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(shared_memory_profile()))


def shared_memory_profile() -> Path:
    """Where ``fastdds_shm.xml`` was installed.

    Raises:
        FileNotFoundError: If it was not.
    """
    # The environment that `make setup` made is no sourced ROS install; its prefix is Python's.
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for prefix in prefixes:
        path = Path(prefix, "share", "upsnet_ros", "config", "fastdds_shm.xml")
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"share/upsnet_ros/config/fastdds_shm.xml is in none of {prefixes}: "
        "build the package with colcon, or run `make setup`"
    )


def private_environment() -> dict[str, str]:
    """Environment variables for processes that shall talk to each other and to nobody else."""
    environment = {"ROS_DOMAIN_ID": str(free_domain())}
    if os.environ.get("ROS_DISTRO") == "humble":
        environment["ROS_LOCALHOST_ONLY"] = "1"
    else:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment


def free_domain() -> int:
    """A ROS domain that nobody on this machine uses.

    Raises:
        RuntimeError: If there is none.
    """
    # Begins at a place of this process's own, so that two that ask at once do not meet.
    first = os.getpid() % 100
    for domain in (*range(first + 1, 101), *range(1, first + 1)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # DDS: the port on which a domain's first participant is found by others.
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("every ROS domain from 1 to 100 is in use on this machine")
