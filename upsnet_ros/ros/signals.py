"""SIGINT and SIGTERM as a future that an executor can wait for."""

from __future__ import annotations

import os
import signal
import threading

from rclpy.task import Future

__all__ = ["stop_on_signals"]


def stop_on_signals() -> Future:
    """Turns SIGINT and SIGTERM, from now on and for good, into the completion of a future.

    rclpy's own handlers would shut the context down at once, and what is being computed could not
    be published any more; Python's would run only after the executor's wait, which no signal ends.
    Call this from the main thread.

    Returns:
        A future that is done as soon as one of the signals came. Later ones change nothing: who
        stops the node may well send several (a terminal and `ros2 launch` both do).
    """
    stop = Future()
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait() -> None:
        os.read(read, 1)
        stop.set_result(None)

    # Python writes a byte here from the signal handler proper, whatever its threads are doing.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=wait, name="upsnet_signals", daemon=True).start()
    return stop
