"""Processes that end with the one they work for, however that one ends.

Who is ended by SIGKILL cannot end its processes. They notice it themselves: by a pipe that closes
with it, which unlike Linux's PR_SET_PDEATHSIG holds on every system, leaves nothing to chance where
it ended before they looked, and does not depend on the thread that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

__all__ = ["SECONDS_TO_END", "end_with_parent", "end_with_pipe"]

#: What a process that is asked to end may take for it: a node finishes the frame that it has begun,
#: a recorder its video.
SECONDS_TO_END = 60.0


def end_with_pipe(descriptor: int) -> threading.Event:
    """End this process when nobody can write to a pipe any more: by SIGTERM, later by SIGKILL.

    Args:
        descriptor: The pipe's end for reading. What is written to it is thrown away.

    Returns:
        Set when that is the case.
    """
    alone = threading.Event()
    _in_background(_wait_for_pipe, descriptor, alone)
    return alone


def end_with_parent() -> None:
    """End this worker of `multiprocessing` at once when the process that made it is no more.

    For the ``initializer`` of an executor of the standard library, whose workers would else wait
    for ever for the next task.

    Raises:
        RuntimeError: If `multiprocessing` did not make this process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process is no worker of multiprocessing")
    _in_background(_wait_for_parent, parent)


def _in_background(wait: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=wait, args=arguments, name="upsnet_orphan", daemon=True).start()


def _wait_for_pipe(descriptor: int, alone: threading.Event) -> None:
    while os.read(descriptor, 4096):
        pass
    alone.set()
    # Not SIGINT, which processes ignore whose ancestor a shell started in the background.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
