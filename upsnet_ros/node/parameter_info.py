"""What a parameter of the node is: its value, range and description, and these as text.

`upsnet_ros.node.parameters` lists the parameters.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from upsnet_ros.errors import SettingsError

#: A parameter's value. A list is a tuple here, so that settings stay immutable.
Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]


class Changes(Enum):
    """When a parameter may change."""

    NEVER = "fixed at start"
    UNCONFIGURED = "read at configure"
    RELOADED = "read at configure and at ~/reload_weights"
    ALWAYS = "any time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInfo:
    """Description of one parameter.

    Attributes:
        name: ROS name, and name of the field in the settings class.
        default: Default value; its type is the parameter's type.
        text: What the parameter does, in full sentences.
        group: Heading under which it is listed.
        changes: When it may change.
        minimum: Smallest value of a number.
        maximum: Largest value of a number.
        choices: All valid values; empty if there are other constraints.
    """

    name: str
    default: Value
    text: str
    group: str
    changes: Changes
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def ros_type(self) -> str:
        """Name of the type as ``ros2 param describe`` prints it."""
        names = {bool: "boolean", int: "integer", float: "double", str: "string"}
        if isinstance(self.default, tuple):
            return f"{names[self._member]} array"
        return names[type(self.default)]

    @property
    def _member(self) -> type:
        """Type of the values of a list."""
        return type(self.default[0]) if isinstance(self.default, tuple) else type(self.default)

    @property
    def constraint(self) -> str:
        """The range or the choices as text; empty if every value is valid."""
        if self.choices:
            return "one of " + ", ".join(choice or '""' for choice in self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{self.minimum} to {self.maximum}"

    def parse(self, text: str) -> Value:
        """Parse the text of a value; numbers of a list are separated by commas.

        Raises:
            SettingsError: If the text is not a value of the type, or is out of range.
        """
        value: Value = text
        if isinstance(self.default, tuple):
            try:
                value = tuple(float(one) for one in text.strip("[] ").split(","))
            except ValueError:
                raise SettingsError(
                    f"{self.name} must be numbers separated by commas, not {text!r}"
                ) from None
        elif isinstance(self.default, bool):
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif isinstance(self.default, int | float):
            with suppress(ValueError):  # `check` says what it should be
                value = type(self.default)(text)
        self.check(value)
        return value

    def check(self, value: object) -> None:
        """Raise `SettingsError` if ``value`` is of the wrong type or out of range."""
        if type(value) is not type(self.default) or (
            isinstance(value, tuple) and not all(type(one) is self._member for one in value)
        ):
            raise SettingsError(f"{self.name} must be of type {self.ros_type}, not {value!r}")
        if self.choices and value not in self.choices:
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")
        if self.minimum is None or self.maximum is None or not isinstance(value, int | float):
            return
        if not self.minimum <= value <= self.maximum:  # refuses NaN too
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")


def parameter(
    default: Value,
    text: str,
    *,
    group: str,
    changes: Changes = Changes.UNCONFIGURED,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return the field of a settings class for one parameter; see `ParameterInfo`."""
    minimum, maximum = limits if limits else (None, None)
    info = {
        "default": default,
        "text": text,
        "group": group,
        "changes": changes,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata={"parameter": info})


def infos(settings: type) -> tuple[ParameterInfo, ...]:
    """Return all parameters of a settings class, in the order in which users see them."""
    return tuple(
        ParameterInfo(name=entry.name, **entry.metadata["parameter"]) for entry in fields(settings)
    )


def check_all(settings: Any) -> None:
    """Raise `SettingsError` if a field of ``settings`` is of the wrong type or out of range."""
    for info in infos(type(settings)):
        info.check(getattr(settings, info.name))


_YAML_HEAD = """\
# Every parameter of the upsnet node, with its default value.
# Copy this file, change what you need, and start with it:
#   ros2 launch upsnet_ros camera.launch.py params_file:=FILE
#   upsnet node --ros-args --params-file FILE
# Generated from upsnet_ros/node/parameters.py by `python -m upsnet_ros.node.parameters yaml`.
/**:
  ros__parameters:
"""

_YAML_CAMERAS = """
    # ---- Of one camera ----
    # If cameras has names, each camera also has these, under its name; see config/cameras4.yaml.
    # front:
"""


