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

from upsnet_ros.bags.sources import check_source
from upsnet_ros.datasets.label_map import read_label_map
from upsnet_ros.messages.results import full_name
from upsnet_ros.node.launch_support import (
    flags,
    is_on,
    namespace_argument,
    namespace_of,
    optional,
    process,
    switch,
)
from upsnet_ros.node.parameter_info import ParameterInfo, Value, infos, yaml_value
from upsnet_ros.node.parameters import parameters
from upsnet_ros.points.parameters import PointsSettings
from upsnet_ros.processes.transport import transport_environment
from upsnet_ros.weights import find_weights

CONFIG = Path(__file__).resolve().parent.parent / "config"

# The node's parameters that are arguments here too; all others are set in params_file.
NODE_ARGUMENTS = (
    "weights",
    "variant",
    "device",
    "precision",
    "scale",
    "score_threshold",
    "unknown_threshold",
    "label_map",
    "allow_random_weights",
    "tracking",
    "classes",
    "image_transport",
    "image_reliability",
    "max_rate",
    "autostart",
)

PARAMETERS_OF_POINTS = {info.name: info for info in infos(PointsSettings)}


def generate_launch_description() -> LaunchDescription:
    """Arguments, then the transport profile, the node, and what was asked for beside it."""
    return LaunchDescription(
        [
            *_own_arguments(),
            *(_node_argument(info) for info in parameters() if info.name in NODE_ARGUMENTS),
            OpaqueFunction(function=_check),
            OpaqueFunction(function=_transport_profile),
            OpaqueFunction(function=_panoptic_node),
            OpaqueFunction(function=_points_node),
            OpaqueFunction(function=_player),
            OpaqueFunction(function=_rviz),
        ]
    )


def _own_arguments() -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument(
            "image_topic",
            default_value="image",
            description="Topic of the camera's images, such as /camera/image_raw; in the namespace"
            " unless it begins with /. With image_transport:=compressed its /compressed is read.",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(CONFIG / "camera.yaml"),
            description="YAML file with the node's parameters; the arguments below override it.",
        ),
        namespace_argument(),
        DeclareLaunchArgument(
            "node_name", default_value="upsnet", description="Name of the node, where several run."
        ),
        switch("use_sim_time", "Take the time from /clock, as when a bag is played with --clock."),
        optional(
            "video",
            "Video file, folder of images, webcam index or address to publish on image_topic."
            " Empty: a camera driver publishes there.",
        ),
        switch("loop", "Play the video again and again."),
        DeclareLaunchArgument(
            "points",
            default_value="",
            choices=["", *PARAMETERS_OF_POINTS["input"].choices],
            description="Label points too, see docs/points.md. depth: of the depth images on"
            " depth_topic. cloud: of the clouds on cloud_topic. Empty: no points.",
        ),
        DeclareLaunchArgument(
            "depth_topic",
            default_value="depth",
            description="Topic of depth images registered to the camera's image.",
        ),
        DeclareLaunchArgument(
            "cloud_topic", default_value="points_in", description="Topic of the lidar's clouds."
        ),
        optional(
            "extrinsics",
            f"{PARAMETERS_OF_POINTS['extrinsics'].text} Seven numbers, separated by commas.",
        ),
        optional(
            "points_params_file", "YAML file with further parameters of the points node, if any."
        ),
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


def _check(context: LaunchContext) -> None:
    """Ends the launch in one line where a file that was named is not there, or points are wrong.

    This is before any process starts: launch leaves those running that it has started.

    Raises:
        ValueError: A params_file cannot be read; launch_ros would start the node without.
        SettingsError: There is no such label map, or it cannot be used; or extrinsics are no pose.
        CheckpointError: There are no such weights, or none of that name yet.
        SourceError: There is no such video; the node would run alone.
    """
    arguments = context.launch_configurations
    for name in ("params_file", "points_params_file"):
        try:
            if arguments[name]:
                Path(arguments[name]).expanduser().read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {name} {arguments[name]}: {error.strerror}") from None
    if arguments["label_map"]:
        read_label_map(arguments["label_map"])
    if arguments["weights"]:
        find_weights(arguments["weights"])
    if arguments["video"]:
        check_source(arguments["video"])
    if arguments["points"]:
        PointsSettings(**_values_of_points(context))


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
    name = arguments["node_name"]
    logger = full_name(name, namespace=namespace)[1:].replace("/", ".")
    return [
        process(
            "upsnet_node",
            name,
            namespace=namespace,
            parameters=[
                str(Path(arguments["params_file"]).expanduser()),
                {"use_sim_time": is_on(context, "use_sim_time"), **given},
            ],
            remappings=[("image", image_topic), ("image/compressed", f"{image_topic}/compressed")],
            ros_arguments=["--log-level", f"{logger}:={arguments['log_level']}"],
            on_exit=Shutdown(reason="the panoptic node has ended"),
        )
    ]


def _typed(value: Value) -> ParameterValue | list[str | float]:
    if isinstance(value, tuple):
        return list(value)
    # Or launch would read the text 42 as a number.
    return ParameterValue(value, value_type=type(value))


def _points_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    if not arguments["points"]:
        return []
    file = arguments["points_params_file"]
    return [
        process(
            "upsnet_points",
            "panoptic_points",
            namespace=namespace_of(context),
            parameters=[
                *([str(Path(file).expanduser())] if file else []),
                {
                    "use_sim_time": is_on(context, "use_sim_time"),
                    **{name: _typed(value) for name, value in _values_of_points(context).items()},
                },
            ],
            remappings=[
                ("depth", arguments["depth_topic"]),
                ("points_in", arguments["cloud_topic"]),
            ],
        )
    ]


def _values_of_points(context: LaunchContext) -> dict[str, Value]:
    arguments = context.launch_configurations
    given = {"input": arguments["points"]}
    if arguments["extrinsics"]:
        given["extrinsics"] = arguments["extrinsics"]
    return {name: PARAMETERS_OF_POINTS[name].parse(text) for name, text in given.items()}


def _player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    if not arguments["video"]:
        return []
    command = ["play", arguments["video"], "--image-topic", arguments["image_topic"]]
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
    remappings.append(("/panoptic/image", full_name(image_topic, namespace=namespace)))
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
