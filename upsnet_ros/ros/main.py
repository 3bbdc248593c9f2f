"""The node as a process: `upsnet node`, and `ros2 run upsnet_ros upsnet_node`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from upsnet_ros.ros.leftovers import remove_leftovers
from upsnet_ros.ros.node import UpsnetNode
from upsnet_ros.ros.settings import SettingsError
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.transitions import first_line
from upsnet_ros.ros.transport import use_shared_memory_profile
from upsnet_ros.threads import wait_passively

__all__ = ["main"]

# `ros2 launch` sends SIGTERM 5 s after SIGINT, and SIGKILL another 5 s later.
_STOP_SECONDS = 4.0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM, over shared memory where the user chose nothing else.

    Args:
        args: Command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0, or 1 where the node could not start (the log says why, in one line).
    """
    wait_passively()
    use_shared_memory_profile()
    remove_leftovers()
    try:
        rclpy.init(
            args=None if args is None else ["upsnet", *args],
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except RuntimeError as error:  # rcl's, of a command line that it cannot read
        # Without the places in rcl's source that it appends.
        print(f"upsnet: {first_line(error).split(', at /')[0]}", file=sys.stderr)
        return 1
    try:
        return _run(stop_on_signals())
    finally:
        rclpy.try_shutdown()


def _run(stop: Future) -> int:
    try:
        node = UpsnetNode()
    except (SettingsError, ParameterException) as error:
        get_logger("upsnet").error(first_line(error))
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.settings.autostart and not node.start():
            return 1
        executor.spin_until_future_complete(stop)
        node.stop(timeout=_STOP_SECONDS)
        return 0
    finally:
        executor.shutdown()
        node.destroy_node()
        if node.computing:
            # Python would wait for that thread, which no signal can end, and whoever stops the node
            # would kill it. All that others see of it is gone by now.
            rclpy.try_shutdown()
            os._exit(0)
