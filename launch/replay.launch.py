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

from upsnet_ros.bags.replay_topics import topics_of
from upsnet_ros.node.launch_support import (
    flags,
    is_on,
    namespace_argument,
    namespace_of,
    optional,
    options,
    process,
    switch,
)

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
        DeclareLaunchArgument("bag", description="Bag to play: a folder or a file."),
        optional(
            "topic", "Camera topic in the bag. Empty: its only topic of Image or CompressedImage."
        ),
        optional(
            "realtime",
            "Play at so many times the recorded speed; the node may miss images. Empty: lockstep,"
            " without missed images.",
        ),
        optional("start", "Seconds into the bag at which to start."),
        optional("duration", "Seconds to play."),
        switch("loop", "Repeat the bag; the first round is recorded."),
        DeclareLaunchArgument(
            "out",
            default_value="replay_output",
            description="Output folder for results and metrics.",
        ),
        switch("overwrite", "Replace an existing replay."),
        switch("evaluate", "Evaluate the results against the ground truth, into report.html."),
        namespace_argument(),  # needed before camera.launch.py declares it
    ]


def _camera_of_the_bag(context: LaunchContext) -> None:
    """Set the arguments of camera.launch.py that follow from the bag.

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
        # Lockstep needs every image.
        arguments.setdefault("image_reliability", "reliable")


def _replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    bag = context.launch_configurations["bag"]
    # Loading the network takes time, and so may each image.
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
