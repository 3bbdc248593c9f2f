"""Fast DDS's transports for camera images, chosen before the process joins the network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["PROFILE_VARIABLES", "shared_memory_profile", "use_shared_memory_profile"]

#: Kilted reads the first, Humble and Jazzy the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")

# Where one of these is set, the user has chosen Fast DDS's transports.
_TRANSPORT_VARIABLES = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")


def use_shared_memory_profile() -> None:
    """Give this process ``config/fastdds_shm.xml``, unless the user has chosen other transports.

    By default Fast DDS cuts a camera's image into many pieces, and a best-effort subscriber then
    loses most images. Call before `rclpy.init`; other middlewares do not read these variables.
    """
    if not any(os.environ.get(name) for name in _TRANSPORT_VARIABLES):
        profile = str(shared_memory_profile())
        os.environ.update(dict.fromkeys(PROFILE_VARIABLES, profile))


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
