"""`upsnet node`: the ROS node, with an option for every parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from upsnet_ros.ros.settings import ParameterInfo, Value, parameters
from upsnet_ros.ros.settings_text import yaml_value

__all__ = ["node", "ros_arguments"]


def ros_arguments(
    values: Mapping[str, Value], rest: Sequence[str] = (), *, image_topic: str | None = None
) -> list[str]:
    """The ROS command line that sets parameters.

    Args:
        values: Of parameters, by name.
        rest: ``--ros-args ...`` as the user gave it, or nothing; it comes last, and so it wins.
        image_topic: What the node's input ``image`` is remapped to.
    """
    given = [part for name in values for part in ("-p", f"{name}:={yaml_value(values[name])}")]
    remap = ["-r", f"image:={image_topic}"] if image_topic else []
    return ["--ros-args", *given, *remap, *rest[1:]]


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every parameter, from the one source of their texts."""
    topic = typer.Option(help="Topic of the camera's images; remaps image.")
    options = [
        _keyword("image_topic", Annotated[str | None, topic]),
        *(_option(info) for info in parameters()),
    ]
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    # typer reads both, depending on its version.
    command.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (context, *options)}
    return command


def _option(info: ParameterInfo) -> inspect.Parameter:
    kind: Any = list[str] if isinstance(info.default, tuple) else type(info.default)
    limits = f" ({info.constraint})" if info.constraint else ""
    default = ", ".join(info.default) if isinstance(info.default, tuple) else str(info.default)
    option = typer.Option(
        help=info.text + limits, show_default=default or "none", rich_help_panel=info.group
    )
    # None, and not the default, tells apart what was given from what was not.
    return _keyword(info.name, Annotated[kind | None, option])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


@_with_options
def node(ctx: typer.Context, *, image_topic: str | None, **options: Any) -> None:
    """Segment camera topics: the ROS 2 node, until Ctrl-C.

    Every parameter has an option here; all that follows --ros-args goes to ROS as it is.
    """
    from upsnet_ros.ros.node import main
    from upsnet_ros.ros.transport import use_shared_memory_profile

    use_shared_memory_profile()
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if value is not None and value != []
    }
    raise typer.Exit(main(ros_arguments(values, ctx.obj or (), image_topic=image_topic)))
