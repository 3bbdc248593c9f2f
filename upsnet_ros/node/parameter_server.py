"""Settings as parameters of a ROS node: declared, checked and kept true while they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from upsnet_ros.errors import SettingsError, did_you_mean, first_line, listed
from upsnet_ros.node.parameter_info import (
    Changes,
    ParameterInfo,
    Value,
    infos,
    missed_by,
    parameter_files,
)
from upsnet_ros.node.parameters import CameraSettings, NodeSettings, prefix
from upsnet_ros.weights import cache_folder, find_weights, name_of, shipped_weights
from upsnet_ros.weights.catalogue import similar

_Type = Parameter.Type
#: More unknown parameters than that are those of another node rather than misspelt ones.
_MISSPELT = 5

if TYPE_CHECKING:
    from rclpy.node import Node as _Base
else:
    _Base = object  # a mixin before whichever of rclpy's nodes


class LenientParameters(_Base):
    """A mixin for rclpy's nodes: takes two requests that mean no harm and that rclpy refuses.

    Setting a parameter to the value that it has succeeds, even if it is read-only, so that a dump
    of all parameters can be loaded again. An integer is taken for a double: in YAML and on the
    command line ``10`` is an integer.
    """

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Sets one parameter after the other."""
        return [self.set_parameters_atomically([one]) for one in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Sets several parameters together, or none of them."""
        declared = self.get_parameters_by_prefix("")
        for one in parameter_list:
            # rclpy's own reason does not name it.
            if one.name not in declared and not self._allow_undeclared_parameters:
                return SetParametersResult(
                    successful=False, reason=_no_parameter(one.name, declared)
                )
        changes = [one for one in map(self._as_declared, parameter_list) if not self._holds(one)]
        if parameter_list and not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def _as_declared(self, wished: Parameter) -> Parameter:
        return _with_doubles(wished, self.get_parameter_or(wished.name).type_)

    def _holds(self, wished: Parameter) -> bool:
        now = self.get_parameter_or(wished.name)
        given = wished.type_ is not Parameter.Type.NOT_SET
        return given and (now.type_, now.value) == (wished.type_, wished.value)


def parameter_overrides(node: Node) -> Mapping[str, Parameter]:
    """The values that the node was started with, by name, whether declared yet or not.

    rclpy has no public way to see those that are not declared; without its private one there are
    none here.
    """
    return getattr(node, "_parameter_overrides", {})


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


class DeclaredParameters:
    """Declares settings classes as parameters of a node and answers every wish to change them.

    A change is taken whole or, with a reason, not at all: several parameters that are set together
    are checked together, and so is what the node makes of them. Call `declare` for each settings
    class, then `answer`.

    Args:
        node: Whose parameters they are.
        configured: Whether the node is past configure, so that what configure read stays as it is.
        check: Called with the settings that a change would lead to, by prefix. May refuse them with
            a ValueError or RuntimeError, and changes nothing.
        changed: Called once new settings are taken.
    """

    def __init__(
        self,
        node: Node,
        *,
        configured: Callable[[], bool],
        check: Callable[[Mapping[str, Any]], None],
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._configured = configured
        self._check_settings = check
        self._changed = changed
        self._infos: dict[str, ParameterInfo] = {}
        self._groups: dict[str, Any] = {}  # settings by the prefix of their parameters

    def declare(self, kind: type, *, begins: str = "") -> None:
        """Declare the parameters of a settings class.

        Args:
            kind: Dataclass of fields that `upsnet_ros.node.parameters.parameter` made.
            begins: Prefix of the parameters' names.

        Raises:
            SettingsError: If a value that the user started the node with cannot be used.
        """
        self._infos |= {begins + info.name: info for info in infos(kind)}
        self._groups[begins] = kind(**_declare(self._node, begins, infos(kind)))

    def answer(self) -> None:
        """Answer wishes to change parameters from now on; warn of values without a parameter.

        Raises:
            SettingsError: If a ``qos_overrides`` parameter was given with a wrong type.
        """
        node = self._node
        _check_policies(node)
        if hasattr(node, "add_post_set_parameters_callback"):
            node.add_on_set_parameters_callback(self._check)
            node.add_post_set_parameters_callback(self._take)
        else:  # Humble: nothing is called later than this
            node.add_on_set_parameters_callback(self._check_and_take)
        self._warn_of_unknown(node)

    def settings_of(self, begins: str = "") -> Any:
        """Return the settings of this moment whose parameters have this prefix."""
        return self._groups[begins]

    def _check(self, wished: Sequence[Parameter]) -> SetParametersResult:
        """Whether parameters may be set; changes nothing."""
        try:
            changes = self._changes(wished)
            if not changes:  # rclpy declares qos_overrides while configure makes publishers
                return SetParametersResult(successful=True)
            groups = self._with(changes)
            for name in changes:
                if self._infos[name].changes is Changes.UNCONFIGURED and self._configured():
                    raise SettingsError(f"{name} is read at configure: clean the node up first")
            self._check_settings(groups)
        except (ValueError, RuntimeError) as error:
            return SetParametersResult(successful=False, reason=first_line(error))
        return SetParametersResult(successful=True)

    def _take(self, taken: Sequence[Parameter]) -> None:
        """Acts on parameters that are set now."""
        changes = self._changes(taken)
        if changes:
            self._groups = self._with(changes)
            self._changed()

    def _check_and_take(self, wished: Sequence[Parameter]) -> SetParametersResult:
        result = self._check(wished)
        if result.successful:
            self._take(wished)
        return result

    def _changes(self, wished: Sequence[Parameter]) -> dict[str, Any]:
        """Those of the values that differ from the present ones, by the parameter's name."""
        # Other parameters pass here too: use_sim_time, and qos_overrides as they are declared.
        mine = {one.name: _value(one) for one in wished if one.name in self._infos}
        present = {
            begins + info.name: getattr(settings, info.name)
            for begins, settings in self._groups.items()
            for info in infos(type(settings))
        }
        return {name: value for name, value in mine.items() if value != present[name]}

    def _with(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, by prefix, that these values lead to.

        Raises:
            SettingsError: A value cannot be used.
        """
        return {
            begins: replace(settings, **_part(begins, infos(type(settings)), changes))
            for begins, settings in self._groups.items()
        }

    def _warn_of_unknown(self, node: Node) -> None:
        # ROS takes every name without a word, so a misspelt parameter would do nothing at all.
        unknown = [
            name
            for name in parameter_overrides(node)
            if not node.has_parameter(name) and not name.startswith("qos_overrides.")
        ]
        if len(unknown) > _MISSPELT:
            node.get_logger().warning(
                f"there are no parameters {listed(unknown)}: are they for another node?"
            )
            return
        for name in unknown:
            node.get_logger().warning(_no_parameter(name, self._infos))


class NodeParameters(DeclaredParameters):
    """The parameters of the segmenting node and of its cameras.

    Args:
        node: As in `DeclaredParameters`.
        configured: As in `DeclaredParameters`.
        check: Called with the node's settings that a change would lead to; may refuse them.
        changed: Called with the new settings, of the node and by camera, once they are taken.

    Raises:
        As `DeclaredParameters.declare` does.
    """

    def __init__(
        self,
        node: Node,
        *,
        configured: Callable[[], bool],
        check: Callable[[NodeSettings], None],
        changed: Callable[[NodeSettings, Mapping[str, CameraSettings]], None],
    ) -> None:
        def check_node(groups: Mapping[str, Any]) -> None:
            self._check_weights(groups[""].weights)
            check(groups[""])

        super().__init__(
            node,
            configured=configured,
            check=check_node,
            changed=lambda: changed(self.settings, self.cameras),
        )
        self.declare(NodeSettings)
        self._started_with = self.settings.weights
        # A single camera without a name has the node's parameters.
        for camera in filter(None, self.settings.cameras):
            self.declare(CameraSettings, begins=prefix(camera))
        self.answer()

    @property
    def settings(self) -> NodeSettings:
        """The settings of this moment."""
        return self.settings_of()

    @property
    def cameras(self) -> dict[str, CameraSettings]:
        """Each camera's settings of this moment, complete."""
        return {
            camera: (self.settings_of(prefix(camera)) if camera else CameraSettings()).within(
                self.settings, camera=camera
            )
            for camera in self.settings.cameras
        }

    def _check_weights(self, weights: str) -> None:
        """Check that new weights lie where they may come from.

        A name leads to bundled weights, or into the cache folder and nowhere else.
        """
        if weights in ("", self._started_with):
            return
        name = name_of(weights)
        plain = os.sep not in weights and not Path(weights).suffix
        if name is None and plain and not Path(weights).exists():
            raise SettingsError(
                f"weights: {weights} is neither a file nor a name of `upsnet weights list`"
                f"{similar(weights)}"
            )
        path = Path(weights) if name is None else find_weights(weights)
        if name is not None and path == shipped_weights(name):
            return
        allowed = self._weights_folder() if name is None else cache_folder()
        if allowed is None:
            raise SettingsError(
                "weights cannot be changed, except to a name of `upsnet weights list`: the node was"
                " started without weights_folder, which names the folder that files may come from"
            )
        # Resolved, so that neither .. nor ~ nor a link leads out.
        wished, root = (one.expanduser().resolve() for one in (path, allowed))
        if not wished.is_relative_to(root):
            raise SettingsError(f"weights must lie in the folder {allowed}, see weights_folder")

    def _weights_folder(self) -> Path | None:
        """Return the folder of files that weights may name; None if there is none."""
        if self.settings.weights_folder:
            return Path(self.settings.weights_folder)
        if name_of(self._started_with) is not None:
            return cache_folder()
        return Path(self._started_with).parent if self._started_with else None


def _no_parameter(name: str, names: Iterable[str]) -> str:
    return f"there is no parameter {name}{did_you_mean(name, names)}"


def _declare(node: Node, begins: str, infos: tuple[ParameterInfo, ...]) -> dict[str, Any]:
    """Declare parameters; returns their values by name, where they have one.

    Raises:
        SettingsError: A value that the node was started with is of the wrong type or out of range.
    """
    values = {}
    for info in infos:
        name, default = begins + info.name, _ros_value(info.default)
        given = parameter_overrides(node).get(name)
        converted = False
        if given is not None and given.type_ is not _Type.NOT_SET:
            as_double = _with_doubles(given, _Type.from_parameter_value(default))
            # Before rclpy, whose own errors are harder to read.
            replace(info, name=name).check(_value(as_double))
            if converted := as_double is not given:
                default = as_double.value
        one = node.declare_parameter(name, default, descriptor(info), ignore_override=converted)
        # An empty list in a YAML file comes without a value; the default stands for it.
        if one.value is not None:
            values[info.name] = _value(one)
    return values


#: Values of the types that the policies in ``qos_overrides`` have; others are strings.
_POLICIES: dict[str, Value] = {
    "avoid_ros_namespace_conventions": False,
    **dict.fromkeys(("deadline", "depth", "lifespan", "liveliness_lease_duration"), 0),
}


def _check_policies(node: Node) -> None:
    # rclpy raises only when the topic's publisher or subscription is made, out of a transition.
    for name, given in parameter_overrides(node).items():
        if name.startswith("qos_overrides."):
            default = _POLICIES.get(name.rpartition(".")[2], "")
            info = ParameterInfo(
                name=name, default=default, text="", group="", changes=Changes.NEVER
            )
            info.check(_value(given))


def _with_doubles(given: Parameter, wanted: Any) -> Parameter:
    """The parameter with its integers made doubles, where doubles are wanted."""
    if (given.type_, wanted) == (_Type.INTEGER, _Type.DOUBLE):
        return Parameter(given.name, value=float(given.value))
    if (given.type_, wanted) == (_Type.INTEGER_ARRAY, _Type.DOUBLE_ARRAY):
        return Parameter(given.name, value=[float(one) for one in given.value])
    return given


def _part(
    begins: str, infos: tuple[ParameterInfo, ...], changes: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        info.name: changes[begins + info.name] for info in infos if begins + info.name in changes
    }


def _ros_value(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(parameter: Parameter) -> Any:
    value = parameter.value
    return value if isinstance(value, bool | int | float | str | None) else tuple(value)


def warn_of_files(node: Node, arguments: Sequence[str]) -> None:
    """Warn of parameter files that are for other nodes only, which ROS ignores without a word.

    Args:
        node: The node that was started.
        arguments: Command line of its process.
    """
    full_name = node.get_fully_qualified_name()
    for file in parameter_files(arguments):
        others = missed_by(file, full_name)
        if others:
            node.get_logger().warning(
                f"{file} sets no parameters of this node, {full_name}: its entries are for"
                f" {listed(others)}; the key must be {full_name} or /**"
            )
