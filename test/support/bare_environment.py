"""Run the upsnet command as where only some packages are installed.

    python bare_environment.py torch,numpy,... train --config ...

Every other distribution of this environment, and ROS, cannot be found by `import`; what the named
ones require can. Python's own modules and this checkout are there.
"""

from __future__ import annotations

import re
import runpy
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder


def requirements(names: list[str]) -> set[str]:
    """Return the normalised names of distributions and of all that they require without extras."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        needed = [line for line in required if "extra ==" not in line]
        names += [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed]
    return found


class FewPackages(PathFinder):
    """Finds what lies on the path, but for top-level modules that are absent."""

    absent: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in cls.absent:
            return None
        return super().find_spec(fullname, path, target)


def main() -> None:
    present = requirements(sys.argv[1].split(","))
    FewPackages.absent = frozenset(
        module
        for module, distributions in metadata.packages_distributions().items()
        if module not in ("upsnet_ros", "google")
        and not {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} & present
    ) | {"rclpy", "sensor_msgs", "std_msgs", "rosidl_runtime_py"}
    sys.meta_path[:] = [f for f in sys.meta_path if f is not PathFinder and isinstance(f, type)]
    sys.meta_path.append(FewPackages)
    sys.argv = ["upsnet", *sys.argv[2:]]
    runpy.run_module("upsnet_ros.cli", run_name="__main__")


if __name__ == "__main__":
    main()
