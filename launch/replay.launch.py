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

from upsnet_ros.ros.launch_support import (
    flags,
    is_on,
    namespace_argument,
    namespace_of,
    optional,
    options,
    process,
    switch,
)
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
        optional(
            "topic", "The camera in the bag. Empty: its only topic of Image or CompressedImage."
        ),
        optional(
            "realtime",
            "How many times as fast as it was recorded the bag is played; images that the node"
            " cannot answer in time are lost. Empty: in lockstep, where none is.",
        ),
        optional("start", "Seconds into the bag at which to begin."),
        optional("duration", "Seconds of it to play."),
        switch("loop", "Play the bag again and again; the first round is recorded."),
        DeclareLaunchArgument(
            "out",
            default_value="replay_output",
            description="Folder for the bag of answers and the figures.",
        ),
        switch("overwrite", "Replace a replay that is there."),
        switch("evaluate", "Judge the answers by the bag's ground truth, into report.html."),
        namespace_argument(),  # needed before camera.launch.py declares it
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
    topics = topics_of(
        Path(arguments["bag"]), camera=arguments["topic"] or None, namespace=namespace_of(context)
    )
    arguments["image_topic"] = topics.base
    arguments["image_transport"] = "compressed" if topics.compressed else "raw"
    if not arguments["realtime"]:
        # In lockstep nothing may be lost.
        arguments.setdefault("image_reliability", "reliable")


def _replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    bag = context.launch_configurations["bag"]
    # The node answers once its network is loaded, and then every image in its own time.
    command = ["replay", bag, "--no-node", "--timeout", "600"]
    command += ["--namespace", namespace_of(context)]
    command += options(context, "out", "topic", "realtime", "start", "duration")
    command += flags(context, "loop", "overwrite", "evaluate")
    if is_on(context, "use_sim_time"):
        command.append("--clock")
    return [
        process(
            "upsnet",
            "upsnet_replay",
            arguments=command,
            on_exit=Shutdown(reason="the replay has ended"),
        )
    ]
