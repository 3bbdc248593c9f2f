"""As test_camera_launch.py, and where it can run: what replay.launch.py would start for a bag."""

from pathlib import Path

import pytest

pytest.importorskip("launch")
pytest.importorskip("launch_ros")

import cv2
import drive_bag
import numpy as np
from launch_file import LaunchFile, node_parameters, options

from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.processes.transport import (
    PROFILE_VARIABLES,
    TRANSPORT_VARIABLES,
    shared_memory_profile,
)

REPLAY = LaunchFile("replay.launch.py")


@pytest.fixture(autouse=True)
def _no_transport_chosen(monkeypatch):
    for name in TRANSPORT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def drive(tmp_path):
    return str(drive_bag.write_drive(tmp_path / "drive", 1))


def test_all_arguments_are_described_and_all_but_the_bag_optional():
    declared = REPLAY.declared()
    assert {"bag", "realtime", "loop", "weights", "variant", "use_sim_time", "rviz"} <= set(
        declared
    )
    for name, argument in declared.items():
        assert argument.description not in ("", "no description given")
        assert (argument.default_value is None) == (name == "bag")


def test_a_bag_alone_is_replayed_in_lockstep(drive):
    started = REPLAY.start(bag=drive)
    assert started.keys() == {"upsnet_node", "upsnet"}
    node, replay = started["upsnet_node"], started["upsnet"]
    assert f"image:={drive_bag.CAMERA}" in options(node, "-r")
    values = node_parameters(node)
    assert (values["image_transport"], values["image_reliability"]) == ("raw", "reliable")
    assert values["use_sim_time"] is False
    command = replay.cmd[replay.cmd.index("replay") : replay.cmd.index("--ros-args")]
    assert command[1:3] == [drive, "--no-node"]
    assert options(replay, "--namespace") == ["/panoptic"]
    assert options(replay, "--out") == ["replay_output"]
    assert not {"--realtime", "--loop", "--clock", "--evaluate", "--overwrite"} & set(command)
    for process in started.values():
        for name in PROFILE_VARIABLES:
            assert Path(process.env[name]).samefile(shared_memory_profile())


def test_arguments_reach_the_replay_and_the_node(drive):
    started = REPLAY.start(
        bag=drive,
        topic=drive_bag.CAMERA,
        realtime="0.5",
        start="1",
        duration="2.5",
        loop="true",
        overwrite="true",
        evaluate="true",
        out="there",
        namespace="front/eye",
        use_sim_time="true",
        scale="128",
    )
    replay, node = started["upsnet"], started["upsnet_node"]
    for option, value in {
        "--topic": drive_bag.CAMERA,
        "--realtime": "0.5",
        "--start": "1",
        "--duration": "2.5",
        "--out": "there",
        "--namespace": "/front/eye",
    }.items():
        assert options(replay, option) == [value]
    assert {"--loop", "--overwrite", "--evaluate", "--clock"} <= set(replay.cmd)
    assert "__ns:=/front/eye" in options(node, "-r")
    values = node_parameters(node)
    assert (values["scale"], values["use_sim_time"]) == (128, True)
    assert values["image_reliability"] == "best_effort", "a camera's loss is what realtime shows"


def test_images_of_the_ground_truth_are_no_cameras(tmp_path):
    path = str(drive_bag.write_drive(tmp_path / "drive", 1, unknown_mask=True))
    node = REPLAY.start(bag=path)["upsnet_node"]
    assert f"image:={drive_bag.CAMERA}" in options(node, "-r")


def test_the_root_is_a_namespace_too(drive):
    started = REPLAY.start(bag=drive, namespace="")
    assert options(started["upsnet"], "--namespace") == ["/"]
    assert "__ns:=/" in options(started["upsnet_node"], "-r")


def test_compressed_images(tmp_path):
    with BagWriter(path=tmp_path / "bag") as bag:
        make, kind = bag.types.make, "sensor_msgs/msg/CompressedImage"
        stamp = make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
        header = make("std_msgs/msg/Header", stamp=stamp, frame_id="")
        jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].reshape(-1)
        image = make(kind, header=header, format="jpeg", data=jpeg)
        bag.write("/eye/compressed", image, 0, kind)
    node = REPLAY.start(bag=str(tmp_path / "bag"))["upsnet_node"]
    assert node_parameters(node)["image_transport"] == "compressed"
    assert "image/compressed:=/eye/compressed" in options(node, "-r")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_topic": "/a"}, "image_topic cannot be given to a replay: name the bag's camera"),
        ({"video": "drive.mp4"}, "video cannot be given to a replay: a bag is played"),
        ({"topic": "/front"}, "topic /front is not in the bag"),
        ({"bag": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_replayed_ends_the_launch_and_is_told(drive, arguments, says, caplog):
    assert REPLAY.launch(**{"bag": drive, **arguments}) == (1, {})
    assert says in caplog.text
