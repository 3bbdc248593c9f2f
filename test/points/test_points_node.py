"""The points node over real DDS: outputs, what it says of bad input, and its lifecycle."""

from __future__ import annotations

import array
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import point_scene as scene
import pytest
from child_path import SUPPORT, is_installed, with_packages
from diagnostic_msgs.msg import DiagnosticStatus
from node_bench import BEST_EFFORT, image
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from upsnet_ros.messages.frames import plane
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo, PanopticObjectArray
from upsnet_ros.points.node import PointsNode

pytestmark = pytest.mark.dds

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
COMMON = ("diagnostics_period:=0.1", "stale_timeout:=3600.0")  # however busy the machine is
NODE = ("--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu", "--warm-up", "none",
        "--allow-random-weights", "--score-threshold", "0.0")  # fmt: skip
EXTRINSICS = "extrinsics:=[0.0, -0.5, 0.0, 0.5, -0.5, 0.5, 0.5]"
# In the lidar's frame: x forward, y left, z up, half a metre above the camera.
CLOUD = np.array([[5.0, 2.0, 0.3], [-5.0, 0.0, 0.0], [10.0, 0.0, -2.5]])


class Scene:
    """Publishes the picture of `point_scene`, with a new stamp each time."""

    def __init__(self, bench, sensor: str) -> None:
        self.bench, self.sensor = bench, sensor
        self._stamps = itertools.count(1_000_000_000, 100_000_000)

        def publisher(topic, kind, qos=10):
            return bench.camera(topic, qos, kind)

        self.label_info = publisher("label_info", PanopticLabelInfo, LATCHED)
        self.label_info.publish(scene.label_info())
        self._publishers = {
            "camera_info": publisher("camera_info", CameraInfo),
            "labels": publisher("labels", Image),
            "instances": publisher("instances", PanopticInstanceArray),
            "unknown_mask": publisher("unknown_mask", Image),
            sensor: publisher(sensor, Image if sensor == "depth" else PointCloud2, BEST_EFFORT),
        }
        self.sent: list[int] = []

    def messages(self) -> dict:
        """The messages of the next frame, by topic."""
        stamp = next(self._stamps)
        self.sent.append(stamp)
        points = (
            scene.depth_message(stamp_ns=stamp)
            if self.sensor == "depth"
            else scene.cloud_message(CLOUD, stamp_ns=stamp)
        )
        return {
            "camera_info": scene.camera_info(stamp),
            **scene.frame(stamp),
            self.sensor: points,
        }

    def show(self, **changes) -> None:
        """Publishes a frame; a change is a function of a message, or bytes in its place."""
        messages = self.messages()
        for topic, change in changes.items():
            messages[topic] = change if isinstance(change, bytes) else change(messages[topic])
        for topic, message in messages.items():
            if message is not None:
                self._publishers[topic].publish(message)

    def until_answered(self, answers: list) -> None:
        """Shows good frames until one that is shown from now on is answered."""
        before = len(answers)
        self.bench.until(lambda: len(answers) > before, "an answer", again=self.show, every=0.3)

    def until_it_says(self, text: str, **changes) -> str:
        """Shows bad frames until the diagnostics have a text; the level."""
        self.bench.until(
            lambda: text in self.bench.values().get("message", ""),
            f"{text!r}, not {self.bench.values()}",
            again=lambda: self.show(**changes),
            every=0.3,
        )
        (status,) = self.bench.statuses()
        return status.level


@pytest.fixture
def show(bench):
    """Starts a node and what surrounds it."""

    def make(*arguments: str, sensor: str = "depth") -> Scene:
        one = bench(*arguments, kind=PointsNode, common=COMMON)
        assert one.node.start()
        return Scene(one, sensor)

    return make


def changed(**values):
    """A change of a message's fields."""

    def change(message):
        for name, value in values.items():
            setattr(message, name, value)
        return message

    return change


def retyped(datatype: int):
    def change(message):
        message.fields[0].datatype = datatype
        return message

    return change


def framed(frame_id: str):
    def change(message):
        message.header.frame_id = frame_id
        return message

    return change


def later(seconds: int):
    def change(message):
        message.header.stamp.sec += seconds
        return message

    return change


