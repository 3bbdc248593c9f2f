"""`upsnet node`: the ROS node, with an option for every parameter."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from upsnet_ros.cli.node_options import given, ros_arguments, with_node_options

__all__ = ["node"]


@with_node_options()
def node(
    ctx: typer.Context,
    *,
    image_topic: Annotated[
        str | None, typer.Option(help="Topic of the camera's images; remaps image.")
    ] = None,
    **options: Any,
) -> None:
    """Segment camera topics: the ROS 2 node, until Ctrl-C.

    Every parameter has an option here; all that follows --ros-args goes to ROS as it is.
    """
    from upsnet_ros.ros.main import main

    arguments = ros_arguments(given(options), ctx.obj or (), image_topic=image_topic)
    raise typer.Exit(main(arguments))
