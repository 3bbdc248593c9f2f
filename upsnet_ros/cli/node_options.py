"""The node's parameters as options of a command, from the one source of their texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import typer

from upsnet_ros.ros.settings import ParameterInfo, Value, parameters
from upsnet_ros.ros.settings_text import yaml_value

__all__ = ["OF_A_DRIVEN_NODE", "given", "ros_arguments", "with_node_options"]

#: Parameters that a command which starts a node for itself has to choose for it.
OF_A_DRIVEN_NODE = frozenset(
    {"cameras", "image_transport", "image_reliability", "autostart", "diagnostics_period"}
    | {"stale_timeout"}
)


def with_node_options(
    *, leave_out: Collection[str] = (), panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a typer command, beside its own, an option for every parameter of the node.

    The command takes them as ``**`` keywords; None stands for what was not given.

    Args:
        leave_out: Parameters without an option.
        panel: The heading of ``--help`` under which they stand; by default each one's own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one
            for one in inspect.signature(command, eval_str=True).parameters.values()
            if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [_option(info, panel) for info in parameters() if info.name not in leave_out]
        # typer reads both, depending on its version.
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Value]:
    """The parameters that were given on the command line, with their values."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if value is not None and value != []
    }


def ros_arguments(
    values: Mapping[str, Value],
    rest: Sequence[str] = (),
    *,
    image_topic: str | None = None,
    namespace: str | None = None,
    use_sim_time: bool = False,
) -> list[str]:
    """The ROS command line that sets parameters.

    Args:
        values: Of parameters, by name.
        rest: ``--ros-args ...`` as the user gave it, or nothing; it comes last, and so it wins.
        image_topic: What the node's input ``image`` is remapped to.
        namespace: Of the node; None leaves it as it is.
        use_sim_time: Whether the node takes the time from /clock.
    """
    words = [part for name in values for part in ("-p", f"{name}:={yaml_value(values[name])}")]
    words += ["-p", "use_sim_time:=true"] if use_sim_time else []
    words += ["-r", f"image:={image_topic}"] if image_topic else []
    words += ["-r", f"__ns:={namespace}"] if namespace else []
    return ["--ros-args", *words, *rest[1:]]


def _option(info: ParameterInfo, panel: str | None) -> inspect.Parameter:
    kind: Any = list[str] if isinstance(info.default, tuple) else type(info.default)
    limits = f" ({info.constraint})" if info.constraint else ""
    default = ", ".join(info.default) if isinstance(info.default, tuple) else str(info.default)
    option = typer.Option(
        help=info.text + limits,
        show_default=default or "none",
        rich_help_panel=panel or info.group,
    )
    # None, and not the default, tells apart what was given from what was not.
    return inspect.Parameter(
        info.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
