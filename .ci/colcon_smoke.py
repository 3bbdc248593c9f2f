"""What `make colcon` installed is whole and works. Run by pytest, with the workspace sourced."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from ament_index_python import get_package_prefix, get_package_share_directory, get_resource
from rclpy.qos import DurabilityPolicy, QoSProfile

from upsnet_ros.msg import PanopticLabelInfo

SOURCE = Path(__file__).resolve().parents[1]
PREFIX = Path(get_package_prefix("upsnet_ros"))
SHARE = Path(get_package_share_directory("upsnet_ros"))
EXECUTABLES = PREFIX / "lib" / "upsnet_ros"
STARTUP_SECONDS = 120


@pytest.fixture(autouse=True)
def _own_domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "92")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def test_prefix_is_the_workspace():
    assert PREFIX.parent.name == "install"
    assert not PREFIX.is_relative_to(sys.prefix + "/lib")


@pytest.mark.parametrize(
    ("folder", "installed"),
    [("config", "config"), ("launch", "launch"), ("msg", "msg"), ("msg/srv", "srv")],
)
def test_share_holds_every_file_of(folder, installed):
    files = [file.name for file in (SOURCE / folder).iterdir() if file.is_file()]
    assert files
    assert [name for name in files if not (SHARE / installed / name).is_file()] == []


def test_messages_and_services_are_in_the_ament_index():
    interfaces, _ = get_resource("rosidl_interfaces", "upsnet_ros")
    for file in (SOURCE / "msg").glob("*.msg"):
        assert f"msg/{file.name}" in interfaces.split()
    for file in (SOURCE / "msg/srv").iterdir():
        assert f"srv/{file.name}" in interfaces.split()


def test_modules_and_messages_come_from_the_workspace(tmp_path):
    code = (
        "import upsnet_ros, upsnet_ros.msg as m, upsnet_ros.srv as s\n"
        "print(upsnet_ros.__file__, m.__file__, s.__file__)"
    )
    command = ["python3", "-c", code]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(printed.stdout.split()) == 3
    for file in printed.stdout.split():
        assert Path(file).is_relative_to(PREFIX)


def test_every_module_is_installed():
    import upsnet_ros

    source, installed = SOURCE / "upsnet_ros", Path(upsnet_ros.__file__).parent
    files = [file.relative_to(source) for file in source.rglob("*") if file.is_file()]
    files = [file for file in files if "__pycache__" not in file.parts]
    assert [str(file) for file in files if not (installed / file).is_file()] == []


def test_command_line_lists_its_commands(tmp_path):
    command = [EXECUTABLES / "upsnet", "--help"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for name in ("node", "points", "play", "record", "bench"):
        assert name in printed.stdout


@pytest.mark.parametrize("name", ["upsnet", "upsnet_node", "upsnet_points"])
def test_executables_can_be_run(name):
    assert os.access(EXECUTABLES / name, os.X_OK)


def test_node_starts_and_ends_on_sigint(tmp_path):
    parameters = ["allow_random_weights:=true", "variant:=cityscapes-r18", "scale:=128"]
    command = [EXECUTABLES / "upsnet_node", "--ros-args"]
    command += [argument for parameter in parameters for argument in ("-p", parameter)]
    node = subprocess.Popen(command, cwd=tmp_path)
    try:
        info = wait_for_label_info(node)
        assert (info.dataset, info.label_divisor) == ("cityscapes", 1000)
        node.send_signal(signal.SIGINT)
        assert node.wait(timeout=60) == 0
    finally:
        node.kill()
        node.wait()


def wait_for_label_info(node: subprocess.Popen) -> PanopticLabelInfo:
    """What the node latches when it becomes active."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    received: list[PanopticLabelInfo] = []
    rclpy.init()
    try:
        listener = rclpy.create_node("listener", namespace="panoptic")
        listener.create_subscription(PanopticLabelInfo, "label_info", received.append, latched)
        deadline = time.monotonic() + STARTUP_SECONDS
        while not received:
            assert node.poll() is None, f"the node ended with {node.returncode}"
            assert time.monotonic() < deadline, "the node did not become active"
            rclpy.spin_once(listener, timeout_sec=0.5)
        listener.destroy_node()
    finally:
        rclpy.shutdown()
    return received[0]
