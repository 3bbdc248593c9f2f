"""Child processes, worker pools and the DDS transport; here, how torch's idle threads wait."""

from __future__ import annotations

import os
import sys

SPINNING = (
    "torch was imported before upsnet_ros, so its idle threads spin, which makes inference several"
    " times slower beside other busy processes: import upsnet_ros first, or start the process with"
    " OMP_WAIT_POLICY=PASSIVE"
)

#: If one of these is set, the user has decided how idle threads wait: OpenMP's own variable, GNU's
#: (torch from PyPI), Intel's and LLVM's (torch from conda).
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_too_late = False


def wait_passively() -> None:
    """Make idle OpenMP threads sleep instead of spinning, unless the user decided otherwise.

    By default, threads spin at the end of each of torch's many small parallel regions until the
    last one arrives. On an idle machine that saves microseconds; beside other busy processes, as on
    a robot, the spinning threads take the cores from those they wait for: with two cores and a load
    of 7, a frame took 37 s with spinning and 9 s with sleeping threads.

    OpenMP reads its variables once, when torch is imported. If torch was imported before, only
    processes that this one starts are affected, and `threads_spin` returns True.
    """
    global _too_late
    if not any(name in os.environ for name in _CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        _too_late = "torch" in sys.modules


def threads_spin() -> bool:
    """Return whether `wait_passively` was called too late for this process."""
    return _too_late
