"""The README's way for a real camera: a file of detectron2's zoo, `weights get`, the node, labels.

Each command is a process of its own, and the node is spoken to over DDS.
"""

from __future__ import annotations

import array
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from zoo_file import ZooFile

from upsnet_ros import Predictor
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo

pytestmark = pytest.mark.dds

NAME = "coco-fpn-r50"
RELIABLE = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
HEIGHT, WIDTH = 240, 320


def image() -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    msg = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
    msg.header.frame_id = "camera"
    msg.header.stamp.sec = 1_700_000_000
    msg.data = array.array("B", pixels.tobytes())
    return msg


def test_weights_with_a_name_give_labels(probe, start, named: Path):
    """At a small scale, from weights that `weights get` converted in this process."""
    node = _show_and_compare(probe, start, named, scale=96)
    parameter = Parameter("weights", value="coco-fpn-r101").to_parameter_msg()
    request = SetParameters.Request(parameters=[parameter])
    (result,) = probe.call(SetParameters, "/panoptic/upsnet/set_parameters", request).results
    assert not result.successful and "upsnet weights get coco-fpn-r101" in result.reason
    assert node.signal(signal.SIGINT) == 0


@pytest.mark.long
def test_from_a_file_of_the_zoo_to_labels(
    probe, start, zoo_file: ZooFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both commands in processes of their own, at the network's own scale."""
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    got = start("weights", "get", NAME, "--file", str(zoo_file.path), "--yes")
    assert got.wait() == 0, got.output
    assert "CC BY-SA" in got.output
    node = _show_and_compare(probe, start, tmp_path, scale=800)
    assert node.signal(signal.SIGINT) == 0


def _show_and_compare(probe, start, folder: Path, *, scale: int):
    """Start the node with the name, show it an image, and compare labels with the Predictor's."""
    options = ("--scale", str(scale), "--device", "cpu", "--precision", "fp32", "--warm-up", "none")
    quality = ("--score-threshold", "0.05", "--image-reliability", "reliable", "--tracking")
    node = start("node", "--image-topic", "/camera", "--weights", NAME, *options, *quality)
    labels = probe.collect("/panoptic/labels", Image, RELIABLE)
    instances = probe.collect("/panoptic/instances", PanopticInstanceArray, RELIABLE)
    info = probe.collect("/panoptic/label_info", PanopticLabelInfo, LATCHED)
    diagnostics = probe.collect("/diagnostics", DiagnosticArray, RELIABLE)
    camera = probe.node.create_publisher(Image, "/camera", RELIABLE)
    probe.until(camera.get_subscription_count, "the node listens", node)
    probe.until(lambda: probe.node.count_publishers("/panoptic/labels"), "labels", node)
    shown, due = image(), [0.0]

    def answered() -> bool:
        # Again now and then: the node may not know yet who listens to its results.
        if time.monotonic() > due[0]:
            due[0] = time.monotonic() + 10
            camera.publish(shown)
        return bool(labels and instances and info)

    probe.until(answered, "labels and instances", node)

    assert labels[0].header == shown.header
    assert (labels[0].height, labels[0].width) == (HEIGHT, WIDTH)
    dtype = {"16UC1": np.uint16, "32SC1": np.int32}[labels[0].encoding]
    got_labels = np.frombuffer(labels[0].data, dtype).reshape(HEIGHT, WIDTH).astype(np.int32)
    predictor = Predictor(NAME, device="cpu", scale=scale, score_threshold=0.05)
    want = predictor(np.asarray(shown.data, np.uint8).reshape(HEIGHT, WIDTH, 3)).labels
    class_of = [np.where(x < 1000, x, x // 1000) for x in (got_labels, want)]
    np.testing.assert_array_equal(*class_of)  # tracking numbers things, and nothing else
    assert len(np.unique(want)) > 1, "there is something to see"
    assert len(info[0].classes) == 133

    def source() -> str:
        statuses = [status for report in diagnostics for status in report.status]
        values = [{one.key: one.value for one in status.values} for status in statuses]
        return next((x["weights"] for x in values if x.get("weights")), "")

    path = probe.until(source, "diagnostics name the weights", node)
    assert path == str(folder / f"{NAME}.safetensors")
    return node


def test_a_node_that_is_named_weights_that_are_not_here_ends_in_one_line(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    node = start("node", "--ros-args", "-p", f"weights:={NAME}")
    assert node.wait() == 1
    (line,) = [x for x in node.output.splitlines() if "upsnet weights get" in x]
    assert f"{NAME} is not here yet" in line and "Traceback" not in node.output
    assert list(tmp_path.iterdir()) == [], "nothing is downloaded"
