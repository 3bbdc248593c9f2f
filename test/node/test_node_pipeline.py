"""The node's frames on their way through the pipeline: together, in order, and past a reload."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from node_bench import image
from rclpy.lifecycle import TransitionCallbackReturn
from std_srvs.srv import Trigger

from upsnet_ros.messages.images import to_bgr
from upsnet_ros.ops.camera_input import BYTES_PER_PIXEL

pytestmark = pytest.mark.dds

SUCCESS = TransitionCallbackReturn.SUCCESS
NS = 1_000_000_000


class Gate:
    """Notes a predictor's computations, and holds them up while it is closed.

    Args:
        predictor: Whose.
        height: Of images that it holds up; all by default.
    """

    def __init__(self, predictor, *, height=None):
        self.batches, self.encodings, self.heights = [], [], []
        self._held = height
        self.open = threading.Event()
        self.open.set()
        self._compute = predictor.compute_batch
        predictor.compute_batch = self

    def __call__(self, images, settings, *, encoding, stage):
        self.batches.append(len(images))
        self.encodings.append(encoding)
        self.heights.append(images[0].shape[0])
        if self._held in (None, images[0].shape[0]):
            assert self.open.wait(60)
        return self._compute(images, settings, encoding=encoding, stage=stage)


def picture(number, stamp_ns=NS):
    """A picture of its own for each number."""
    message = image(stamp_ns)
    values = np.random.default_rng(number).integers(0, 256, len(message.data), np.uint8)
    message.data.frombytes(values.tobytes())
    del message.data[: len(values)]
    return message


def labels_of(message):
    return np.frombuffer(message.data, np.uint16).reshape(message.height, message.width)


def stamp(message):
    return message.header.stamp.sec * NS + message.header.stamp.nanosec


def test_cameras_that_wait_are_computed_together_and_each_hears_its_own(bench):
    one = bench("cameras:=[a, b, c]", "batch:=3")
    assert one.node.start()
    predictor = one.node.model.predictor
    gate = Gate(predictor)
    cameras = {name: one.camera(f"{name}/image") for name in "abc"}
    heard = {name: one.collect(f"{name}/labels") for name in "abc"}
    for name, camera in cameras.items():
        one.show(camera, lambda name=name: heard[name], f"the first answer to {name}")
    assert gate.batches[0] == 1, "a lone frame waits for no other"

    gate.open.clear()
    before = len(gate.batches)
    one.until(
        lambda: len(gate.batches) > before,
        "a computation that does not end",
        again=lambda: cameras["a"].publish(image()),
    )
    pictures = {name: picture(number, 7 * NS) for number, name in enumerate("abc")}

    def all_wait():
        return set(one.node._worker._waiting) == set("abc")

    def show():
        for name, camera in cameras.items():
            camera.publish(pictures[name])

    one.until(all_wait, "three frames that wait", again=show)
    gate.open.set()
    one.until(
        lambda: all(stamp(heard[name][-1]) == 7 * NS for name in "abc"), "answers to all of them"
    )
    assert 3 in gate.batches
    alone = {name: predictor(to_bgr(message)) for name, message in pictures.items()}
    for name, frame in alone.items():
        # A batch's sums may round otherwise than a single image's.
        assert (labels_of(heard[name][-1]) == frame.labels).mean() > 0.99
    assert not np.array_equal(alone["a"].labels, alone["b"].labels)


def test_cameras_of_two_sizes_do_not_share_a_computation(bench):
    one = bench("cameras:=[a, b]", "batch:=2")
    assert one.node.start()
    gate = Gate(one.node.model.predictor)
    heard = {name: one.collect(f"{name}/labels") for name in "ab"}
    cameras = {name: one.camera(f"{name}/image") for name in "ab"}

    def show():
        cameras["a"].publish(image())
        cameras["b"].publish(image(height=40))

    one.until(lambda: all(heard.values()), "answers to both", again=show)
    assert {name: heard[name][-1].height for name in "ab"} == {"a": 48, "b": 40}
    assert set(gate.batches) == {1}


def test_the_cameras_own_bytes_go_to_a_network_that_takes_them(bench, monkeypatch):
    one = bench("tracking:=true")
    assert one.node.start()
    predictor = one.node.model.predictor
    monkeypatch.setattr(predictor, "takes", BYTES_PER_PIXEL.__contains__)  # as on a GPU
    gate = Gate(predictor)
    camera, labels, overlay = one.camera(), one.collect("labels"), one.collect("overlay")
    one.show(camera, lambda: labels and overlay)
    assert set(gate.encodings) == {"rgb8"}
    plain = predictor(to_bgr(image()))
    assert (labels_of(labels[-1]) == plain.labels).mean() > 0.99
    # Of the picture, not of its bytes as if they were BGR: where nothing is drawn they are alike.
    drawn = np.frombuffer(overlay[-1].data, np.uint8).reshape(48, 64, 3)
    sent = np.frombuffer(image().data, np.uint8).reshape(48, 64, 3)
    likeness = [np.abs(drawn.astype(int) - other).mean() for other in (sent, sent[:, :, ::-1])]
    assert likeness[0] < likeness[1]
    assert one.node.trigger_deactivate() is SUCCESS
    assert one.node.trigger_cleanup() is SUCCESS
    assert one.node._last_kinds() == [((48, 64, 3), "rgb8")], "what configure warms up for"


def test_a_frame_that_started_before_a_reload_is_answered_by_the_old_weights(bench):
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    old = one.node.model.predictor
    gate = Gate(old, height=40)  # earlier images may still be on their way
    gate.open.clear()
    one.until(
        lambda: 40 in gate.heights,
        "a computation that does not end",
        again=lambda: camera.publish(image(5 * NS, height=40)),
    )
    client = one.other.create_client(Trigger, "/in_process/upsnet/reload_weights")
    one.until(client.service_is_ready, "the service")
    reload = client.call_async(Trigger.Request())
    one.until(lambda: one.node.model.predictor is not old, "new weights")
    assert not reload.done(), "it waits for the old ones to end"
    camera.publish(image(6 * NS))
    gate.open.set()
    one.until(reload.done, "the answer of the service")
    assert reload.result().success
    answered = lambda: [stamp(one) for one in labels if stamp(one) > NS]  # noqa: E731
    one.until(
        lambda: 6 * NS in answered(), "the next answer", again=lambda: camera.publish(image(6 * NS))
    )
    assert answered() == sorted(answered())
    assert answered()[0] == 5 * NS
    assert int(one.values("camera")["failed_frames"]) == 0


def test_deactivate_finishes_started_frames(bench):
    one = bench("cameras:=[a, b]", "batch:=2")
    assert one.node.start()
    gate = Gate(one.node.model.predictor, height=40)
    cameras = {name: one.camera(f"{name}/image") for name in "ab"}
    heard = {name: one.collect(f"{name}/labels") for name in "ab"}
    for name, camera in cameras.items():
        one.show(camera, lambda name=name: heard[name])
    gate.open.clear()

    def show():
        for camera in cameras.values():
            camera.publish(image(height=40))

    one.until(lambda: 40 in gate.heights, "a computation that does not end", again=show)
    one.once_it_stops(gate.open.set)
    assert one.node.trigger_deactivate() is SUCCESS
    assert one.node._worker.idle and not one.node._worker.left_alone
    one.until(
        lambda: any(messages[-1].height == 40 for messages in heard.values()),
        "the result of what was started",
    )
    counts = [
        one.node._cameras[name].statistics.report(now=0, stale_after=1).counts for name in "ab"
    ]
    assert sum(each.answered for each in counts) == sum(gate.batches)
    assert all(each.received == each.answered + each.dropped for each in counts)
    assert one.node.trigger_activate() is SUCCESS
    for name, camera in cameras.items():
        del heard[name][:]
        one.show(camera, lambda name=name: heard[name], "an answer afterwards")


def test_a_node_that_is_destroyed_while_it_is_active_keeps_neither_network_nor_threads(bench):
    before = set(threading.enumerate())
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    network = weakref.ref(one.node.model.predictor)
    one.node.destroy_node()
    gc.collect()
    assert network() is None
    assert set(threading.enumerate()) <= before


def test_a_frame_that_stop_did_not_wait_for_is_counted_as_failed_and_not_published(bench, capfd):
    before = set(threading.enumerate())
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    gate = Gate(one.node.model.predictor, height=40)
    network = weakref.ref(one.node.model.predictor)  # which holds the gate, and the gate it
    may_end, heights = gate.open, gate.heights
    del gate
    one.show(camera, lambda: labels)
    may_end.clear()
    one.until(
        lambda: 40 in heights,
        "a computation that does not end",
        again=lambda: camera.publish(image(height=40)),
    )
    one.node.stop(timeout=0.01)
    assert one.node.computing
    assert one.node.state == "finalized"
    assert "the last frames take longer than 0.01 s: not waiting" in capfd.readouterr().err
    may_end.set()
    one.until(lambda: not one.node.computing, "its end", every=0.01)
    counts = one.node._cameras[""].statistics.report(now=0, stale_after=1).counts
    assert (counts.failed, counts.answered) == (1, len(heights) - 1)
    assert counts.last_failure == "RuntimeError: the node was stopped during inference"
    assert counts.received == counts.answered + counts.dropped + counts.failed
    assert 40 not in {message.height for message in labels}
    one.until(lambda: set(threading.enumerate()) <= before, "the pipeline's end", every=0.01)
    gc.collect()
    assert network() is None
