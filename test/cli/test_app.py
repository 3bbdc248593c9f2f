from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from upsnet_ros.cli import COMMANDS

#: Runs the command and tells on stdout which of the heavy modules it imported.
CALL = """
import atexit, sys
atexit.register(lambda: print("imported:", *sorted({"torch", "rclpy", "cv2"} & set(sys.modules))))
from upsnet_ros.cli import main
main()
"""


def upsnet(*arguments, code=CALL):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_command_and_imports_none():
    done = upsnet("--help")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "imported:"
    for name, command in COMMANDS.items():
        assert name in done.stdout
        assert command.help in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists(name):
    command = COMMANDS[name]
    assert callable(getattr(importlib.import_module(command.module), command.function))


def test_a_misspelt_command():
    done = upsnet("nod")
    assert done.returncode == 2
    assert "Did you mean" in done.stderr


def test_ros_arguments_where_they_mean_nothing():
    done = upsnet("bench", "--ros-args", "-p", "a:=1")
    assert done.returncode == 1
    assert done.stderr == "error: `upsnet bench` is no ROS process and takes no --ros-args\n"


def test_a_ros_command_without_ros():
    # None in sys.modules makes Python say that there is no such module.
    done = upsnet("node", code="import sys; sys.modules['rclpy'] = None" + CALL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `upsnet node` needs ROS 2")


def test_a_command_without_its_extra():
    done = upsnet("evaluate", code="import sys; sys.modules['kornia_rs'] = None" + CALL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `upsnet evaluate` needs kornia_rs")
    assert "upsnet_ros[evaluate]" in done.stderr