def test_depth_becomes_points_objects_and_unknown_points(show):
    shown = show()
    points = shown.bench.collect("points", PointCloud2)
    objects = shown.bench.collect("objects", PanopticObjectArray)
    unknown = shown.bench.collect("unknown_points", PointCloud2)
    shown.bench.until(
        lambda: points and objects and unknown, "all outputs", again=shown.show, every=0.3
    )
    answer = points[0]
    assert answer.header.frame_id == "camera_optical"
    stamp = answer.header.stamp.sec * 10**9 + answer.header.stamp.nanosec
    assert stamp in shown.sent
    found = scene.records(answer)
    assert len(found) == scene.HEIGHT * scene.WIDTH
    labels = scene.label_map().reshape(-1)
    np.testing.assert_array_equal(
        found["class_id"], np.where(labels >= 1000, labels // 1000, labels)
    )
    assert [(one.class_name, one.is_unknown) for one in objects[0].objects] == [
        ("person", False),
        ("car", False),
        ("", True),
    ]
    assert (scene.records(unknown[0])["unknown"] == 1).all()
    assert len(scene.records(unknown[0])) == (scene.unknown_mask() != 0).sum()
    shown.bench.until(lambda: shown.bench.values()["message"] == "active", "a report")
    (status,) = shown.bench.statuses()
    assert status.level == DiagnosticStatus.OK
    values = shown.bench.values()
    # The first may have come before camera_info.
    outcomes = [name for name in values if name.startswith("rejected_")]
    outcomes += ["answered", "unpaired", "waiting"]
    assert int(values["received"]) == sum(int(values[name]) for name in outcomes)


def test_organized_points_are_a_grid_while_the_parameter_says_so(show):
    shown = show("organized:=true")
    points = shown.bench.collect("points", PointCloud2)
    unknown = shown.bench.collect("unknown_points", PointCloud2)

    def without_the_first_row(message):
        step = message.step
        message.data[:step] = array.array("B", bytes(step))
        return message

    def send():
        shown.show(depth=without_the_first_row)

    shown.bench.until(lambda: points and unknown, "both outputs", again=send, every=0.3)
    grid, first = points[0], scene.WIDTH
    assert (grid.height, grid.width, grid.is_dense) == (scene.HEIGHT, scene.WIDTH, False)
    found = scene.records(grid)
    assert np.isnan(found["z"][:first]).all() and np.isfinite(found["z"][first:]).all()
    assert (unknown[0].height, unknown[0].width) == (1, (scene.unknown_mask() != 0).sum())
    assert shown.bench.set(organized=False) == (True, "")
    shown.bench.until(lambda: points[-1].height == 1, "one row", again=send, every=0.3)
    assert points[-1].width == (scene.HEIGHT - 1) * scene.WIDTH


def test_a_cloud_keeps_its_points_and_gets_labels_of_its_time(show):
    shown = show("input:=cloud", EXTRINSICS, "max_offset:=0.02", sensor="points_in")
    points = shown.bench.collect("points", PointCloud2)

    def shifted(message):
        message.header.stamp.nanosec += 9_000_000
        return message

    shown.bench.until(
        lambda: points, "points", again=lambda: shown.show(points_in=shifted), every=0.3
    )
    found = scene.records(points[0])
    assert points[0].header.frame_id == "lidar"
    assert points[0].header.stamp.nanosec % 100_000_000 == 9_000_000
    assert found["class_id"].tolist() == [26, 0, scene.ROAD]
    assert found["intensity"].tolist() == [0, 1, 2]


def test_inputs_are_subscribed_to_while_somebody_listens(show):
    shown = show()
    bench = shown.bench

    def count():
        return bench.other.count_subscribers("/in_process/depth")

    bench.until(lambda: bench.values().get("state") == "idle", "a report")
    assert count() == 0
    listener = bench.other.create_subscription(
        PointCloud2, "/in_process/points", lambda _: None, 10
    )
    bench.until(lambda: count() == 1, "the subscription")
    bench.other.destroy_subscription(listener)
    bench.until(lambda: count() == 0, "its end")
    bench.until(lambda: bench.values()["state"] == "idle", "a report")


def test_points_are_subscribed_to_once_label_info_has_arrived(show):
    shown = show()
    bench = shown.bench
    bench.other.destroy_publisher(shown.label_info)
    bench.collect("points", PointCloud2)
    says = "waiting: no message yet on /in_process/depth, /in_process/label_info (no publisher)"
    bench.until(
        lambda: bench.values().get("message") == says,
        "a report",
        again=lambda: shown.show(depth=lambda _: None),
        every=0.3,
    )
    assert "depth" not in bench.node._inputs
    shown.label_info = bench.camera("label_info", LATCHED, PanopticLabelInfo)
    shown.label_info.publish(scene.label_info())
    bench.until(lambda: bench.other.count_subscribers("/in_process/depth") == 1, "a subscription")
    # The other topics were subscribed to before, which is what replay relies on.
    assert list(bench.node._inputs)[-2:] == ["label_info", "depth"]


BAD_DEPTH = [
    ("encoding 'rgb8' is not", {"depth": changed(encoding="rgb8")}),
    ("the depth image is empty", {"depth": changed(width=0)}),
    ("no valid pixel", {"depth": lambda message: scene.depth_message(
        0 * scene.depth_map(), stamp_ns=message.header.stamp.sec * 10**9
        + message.header.stamp.nanosec)}),
    ("64x24 pixels, the labels 64x48", {"depth": changed(height=24)}),
    ("cannot be read", {"depth": b"\x00\x01\x00\x00\x05"}),
    ("NaN, infinite", {"camera_info": changed(k=[float("nan")] * 9)}),
    ("not calibrated", {"camera_info": changed(k=[0.0] * 9)}),
    ("distortion model 'bent'", {"camera_info": changed(distortion_model="bent")}),
    ("for images of 1280x48", {"camera_info": changed(width=1280)}),
    ("do not belong together", {"unknown_mask": changed(height=24)}),
    ("is it registered", {"depth": framed("depth_optical")}),
    ("do not hold 64x48 pixels", {"depth": changed(step=127, encoding="16UC1")}),
    ("have no labels of their time", {"depth": later(-100)}),
]  # fmt: skip


@pytest.mark.parametrize(("says", "changes"), BAD_DEPTH, ids=[says for says, _ in BAD_DEPTH])
def test_bad_input_is_reported_and_the_next_frame_is_answered(show, capfd, says, changes):
    shown = show()
    points = shown.bench.collect("points", PointCloud2)
    shown.until_answered(points)
    level = shown.until_it_says(says, **changes)
    assert level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
    shown.until_answered(points)
    shown.bench.until(
        lambda: shown.bench.values()["message"] == "active", "a report", again=shown.show
    )
    assert any(says in line for line in capfd.readouterr().err.splitlines())


BAD_CLOUDS = [
    ("no field x", {"points_in": changed(fields=[])}),
    ("the cloud is empty", {"points_in": changed(width=0)}),
    ("x must be one FLOAT32", {"points_in": retyped(PointField.FLOAT64)}),
    ("intensity at byte 12 lies outside", {"points_in": changed(point_step=12, row_step=36)}),
    ("do not hold 3x2 points", {"points_in": changed(height=2)}),
    ("NaN, infinite", {"camera_info": changed(k=[float("nan")] * 9)}),
    ("points is finite", {"points_in": lambda message: scene.cloud_message(
        np.full((3, 3), np.nan), stamp_ns=message.header.stamp.sec * 10**9
        + message.header.stamp.nanosec)}),
    ("see max_offset", {"points_in": later(-100)}),
]  # fmt: skip


@pytest.mark.parametrize(("says", "changes"), BAD_CLOUDS, ids=[says for says, _ in BAD_CLOUDS])
def test_bad_clouds_are_reported_and_the_next_one_is_answered(show, capfd, says, changes):
    shown = show("input:=cloud", EXTRINSICS, sensor="points_in")
    points = shown.bench.collect("points", PointCloud2)
    shown.until_answered(points)
    assert shown.until_it_says(says, **changes) == DiagnosticStatus.ERROR
    shown.until_answered(points)
    assert any(says in line for line in capfd.readouterr().err.splitlines())


def test_a_bigendian_cloud_is_answered(show):
    shown = show("input:=cloud", EXTRINSICS, sensor="points_in")
    points = shown.bench.collect("points", PointCloud2)

    def swapped(message):
        values = np.frombuffer(message.data, "<f4").astype(">f4")
        return changed(is_bigendian=True, data=array.array("B", values.tobytes()))(message)

    shown.bench.until(
        lambda: points, "points", again=lambda: shown.show(points_in=swapped), every=0.3
    )
    assert points[0].is_bigendian
    assert scene.records(points[0])["class_id"].tolist() == [26, 0, scene.ROAD]


def test_topics_on_which_nothing_comes_are_named(show, capfd):
    shown = show("stale_timeout:=0.1")
    shown.bench.collect("points", PointCloud2)
    level = shown.until_it_says(
        "waiting: no message yet on /in_process/unknown_mask", unknown_mask=lambda _: None
    )
    assert level == DiagnosticStatus.WARN
    logged: list[str] = []

    def is_logged():
        logged.extend(capfd.readouterr().err.splitlines())
        return any("waiting: no message yet" in line for line in logged)

    shown.bench.until(is_logged, "a line in the log", every=0.1)


def test_an_input_that_stops_is_stale(show):
    shown = show("stale_timeout:=0.5")
    points = shown.bench.collect("points", PointCloud2)
    shown.until_answered(points)
    shown.bench.until(lambda: shown.bench.values()["state"] == "stale", "a report")
    assert shown.bench.statuses()[0].level == DiagnosticStatus.ERROR


def test_every_transition_and_back(show):
    shown = show()
    points = shown.bench.collect("points", PointCloud2)
    shown.until_answered(points)
    node = shown.bench.node
    for _ in range(2):
        node.trigger_deactivate()
        assert not node._inputs
        node.trigger_cleanup()
        assert node.state == "unconfigured"
        assert node.start()
        shown.until_answered(points)


def test_parameters_change_when_they_may(show):
    bench = show().bench
    assert bench.set(object_quantile=0.1, occlusion_window=3) == (True, "")
    assert bench.node.settings.occlusion_window == 3
    assert bench.set(max_offset=1) == (True, "")  # an integer for a double
    taken, why = bench.set(queue=5)
    assert (taken, "queue is read at configure" in why) == (False, True)
    assert not bench.set(input="cloud")[0]
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    taken, why = bench.set(extrinsics=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    assert (taken, "must have length 1" in why) == (False, True)
    assert bench.set(extrinsics=[0, 0, 1, 0, 0, 0, 1]) == (True, "")
    assert bench.node.settings.extrinsics == (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("input:=radar", "input must be one of depth, cloud"),
        ("extrinsics:=[0.0, 1.0]", "extrinsics must be 7 finite numbers"),
        ("extrinsics:=text", "extrinsics"),
        ("occlusion_window:=-2", "occlusion_window"),
    ],
)
def test_values_that_cannot_be_used_end_the_start_in_one_line(start, argument, says):
    process = start("points", "--ros-args", "-p", argument)
    assert process.wait() == 1
    assert "Traceback" not in process.output
    assert sum(says in line for line in process.output.splitlines()) == 1


@pytest.mark.skipif(is_installed("tf2_msgs"), reason="tf2_msgs is installed")
@pytest.mark.parametrize("by_ros", [False, True], ids=["option", "parameter"])
def test_without_tf2_msgs_a_cloud_needs_extrinsics(start, tmp_path, by_ros):
    file = tmp_path / "parameters.yaml"
    file.write_text("/panoptic/upsnet: {ros__parameters: {scale: 320}}")
    ros = ("--ros-args", "-p", "input:=cloud", "--params-file", str(file))
    process = start("points", *(ros if by_ros else ("--input", "cloud")))
    assert process.wait() == 1
    assert "tf2_msgs is not installed" in process.output
    assert "set the parameter extrinsics" in process.output
    assert (f"{file} sets no parameters of this node" in process.output) == by_ros


def test_a_sensor_of_another_type_is_named_before_what_else_is_missing(show):
    shown = show()
    bench = shown.bench
    bench.other.destroy_publisher(shown.label_info)
    bench.other.destroy_publisher(shown._publishers["depth"])
    bench.camera("depth", message=PointCloud2)
    bench.collect("points", PointCloud2)
    topic, types = "/in_process/depth", "sensor_msgs/msg/PointCloud2, not sensor_msgs/msg/Image"
    says = f"no message yet on {topic} (published as {types}), "
    bench.until(lambda: says in bench.values().get("message", ""), "a report")


@pytest.fixture(scope="module")
def by_transforms(domain):
    """What a node publishes of a cloud where tf2_msgs and vision_msgs are, by topic."""
    environment = with_packages("tf2_msgs", "vision_msgs")
    command = [sys.executable, str(SUPPORT / "points_check.py"), str(domain)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_static_transforms_lead_from_the_cloud_to_the_camera(by_transforms):
    assert "no frame lidar" in by_transforms["before"]
    assert by_transforms["class_ids"] == [26, 0, scene.ROAD]


def test_a_lidar_that_moves_is_rejected(by_transforms):
    assert by_transforms["moving"].startswith("rejected: tf_static: 'lidar' moves in 'base'")


def test_detections_are_the_objects(by_transforms):
    (detection,) = by_transforms["detections"]
    (found,) = by_transforms["objects"]
    (result,) = detection["results"]
    assert result["hypothesis"]["class_id"] == str(found["class_id"]) == "26"
    assert detection["id"] == str(scene.TRACK)
    assert detection["bbox"]["center"]["position"] == found["center"]
    assert detection["bbox"]["size"] == found["size"]
    assert detection["header"]["frame_id"] == "lidar"


def test_a_camera_through_both_nodes_by_their_commands(start, probe):
    """The segmenting node and two points nodes as processes; labels of points are the image's."""
    node = start("node", *NODE)
    depth = start("points", "--ros-args", "-r", "__node:=depth_points")
    lidar = start(
        *("points", "--input", "cloud", "--extrinsics", ",".join(map(str, scene.EXTRINSICS))),
        *("--ros-args", "-r", "__node:=lidar_points", "-r", "points:=lidar/points"),
    )

    def publisher(topic, kind):
        return probe.node.create_publisher(kind, f"/panoptic/{topic}", 10)

    publishers = {
        "camera_info": publisher("camera_info", CameraInfo),
        "depth": publisher("depth", Image),
        "points_in": publisher("points_in", PointCloud2),
        "image": publisher("image", Image),
    }
    labels = probe.collect("/panoptic/labels", Image, 10)
    points = probe.collect("/panoptic/points", PointCloud2, 10)
    clouds = probe.collect("/panoptic/lidar/points", PointCloud2, 10)
    due = [0.0]
    stamps = itertools.count(1_000_000_000, 100_000_000)

    def joined():
        if time.monotonic() > due[0]:
            due[0] = time.monotonic() + 0.3
            stamp = next(stamps)
            publishers["camera_info"].publish(scene.camera_info(stamp))
            publishers["depth"].publish(scene.depth_message(stamp_ns=stamp))
            publishers["points_in"].publish(scene.cloud_message(CLOUD, stamp_ns=stamp))
            publishers["image"].publish(image(stamp, frame_id="camera_optical"))
        of_time = [{_stamp(one): one for one in each} for each in (labels, points, clouds)]
        common = set.intersection(*(set(one) for one in of_time))
        return [one[min(common)] for one in of_time] if common else None

    frame, of_depth, of_lidar = probe.until(joined, "labels, points and a cloud", process=node)
    values = plane(frame).reshape(-1).astype(int)
    assert values.any(), "random weights find something at threshold 0"
    expected = np.where(values >= 1000, values // 1000, values)
    np.testing.assert_array_equal(scene.records(of_depth)["class_id"], expected)
    pixels = (
        scene.labeller()
        .label_cloud(scene.cloud_message(CLOUD), scene.frame(), settings=scene.cloud_settings())
        .pixels
    )
    np.testing.assert_array_equal(
        scene.records(of_lidar)["class_id"], np.where(pixels >= 0, expected[pixels], 0)
    )
    for process in (depth, lidar, node):
        assert process.signal(2) == 0, process.output


def _stamp(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
