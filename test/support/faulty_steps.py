"""Steps of a self-test that go wrong as FAULTS says; the tests give this module to the child.

FAULTS is a JSON list of [step, what it does].
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from upsnet_ros.inference.self_test import Request
from upsnet_ros.inference.self_test_steps import Reporter, serve

Launched = Callable[[], None]


def passes(launched: Launched) -> None:
    print("libraries print what they like", flush=True)
    launched()


def raises(launched: Launched) -> None:
    launched()
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")


def runs_out_of_memory(launched: Launched) -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def is_busy(launched: Launched) -> None:
    raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")


def lacks_memory(launched: Launched) -> None:
    raise MemoryError


def hangs_while_compiling(launched: Launched) -> None:
    time.sleep(600)


def hangs(launched: Launched) -> None:
    launched()
    time.sleep(600)


def hangs_deaf(launched: Launched) -> None:
    """Ignores every signal that can be ignored, as a process does that waits for a driver."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    hangs(launched)


def segfaults(launched: Launched) -> None:
    launched()
    ctypes.string_at(0)


def aborts(launched: Launched) -> None:
    os.abort()


def exits(launched: Launched) -> None:
    print("driver: giving up", file=sys.stderr, flush=True)
    os._exit(7)


def is_killed(launched: Launched) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_terminated(launched: Launched) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)


def plan(request: Request, report: Reporter) -> None:
    with Path(os.environ["CHILDREN"]).open("a") as log:
        log.write(request.to_json() + "\n")
    for name, what in json.loads(os.environ["FAULTS"]):
        if what == "outside":
            os._exit(3)
        if report.wants(name):
            with report.step(name) as launched:
                globals()[what](launched)


if __name__ == "__main__":
    serve(plan)
