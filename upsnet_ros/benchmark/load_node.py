"""A camera and a listener around the node that is measured."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.benchmark.load_figures import SentFrame
from upsnet_ros.ros.arrival import with_arrival
from upsnet_ros.ros.cdr_image import write_image
from upsnet_ros.ros.qos import output_qos
from upsnet_ros.ros.replay_tally import ReplayTally, SentImage
from upsnet_ros.ros.replay_topics import OUTPUTS, message_class
from upsnet_ros.ros.transport import TRANSPORT_VARIABLES

__all__ = ["LoadError", "LoadNode", "load_node"]

#: What is waited for: every output that a node publishes by default.
_ANSWER = ("labels", "instances", "unknown_mask")
_POLL_SECONDS = 0.1
_RETRY_SECONDS = 3.0


class LoadError(RuntimeError):
    """The node does not answer; the message says what is missing."""


class LoadNode(Node):
    """Publishes frames at a rate and notes when each was answered.

    Args:
        images: uint8 (H, W, 3), BGR; sent in turn.
        alive: Called now and then while waiting; raises where the node has ended.
        timeout: Seconds to wait for the node, and for a frame's answer.
    """

    def __init__(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        alive: Callable[[], None],
        timeout: float,
    ) -> None:
        super().__init__("upsnet_bench", namespace="/panoptic")
        # RGB is what most cameras send; the node has to turn it round.
        self._images = itertools.cycle([np.ascontiguousarray(image[..., ::-1]) for image in images])
        self._alive, self._timeout = alive, timeout
        self._tally = ReplayTally(_ANSWER)
        # A camera driver's way; what the node cannot take in time is lost, as it is meant to be.
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        self._camera = self.create_publisher(Image, "image", qos)
        self._answers = [self._listen(name) for name in _ANSWER]
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def wait_for_node(self) -> None:
        """Until the node listens, its outputs are there, and it has answered a frame.

        Raises:
            LoadError: If that takes longer than the timeout.
        """
        until = time.monotonic() + self._timeout
        self._spin(lambda: not self._absent(), self._timeout)
        if absent := self._absent():
            raise LoadError(f"{absent} after {self._timeout:g} s")
        # Each side learns of the other at a moment of its own, and until then frames are lost.
        while not self._tally.answered:
            if time.monotonic() > until:
                raise LoadError(f"no answer to any frame within {self._timeout:g} s")
            image = self._send()
            self._spin(lambda: self._tally.answered > 0, _RETRY_SECONDS)
        self._spin(partial(self._answered, image), self._timeout)

    def one_by_one(self, count: int) -> list[SentFrame]:
        """Send frames, each when the one before it was answered.

        Raises:
            LoadError: If one is not answered within the timeout.
        """
        frames = []
        for number in range(1, count + 1):
            image = self._send()
            self._spin(partial(self._answered, image), self._timeout)
            if missing := self._tally.waits_for(image):
                raise LoadError(
                    f"frame {number}: no {', '.join(missing)} within {self._timeout:g} s"
                )
            frames.append(self._frame(image, image.sent_ns))
        return frames

    def at_rate(self, rate_hz: float, *, count: int, settle: float) -> list[SentFrame]:
        """Send frames at a rate, whether they are answered or not.

        Args:
            rate_hz: Frames a second.
            count: How many.
            settle: Seconds to wait for the answer to the last frame; it is missed after that.
        """
        sent = []
        begin_ns = time.time_ns() + round(1e9 / rate_hz)
        for number in range(count):
            due_ns = begin_ns + round(number * 1e9 / rate_hz)
            self._spin(lambda: False, (due_ns - time.time_ns()) / 1e9)
            sent.append((self._send(), due_ns))
        last, _ = sent[-1]
        # The newest frame is never dropped for another, and answered last.
        self._spin(partial(self._answered, last), settle)
        return [self._frame(image, due_ns) for image, due_ns in sent]

    def describe(self) -> dict[str, str]:
        """What carries the messages, fit for JSON."""
        chosen = {name: os.environ[name] for name in TRANSPORT_VARIABLES if os.environ.get(name)}
        return {
            "distro": os.environ.get("ROS_DISTRO", ""),
            "middleware": rclpy.get_rmw_implementation_identifier(),
            # Names of files, not where they lie.
            **{name: Path(value).name for name, value in chosen.items()},
        }

    def destroy_node(self) -> None:
        """End the node and its executor."""
        self._executor.shutdown()
        super().destroy_node()

    def _absent(self) -> str:
        """What of the node is not there yet; empty where all is."""
        if not self._camera.get_subscription_count():
            return f"nobody listens on {self._camera.topic_name}"
        topics = [one.topic_name for one in self._answers]
        silent = [topic for topic in topics if not self.count_publishers(topic)]
        return f"nobody publishes {', '.join(silent)}" if silent else ""

    def _send(self) -> SentImage:
        stamp_ns = self.get_clock().now().nanoseconds
        header = Header(stamp=Time(nanoseconds=stamp_ns).to_msg(), frame_id="camera")
        message = write_image(next(self._images), "rgb8", header)
        # From when the message is handed over: to write it is not the node's latency.
        image = self._tally.send(stamp_ns=stamp_ns, bag_ns=stamp_ns, sent_ns=time.time_ns())
        self._camera.publish(message)
        return image

    def _frame(self, image: SentImage, due_ns: int) -> SentFrame:
        received_ns = max(image.answers.values()) if self._answered(image) else None
        return SentFrame(due_ns, image.sent_ns, received_ns)

    def _answered(self, image: SentImage) -> bool:
        return not self._tally.waits_for(image)

    def _listen(self, name: str) -> Any:
        def heard(raw: bytes, received_ns: int) -> None:
            stamp = deserialize_message(raw, Header).stamp  # all that is read of the answer
            self._tally.answer(name, Time.from_msg(stamp).nanoseconds, received_ns=received_ns)

        kind = message_class(OUTPUTS[name])
        return self.create_subscription(kind, name, with_arrival(heard), output_qos(), raw=True)

    def _spin(self, arrived: Callable[[], bool], seconds: float) -> None:
        """Let messages in until something has arrived, or so many seconds have passed."""
        until = time.monotonic() + seconds
        while not arrived():
            self._alive()
            left = until - time.monotonic()
            if left <= 0:
                return
            self._executor.spin_once(timeout_sec=min(left, _POLL_SECONDS))


@contextmanager
def load_node(
    images: Sequence[npt.NDArray[np.uint8]], *, alive: Callable[[], None], timeout: float
) -> Iterator[LoadNode]:
    """A `LoadNode`, with rclpy initialised for it; Ctrl-C stays Python's own."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = LoadNode(images, alive=alive, timeout=timeout)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
