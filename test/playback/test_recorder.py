"""`upsnet record` against a node that the test plays itself: files, counts, and every ending."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.cli.record import _report
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages.results import (
    instances_message,
    label_info_message,
    labels_message,
    unknown_mask_message,
)
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.topics import label_info_qos, output_qos
from upsnet_ros.playback.settings import RecorderSettings

pytestmark = pytest.mark.dds

HEIGHT, WIDTH = 48, 64


def frame_of(index: int) -> PanopticFrame:
    """A road with a car that is ``index`` pixels farther right, and an unknown corner."""
    labels = np.full((HEIGHT, WIDTH), 7, np.int32)
    labels[20:30, index : index + 12] = 26001
    unknown = np.zeros(labels.shape, bool)
    unknown[40:, :10] = True
    labels[unknown] = 0
    box = (index, 20, index + 11, 29)
    return PanopticFrame(
        labels=labels,
        unknown=unknown,
        instances=(
            Instance(
                id=26001,
                class_id=26,
                class_name="car",
                score=0.9,
                box=box,
                detection_box=box,
                area=120,
            ),
        ),
        stuff=(
            StuffSegment(
                id=7, class_id=7, class_name="road", box=(0, 0, WIDTH - 1, HEIGHT - 1), area=2872
            ),
        ),
    )


class Street:
    """Camera and node in one, in a namespace of its own."""

    def __init__(self, probe: Any, name: str) -> None:
        self.probe, self.namespace = probe, f"/{name}"
        node = probe.node

        def publisher(kind: type, topic: str, qos: Any) -> Any:
            return node.create_publisher(kind, f"/{name}/{topic}", qos)

        self.image = publisher(Image, "image", output_qos())
        self.labels = publisher(Image, "labels", output_qos())
        self.instances = publisher(PanopticInstanceArray, "instances", output_qos())
        self.unknown = publisher(Image, "unknown_mask", output_qos())
        self.label_info = publisher(PanopticLabelInfo, "label_info", label_info_qos())
        self.label_info.publish(label_info_message(CITYSCAPES, Header()))

    def wait_for_recorder(self, recorder: Any) -> None:
        publishers = (self.image, self.labels, self.instances, self.unknown)
        self.probe.until(
            lambda: all(one.get_subscription_count() for one in publishers), "recorder", recorder
        )

    def show(self, index: int, *, answered: bool = True) -> None:
        stamp = Time(seconds=100, nanoseconds=index).to_msg()
        header = Header(stamp=stamp, frame_id="front")
        image = Image(header=header, height=HEIGHT, width=WIDTH, encoding="bgr8", step=WIDTH * 3)
        image.data.frombytes(np.full((HEIGHT, WIDTH, 3), 90, np.uint8).tobytes())
        self.image.publish(image)
        frame = frame_of(index)
        self.instances.publish(instances_message(frame, header))
        if answered:
            self.labels.publish(labels_message(frame, header, encoding="16UC1"))
        self.unknown.publish(unknown_mask_message(frame, header))


@pytest.fixture
def street(probe: Any, request: pytest.FixtureRequest) -> Iterator[Street]:
    yield Street(probe, request.node.name)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "frames.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def has_rows(out: Path, count: int) -> bool:
    return (out / "frames.csv").exists() and len(rows(out)) >= count


def video_frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


def test_frames_become_files(street: Street, start: Any, tmp_path: Path) -> None:
    recorder = start(
        *("record", "--out", str(tmp_path), "--namespace", street.namespace, "--count", "3"),
        *("--image-reliability", "reliable"),
    )
    street.wait_for_recorder(recorder)
    for index in range(4):
        street.show(index, answered=index != 1)
    assert recorder.wait() == 0
    assert "recorded 3 frames" in recorder.output
    assert "1 frames incomplete; missing: labels 1x" in recorder.output
    table = rows(tmp_path)
    assert [row["stamp"] for row in table] == ["100.000000000", "100.000000002", "100.000000003"]
    assert {row["frame_id"] for row in table} == {"front"}
    assert {(row["things"], row["stuff"], row["unknown_pixels"]) for row in table} == {
        ("1", "1", "80")
    }
    # Answers were sent after their image. By the time of arrival, not of a busy executor's call.
    assert all(0 <= float(row["latency_ms"]) < 60_000 for row in table)
    for number, index in enumerate((0, 2, 3)):
        expected = frame_of(index)
        labels = cv2.imread(str(tmp_path / f"labels/{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert (labels == expected.labels).all()
        unknown = cv2.imread(str(tmp_path / f"unknown/{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert ((unknown == 255) == expected.unknown).all()
        overlay = cv2.imread(str(tmp_path / f"overlay/{number:06d}.png"))
        assert (overlay[0, 60] != 90).any(), "the road is not tinted"
    assert video_frames(tmp_path / "overlay.mp4") == 3
    index_file = json.loads((tmp_path / "index.json").read_text())
    assert (index_file["frames"], index_file["complete"]) == (3, True)
    assert index_file["missing"] == {"labels": 1}
    assert index_file["dataset"] == "cityscapes"


def test_the_camera_is_the_one_that_the_node_reads(
    street: Street, start: Any, tmp_path: Path
) -> None:
    node, topic = street.probe.node, "/of_the_node/image_raw"
    node.destroy_publisher(street.image)
    street.image = node.create_publisher(Image, topic, output_qos())
    read = node.create_subscription(Image, topic, lambda _: None, output_qos())
    try:
        recorder = start(
            *("record", "--out", str(tmp_path), "--namespace", street.namespace, "--count", "1"),
            *("--image-reliability", "reliable"),
        )
        street.probe.until(
            lambda: street.image.get_subscription_count() == 2, "the recorder's", recorder
        )
        street.wait_for_recorder(recorder)
        street.show(0)
        assert recorder.wait() == 0, recorder.output
    finally:
        node.destroy_subscription(read)
    assert len(rows(tmp_path)) == 1


def test_ctrl_c_leaves_everything_whole(street: Street, start: Any, tmp_path: Path) -> None:
    recorder = start(
        *("record", "--out", str(tmp_path), "--namespace", street.namespace, "--no-png"),
        *("--image-reliability", "reliable", "--bag", str(tmp_path / "bag")),
    )
    street.wait_for_recorder(recorder)
    for index in range(3):
        street.show(index)
    street.probe.until(lambda: has_rows(tmp_path, 3), "three rows", recorder)
    assert recorder.signal(signal.SIGINT) == 0
    assert "Traceback" not in recorder.output
    assert video_frames(tmp_path / "overlay.mp4") == len(rows(tmp_path)) == 3
    assert json.loads((tmp_path / "index.json").read_text())["complete"] is True
    assert not (tmp_path / "overlay").exists()
    with open_bag(tmp_path / "bag") as bag:
        assert bag.losses == []
        stamps: dict[str, list[int]] = {topic.name: [] for topic in bag.topics}
        for record in bag:
            stamps[record.topic].append(record.message.header.stamp.nanosec)
        (label_info,) = [topic for topic in bag.topics if topic.latched]
    assert label_info.name == f"{street.namespace}/label_info"
    del stamps[label_info.name]
    topics = ("image", "labels", "instances", "unknown_mask")
    assert stamps == {f"{street.namespace}/{topic}": [0, 1, 2] for topic in topics}


def test_a_bag_that_exists_is_refused(start: Any, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/metadata.yaml").write_text("mine")
    recorder = start("record", "--out", str(tmp_path / "out"), "--bag", str(tmp_path / "bag"))
    assert recorder.wait() == 1
    assert recorder.output.startswith(f"error: {tmp_path / 'bag'} is not empty")
    assert "Traceback" not in recorder.output


def test_kill_leaves_what_was_written(street: Street, start: Any, tmp_path: Path) -> None:
    recorder = start(
        *("record", "--out", str(tmp_path), "--namespace", street.namespace),
        *("--image-reliability", "reliable"),
    )
    street.wait_for_recorder(recorder)
    for index in range(3):
        street.show(index)
    street.probe.until(lambda: has_rows(tmp_path, 3), "three rows", recorder)
    assert recorder.signal(signal.SIGKILL) == -signal.SIGKILL
    for number in range(3):
        labels = cv2.imread(str(tmp_path / f"labels/{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert (labels == frame_of(number).labels).all()
    assert json.loads((tmp_path / "index.json").read_text())["complete"] is False
    end = time.monotonic() + 240
    while video_frames(tmp_path / "overlay.mp4") != 3:
        assert time.monotonic() < end, "the video was not finished"
        time.sleep(0.1)


def test_a_silent_node_is_named(start: Any, tmp_path: Path) -> None:
    recorder = start("record", "--out", str(tmp_path / "out"), "--timeout", "1")
    assert recorder.wait() == 1
    assert "no publisher on /panoptic/labels, /panoptic/instances" in recorder.output
    assert "Traceback" not in recorder.output
    assert "recorded no frames" in recorder.output
    assert not (tmp_path / "out").exists()


def test_a_missing_topic_is_named(street: Street, start: Any, tmp_path: Path) -> None:
    recorder = start(  # the timeout has to leave time for discovery on a busy machine
        *("record", "--out", str(tmp_path), "--namespace", street.namespace, "--timeout", "10"),
        *("--image-reliability", "reliable"),
    )
    street.wait_for_recorder(recorder)
    for index in range(2):
        street.show(index, answered=False)
    assert recorder.wait() == 1
    assert "2 images received; missing: labels (2x)" in recorder.output


def test_malformed_frames_are_counted_not_fatal(street: Street, start: Any, tmp_path: Path) -> None:
    recorder = start(
        *("record", "--out", str(tmp_path), "--namespace", street.namespace),
        *("--image-reliability", "reliable"),
    )
    street.wait_for_recorder(recorder)
    header = Header(stamp=Time(seconds=99).to_msg())
    street.image.publish(Image(header=header, height=2, width=2, encoding="bgr8", step=6))
    street.labels.publish(labels_message(frame_of(0), header, encoding="16UC1"))
    street.instances.publish(instances_message(frame_of(0), header))
    street.unknown.publish(unknown_mask_message(frame_of(0), header))
    street.show(1)
    street.probe.until(lambda: has_rows(tmp_path, 1), "the good frame", recorder)
    assert recorder.signal(signal.SIGINT) == 0
    assert "recorded 1 frames" in recorder.output
    assert "1 frames malformed: data holds 0 bytes" in recorder.output


def test_a_folder_in_use_is_refused_at_once(start: Any, tmp_path: Path) -> None:
    (tmp_path / "frames.csv").write_text("index\n")
    recorder = start("record", "--out", str(tmp_path))
    assert recorder.wait() == 1
    assert "did not write frames.csv" in recorder.output


def test_frames_without_a_result_are_not_put_down_to_a_busy_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {"frames": 3, "unanswered": 2, "incomplete": 0, "overrun": 0, "malformed": 0}
    _report(tmp_path, {**summary, "latency_ms": {"p50": None}, "refused": {}})
    said = capsys.readouterr().err
    assert "2 frames without a result: the node did not receive them, or dropped" in said
    assert "total_dropped_frames" in said


@pytest.mark.parametrize("settings", [{"count": 0}, {"timeout": 0.0}, {"queue": 0}])
def test_settings_refuse_what_cannot_be_meant(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RecorderSettings(**settings)
