"""Several nodes in one process; remaps, namespaces and parameters from files; simulated time."""

from __future__ import annotations

import gc
import time

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_bench import BEST_EFFORT, Bench, image
from nodes_left import dds_threads
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from upsnet_ros.node.node import UpsnetNode

pytestmark = pytest.mark.dds

PARAMETERS = """
/**:
  ros__parameters:
    allow_random_weights: true
    variant: cityscapes-r18
    scale: 64
    device: cpu
    warm_up: none
/robot/eyes/near:
  ros__parameters:
    score_threshold: 0.25
    publish_overlay: false
/robot/far_eye:
  ros__parameters:
    score_threshold: 0.75
"""


class Container:
    """Two nodes that segment and a plain one, composed on one executor."""

    def __init__(self, domain, file):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        common = ["--ros-args", "--params-file", str(file)]
        self.near = UpsnetNode(
            "near",
            context=self.context,
            namespace="/robot/eyes",
            cli_args=[*common, "-r", "image:=/cameras/near/image_raw", "-p", "overlay_alpha:=0.25"],
        )
        self.far = UpsnetNode(
            context=self.context,
            cli_args=[
                *(*common, "-r", "__node:=far_eye", "-r", "__ns:=/robot"),
                *("-r", "image:=far_camera", "-r", "labels:=/maps/far"),
            ],
        )
        self.other = Node("other", context=self.context)
        self.nodes = (self.near, self.far, self.other)
        self.executor = SingleThreadedExecutor(context=self.context)
        for node in self.nodes:
            self.executor.add_node(node)

    def until(self, condition, again=lambda: None):
        end = time.monotonic() + 240
        due = 0.0
        while time.monotonic() < end:
            if found := condition():
                return found
            if time.monotonic() >= due:
                again()
                due = time.monotonic() + 0.1
            self.executor.spin_once(timeout_sec=0.1)
        raise AssertionError("waited 240 s")

    def call(self, service, name, request):
        client = self.other.create_client(service, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def close(self):
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def container(domain, tmp_path):
    file = tmp_path / "eyes.yaml"
    file.write_text(PARAMETERS)
    container = Container(domain, file)
    yield container
    container.close()


def test_a_destroyed_node_has_left_dds(domain, tmp_path):
    file = tmp_path / "eyes.yaml"
    file.write_text(PARAMETERS)
    gc.disable()  # its objects refer to each other
    try:
        container = Container(domain, file)
        assert dds_threads() != []
        container.close()
        assert dds_threads() == []
    finally:
        gc.enable()


def test_two_nodes_in_one_process_each_with_its_names_and_parameters(container):
    near, far = container.near, container.far
    assert (near.get_fully_qualified_name(), far.get_fully_qualified_name()) == (
        "/robot/eyes/near",
        "/robot/far_eye",
    )
    assert (near.settings.score_threshold, far.settings.score_threshold) == (0.25, 0.75)
    assert (near.settings.publish_overlay, far.settings.publish_overlay) == (False, True)
    assert (near.settings.overlay_alpha, far.settings.overlay_alpha) == (0.25, 0.5)

    # As a lifecycle manager brings its nodes up: one after the other, then in turn down.
    names = [node.get_fully_qualified_name() for node in (near, far)]
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        for name in names:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert container.call(ChangeState, f"{name}/change_state", request).success
    for name in names:
        state = container.call(GetState, f"{name}/get_state", GetState.Request())
        assert state.current_state.label == "active"

    heard = {"/robot/eyes/labels": [], "/maps/far": []}
    for topic, messages in heard.items():
        container.other.create_subscription(Image, topic, messages.append, 10)
    reports = []
    container.other.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)
    cameras = [
        container.other.create_publisher(Image, topic, BEST_EFFORT)
        for topic in ("/cameras/near/image_raw", "/robot/far_camera")
    ]
    for camera, frame_id, topic in zip(cameras, ("near", "far"), heard, strict=True):
        container.until(
            lambda topic=topic: heard[topic],
            again=lambda camera=camera, frame_id=frame_id: camera.publish(image(frame_id=frame_id)),
        )
        assert heard[topic][0].header.frame_id == frame_id
    container.until(lambda: {one.status[0].hardware_id for one in reports} == set(names))

    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        for name in reversed(names):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert container.call(ChangeState, f"{name}/change_state", request).success
    assert near.model.predictor is far.model.predictor is None


def test_simulated_time(domain):
    bench = Bench(domain, "use_sim_time:=true")
    try:
        camera, labels = bench.camera(), bench.collect("labels")
        clock = bench.other.create_publisher(Clock, "/clock", 10)

        def tick(seconds):
            msg = Clock()
            msg.clock.sec = seconds
            clock.publish(msg)

        def delay():
            text = bench.values("camera").get("current_delay_from_realtime_ms", "n/a")
            return None if text == "n/a" else float(text)

        def show():
            tick(105)
            camera.publish(image(100 * 1_000_000_000))

        assert bench.node.start()
        bench.until(lambda: labels and delay() is not None, "an answer", again=show)
        bench.until(lambda: delay() == 5000.0, "a delay by /clock", again=show)
        assert bench.diagnostics[-1].header.stamp.sec == 105

        # The clock stands still, as while a bag is paused, yet the health is reported.
        known = len(bench.diagnostics)
        bench.until(lambda: len(bench.diagnostics) >= known + 3, "reports in the meantime")
        assert bench.diagnostics[-1].header.stamp.sec == 105

        # The bag is restarted: the clock goes back, and frames are answered as before.
        labels.clear()

        def again():
            tick(51)
            camera.publish(image(50 * 1_000_000_000))

        bench.until(lambda: delay() == 1000.0, "a delay by the clock of the second time", again)
        bench.until(lambda: any(one.header.stamp.sec == 50 for one in labels), "an answer", again)
        assert int(bench.values("camera")["stamps_backwards"]) == 1
    finally:
        bench.close()
