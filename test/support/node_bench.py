"""The node within the test's own process, with a camera and a listener beside it."""

from __future__ import annotations

import array
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from dds_fixtures import SECONDS, bounded_teardown
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from upsnet_ros.node.model import open_pipeline
from upsnet_ros.node.node import UpsnetNode

ARGUMENTS = (
    "allow_random_weights:=true",
    "variant:=cityscapes-r18",
    "scale:=64",
    "device:=cpu",
    "warm_up:=none",
    "diagnostics_period:=0.1",
    "stale_timeout:=3600.0",  # however busy the machine is
)
BEST_EFFORT = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)


class StandIn:
    """A predictor whose frames come from elsewhere."""

    def __init__(self, predictor, predict):
        self._predictor, self._predict = predictor, predict

    def compute_batch(self, images, settings, *, encoding, stage):
        return [self._predict(image.numpy()) for image in images]

    def frame(self, computed):
        return computed

    def __getattr__(self, name):
        return getattr(self._predictor, name)


def image(stamp_ns=1_000_000_000, *, height=48, width=64, frame_id=""):
    """A picture that is the same every time."""
    msg = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    msg.header.frame_id = frame_id
    values = np.arange(height * 3 * width, dtype=np.uint32).astype(np.uint8)
    msg.data = array.array("B", values.tobytes())
    return msg


class Bench:
    """The node and a listener on one executor, which spins while the test waits."""

    def __init__(
        self, domain, *arguments, namespace="in_process", cli=(), kind=UpsnetNode, common=ARGUMENTS
    ):
        self.namespace = namespace
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        given = [part for one in (*common, *arguments) for part in ("-p", one)]
        self.node = kind(
            context=self.context, namespace=namespace, cli_args=["--ros-args", *given, *cli]
        )
        self.other = Node("other", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.other)
        self.diagnostics = self.collect("/diagnostics", DiagnosticArray)

    def camera(self, topic="image", qos=BEST_EFFORT, message=Image):
        """A publisher of images on a topic of the node's namespace."""
        return self.other.create_publisher(message, f"/{self.namespace}/{topic}", qos)

    def collect(self, topic, message=Image, qos=10):
        """A list to which a topic's messages are added while the test waits."""
        messages = []
        name = topic if topic.startswith("/") else f"/{self.namespace}/{topic}"
        self.other.create_subscription(message, name, messages.append, qos)
        return messages

    def answer_by(self, predict):
        """Lets ``predict`` stand for the network from the next frame on."""
        loaded = self.node.model._loaded
        stand_in = predict if hasattr(predict, "taxonomy") else StandIn(loaded.predictor, predict)
        pipeline = open_pipeline(stand_in, batch=loaded.pipeline.batch)
        self.node.model._loaded = replace(loaded, predictor=stand_in, pipeline=pipeline)
        loaded.pipeline.close()

    def until(self, condition, what, again=lambda: None, every=1.0):
        """Spins until the condition holds; calls ``again`` from time to time."""
        started = turn = time.monotonic()
        while not (found := condition()):
            now = time.monotonic()
            if now > started + SECONDS:
                pytest.fail(f"waited {SECONDS} s for {what}")
            if now >= turn:
                turn = now + every
                again()
            self.executor.spin_once(timeout_sec=min(0.1, every))
        return found

    def once_it_stops(self, action):
        """Calls ``action`` in a thread when the node begins no more frames."""

        def watch():
            while self.node._worker._running:
                time.sleep(0.001)
            action()

        threading.Thread(target=watch, daemon=True).start()

    def call(self, service, name, request):
        """Calls a service of the node and returns the response."""
        client = self.other.create_client(service, f"/{self.namespace}/upsnet/{name}")
        self.until(client.service_is_ready, f"the service {name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}", every=0.01)
        self.other.destroy_client(client)
        return future.result()

    def set(self, **values):
        """Sets parameters of the node together; whether that was taken, and why not."""
        wished = [
            rclpy.Parameter(name.replace("__", "."), value=value) for name, value in values.items()
        ]
        result = self.node.set_parameters_atomically(wished)
        return result.successful, result.reason

    def statuses(self):
        """The newest report of the node, status by status; empty before the first."""
        for one in reversed(self.diagnostics):
            if one.status[0].hardware_id == self.node.get_fully_qualified_name():
                return one.status
        return []

    def values(self, ending=""):
        """Keys and values of its status whose name ends so; of the last one by default."""
        found = [one for one in self.statuses() if one.name.endswith(ending)]
        if not found:
            return {}
        return {**{one.key: one.value for one in found[-1].values}, "message": found[-1].message}

    def show(self, camera, answered, what="an answer"):
        """Shows frames until one is answered: the first may be sent before both sides met.

        There are diagnostics then, too.
        """
        again = lambda: camera.publish(image())  # noqa: E731
        self.until(lambda: self.statuses() and answered(), what, again=again)

    def close(self):
        with bounded_teardown():
            self.executor.shutdown()
            self.node.destroy_node()
            self.other.destroy_node()
            self.context.try_shutdown()
