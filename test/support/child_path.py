"""Where a process that a test starts finds this folder's modules, and packages of messages."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

__all__ = ["SUPPORT", "is_installed", "with_packages", "with_support"]

SUPPORT = Path(__file__).resolve().parent


def with_support() -> dict[str, str]:
    """The environment of this process, in which Python looks in this folder first."""
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, (str(SUPPORT), known)))
    return {**os.environ, "PYTHONPATH": path}


def is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def with_packages(*packages: str) -> dict[str, str]:
    """As `with_support`, with message packages that no wheel carries.

    `make setup` builds stand-ins for them, apart from the environment, which goes without. Skips
    the test where one is neither installed nor built.
    """
    environment = with_support()
    for package in packages:
        if is_installed(package):
            continue
        prefix = Path(sys.prefix, ".upsnet_ros", package)
        if not prefix.is_dir():
            pytest.skip(f"{package} is neither installed nor built by `make setup`")
        (modules,) = prefix.glob("lib/python3*/site-packages")
        for name, path in (
            ("PYTHONPATH", modules),
            ("AMENT_PREFIX_PATH", prefix),
            ("LD_LIBRARY_PATH", prefix / "lib"),
        ):
            known = environment.get(name)
            environment[name] = f"{path}{os.pathsep}{known}" if known else str(path)
    return environment
