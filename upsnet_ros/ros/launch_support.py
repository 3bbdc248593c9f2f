"""What the launch files of launch/ have in common: kinds of arguments, and our own processes.

Needs ROS's `launch` and `launch_ros`, as they do.
"""

from __future__ import annotations

from typing import Any

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node

from upsnet_ros.ros.names import absolute_namespace

__all__ = [
    "flags",
    "is_on",
    "namespace_argument",
    "namespace_of",
    "optional",
    "options",
    "process",
    "switch",
]


def optional(name: str, description: str) -> DeclareLaunchArgument:
    """An argument that is empty where it is not given."""
    return DeclareLaunchArgument(name, default_value="", description=description)


def switch(name: str, description: str) -> DeclareLaunchArgument:
    """An argument that is true or false; false where it is not given."""
    return DeclareLaunchArgument(
        name, default_value="false", choices=["true", "false"], description=description
    )


def namespace_argument() -> DeclareLaunchArgument:
    """The namespace of all that a launch file starts."""
    return DeclareLaunchArgument(
        "namespace",
        default_value="panoptic",
        description="Namespace of the node and its topics: labels is /<namespace>/labels.",
    )


def namespace_of(context: LaunchContext) -> str:
    """The value of `namespace_argument` as an absolute name; ``/`` for the root."""
    return absolute_namespace(context.launch_configurations["namespace"])


def is_on(context: LaunchContext, name: str) -> bool:
    """Whether a `switch` is true."""
    return context.launch_configurations[name] == "true"


def flags(context: LaunchContext, *names: str) -> list[str]:
    """The command line of those switches that are true: ``--name``."""
    return [f"--{name}" for name in names if is_on(context, name)]


def options(context: LaunchContext, *names: str) -> list[str]:
    """The command line of those arguments that were given: ``--name value``."""
    given = {name: context.launch_configurations[name] for name in names}
    return [word for name, value in given.items() if value for word in (f"--{name}", value)]


def process(executable: str, name: str, **more: Any) -> Node:
    """An executable of this package as a node, its output on the screen.

    Args:
        executable: Its file name in ``lib/upsnet_ros``.
        name: Of the node.
        more: What else `launch_ros.actions.Node` takes.
    """
    return Node(
        package="upsnet_ros",
        executable=executable,
        name=name,
        output="screen",
        emulate_tty=True,
        **more,
    )
