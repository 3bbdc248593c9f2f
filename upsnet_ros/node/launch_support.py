"""Helpers shared by the launch files; requires ROS's `launch` and `launch_ros`."""

from __future__ import annotations

from typing import Any

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node

from upsnet_ros.messages.results import absolute_namespace


def optional(name: str, description: str) -> DeclareLaunchArgument:
    """Return a launch argument that defaults to the empty string."""
    return DeclareLaunchArgument(name, default_value="", description=description)


def switch(name: str, description: str) -> DeclareLaunchArgument:
    """Return a launch argument that is ``true`` or ``false`` (default ``false``)."""
    return DeclareLaunchArgument(
        name, default_value="false", choices=["true", "false"], description=description
    )


def namespace_argument() -> DeclareLaunchArgument:
    """Return the launch argument for the namespace of all nodes in a launch file."""
    return DeclareLaunchArgument(
        "namespace",
        default_value="panoptic",
        description="Namespace of the node and its topics: labels is /<namespace>/labels.",
    )


def namespace_of(context: LaunchContext) -> str:
    """Return the value of `namespace_argument` as an absolute name; ``/`` for the root."""
    return absolute_namespace(context.launch_configurations["namespace"])


def is_on(context: LaunchContext, name: str) -> bool:
    """Return whether a `switch` is true."""
    return context.launch_configurations[name] == "true"


def flags(context: LaunchContext, *names: str) -> list[str]:
    """Return the command-line flags (``--name``) of the switches that are true."""
    return [f"--{name}" for name in names if is_on(context, name)]


def options(context: LaunchContext, *names: str) -> list[str]:
    """Return the command-line options (``--name value``) of the arguments that are not empty."""
    given = {name: context.launch_configurations[name] for name in names}
    return [word for name, value in given.items() if value for word in (f"--{name}", value)]


def process(executable: str, name: str, **more: Any) -> Node:
    """Return the launch action for an executable of this package, with output on the screen.

    Args:
        executable: File name in ``lib/upsnet_ros``.
        name: Name of the node.
        more: Further arguments of `launch_ros.actions.Node`.
    """
    return Node(
        package="upsnet_ros",
        executable=executable,
        name=name,
        output="screen",
        emulate_tty=True,
        **more,
    )
