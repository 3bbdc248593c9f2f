"""How torch's threads behave beside other processes."""

from __future__ import annotations

import os

__all__ = ["wait_passively"]


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spinning; call it before torch is imported.

    By default each of torch's many small parallel regions ends with threads spinning for the last
    one. On a machine of its own that saves microseconds; beside other busy processes, as on a
    robot, the spinning threads take the cores from those they wait for: with two cores and a load
    of 7, a frame took 37 s spinning and 9 s sleeping. A value set by the user stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
