"""The node within this process: what cannot be provoked from outside."""

from __future__ import annotations

import array
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from sensor_msgs.msg import Image

from upsnet_ros.ros.node import UpsnetNode
from upsnet_ros.ros.outputs import Answer

pytestmark = pytest.mark.dds

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ARGUMENTS = (
    "allow_random_weights:=true",
    "variant:=cityscapes-r18",
    "scale:=64",
    "device:=cpu",
    "warm_up:=off",
    "diagnostics_period:=0.1",
    "stale_timeout:=3600.0",  # however busy the machine is
)


class StandIn:
    """A predictor whose frames come from elsewhere."""

    def __init__(self, predictor, predict):
        self.taxonomy, self.device = predictor.taxonomy, predictor.device
        self.random_weights = predictor.random_weights
        self._predict = predict

    def __call__(self, image):
        return self._predict(image)


class Bench:
    """The node, a camera and a listener on one executor, which spins while the test waits."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        cli = ["--ros-args", *(part for one in ARGUMENTS for part in ("-p", one))]
        self.node = UpsnetNode(context=self.context, namespace="in_process", cli_args=cli)
        self.other = Node("other", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.other)
        self.camera = self.other.create_publisher(Image, "/in_process/image", 1)
        self.diagnostics = []
        self.other.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.labels = []
        self.other.create_subscription(Image, "/in_process/labels", self.labels.append, 10)

    def answer_by(self, predict):
        """Lets ``predict`` stand for the network from the next frame on."""
        loaded = self.node.model._loaded
        stand_in = predict if hasattr(predict, "taxonomy") else StandIn(loaded.predictor, predict)
        self.node.model._loaded = replace(loaded, predictor=stand_in)

    def until(self, condition, what, again=lambda: None):
        """Spins until the condition holds; calls ``again`` every second meanwhile."""
        begun = turn = time.monotonic()
        while not (found := condition()):
            now = time.monotonic()
            if now > begun + 120:
                pytest.fail(f"waited 120 s for {what}")
            if now > turn:
                turn = now + 1
                again()
            self.executor.spin_once(timeout_sec=0.1)
        return found

    def values(self):
        mine = [one for one in self.diagnostics if one.status[0].hardware_id.startswith("/in_pro")]
        status = mine[-1].status[-1] if mine else None
        return {one.key: one.value for one in status.values} if status else {}

    def show(self, answered, what="an answer"):
        """Shows frames until one is answered: the first may be sent before both sides met."""
        msg = Image(height=48, width=64, encoding="rgb8", step=192)
        msg.header.stamp.sec = 1
        msg.data = array.array("B", np.arange(48 * 192, dtype=np.uint32).astype(np.uint8).tobytes())
        self.until(answered, what, again=lambda: self.camera.publish(msg))

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.other.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench(domain):
    bench = Bench(domain)
    yield bench
    bench.close()


def test_inference_that_raises_ends_one_frame_and_not_the_node(bench, capfd):
    assert bench.node.start()
    whole = bench.node.model.predictor

    def run_out_of_memory(image):
        raise MemoryError("CUDA out of memory\nand much more about it")

    bench.answer_by(run_out_of_memory)
    bench.show(lambda: bench.values().get("state") == "failed", "the failure in diagnostics")
    told = bench.values()
    assert int(told["failed_frames"]) >= 1
    assert told["last_failure"] == "MemoryError: CUDA out of memory"
    assert "a frame was not segmented: MemoryError: CUDA out of memory\n" in capfd.readouterr().err

    bench.answer_by(whole)
    bench.show(lambda: bench.labels)
    bench.until(lambda: bench.values().get("state") == "active", "the camera is well again")


def test_ten_times_through_all_states(bench):
    for _ in range(10):
        assert bench.node.trigger_configure() is SUCCESS
        assert bench.node.trigger_activate() is SUCCESS
        assert bench.node.state == "active"
        assert bench.node.trigger_deactivate() is SUCCESS
        assert bench.node.trigger_cleanup() is SUCCESS
        assert bench.node.state == "unconfigured"
        assert bench.node.model.predictor is None
    assert bench.node.start()
    bench.show(lambda: bench.labels, "an answer after all that")
    assert bench.node.trigger_shutdown() is SUCCESS
    assert bench.node.state == "finalized"


def test_what_configure_made_is_taken_back_where_it_fails(bench, capfd):
    before = len(list(bench.node.publishers))
    name = "qos_overrides./in_process/overlay.publisher.reliability"
    bench.node.declare_parameter(name, "certain")
    assert bench.node.trigger_configure() is FAILURE
    assert bench.node.state == "unconfigured"
    assert bench.node.model.predictor is None
    assert len(list(bench.node.publishers)) == before
    assert "configure failed: Unexpected QoS override for policy" in capfd.readouterr().err
    bench.node.set_parameters([rclpy.Parameter(name, value="reliable")])
    assert bench.node.trigger_configure() is SUCCESS


def test_labels_that_cannot_hold_the_ids_fail_configure(bench, capfd):
    coco, narrow = {"variant": "coco-r50"}, {"labels_encoding": "16UC1"}
    wished = [rclpy.Parameter(name, value=value) for name, value in {**coco, **narrow}.items()]
    assert bench.node.set_parameters_atomically(wished).successful
    assert bench.node.trigger_configure() is FAILURE
    told = capfd.readouterr().err
    assert "configure failed: labels_encoding: this dataset's ids do not fit 16UC1" in told


def test_an_output_is_made_only_while_somebody_subscribes(bench, monkeypatch):
    made = []
    overlay = Answer.overlay.func
    monkeypatch.setattr(
        Answer, "overlay", property(lambda self: made.append("overlay") or overlay(self))
    )
    assert bench.node.start()
    bench.show(lambda: bench.labels)
    assert made == []
    pictures = []
    bench.other.create_subscription(Image, "/in_process/overlay", pictures.append, 10)
    bench.until(lambda: bench.node.count_subscribers("/in_process/overlay"), "the subscriber")
    bench.show(lambda: pictures, "a picture")
    assert made
    assert pictures[0].encoding == "rgb8"
