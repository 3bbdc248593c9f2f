"""The C++ example's reading of messages, compiled against the generated headers and run.

The node around it needs rclcpp and message_filters, which no wheel carries; where a ROS install has
them, `test_the_node_builds` builds it whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/cpp"
PREFIXES = [
    Path(prefix)
    for prefix in (*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix)
    if prefix
]


def include_directories() -> list[Path]:
    return [folder for prefix in PREFIXES for folder in (prefix / "include").glob("*")]


def has_header(name: str) -> bool:
    return any((folder / name).exists() for folder in include_directories())


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif(
    not has_header("upsnet_ros/msg/panoptic_instance_array.hpp"),
    reason="the messages' C++ headers are not installed",
)
def test_reading_a_scene(tmp_path: Path) -> None:
    program = tmp_path / "scene_report_test"
    sources = [EXAMPLE / "src/scene_report.cpp", Path(__file__).with_name("scene_report_test.cpp")]
    includes = [f"-isystem{folder}" for folder in include_directories()]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", EXAMPLE / "include"]
    built = subprocess.run(
        ["g++", *flags, *includes, *sources, "-o", program], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(
    not (has_header("rclcpp/rclcpp.hpp") and has_header("message_filters/subscriber.h")),
    reason="rclcpp and message_filters are not installed",
)
def test_the_node_builds(tmp_path: Path) -> None:
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", tmp_path / "build"],
        ["cmake", "--build", tmp_path / "build"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
