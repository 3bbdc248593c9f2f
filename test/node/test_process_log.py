"""What a process of ROS does for all that runs in it: its log, and its end."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import logging
from upsnet_ros.node.process import RosProcess
own = logging.getLogger("upsnet_ros.inference.self_test")
with RosProcess([]):
    own.info("nms passed")
    own.warning("nms failed")
    own.error("%s cannot be used", "cuda:0")
    own.debug("hidden")
"""


def test_levels_are_kept_and_lines_come_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True
    )
    lines = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    told = [(words[0], words[2], " ".join(words[3:])) for words in lines]
    assert told == [
        ("[INFO]", "[upsnet]:", "nms passed"),
        ("[WARN]", "[upsnet]:", "nms failed"),
        ("[ERROR]", "[upsnet]:", "cuda:0 cannot be used"),
    ]


ENDS = """
import gc
from upsnet_ros.node.process import RosProcess
with RosProcess([]):
    print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000)
"""


def test_its_end_does_not_collect_what_the_system_takes_back() -> None:
    """With torch those collections take a second of a processor, five beside other processes."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["True", "True"]


REFUSED = """
from rclpy.node import Node
from upsnet_ros.node.process import RosProcess
with RosProcess(["--ros-args", "-p", "use_sim_time:=abc"]):
    Node("node")
"""


def test_what_rclpy_refuses_ends_it_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr == "error: use_sim_time must be of type boolean, not 'abc'\n"


LIMIT = """
from upsnet_ros.node.process import RosProcess
with RosProcess([]) as ros:
    print(ros.make(lambda: print("made"), log="node"), ros.exit_code)
"""


def test_a_limit_that_is_no_number_is_an_error_at_the_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMIT], capture_output=True, text=True, timeout=120,
        env=os.environ | {"UPSNET_MAX_PIXELS": "abc"},
    )  # fmt: skip
    assert done.stdout == "None 1\n", done.stderr
    assert "UPSNET_MAX_PIXELS is 'abc'" in done.stderr


REPEATED = """
import os, signal
from upsnet_ros.node.process import RosProcess

class Late:  # as the interpreter ends, after it has removed the handlers of signals
    def __del__(self, kill=os.kill, pid=os.getpid(), numbers=(signal.SIGINT, signal.SIGTERM)):
        for number in numbers:
            kill(pid, number)

late = Late()
with RosProcess([]):
    print("works", flush=True)
"""


def test_a_signal_that_is_repeated_as_it_ends_changes_nothing() -> None:
    """A terminal and `ros2 launch` both send one."""
    done = subprocess.run(
        [sys.executable, "-c", REPEATED], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split()[-1]) == (0, "works"), done.stderr
