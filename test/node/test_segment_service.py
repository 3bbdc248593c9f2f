"""~/segment answers as the topics do, whatever the cameras do."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from node_bench import image
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.msg import PanopticInstanceArray
from upsnet_ros.srv import Segment

pytestmark = pytest.mark.dds

SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture
def node(bench):
    """An active node that finds something, and whose parameters may change."""
    one = bench("score_threshold:=0.0", "unknown_min_area:=1")
    assert one.node.start()
    return one


def segment(bench, message):
    return bench.call(Segment, "segment", Segment.Request(image=message))


class Calls:
    """Requests that are made at once, and what came back."""

    def __init__(self, bench):
        self._bench = bench
        self._client = bench.other.create_client(Segment, f"/{bench.namespace}/upsnet/segment")
        bench.until(self._client.service_is_ready, "the service")
        self.futures = []

    def make(self, message):
        self.futures.append(self._client.call_async(Segment.Request(image=message)))

    def answered(self):
        return [future.result() for future in self.futures if future.done()]

    def wait(self):
        self._bench.until(lambda: len(self.answered()) == len(self.futures), "answers", every=0.01)
        return [future.result() for future in self.futures]


def found_nothing(pixels):
    """A frame that says which image it is of: its labels are a pixel's value."""
    labels = np.full(pixels.shape[:2], 7 if pixels[0, 0, 0] else 8, np.int32)
    return PanopticFrame(
        labels=labels, unknown=labels == 0, instances=(), stuff=(), taxonomy=CITYSCAPES
    )


def test_it_answers_what_the_topics_say(node):
    message = image(3_000_000_007, frame_id="disk/é")
    answer = segment(node, message)
    assert (answer.success, answer.message) == (True, "")
    camera, labels, unknown = node.camera(), node.collect("labels"), node.collect("unknown_mask")
    instances = node.collect("instances", PanopticInstanceArray)
    node.until(
        lambda: labels and unknown and instances,
        "the same image's topics",
        again=lambda: camera.publish(message),
    )
    assert answer.labels == labels[0]
    assert answer.unknown_mask == unknown[0]
    assert answer.instances.instances and answer.instances.header == message.header
    assert str(answer.instances) == str(instances[0])  # a mean score may be NaN


def test_it_works_while_the_node_is_active(bench):
    one = bench()
    for step in (None, one.node.trigger_configure):
        assert step is None or step() is SUCCESS
        answer = segment(one, image())
        assert (answer.success, answer.message) == (
            False,
            "the node is not active: activate it first",
        )
        assert answer.labels == Image()
    assert one.node.trigger_activate() is SUCCESS
    assert segment(one, image()).success
    assert one.call(SetBool, "enable", SetBool.Request(data=False)).success
    assert segment(one, image()).success, "without listening to cameras, too"
    assert one.node.trigger_deactivate() is SUCCESS
    assert not segment(one, image()).success
    assert one.node.trigger_activate() is SUCCESS
    assert segment(one, image()).success


BAD = {
    "no image": Image(),
    "another encoding": Image(height=1, width=1, step=1, encoding="\x1b[2Jsmell", data=[0]),
    "too few bytes": Image(height=48, width=64, step=192, encoding="rgb8", data=[0] * 100),
    "a short step": Image(height=2, width=64, step=1, encoding="rgb8", data=[0] * 384),
    "huge": Image(height=0xFFFFFFFF, width=0xFFFFFFFF, step=0xFFFFFFFF, encoding="mono8"),
}


def test_a_bad_image_is_refused_with_the_reason(node):
    for name, message in BAD.items():
        answer = segment(node, message)
        assert not answer.success, name
        assert answer.message and "\n" not in answer.message, name
        assert answer.labels == Image(), name
    assert segment(node, image()).success
    assert node.node.refusals.total() == 0


def test_it_reads_what_a_camera_may_send(node):
    for encoding, size in {"mono8": 1, "bgra8": 4, "bayer_rggb8": 1, "16UC1": 2}.items():
        noise = np.random.default_rng(0).bytes(40 * 60 * size)
        message = Image(height=40, width=60, step=60 * size, encoding=encoding, data=noise)
        answer = segment(node, message)
        assert answer.success == (encoding != "16UC1")
        if answer.success:
            assert (answer.labels.height, answer.labels.width) == (40, 60)
        else:
            assert "16UC1" in answer.message


