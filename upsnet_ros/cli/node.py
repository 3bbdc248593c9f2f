"""`upsnet node`: the ROS node, with an option for every parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import typer

from upsnet_ros.cli.options import (
    MORE,
    check_device,
    check_precision,
    check_ros_arguments,
    check_topic,
    require_weights,
)
from upsnet_ros.node.parameter_info import ParameterInfo, Value, yaml_value
from upsnet_ros.node.parameters import NodeSettings, parameters

#: Parameters that a command sets itself for the node that it starts.
OF_A_DRIVEN_NODE = frozenset(
    {"cameras", "image_transport", "image_reliability", "autostart", "diagnostics_period"}
    | {"stale_timeout"}
)

#: Parameters that ``--help`` shows; ``--help-all`` shows all.
COMMON = frozenset({"weights", "variant", "device", "scale", "cameras", "tracking"})


def with_node_options(
    *, leave_out: Collection[str] = (), common: Collection[str] = COMMON, panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command options for the node's parameters, as `with_parameter_options` does.

    Args:
        leave_out: Parameters without an option.
        common: As there.
        panel: As there.
    """
    chosen = [info for info in parameters() if info.name not in leave_out]
    return with_parameter_options(chosen, common=common, panel=panel)


def with_parameter_options(
    chosen: Sequence[ParameterInfo], *, common: Collection[str], panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command, in addition to its own, an option for every parameter.

    The command receives them as keyword arguments, with None for options that were not given.

    Args:
        chosen: The parameters.
        common: Parameters that ``--help`` shows, each with the first sentence of its text.
        panel: Heading of ``--help`` for the common ones; None for no heading of their own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one
            for one in inspect.signature(command, eval_str=True).parameters.values()
            if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [_option(info, panel, common=info.name in common) for info in chosen]
        # typer reads both, depending on its version.
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Value]:
    """Return the parameters that were given on the command line, with their values."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if value is not None and value != []
    }


def check_parameters(values: Mapping[str, Value]) -> None:
    """Check parameters as the node does, but without importing torch or rclpy.

    Raises:
        SettingsError: If a value is not possible, or a file is missing.
    """
    settings = NodeSettings(**values)  # type: ignore[arg-type]
    require_weights(str(values.get("weights", "")) or None, variant=settings.variant)
    check_device(settings.device)
    check_precision(settings.precision, device=settings.device)
    settings.check_classes()


def ros_arguments(
    values: Mapping[str, Value],
    rest: Sequence[str] = (),
    *,
    remappings: Mapping[str, str | None] = MappingProxyType({}),
    namespace: str | None = None,
    use_sim_time: bool = False,
) -> list[str]:
    """Return the ROS command line that sets parameters.

    Args:
        values: Parameters by name.
        rest: ``--ros-args ...`` from the user, or nothing; it comes last and therefore wins.
        remappings: Topics that inputs are remapped to, by the names of these; None: not remapped.
        namespace: Namespace of the node; None keeps the default.
        use_sim_time: Whether the node takes the time from /clock.
    """
    words = [part for name in values for part in ("-p", f"{name}:={yaml_value(values[name])}")]
    words += ["-p", "use_sim_time:=true"] if use_sim_time else []
    for name, topic in remappings.items():
        words += ["-r", f"{name}:={topic}"] if topic else []
    words += ["-r", f"__ns:={namespace}"] if namespace else []
    return ["--ros-args", *words, *rest[1:]]


def _option(info: ParameterInfo, panel: str | None, *, common: bool) -> inspect.Parameter:
    kind: Any = type(info.default)
    if isinstance(info.default, tuple):  # numbers of a list are one text
        kind = list[str] if isinstance(info.default[0], str) else str
    if common:
        text = info.text.partition(". ")[0].rstrip(".") + "."
        settings: dict[str, Any] = {"rich_help_panel": panel}
    else:
        limits = f" ({info.constraint})" if info.constraint else ""
        default = info.default if isinstance(info.default, tuple) else (info.default,)
        default_text = ", ".join(map(str, default))
        text = f"{info.text}{limits} Default: {default_text or 'none'}."
        settings = {"rich_help_panel": f"{MORE}: {info.group.lower()}", "hidden": True}
    # The default is part of the text because typer would put it in brackets, as in [default: (0)].
    option = typer.Option(help=text, show_default=False, **settings)
    # The default is None, which tells apart what was given from what was not.
    return inspect.Parameter(
        info.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


@with_node_options()
def node(
    ctx: typer.Context,
    *,
    image_topic: Annotated[str | None, typer.Option(help="Camera topic; remaps image.")] = None,
    **options: Any,
) -> None:
    """Run the ROS 2 node: segment camera topics until Ctrl-C.

    Every parameter is an option. Arguments after --ros-args go to ROS unchanged.
    """
    values = given(options)
    check_parameters(values)
    check_topic("--image-topic", image_topic)
    check_ros_arguments(ctx.obj or ())
    from upsnet_ros.node.node import main

    raise typer.Exit(main(ros_arguments(values, ctx.obj or (), remappings={"image": image_topic})))
