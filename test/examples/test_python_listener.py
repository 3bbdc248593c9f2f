"""The Python example against real messages over DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages.results import instances_message, label_info_message, labels_message
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.topics import label_info_qos, output_qos
from upsnet_ros.processes.transport import private_environment

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/python/panoptic_listener.py"
NAMESPACE = "/panoptic/front"

pytestmark = pytest.mark.dds


def street() -> PanopticFrame:
    """40x60: road in the lower half but for a quarter, a far and a near thing, two unknowns."""
    labels = np.full((40, 60), 11, np.int32)
    labels[20:] = 7
    labels[20:, :15] = 0
    labels[15:22, 30:40] = 26001
    labels[18:35, 45:50] = 24001
    unknown = np.zeros(labels.shape, bool)
    unknown[20:, :15] = True
    unknown[0:5, 0:5] = True
    labels[unknown] = 0

    def thing(value: int, name: str, box: tuple[int, int, int, int]) -> Instance:
        area = int(np.count_nonzero(labels == value))
        return Instance(
            id=value,
            class_id=value // 1000,
            class_name=name,
            score=0.875,
            box=box,
            detection_box=box,
            area=area,
        )

    return PanopticFrame(
        labels=labels,
        unknown=unknown,
        instances=(
            thing(24001, "person", (45, 18, 49, 34)),
            thing(26001, "car", (30, 15, 39, 21)),
        ),
        stuff=(StuffSegment(id=7, class_id=7, class_name="road", box=(15, 20, 59, 39), area=805),),
    )


@pytest.mark.parametrize("encoding", ["16UC1", "32SC1"])
def test_it_says_what_lies_ahead(tmp_path: Path, encoding: str) -> None:
    environment = private_environment()
    domain = int(environment["ROS_DOMAIN_ID"])
    context = rclpy.Context()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        rclpy.init(context=context, domain_id=domain)
        log = tmp_path / "log.txt"
        with log.open("wb") as out:
            example = subprocess.Popen(
                [sys.executable, str(EXAMPLE), "--ros-args", "-r", f"__ns:={NAMESPACE}"],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
    try:
        node = Node("camera", context=context)
        publishers = send(node, street(), encoding)
        wait_for(lambda: all(p.get_subscription_count() for p in publishers.values()), example)
        wait_for(lambda: "of cityscapes, where road is [7]" in log.read_text(), example)
        # The labels of one frame and the instances of another must not be taken for a pair.
        publishers["labels"].publish(labels_message(street(), header(1), encoding=encoding))
        publishers["instances"].publish(instances_message(street(), header(2)))
        publishers["labels"].publish(labels_message(street(), header(2), encoding=encoding))
        wait_for(lambda: "unknown regions ahead" in log.read_text(), example)
        example.send_signal(signal.SIGINT)
        assert example.wait(60) == 0
    finally:
        example.kill()
        example.wait()
        context.try_shutdown()
    (line,) = [line for line in log.read_text().splitlines() if "lower half" in line]
    # 20 rows: 15 of 60 columns unknown, 2x10 px of the car, 15x5 px of the person
    road = (20 * 45 - 20 - 75) / (20 * 60)
    assert line.endswith(
        f"5.000000002 front: road {road:.0%} of the lower half; "
        "2 things, nearest first: person 24001 (0.88), car 26001 (0.88); "
        "1 unknown regions ahead, 300 px"
    )


def header(nanosec: int) -> Header:
    return Header(stamp=Time(seconds=5, nanoseconds=nanosec).to_msg(), frame_id="front")


def send(node: Node, frame: PanopticFrame, encoding: str) -> dict[str, Any]:
    """The node's publishers, label_info sent."""
    kinds = {"labels": Image, "instances": PanopticInstanceArray}
    publishers = {
        name: node.create_publisher(kind, f"{NAMESPACE}/{name}", output_qos())
        for name, kind in kinds.items()
    }
    latched = node.create_publisher(PanopticLabelInfo, f"{NAMESPACE}/label_info", label_info_qos())
    latched.publish(label_info_message(CITYSCAPES, Header()))
    return {**publishers, "label_info": latched}


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the example ended"
        assert time.monotonic() < end
        time.sleep(0.05)
