"""`upsnet points`: the points node, with an option for every parameter."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from upsnet_ros.cli.node import given, ros_arguments, with_parameter_options
from upsnet_ros.cli.options import check_ros_arguments, check_topic
from upsnet_ros.errors import SettingsError
from upsnet_ros.node.parameter_info import infos
from upsnet_ros.points.settings import NO_TF2_MSGS, PointsSettings

__all__ = ["points"]

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
    if len(named) == 1:
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
