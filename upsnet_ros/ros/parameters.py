"""`NodeSettings` as parameters of a ROS node: declared, checked and kept true while they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from upsnet_ros.ros.settings import (
    Changes,
    NodeSettings,
    ParameterInfo,
    SettingsError,
    Value,
    parameters,
)

__all__ = ["NodeParameters", "descriptor"]


def descriptor(info: ParameterInfo) -> ParameterDescriptor:
    """What ``ros2 param describe`` tells of a parameter."""
    described = ParameterDescriptor(
        name=info.name,
        description=info.text,
        additional_constraints="; ".join(
            part for part in (info.constraint if info.choices else "", info.changes.value) if part
        ),
        read_only=info.changes is Changes.NEVER,
    )
    if info.minimum is not None and info.maximum is not None:
        if isinstance(info.default, float):
            described.floating_point_range = [
                FloatingPointRange(from_value=info.minimum, to_value=info.maximum)
            ]
        else:
            described.integer_range = [
                IntegerRange(from_value=int(info.minimum), to_value=int(info.maximum), step=1)
            ]
    return described


class NodeParameters:
    """Declares the parameters on a node and answers every wish to change them.

    A change is taken whole or, with a reason, not at all: several parameters that are set together
    are checked together.

    Args:
        node: Whose parameters they are.
        configured: Whether the node is past configure, so that what configure read stays as it is.
        changed: Called with the new settings after a change.

    Raises:
        SettingsError: Where a value that the user started the node with cannot be used.
        ParameterException: Where it is of the wrong type or out of range (rclpy's own check).
    """

    def __init__(
        self,
        node: Node,
        *,
        configured: Callable[[], bool],
        changed: Callable[[NodeSettings], None],
    ) -> None:
        self._configured = configured
        self._changed = changed
        self._infos = {info.name: info for info in parameters()}
        declared = node.declare_parameters(
            "", [(info.name, _ros_value(info.default), descriptor(info)) for info in parameters()]
        )
        # An empty list in a YAML file comes without a value; the default stands for it.
        given = {one.name: _value(one) for one in declared if one.value is not None}
        self._settings = NodeSettings(**given)
        node.add_on_set_parameters_callback(self._set)
        self._warn_of_unknown(node)

    @property
    def settings(self) -> NodeSettings:
        """The settings of this moment."""
        return self._settings

    def _set(self, wished: list[Parameter]) -> SetParametersResult:
        # Other parameters pass here too: use_sim_time, and qos_overrides as they are declared.
        changes = {one.name: _value(one) for one in wished if one.name in self._infos}
        try:
            for name in changes:
                if self._infos[name].changes is Changes.UNCONFIGURED and self._configured():
                    raise SettingsError(f"{name} is read at configure: clean the node up first")
            settings = replace(self._settings, **changes)
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if changes:
            self._settings = settings
            self._changed(settings)
        return SetParametersResult(successful=True)

    def _warn_of_unknown(self, node: Node) -> None:
        # ROS takes every name without a word, so a misspelt parameter would do nothing at all.
        # rclpy has no public way to see what was given but not declared.
        given = getattr(node, "_parameter_overrides", {})
        for name in given:
            if node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            near = get_close_matches(name, self._infos, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            node.get_logger().warning(f"there is no parameter {name}{hint}")


def _ros_value(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(parameter: Parameter) -> Any:
    value = parameter.value
    return tuple(value) if parameter.type_ is Parameter.Type.STRING_ARRAY else value
