"""A bag goes through the panoptic node, and its answers into another bag.

`ros2 launch upsnet_ros replay.launch.py --show-args` lists the arguments: those below, and all of
camera.launch.py, which starts the node.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from upsnet_ros.ros.replay_topics import topics_of

CAMERA = Path(__file__).resolve().parent / "camera.launch.py"

# What the bag decides, so that nobody else can.
DECIDED = {
    "image_topic": "name the bag's camera by topic",
    "image_transport": "the bag tells it",
    "video": "a bag is played",
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, what the bag tells of the camera, then the node and the replay."""
    return LaunchDescription(
        [
            *_arguments(),
            OpaqueFunction(function=_camera_of_the_bag),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(CAMERA))),
            OpaqueFunction(function=_replay),
        ]
    )


def _arguments() -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument("bag", description="Folder of the bag to play, or one file of it."),
        DeclareLaunchArgument(
            "topic",
            default_value="",
            description="The camera in the bag. Empty: its only topic of Image or CompressedImage.",
        ),
        DeclareLaunchArgument(
            "realtime",
            default_value="",
            description="How many times as fast as it was recorded the bag is played; images that"
            " the node cannot answer in time are lost. Empty: in lockstep, where none is.",
        ),
        DeclareLaunchArgument(
            "start", default_value="", description="Seconds into the bag at which to begin."
        ),
        DeclareLaunchArgument("duration", default_value="", description="Seconds of it to play."),
        DeclareLaunchArgument(
            "loop",
            default_value="false",
            choices=["true", "false"],
            description="Play the bag again and again; the first round is recorded.",
        ),
        DeclareLaunchArgument(
            "out",
            default_value="replay_output",
            description="Folder for the bag of answers and the figures.",
        ),
        DeclareLaunchArgument(
            "overwrite",
            default_value="false",
            choices=["true", "false"],
            description="Replace a replay that is there.",
        ),
        DeclareLaunchArgument(
            "evaluate",
            default_value="false",
            choices=["true", "false"],
            description="Judge the answers by the bag's ground truth, into report.html.",
        ),
    ]


def _camera_of_the_bag(context: LaunchContext) -> None:
    """Settles the arguments of camera.launch.py that follow from the bag.

    Raises:
        ValueError: If one of them was given, or the bag cannot be played.
    """
    arguments = context.launch_configurations
    for name, instead in DECIDED.items():
        if name in arguments:
            raise ValueError(f"{name} cannot be given to a replay: {instead}")
    namespace = "/" + arguments.get("namespace", "panoptic").strip("/")
    topics = topics_of(
        Path(arguments["bag"]), camera=arguments["topic"] or None, namespace=namespace
    )
    arguments["image_topic"] = topics.base
    arguments["image_transport"] = "compressed" if topics.compressed else "raw"
    if not arguments["realtime"]:
        # In lockstep nothing may be lost.
        arguments.setdefault("image_reliability", "reliable")


def _replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = context.launch_configurations
    # The node answers once its network is loaded, and then every image in its own time.
    command = ["replay", arguments["bag"], "--no-node", "--timeout", "600"]
    command += ["--namespace", arguments["namespace"], "--out", arguments["out"]]
    for name in ("topic", "realtime", "start", "duration"):
        if arguments[name]:
            command += [f"--{name}", arguments[name]]
    command += [
        f"--{name}" for name in ("loop", "overwrite", "evaluate") if arguments[name] == "true"
    ]
    if arguments["use_sim_time"] == "true":
        command.append("--clock")
    return [
        Node(
            package="upsnet_ros",
            executable="upsnet",
            name="upsnet_replay",
            arguments=command,
            output="screen",
            emulate_tty=True,
            on_exit=Shutdown(reason="the replay has ended"),
        )
    ]