def yaml_value(value: Value) -> str:
    """Return a parameter's value in YAML, quoted so that ROS reads it with its type."""
    # JSON is YAML, and writes 0.5 and 1.0 as floats, "1" as a string.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def as_yaml(node: Sequence[ParameterInfo], camera: Sequence[ParameterInfo]) -> str:
    """Return the content of config/camera.yaml.

    Args:
        node: Parameters of the node.
        camera: Parameters of one camera.
    """
    blocks = []
    for group, members in groupby(node, key=lambda info: info.group):
        heading = f"    # ---- {group} ----\n"
        for info in members:
            comment = [*_wrapped(info.text, 94), _facts(info)]
            lines = [f"    # {line}\n" for line in comment]
            blocks.append(f"{heading}{''.join(lines)}    {info.name}: {yaml_value(info.default)}\n")
            heading = ""
    own = [
        f"    #   # {line}\n" if line else f"    #   {info.name}: {yaml_value(info.default)}\n"
        for info in camera
        for line in (*_wrapped(info.text, 90), _facts(info), "")
    ]
    return "".join((_YAML_HEAD, "\n".join(blocks), _YAML_CAMERAS, *own))


def as_markdown(node: Sequence[ParameterInfo], camera: Sequence[ParameterInfo] = ()) -> str:
    """Return the table of docs/parameters.md; arguments as for `as_yaml`."""
    rows = ["| parameter | default | changes | what |", "|---|---|---|---|"]
    named = [(info.name, info) for info in node]
    named += [(f"<camera>.{info.name}", info) for info in camera]
    for name, info in named:
        limits = f" ({info.constraint})" if info.constraint else ""
        default = yaml_value(info.default)
        rows.append(f"| `{name}` | `{default}` | {info.changes.value} | {info.text}{limits} |")
    return "\n".join(rows) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _facts(info: ParameterInfo) -> str:
    facts = [info.ros_type, info.constraint, info.changes.value]
    return f"[{'; '.join(fact for fact in facts if fact)}]"


def parameter_files(arguments: Sequence[str]) -> list[str]:
    """Return the parameter files that a ROS command line names."""
    return [name for option, name in pairwise(arguments) if option == "--params-file"]


def read_parameter_file(name: str) -> dict[str, Any]:
    """Return the content of a ROS parameter file.

    Raises:
        SettingsError: If it is missing, is not YAML, or sets no parameters.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(name).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read --params-file {name}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise SettingsError(f"--params-file {name} is not a YAML file: {text}") from None
    if content is None:  # an empty file, which ROS accepts
        return {}
    if not isinstance(content, dict) or not _sets_parameters(content):
        raise SettingsError(
            f"--params-file {name} sets no parameters: they stand under the node's name and then"
            " ros__parameters, as in config/camera.yaml"
        )
    return content


def _sets_parameters(content: Mapping[Any, Any]) -> bool:
    """Return whether every branch of a parameter file leads to ``ros__parameters``."""
    return bool(content) and all(
        key == "ros__parameters" or (isinstance(value, dict) and _sets_parameters(value))
        for key, value in content.items()
    )


def missed_by(file: str, node: str) -> list[str]:
    """Return the nodes that a parameter file is for if ``node`` is none of them, else nothing.

    Args:
        file: Path of the file.
        node: Full name of a node, such as ``/panoptic/upsnet``.

    Raises:
        SettingsError: As `read_parameter_file`.
    """
    names = list(_nodes_in(read_parameter_file(file)))
    return [] if any(_matches(name, node) for name in names) else names


def _nodes_in(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Yield the names of nodes in a parameter file; namespaces may be nested."""
    for key, value in content.items():
        name = f"{above}/{str(key).strip('/')}"
        if "ros__parameters" in value:
            yield name
        else:
            yield from _nodes_in(value, name)


def _matches(pattern: str, node: str) -> bool:
    """Return whether a node's full name is one of a pattern: ** are any parts, * is one."""
    parts = {"**": r"(?:/\w+)*", "*": r"/\w+"}
    words = pattern.strip("/").split("/")
    return bool(re.fullmatch("".join(parts.get(one, "/" + re.escape(one)) for one in words), node))
