"""Requests to the node's services that make no sense."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from rclpy.node import Node
from rclpy.service import Service

from upsnet_ros.ros.transitions import first_line

__all__ = ["guard_services"]


def guard_services(node: Node) -> None:
    """Let every service of a node refuse what its callback raises on, rclpy's own among them.

    What a service raises goes through the executor and ends the process, and rclpy's raise where a
    transition is asked for that the state does not have (ros2/rclpy#1209), or a parameter is of no
    type: anybody on the network could end the node. Such a request is answered by a response as it
    is made, which says ``success=False`` where it says anything, and logged.

    Args:
        node: With all its services. Those that are coroutines are left as they are.
    """
    for service in node.services:
        if not inspect.iscoroutinefunction(service.callback):
            service.callback = _guarded(node, service)


def _guarded(node: Node, service: Service) -> Any:
    callback = service.callback

    @functools.wraps(callback)
    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001 - logged, and the request refused
            node.get_logger().error(f"{service.srv_name} refused: {first_line(error)}")
            return type(response)()

    return answer
