"""Publishes a camera's calibration with the stamps of its results, for whoever projects them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

from upsnet_ros.errors import first_line
from upsnet_ros.node.topics import QosWatch, input_qos

#: Messages, and results without one, that wait for their counterpart; at 100 Hz over two seconds.
_LIMIT = 256
#: Seconds after which the log says that nothing comes, or nothing fits.
_QUIET_SECONDS = 5.0
_LOG_SECONDS = 60.0


def camera_info_topic(image_topic: str) -> str:
    """Return the topic of a camera's calibration: ``camera_info`` beside its images.

    Args:
        image_topic: Absolute topic of the images, with or without ``/compressed``.
    """
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


class CameraInfoRelay:
    """Pairs a camera's CameraInfo messages with results of exactly the same stamp.

    Messages stay serialised and are published as they came, bit for bit: outputs have the size of
    the camera's image, so its calibration holds for them. One that comes after its result is
    published at once.

    `take` is called in the worker's second thread, everything else in the executor's.

    Args:
        node: The subscription's.
        topic: The camera's, fully resolved.
        publish: Publishes a serialised message whose result was published before.
        qos_watch: Told of publishers that do not match.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        topic: str,
        publish: Callable[[bytes], None],
        qos_watch: QosWatch,
    ) -> None:
        self.topic = topic
        self._node = node
        self._publish = publish
        self._qos_watch = qos_watch
        self._subscription: Any = None
        self._lock = threading.Lock()
        self._messages: OrderedDict[int, bytes] = OrderedDict()  # by stamp, nanoseconds
        self._lacking: OrderedDict[int, None] = OrderedDict()  # stamps of results without one
        self._since = 0.0
        self._received = self._paired = 0

    def listen(self, wanted: bool) -> None:
        """Subscribes to the camera's topic, or stops; does nothing if that is so already."""
        if wanted == (self._subscription is not None):
            return
        if not wanted:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._qos_watch.forget(self.topic)
            return
        with self._lock:
            self._messages.clear()
            self._lacking.clear()
            self._received = self._paired = 0
        self._since = time.monotonic()
        try:
            self._subscription = self._subscribe()
        except (ValueError, RuntimeError) as error:  # by a qos_overrides parameter that makes none
            # The images, in whose callback this runs, must not suffer.
            self._node.get_logger().error(
                f"{self.topic}: cannot subscribe: {first_line(error)}",
                throttle_duration_sec=_LOG_SECONDS,
            )

    def _subscribe(self) -> Any:
        return self._node.create_subscription(
            CameraInfo,
            self.topic,
            self._on_serialized,
            input_qos("best_effort"),  # which joins publishers of both kinds
            event_callbacks=self._qos_watch.subscription_events(self.topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=True,
        )

    def take(self, stamp: Any) -> bytes | None:
        """Return the serialised message of a result; None if it has not come (yet).

        Args:
            stamp: builtin_interfaces/Time of the result.
        """
        key = _nanoseconds(stamp)
        with self._lock:
            message = self._messages.get(key)
            if message is None:
                _remember(self._lacking, key, None)
            else:
                self._paired += 1
            return message

    def problem(self, *, now: float) -> str:
        """Return in one line why nothing is published; empty if something is, or may still be.

        Args:
            now: Monotonic seconds.
        """
        if self._subscription is None or now - self._since < _QUIET_SECONDS or self._paired:
            return ""
        with self._lock:
            lacking = len(self._lacking)
        if not self._received:
            return f"camera_info is not published: nothing comes on {self.topic}"
        if lacking >= 3:
            return (
                f"camera_info is not published: messages on {self.topic} do not have the stamps of"
                " the images"
            )
        return ""

    def _on_serialized(self, serialized: bytes) -> None:
        try:
            stamp = deserialize_message(serialized, CameraInfo).header.stamp
        except RuntimeError:  # RMWError is one
            self._node.get_logger().warning(
                f"{self.topic}: a message cannot be read", throttle_duration_sec=_LOG_SECONDS
            )
            return
        key = _nanoseconds(stamp)
        self._received += 1
        with self._lock:
            _remember(self._messages, key, serialized)
            late = key in self._lacking
            if late:
                del self._lacking[key]
                self._paired += 1
        if late:
            self._publish(serialized)


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _remember(by_stamp: OrderedDict[int, Any], key: int, value: Any) -> None:
    by_stamp[key] = value
    if len(by_stamp) > _LIMIT:
        by_stamp.popitem(last=False)
