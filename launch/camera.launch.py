"""A camera's images, or a file played as a camera, become panoptic topics.

`ros2 launch upsnet_ros camera.launch.py --show-args` lists the arguments.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from upsnet_ros.ros.settings import ParameterInfo, parameters
from upsnet_ros.ros.settings_text import yaml_value
from upsnet_ros.ros.transport import (
    PROFILE_VARIABLES,
    TRANSPORT_VARIABLES,
    shared_memory_profile,
)

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
        DeclareLaunchArgument(
            "namespace",
            default_value="panoptic",
            description="Namespace of the node and its topics: labels is /<namespace>/labels.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="Take the time from /clock, as when a bag is played with --clock.",
        ),
        DeclareLaunchArgument(
            "video",
            default_value="",
            description="Video file, folder of images or webcam index to publish on image_topic."
            " Empty: a camera driver publishes there.",
        ),
        DeclareLaunchArgument(
            "loop",
            default_value="false",
            choices=["true", "false"],
            description="Play the video again and again.",
        ),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            choices=["true", "false"],
            description="Show overlay, unknown mask and camera in RViz (raw images of the camera).",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Lowest level that the node logs.",
        ),
    ]


def _node_argument(info: ParameterInfo) -> DeclareLaunchArgument:
    # Empty, not the parameter's default: what was not given must not override params_file.
    return DeclareLaunchArgument(
        info.name,
        default_value="",
        description=f"{info.text} Not given: as in params_file, or {yaml_value(info.default)}.",
    )


def _transport_profile(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Camera images need more shared memory than Fast DDS takes by itself."""
    if any(context.environment.get(name) for name in TRANSPORT_VARIABLES):
        return []
    profile = str(shared_memory_profile())
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES]


def _panoptic_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    given = {
        info.name: _checked(info, arguments[info.name])
        for info in parameters()
        if info.name in NODE_ARGUMENTS and arguments[info.name]
    }
    image_topic = arguments["image_topic"]
    logger = ".".join([*_namespace(context).split("/")[1:], NODE])
    return [
        Node(
            package="upsnet_ros",
            executable="upsnet_node",
            name=NODE,
            namespace=_namespace(context),
            parameters=[
                arguments["params_file"],
                {"use_sim_time": arguments["use_sim_time"] == "true", **given},
            ],
            remappings=[("image", image_topic), ("image/compressed", f"{image_topic}/compressed")],
            ros_arguments=["--log-level", f"{logger}:={arguments['log_level']}"],
            output="screen",
            emulate_tty=True,
            on_exit=Shutdown(reason="the panoptic node has ended"),
        )
    ]


def _player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    if not arguments["video"]:
        return []
    command = ["play", arguments["video"], "--topic", arguments["image_topic"]]
    # The node reads images once its network is loaded; the first frames would be gone by then.
    command += ["--wait-for-subscribers", "1", "--timeout", "600"]
    if arguments["loop"] == "true":
        command.append("--loop")
    if arguments["image_transport"] == "compressed":
        command.append("--compressed")
    return [
        Node(
            package="upsnet_ros",
            executable="upsnet",
            name="player",
            namespace=_namespace(context),
            arguments=command,
            output="screen",
            emulate_tty=True,
        )
    ]


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    # The file holds absolute topics: those of the default namespace, and the default camera.
    remappings = [
        (f"/panoptic/{topic}", f"{_namespace(context)}/{topic}")
        for topic in ("overlay", "unknown_mask")
    ]
    image_topic = context.launch_configurations["image_topic"]
    if not image_topic.startswith("/"):
        image_topic = f"{_namespace(context)}/{image_topic}"
    remappings.append(("/camera/image_raw", image_topic))
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


def _checked(info: ParameterInfo, text: str) -> ParameterValue:
    """An argument's text as the parameter's value.

    Raises:
        SettingsError: Where it is none; the message names the argument.
    """
    value: bool | int | float | str = text
    if isinstance(info.default, bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(info.default, int | float):
        with suppress(ValueError):
            value = type(info.default)(text)
    info.check(value)
    # With its type, or launch would read the text 42 as a number.
    return ParameterValue(value, value_type=type(value))


def _namespace(context: LaunchContext) -> str:
    """The namespace as an absolute name, empty for the root."""
    return f"/{context.launch_configurations['namespace'].strip('/')}".rstrip("/")