def test_the_filter_of_classes_holds_here_too(node):
    whole = segment(node, image()).instances
    kept = whole.instances[0].class_id
    assert {one.class_id for one in (*whole.instances, *whole.stuff)} != {kept}
    assert node.set(classes=str(kept)) == (True, "")
    answer = segment(node, image())
    found = [*answer.instances.instances, *answer.instances.stuff]
    assert {one.class_id for one in found} == {kept}
    labels = np.frombuffer(answer.labels.data, np.uint16)
    assert set(np.unique(labels)) == {0} | {one.id for one in found}


def test_cameras_and_requests_do_not_disturb_each_other(node):
    """Everything is answered once, each with its own; the camera's counts are its frames'."""
    camera, labels = node.camera(), node.collect("labels")
    node.show(camera, lambda: labels)
    calls, sent = Calls(node), 100

    def both():
        nonlocal sent
        sent += 1
        camera.publish(image(sent * 10**9))
        if len(calls.futures) < 6 and len(calls.futures) - len(calls.answered()) < 3:
            calls.make(image(len(calls.futures) + 1, height=40 + len(calls.futures), width=50))

    node.until(lambda: len(calls.answered()) == 6, "answers", again=both, every=0.05)
    for number, answer in enumerate(calls.wait()):
        assert answer.success
        assert answer.labels.header.stamp.nanosec == number + 1
        assert (answer.labels.height, answer.labels.width) == (40 + number, 50)
    known = len(labels)
    node.until(lambda: len(labels) > known, "labels afterwards", again=both, every=0.05)
    assert {(one.height, one.width) for one in labels} == {(48, 64)}
    stamps = [one.header.stamp.sec for one in labels]
    assert stamps == sorted(stamps)

    def counted():
        now = {k: int(v) for k, v in node.values().items() if k.endswith("_frames")}
        return now["received_frames"] == now["answered_frames"] + now["total_dropped_frames"]

    node.until(counted, "the camera's own counts, without the requests")


def test_too_many_requests_are_refused_at_once(node):
    go_on, taken = threading.Event(), threading.Event()

    def slow(pixels):
        taken.set()
        assert go_on.wait(60)
        return found_nothing(pixels)

    node.answer_by(slow)
    calls = Calls(node)
    try:
        calls.make(image())
        node.until(taken.is_set, "the first", every=0.01)
        for _ in range(10):
            calls.make(image())
        node.until(lambda: len(calls.answered()) == 2, "refusals", every=0.01)
        assert all("busy" in answer.message for answer in calls.answered())
    finally:
        go_on.set()
    answers = calls.wait()
    assert sum(answer.success for answer in answers) == 9


def test_a_failure_is_told_and_the_next_one_works(node):
    failures = [RuntimeError("the roof is\non fire")]

    def once(pixels):
        if failures:
            raise failures.pop()
        return found_nothing(pixels)

    node.answer_by(once)
    answer = segment(node, image())
    assert (answer.success, answer.message) == (False, "RuntimeError: the roof is")
    assert segment(node, image()).success


def test_requests_that_wait_at_deactivate_are_answered(node):
    go_on, taken = threading.Event(), threading.Event()

    def slow(pixels):
        taken.set()
        assert go_on.wait(60)
        return found_nothing(pixels)

    node.answer_by(slow)
    calls = Calls(node)
    try:
        for _ in range(3):
            calls.make(image())
        node.until(taken.is_set, "the first", every=0.01)
        node.until(lambda: len(node.node._segment._queue) == 2, "the others to wait", every=0.01)
    finally:
        node.once_it_stops(go_on.set)
    assert node.node.trigger_deactivate() is SUCCESS
    first, *others = calls.wait()
    assert first.success, "what was started is finished"
    assert not any(answer.success for answer in others)
    assert all("active" in answer.message for answer in others)
