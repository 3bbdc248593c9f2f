"""The settings as text: config/camera.yaml and the README's table, both made from `NodeSettings`.

``python -m upsnet_ros.ros.settings_text yaml`` (or ``markdown``) prints them; tests compare what is
in the repository with what these functions return.
"""

from __future__ import annotations

import json
import sys
import textwrap
from itertools import groupby

from upsnet_ros.ros.camera_settings import camera_parameters
from upsnet_ros.ros.parameter_info import ParameterInfo, Value
from upsnet_ros.ros.settings import parameters

__all__ = ["as_markdown", "as_yaml", "yaml_value"]

_YAML_HEAD = """\
# Every parameter of the upsnet node, with its default value.
# Copy this file, change what you need, and start with it:
#   ros2 launch upsnet_ros camera.launch.py params_file:=FILE
#   upsnet node --ros-args --params-file FILE
# Made from upsnet_ros/ros/settings.py by `python -m upsnet_ros.ros.settings_text yaml`.
/**:
  ros__parameters:
"""

_YAML_CAMERAS = """
    # ---- Of one camera ----
    # Where cameras has names, each has these too, under its name; see config/cameras4.yaml.
    # front:
"""


def yaml_value(value: Value) -> str:
    """A parameter's value in YAML, quoted such that ROS reads it as the type that it is."""
    # JSON is YAML, and writes 0.5 and 1.0 as floats, "1" as a string.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def as_yaml() -> str:
    """The whole of config/camera.yaml."""
    blocks = []
    for group, members in groupby(parameters(), key=lambda info: info.group):
        heading = f"    # ---- {group} ----\n"
        for info in members:
            comment = [*textwrap.wrap(info.text, 94), _facts(info)]
            lines = [f"    # {line}\n" for line in comment]
            blocks.append(f"{heading}{''.join(lines)}    {info.name}: {yaml_value(info.default)}\n")
            heading = ""
    own = [
        f"    #   # {line}\n" if line else f"    #   {info.name}: {yaml_value(info.default)}\n"
        for info in camera_parameters()
        for line in (*textwrap.wrap(info.text, 90), _facts(info), "")
    ]
    return "".join((_YAML_HEAD, "\n".join(blocks), _YAML_CAMERAS, *own))


def as_markdown() -> str:
    """The README's table of parameters."""
    rows = ["| parameter | default | changes | what |", "|---|---|---|---|"]
    named = [(info.name, info) for info in parameters()]
    named += [(f"<camera>.{info.name}", info) for info in camera_parameters()]
    for name, info in named:
        limits = f" ({info.constraint})" if info.constraint else ""
        default = yaml_value(info.default)
        rows.append(f"| `{name}` | `{default}` | {info.changes.value} | {info.text}{limits} |")
    return "\n".join(rows) + "\n"


def _facts(info: ParameterInfo) -> str:
    facts = [info.ros_type, info.constraint, info.changes.value]
    return f"[{'; '.join(fact for fact in facts if fact)}]"


if __name__ == "__main__":
    makers = {"yaml": as_yaml, "markdown": as_markdown}
    if len(sys.argv) != 2 or sys.argv[1] not in makers:
        sys.exit(f"usage: python -m upsnet_ros.ros.settings_text {'|'.join(makers)}")
    sys.stdout.write(makers[sys.argv[1]]())
