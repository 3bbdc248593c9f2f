"""A camera's images, or a file played as a camera, become panoptic topics.

`ros2 launch upsnet_ros camera.launch.py --show-args` lists the arguments.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from upsnet_ros.ros.launch_support import (
    flags,
    is_on,
    namespace_argument,
    namespace_of,
    optional,
    process,
    switch,
)
from upsnet_ros.ros.names import full_name
from upsnet_ros.ros.settings import ParameterInfo, parameters
from upsnet_ros.ros.settings_text import yaml_value
from upsnet_ros.ros.transport import transport_environment

NODE = "upsnet"
CONFIG = Path(__file__).resolve().parent.parent / "config"

# The node's parameters that are arguments here too; all others are set in params_file.
NODE_ARGUMENTS = (
    "weights",
    "variant",
    "device",
    "precision",
    "scale",
    "score_threshold",
    "allow_random_weights",
    "tracking",
    "image_transport",
    "image_reliability",
    "autostart",
)


def generate_launch_description() -> LaunchDescription:
    """Arguments, then the transport profile, the node, and what was asked for beside it."""
    return LaunchDescription(
        [
            *_own_arguments(),
            *(_node_argument(info) for info in parameters() if info.name in NODE_ARGUMENTS),
            OpaqueFunction(function=_transport_profile),
            OpaqueFunction(function=_panoptic_node),
            OpaqueFunction(function=_player),
            OpaqueFunction(function=_rviz),
        ]
    )


def _own_arguments() -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument(
            "image_topic",
            default_value="/camera/image_raw",
            description="Topic of the camera's images; with image_transport:=compressed the one"
            " whose /compressed is read.",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(CONFIG / "camera.yaml"),
            description="YAML file with the node's parameters; the arguments below override it.",
        ),
        namespace_argument(),
        switch("use_sim_time", "Take the time from /clock, as when a bag is played with --clock."),
        optional(
            "video",
            "Video file, folder of images or webcam index to publish on image_topic."
            " Empty: a camera driver publishes there.",
        ),
        switch("loop", "Play the video again and again."),
        switch("rviz", "Show overlay, unknown mask and camera in RViz (raw images of the camera)."),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Lowest level that the node logs.",
        ),
    ]


def _node_argument(info: ParameterInfo) -> DeclareLaunchArgument:
    # Empty, not the parameter's default: what was not given must not override params_file.
    return optional(
        info.name, f"{info.text} Not given: as in params_file, or {yaml_value(info.default)}."
    )


def _transport_profile(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Camera images need more shared memory than Fast DDS takes by itself."""
    variables = transport_environment(context.environment)
    return [SetEnvironmentVariable(name, value) for name, value in variables.items()]


def _panoptic_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    given = {
        info.name: _typed(info.parse(arguments[info.name]))
        for info in parameters()
        if info.name in NODE_ARGUMENTS and arguments[info.name]
    }
    image_topic = arguments["image_topic"]
    namespace = namespace_of(context)
    logger = full_name(NODE, namespace=namespace)[1:].replace("/", ".")
    return [
        process(
            "upsnet_node",
            NODE,
            namespace=namespace,
            parameters=[
                arguments["params_file"],
                {"use_sim_time": is_on(context, "use_sim_time"), **given},
            ],
            remappings=[("image", image_topic), ("image/compressed", f"{image_topic}/compressed")],
            ros_arguments=["--log-level", f"{logger}:={arguments['log_level']}"],
            on_exit=Shutdown(reason="the panoptic node has ended"),
        )
    ]


def _typed(value: bool | int | float | str) -> ParameterValue:
    # Or launch would read the text 42 as a number.
    return ParameterValue(value, value_type=type(value))


def _player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    if not arguments["video"]:
        return []
    command = ["play", arguments["video"], "--topic", arguments["image_topic"]]
    # The node reads images once its network is loaded; the first frames would be gone by then.
    command += ["--wait-for-subscribers", "1", "--timeout", "600", *flags(context, "loop")]
    if arguments["image_transport"] == "compressed":
        command.append("--compressed")
    return [process("upsnet", "player", namespace=namespace_of(context), arguments=command)]


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    namespace = namespace_of(context)
    # The file holds absolute topics: those of the default namespace, and the default camera.
    remappings = [
        (f"/panoptic/{topic}", full_name(topic, namespace=namespace))
        for topic in ("overlay", "unknown_mask")
    ]
    image_topic = context.launch_configurations["image_topic"]
    remappings.append(("/camera/image_raw", full_name(image_topic, namespace=namespace)))
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            arguments=["-d", str(CONFIG / "panoptic.rviz")],
            remappings=remappings,
            condition=IfCondition(LaunchConfiguration("rviz")),
        )
    ]
