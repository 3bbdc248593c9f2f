"""`NodeSettings` as parameters of a ROS node: declared, checked and kept true while they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from upsnet_ros.ros.camera_settings import CameraSettings, camera_parameters, prefix
from upsnet_ros.ros.parameter_info import Changes, ParameterInfo, SettingsError, Value
from upsnet_ros.ros.settings import NodeSettings, parameters
from upsnet_ros.ros.transitions import first_line

__all__ = ["NodeParameters", "descriptor"]


def descriptor(info: ParameterInfo) -> ParameterDescriptor:
    """What ``ros2 param describe`` tells of a parameter."""
    described = ParameterDescriptor(
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
    are checked together, and so is what the node makes of them.

    Args:
        node: Whose parameters they are.
        configured: Whether the node is past configure, so that what configure read stays as it is.
        changed: Called with the settings that a change would lead to, of the node and by camera,
            before they are taken. May refuse them with a ValueError or RuntimeError; then all must
            be as before.

    Raises:
        SettingsError: Where a value that the user started the node with cannot be used.
        ParameterException: Where it is of the wrong type or out of range (rclpy's own check).
    """

    def __init__(
        self,
        node: Node,
        *,
        configured: Callable[[], bool],
        changed: Callable[[NodeSettings, Mapping[str, CameraSettings]], None],
    ) -> None:
        self._configured = configured
        self._changed = changed
        self._infos = {info.name: info for info in parameters()}
        self._settings = NodeSettings(**_declare(node, "", parameters()))
        self._started_with = self._settings.weights
        self._own: dict[str, CameraSettings] = {}
        # A single camera without a name has the node's parameters.
        for camera in filter(None, self._settings.cameras):
            self._own[camera] = CameraSettings(
                **_declare(node, prefix(camera), camera_parameters())
            )
            for info in camera_parameters():
                self._infos[prefix(camera) + info.name] = info
        node.add_on_set_parameters_callback(self._set)
        self._warn_of_unknown(node)

    @property
    def settings(self) -> NodeSettings:
        """The settings of this moment."""
        return self._settings

    @property
    def cameras(self) -> dict[str, CameraSettings]:
        """Each camera's settings of this moment, complete."""
        return _complete(self._settings, self._own)

    def _set(self, wished: list[Parameter]) -> SetParametersResult:
        # Other parameters pass here too: use_sim_time, and qos_overrides as they are declared.
        changes = {one.name: _value(one) for one in wished if one.name in self._infos}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            for name in changes:
                if self._infos[name].changes is Changes.UNCONFIGURED and self._configured():
                    raise SettingsError(f"{name} is read at configure: clean the node up first")
            settings = replace(self._settings, **_part("", parameters(), changes))
            self._check_weights(settings.weights)
            own = {
                camera: replace(old, **_part(prefix(camera), camera_parameters(), changes))
                for camera, old in self._own.items()
            }
            self._changed(settings, _complete(settings, own))
        except (ValueError, RuntimeError) as error:
            return SetParametersResult(successful=False, reason=first_line(error))
        self._settings, self._own = settings, own
        return SetParametersResult(successful=True)

    def _check_weights(self, weights: str) -> None:
        if weights in ("", self._started_with):
            return
        folder = self._settings.weights_folder
        if not folder and not self._started_with:
            raise SettingsError(
                "weights cannot be changed, for the node was started without weights_folder, which"
                " names the folder that they may come from"
            )
        allowed = Path(folder) if folder else Path(self._started_with).parent
        # Resolved, so that neither .. nor ~ nor a link leads out.
        wished, root = (Path(one).expanduser().resolve() for one in (weights, allowed))
        if not wished.is_relative_to(root):
            raise SettingsError(f"weights must lie in the folder {allowed}, see weights_folder")

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


def _declare(node: Node, begins: str, infos: tuple[ParameterInfo, ...]) -> dict[str, Any]:
    """Declares parameters; their values by name, where they have one."""
    declared = node.declare_parameters(
        "", [(begins + info.name, _ros_value(info.default), descriptor(info)) for info in infos]
    )
    # An empty list in a YAML file comes without a value; the default stands for it.
    return {one.name.removeprefix(begins): _value(one) for one in declared if one.value is not None}


def _part(
    begins: str, infos: tuple[ParameterInfo, ...], changes: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        info.name: changes[begins + info.name] for info in infos if begins + info.name in changes
    }


def _complete(node: NodeSettings, own: Mapping[str, CameraSettings]) -> dict[str, CameraSettings]:
    return {
        camera: own.get(camera, CameraSettings()).within(node, camera=camera)
        for camera in node.cameras
    }


def _ros_value(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(parameter: Parameter) -> Any:
    value = parameter.value
    return tuple(value) if parameter.type_ is Parameter.Type.STRING_ARRAY else value
