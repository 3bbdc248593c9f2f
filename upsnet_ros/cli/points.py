"""`upsnet points`: the points node, with an option for every parameter, and started by a replay."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upsnet_ros.cli.node import given, ros_arguments, with_parameter_options
from upsnet_ros.cli.options import check_ros_arguments, check_topic
from upsnet_ros.errors import SettingsError
from upsnet_ros.node.parameter_info import Value, infos
from upsnet_ros.points.parameters import NO_TF2_MSGS, PointsSettings

if TYPE_CHECKING:
    from upsnet_ros.bags.replay_topics import PointInput, PointInputs, ReplayTopics
    from upsnet_ros.playback.settings import ReplaySettings

_PARAMETERS = infos(PointsSettings)
_COMMON = frozenset({"input", "extrinsics", "rectified"})


@with_parameter_options(_PARAMETERS, common=_COMMON)
def points(
    ctx: typer.Context,
    *,
    depth_topic: Annotated[
        str | None, typer.Option(help="Topic of depth images; remaps depth. Implies --input depth.")
    ] = None,
    cloud_topic: Annotated[
        str | None,
        typer.Option(help="Topic of clouds; remaps points_in. Implies --input cloud."),
    ] = None,
    camera_info_topic: Annotated[
        str | None, typer.Option(help="Topic of the calibration; remaps camera_info.")
    ] = None,
    **options: Any,
) -> None:
    """Give points of a depth camera or lidar the labels of a running node, until Ctrl-C.

    Every parameter is an option; the numbers of extrinsics are separated by commas. Arguments after
    --ros-args go to ROS unchanged.
    """
    texts = given(options)
    values = {
        info.name: info.parse(text) if isinstance(text := texts[info.name], str) else text
        for info in _PARAMETERS
        if info.name in texts
    }
    named = [kind for kind, topic in (("depth", depth_topic), ("cloud", cloud_topic)) if topic]
    if len(named) == 2:
        raise SettingsError("--depth-topic and --cloud-topic exclude each other: name one")
    if named:
        values.setdefault("input", named[0])
    settings = PointsSettings(**values)  # type: ignore[arg-type]
    for kind in named:
        if kind != settings.input:
            raise SettingsError(f"--{kind}-topic has no effect with --input {settings.input}")
    check_topic("--depth-topic", depth_topic)
    check_topic("--cloud-topic", cloud_topic)
    check_topic("--camera-info-topic", camera_info_topic)
    check_ros_arguments(ctx.obj or ())
    # Arguments of ROS may set extrinsics too.
    if settings.reads_transforms and not ctx.obj and find_spec("tf2_msgs") is None:
        raise SettingsError(NO_TF2_MSGS)
    from upsnet_ros.points.node import main

    remappings = {
        "depth": depth_topic,
        "points_in": cloud_topic,
        "camera_info": camera_info_topic,
    }
    raise typer.Exit(main(ros_arguments(values, ctx.obj or (), remappings=remappings)))


def points_node(
    bag: Path,
    topics: ReplayTopics,
    settings: ReplaySettings,
    *,
    namespace: str,
    kind: PointInput | None = None,
) -> list[str]:
    """Return the command line of the points node for this replay.

    Args:
        bag: The bag to replay.
        topics: Its topics.
        settings: How it is replayed.
        namespace: Namespace of the segmenting node.
        kind: What points come from; None: clouds if there are any, otherwise depth images.

    Raises:
        PointsError: If /tf_static of the bag does not lead from the clouds to the camera.
        TopicError: If the bag has no points that can be labelled.
    """
    from upsnet_ros.bags.replay_topics import point_inputs

    inputs = point_inputs(bag, topics, kind=kind)
    values: dict[str, Value] = {
        "input": inputs.kind,
        "max_offset": 0.0,
        "sensor_reliability": "reliable",
        f"qos_overrides.{inputs.camera_info}.subscription.reliability": "reliable",
    }
    if inputs.kind == "depth":
        values["organized"] = True  # tells the pixel of each point, by which it is evaluated
        remapped = "depth"
    else:
        values["extrinsics"] = _extrinsics(inputs)
        remapped = "points_in"
    arguments = ros_arguments(
        values,
        remappings={remapped: inputs.topic, "camera_info": inputs.camera_info},
        namespace=namespace,
        use_sim_time=settings.clock_hz is not None,
    )
    return ["points", *arguments]


def _extrinsics(inputs: PointInputs) -> tuple[float, ...]:
    """Return the pose of the clouds' frame in the camera's, from /tf_static of the bag.

    It becomes a parameter: not every machine has tf2_msgs, to replay /tf_static with.

    Raises:
        PointsError: If /tf_static does not lead from one to the other.
    """
    from scipy.spatial.transform import Rotation

    from upsnet_ros.points.camera_model import RigidTransform, StaticTransforms

    tree = StaticTransforms()
    for parent, child, pose in inputs.transforms:
        name = f"the transform from {child} to {parent}"
        tree.add(parent, child, RigidTransform.from_values(pose, name=name))
    found = tree.lookup(source=inputs.source, target=inputs.target)
    turn = Rotation.from_matrix(found.rotation).as_quat()
    return tuple(map(float, (*found.translation, *turn)))
