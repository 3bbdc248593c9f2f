"""Several cameras on one node: options of each, turns, cameras that stop, stamps that go wrong."""

from __future__ import annotations

import array
import itertools
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_bench import BEST_EFFORT, image
from rclpy.qos import QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage

pytestmark = pytest.mark.dds

CAMERAS4 = Path(__file__).resolve().parents[2] / "config" / "cameras4.yaml"
NS = 1_000_000_000


def count(bench, name, key):
    return int(bench.values(name).get(key, 0))


def test_the_file_for_four_cameras(bench):
    one = bench(cli=("--params-file", str(CAMERAS4)))
    assert one.node.settings.cameras == ("front", "left", "right", "rear")
    assert one.node.start()
    one.until(lambda: len(one.statuses()) == 5, "a status of each camera")
    topics = {name: one.values(name)["topic"] for name in one.node.settings.cameras}
    assert topics == {
        "front": "/camera/front/image_raw",
        "left": "/camera/left/image_raw",
        "right": "/camera/right/image_raw",
        "rear": "/camera/rear/image_raw/compressed",
    }
    (rear,) = one.node.get_subscriptions_info_by_topic(topics["rear"])
    (left,) = one.node.get_subscriptions_info_by_topic(topics["left"])
    assert rear.topic_type == "sensor_msgs/msg/CompressedImage"
    assert rear.qos_profile.reliability is QoSReliabilityPolicy.RELIABLE
    assert left.qos_profile.reliability is QoSReliabilityPolicy.BEST_EFFORT
    rates = {name: camera.max_rate for name, camera in one.node.camera_settings.items()}
    assert rates == {"front": 0.0, "left": 10.0, "right": 10.0, "rear": 10.0}

    heard = {name: one.collect(f"{name}/labels") for name in ("left", "rear")}
    raw = one.other.create_publisher(type(image()), topics["left"], BEST_EFFORT)
    compressed = one.other.create_publisher(CompressedImage, topics["rear"], 1)
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1]
    packed = CompressedImage(format="jpeg", data=array.array("B", jpeg.tobytes()))
    one.until(lambda: heard["left"], "the left one", again=lambda: raw.publish(image()))
    one.until(lambda: heard["rear"], "the rear one", again=lambda: compressed.publish(packed))


@pytest.mark.parametrize("named", ["/cam/image_raw", "/cam/image_raw/compressed"])
@pytest.mark.parametrize("how", ["image:={}", "image/compressed:={}", "front.topic:={}"])
def test_a_compressed_camera_is_named_with_or_without_its_transport(bench, how, named):
    if how.startswith("image/compressed"):
        named = "/cam/image_raw/compressed"
    option = "-p" if how.startswith("front") else "-r"
    cameras = ["-p", "cameras:=[front]"] if option == "-p" else []
    one = bench("image_transport:=compressed", cli=(option, how.format(named), *cameras))
    assert one.node.start()
    heard = one.node.get_subscriptions_info_by_topic("/cam/image_raw/compressed")
    assert [each.topic_type for each in heard] == ["sensor_msgs/msg/CompressedImage"]


def test_options_of_a_camera_can_be_changed_like_the_nodes(bench):
    one = bench("cameras:=[front, rear]", "front.max_rate:=5.0")
    rates = lambda: {name: each.max_rate for name, each in one.node.camera_settings.items()}  # noqa: E731
    assert rates() == {"front": 5.0, "rear": 0.0}
    assert one.set(max_rate=2.0) == (True, "")
    assert rates() == {"front": 5.0, "rear": 2.0}
    assert one.set(front__max_rate=-1.0, rear__max_rate=7.0) == (True, "")
    assert rates() == {"front": 2.0, "rear": 7.0}
    taken, reason = one.set(front__topic="/elsewhere", rear__max_rate=1.0)
    assert not taken and "read-only" in reason
    taken, reason = one.set(front__max_rate=1e6, rear__max_rate=1.0)
    assert not taken and "out of range" in reason
    assert rates() == {"front": 2.0, "rear": 7.0}


class Senders:
    """Cameras that send at rates of their own, in a thread, until they are told to stop."""

    def __init__(self, bench, rates):
        self._publishers = {name: bench.camera(f"{name}/image") for name in rates}
        self.rates = dict(rates)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        due = dict.fromkeys(self.rates, 0.0)
        while not self._over.wait(0.002):
            now = time.monotonic()
            for name, rate in list(self.rates.items()):
                if now >= due[name]:
                    due[name] = now + 1 / rate
                    self._publishers[name].publish(image(time.time_ns()))


