"""The camera's calibration beside the results: bit for bit, by exact stamp, only when wanted."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from node_bench import BEST_EFFORT, image
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from upsnet_ros.node.camera_info import camera_info_topic

pytestmark = pytest.mark.dds

SUCCESS = TransitionCallbackReturn.SUCCESS
TOPICS = ("-r", "image:=/rig/eye/image_raw")


def info(stamp_ns: int, *, frame_id: str = "eye_optical") -> CameraInfo:
    message = CameraInfo(height=48, width=64, distortion_model="rational_polynomial")
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = frame_id
    message.d = [0.1, -0.02, 1e-300, float("inf"), 0.5, 0.25, 0.125, 1.5]
    message.k = np.linspace(0.1, 700.3, 9)
    message.p = np.linspace(-1, 1, 12)
    message.binning_x, message.roi.width, message.roi.do_rectify = 2, 7, True
    return message


class Rig:
    """A camera with a calibration, and what is heard of the node."""

    def __init__(self, bench, *arguments, name="eye", cli=TOPICS, compressed=False):
        self.bench = bench(*arguments, cli=cli)
        make = self.bench.other.create_publisher
        self._compressed = compressed
        self._images = (
            make(CompressedImage, f"/rig/{name}/image_raw/compressed", BEST_EFFORT)
            if compressed
            else make(Image, f"/rig/{name}/image_raw", BEST_EFFORT)
        )
        self.infos = make(CameraInfo, f"/rig/{name}/camera_info", BEST_EFFORT)
        self.sent = 0

    def send(self, *, with_info=True, first=False, offset=0):
        """Sends an image, and its calibration before or after it."""
        self.sent += 1
        stamp = self.sent * 50_000_000
        message = info(stamp + offset)
        if with_info and first:
            self.infos.publish(message)
        self._images.publish(self._image(stamp))
        if with_info and not first:
            self.infos.publish(message)

    def _image(self, stamp):
        raw = image(stamp)
        if not self._compressed:
            return raw
        pixels = np.frombuffer(raw.data, np.uint8).reshape(48, 64, 3)
        data = array.array("B", cv2.imencode(".png", pixels)[1].tobytes())
        return CompressedImage(header=raw.header, format="png", data=data)

    def listeners(self):
        return self.infos.get_subscription_count()


def stamp(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.mark.parametrize(("first", "compressed"), [(True, False), (False, True)])
def test_it_is_the_cameras_own_for_each_result(bench, first, compressed):
    arguments = ["image_transport:=compressed"] if compressed else []
    rig = Rig(bench, *arguments, compressed=compressed)
    assert rig.bench.node.start()
    heard, labels = rig.bench.collect("camera_info", CameraInfo), rig.bench.collect("labels")
    rig.bench.until(
        lambda: len(heard) >= 3, "camera_info", again=lambda: rig.send(first=first), every=0.2
    )
    rig.bench.until(lambda: labels and stamp(heard[-1]) <= stamp(labels[-1]), "its labels")
    for message in heard:
        assert serialize_message(message) == serialize_message(info(stamp(message)))
    assert {stamp(message) for message in heard} <= {stamp(message) for message in labels}
    assert len({stamp(message) for message in heard}) == len(heard)


def test_the_first_result_after_activation_has_its_own(bench):
    rig = Rig(bench)
    heard, labels = rig.bench.collect("camera_info", CameraInfo), rig.bench.collect("labels")
    assert rig.bench.node.trigger_configure() is SUCCESS
    for _ in range(2):
        assert rig.bench.node.trigger_activate() is SUCCESS
        rig.bench.until(rig.listeners, "the node listens before the first image")
        rig.bench.until(rig._images.get_subscription_count, "the node listens to images")
        heard.clear()
        labels.clear()
        rig.bench.until(lambda: labels, "labels", again=rig.send, every=0.3)
        rig.bench.until(lambda: heard, "its calibration")
        assert stamp(heard[0]) == stamp(labels[0])
        assert rig.bench.node.trigger_deactivate() is SUCCESS
        rig.bench.until(lambda: not rig.listeners(), "it stops")


def test_it_is_read_only_while_somebody_subscribes(bench):
    rig = Rig(bench)
    labels = rig.bench.collect("labels")
    assert rig.bench.node.start()
    rig.bench.until(lambda: len(labels) >= 3, "labels", again=rig.send, every=0.2)
    rig.bench.until(lambda: not rig.listeners(), "it stops", again=rig.send, every=0.2)

    listener = rig.bench.other.create_subscription(
        CameraInfo, "/in_process/camera_info", lambda _: None, 10
    )
    rig.bench.until(rig.listeners, "the node listens", again=rig.send, every=0.2)
    rig.bench.other.destroy_subscription(listener)
    rig.bench.until(lambda: not rig.listeners(), "it stops", again=rig.send, every=0.2)

    heard = rig.bench.collect("camera_info", CameraInfo)
    rig.bench.until(lambda: heard, "camera_info again", again=rig.send, every=0.2)
    assert rig.bench.set(publish_camera_info=False) == (True, "")
    rig.bench.until(lambda: not rig.listeners(), "it stops", again=rig.send, every=0.2)
    assert rig.bench.set(publish_camera_info=True) == (True, "")
    rig.bench.until(rig.listeners, "it listens", again=rig.send, every=0.2)
    assert rig.bench.node.trigger_deactivate() is SUCCESS
    rig.bench.until(lambda: not rig.listeners(), "an inactive node listens to nothing")


def test_a_calibration_of_another_stamp_is_not_published(bench, capfd, monkeypatch):
    monkeypatch.setattr("upsnet_ros.node.camera_info._QUIET_SECONDS", 0.5)
    rig = Rig(bench)
    heard = rig.bench.collect("camera_info", CameraInfo)
    assert rig.bench.node.start()
    told = []

    def said(text):
        told.append(capfd.readouterr().err)
        return text in "".join(told)

    rig.bench.until(
        lambda: said("nothing comes on /rig/eye/camera_info"),
        "a word about a camera without calibration",
        again=lambda: rig.send(with_info=False),
        every=0.2,
    )
    assert rig.bench.node.trigger_deactivate() is SUCCESS
    assert rig.bench.node.trigger_activate() is SUCCESS
    rig.bench.until(
        lambda: said("do not have the stamps of the images"),
        "a word about other stamps",
        again=lambda: rig.send(offset=1),
        every=0.2,
    )
    assert heard == []


def test_what_is_no_camera_info_harms_nothing(bench):
    rig = Rig(bench)
    heard = rig.bench.collect("camera_info", CameraInfo)
    assert rig.bench.node.start()
    rig.bench.until(rig.listeners, "the node listens", again=rig.send, every=0.2)
    whole = serialize_message(info(1))
    for broken in (b"", whole[:4], whole[:9], whole[:40], b"\xff" * 60):
        rig.infos.publish(broken)
    rig.bench.until(lambda: heard, "those that are good", again=rig.send, every=0.2)


def test_a_camera_whose_own_topic_has_the_outputs_name(bench):
    """On the default topic the calibration is beside the results already: it is not sent twice."""
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    heard = one.collect("camera_info", CameraInfo)
    own = one.camera("camera_info", message=CameraInfo, qos=10)
    assert one.node.start()
    one.show(camera, lambda: labels)
    own.publish(info(1_000_000_000))
    one.until(lambda: heard, "the camera's own")
    names = [publisher.topic_name for publisher in one.node.publishers]
    assert "/in_process/camera_info" not in names
    assert one.other.count_publishers("/in_process/camera_info") == 1
    assert own.get_subscription_count() == 1


def test_an_override_that_makes_no_subscription_costs_no_image(bench, capfd):
    rig = Rig(bench)
    name = "qos_overrides./rig/eye/camera_info.subscription.reliability"
    rig.bench.node.declare_parameter(name, "certain")
    heard, labels = rig.bench.collect("camera_info", CameraInfo), rig.bench.collect("labels")
    assert rig.bench.node.start()
    rig.bench.until(lambda: len(labels) >= 3, "labels", again=rig.send, every=0.2)
    assert heard == []
    assert rig.bench.node.refusals.total() == 0
    assert capfd.readouterr().err.count("/rig/eye/camera_info: cannot subscribe: ") == 1
    rig.bench.node.set_parameters([Parameter(name, value="best_effort")])
    rig.bench.until(lambda: heard, "camera_info", again=rig.send, every=0.2)


def test_each_of_several_cameras_has_its_own(bench):
    cameras = ["cameras:=[left, right]", "left.topic:=/rig/left/image_raw"]
    rig = Rig(bench, *cameras, "right.topic:=/rig/right/image_raw", name="left", cli=())
    heard = rig.bench.collect("left/camera_info", CameraInfo)
    other = rig.bench.collect("right/camera_info", CameraInfo)
    assert rig.bench.node.start()
    rig.bench.until(lambda: len(heard) > 1, "camera_info", again=rig.send, every=0.2)
    assert other == []


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("/camera/image_raw", "/camera/camera_info"),
        ("/camera/color/image_raw/compressed", "/camera/color/camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_name_of_the_topic(images, expected):
    assert camera_info_topic(images) == expected
