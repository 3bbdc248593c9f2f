"""Where the files of config/ and launch/ are: in the source tree, or in share/upsnet_ros."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_folders() -> list[Path]:
    """Return the folders that may hold ``config/`` and ``launch/``, in the order to look in."""
    package = Path(__file__).resolve().parent
    # colcon and pip put lib/python3.x/site-packages/upsnet_ros and share/ into one prefix; messages
    # that were built into another one bring share/ too.
    prefixes = [
        *package.parents,
        *map(Path, filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))),
        Path(sys.prefix),
    ]
    return [package.parent, *(prefix / "share" / "upsnet_ros" for prefix in prefixes)]


def shipped_path(name: str) -> Path | None:
    """Return a shipped file or folder, such as ``config/labels``; None if it is not installed."""
    return next((path for one in share_folders() if (path := one / name).exists()), None)