def test_no_camera_starves_and_one_that_stops_holds_up_no_other(bench):
    one = bench("cameras:=[a, b, c]", "stale_timeout:=1.5")
    assert one.node.start()
    turns, answer = [], one.node.model.predictor
    frame = answer(np.zeros((48, 64, 3), np.uint8))

    def slow(image):
        time.sleep(0.05)  # 20 frames per second, of the 50 and more that are sent
        return frame

    one.answer_by(slow)
    steps = one.node._worker._steps
    publish = steps.publish
    steps.publish = lambda name, *frame: turns.append(name) or publish(name, *frame)
    with Senders(one, {"a": 100.0, "b": 60.0, "c": 30.0}) as senders:
        one.until(lambda: {*turns} == {"a", "b", "c"}, "all three")
        turns.clear()
        one.until(lambda: len(turns) >= 30, "thirty answers")
        shares = {name: turns[:30].count(name) for name in "abc"}
        assert min(shares.values()) >= 6, shares
        one.until(lambda: count(one, ": a", "total_dropped_frames") > 0, "a report of the drops")

        del senders.rates["b"]
        one.until(lambda: one.values(": b")["state"] == "stale", "the report of b")
        assert one.values(": b")["message"].startswith("stale: no frame for ")
        before = {name: count(one, f": {name}", "answered_frames") for name in "ac"}
        one.until(
            lambda: all(count(one, f": {name}", "answered_frames") > before[name] for name in "ac"),
            "answers to the others",
        )
        # The newest frame of each waits for its turn; b had its last long ago.
        senders.rates["b"] = 60.0
        one.until(lambda: one.values(": b")["state"] == "active", "b again")


def test_no_more_frames_than_were_wished_for(bench):
    one = bench("max_rate:=0.001")
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    one.show(camera, lambda: count(one, "camera", "skipped_frames") >= 2, "skipped frames")
    assert count(one, "camera", "answered_frames") == len(labels) == 1
    assert one.values("camera")["state"] == "active"
    assert one.set(max_rate=0.0) == (True, "")
    one.show(camera, lambda: len(labels) > 1)


def test_a_bag_that_is_played_again_is_answered_and_told(bench, capfd):
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.until(lambda: labels, "an answer", again=lambda: camera.publish(image(500 * NS)))
    earlier = image(100 * NS)
    answered = lambda: [one for one in labels if one.header.stamp.sec == 100]  # noqa: E731
    one.until(answered, "the earlier frame", again=lambda: camera.publish(earlier))
    one.until(lambda: count(one, "camera", "stamps_backwards") == 1, "the count")
    assert one.values("camera")["state"] == "active"
    assert "stamps went backwards, as if a bag had been restarted" in capfd.readouterr().err


def test_frames_lost_on_the_way_are_told_while_the_node_is_idle(bench, capfd):
    one = bench("max_rate:=0.001")  # it computes the first frame only
    camera, labels = one.camera(qos=100), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    numbers = itertools.chain(range(1, 40), itertools.count(40, 3))

    def send():
        camera.publish(image(NS + next(numbers) * NS // 30))

    def lost():
        return count(one, "camera", "frames_lost_before_node") > 10

    one.until(lost, "frames lost, by the diagnostics", again=send, every=0.005)
    message = one.values("camera")["message"]
    assert "of the frames were lost before the node, by their stamps" in message
    told = capfd.readouterr().err
    assert told.count("by their stamps frames are missing, and this node was idle") == 1


def test_a_message_that_is_no_image_at_all_is_rejected(bench):
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.until(camera.get_subscription_count, "the node listens")

    def rejected():
        return one.values("camera").get("state") == "rejected"

    one.until(rejected, "the rejection", again=lambda: camera.publish(b"\0\1\0\0" + bytes(9)))
    assert one.values("camera")["last_rejection"].startswith("the message is cut off: ")
    one.show(camera, lambda: labels, "the next good frame")
    one.until(lambda: one.values("camera")["state"] == "active", "the camera is well again")
    told = one.values("camera")
    assert told["frames_without_stamp"] == "0"
