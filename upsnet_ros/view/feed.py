"""The node ``upsnet_view``: listens to reports always, to overlays while somebody looks at them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.ros.cdr_image import read_compressed_image, read_image
from upsnet_ros.ros.image_codec import ImageError, check, to_bgr
from upsnet_ros.view.figures import Presence, Reports

__all__ = ["Feed", "Picture"]

_COMPRESSED_TYPE, _RAW_TYPE = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
_TICK_SECONDS = 0.5
#: A topic is left so long after its last viewer; he asks for the next picture much sooner.
_LEASE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One overlay as a browser takes it.

    Attributes:
        number: Another one for each picture of its topic.
        media_type: "image/jpeg" or "image/png".
        data: The file.
        stamp: Seconds, of its header.
    """

    number: int
    media_type: str
    data: bytes
    stamp: float


class Feed:
    """Pictures and figures of all nodes in reach, for any number of threads.

    All ROS is done in the thread that spins ``node``; `picture` and `figures` may be called in any.

    Args:
        node: Which subscribes; of the caller, who spins and destroys it.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._closed = False
        self._reports = Reports()
        self._presence: dict[str, Presence] = {}
        self._version = 0
        self._pictures: dict[str, Picture] = {}
        self._malformed: dict[str, str] = {}
        self._number = 0
        self._waiting: Counter[str] = Counter()
        self._leases: dict[str, float] = {}
        self._subscriptions: dict[str, Any] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        # Not the node's clock, which may be simulated and stand still.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_TICK_SECONDS, self._tick, clock=clock)
        self._viewers_changed = node.create_guard_condition(self._follow_viewers)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Ends all waiting, at once and for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def figures(self, *, after: int, timeout: float) -> tuple[int, dict[str, Any]]:
        """What there is to say, as soon as it is news.

        Args:
            after: Number of the last figures that were seen; -1 for none.
            timeout: Seconds after which the old ones come again.

        Returns:
            Their number and a JSON-ready table.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._version != after, timeout)
            nodes = self._reports.figures(self._presence, now=time.monotonic())
            return self._version, {"nodes": nodes, "malformed": dict(self._malformed)}

    def picture(self, topic: str, *, after: int, timeout: float) -> Picture | None:
        """The newest overlay of a topic, as soon as it is another one than number ``after``.

        Returns:
            None where there was none within ``timeout`` seconds.

        Raises:
            KeyError: If no node offers an overlay on that topic.
        """

        def news() -> Picture | None:
            picture = self._pictures.get(topic)
            return picture if picture is not None and picture.number != after else None

        with self._changed:
            if not any(topic in node.overlays.values() for node in self._presence.values()):
                raise KeyError(topic)
            self._waiting[topic] += 1
            self._viewers_changed.trigger()
            try:
                self._changed.wait_for(lambda: self._closed or news() is not None, timeout)
            finally:
                self._waiting[topic] -= 1
                self._leases[topic] = time.monotonic() + _LEASE_SECONDS
            return news()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._changed:
            ours = self._reports.add(message.status, now=time.monotonic())
        if ours:
            self._look_around()

    def _tick(self) -> None:
        self._look_around()
        self._follow_viewers()

    def _look_around(self) -> None:
        """Ask the graph which of the nodes are there, and what they publish."""
        with self._changed:
            names = self._reports.nodes
        there = {
            f"{namespace.rstrip('/')}/{name}": (name, namespace)
            for name, namespace in self._node.get_node_names_and_namespaces()
        }
        presence = {
            name: Presence(True, self._overlays(*there[name])) if name in there else Presence(False)
            for name in names
        }
        with self._changed:
            # Where a node that has gone showed its overlays is where its successor will.
            for name, found in presence.items():
                if not found.there and name in self._presence:
                    presence[name] = Presence(False, self._presence[name].overlays)
            self._presence = presence
            self._version += 1
            self._changed.notify_all()

    def _overlays(self, name: str, namespace: str) -> dict[str, str]:
        published = dict(self._node.get_publisher_names_and_types_by_node(name, namespace))
        base = f"{namespace.rstrip('/')}/"
        overlays = {}
        # The second time round, so that compressed ones take the place of others.
        for ending, kind in (("overlay", _RAW_TYPE), ("overlay/compressed", _COMPRESSED_TYPE)):
            for topic, types in published.items():
                if kind in types and f"/{topic}".endswith(f"/{ending}"):
                    overlays[topic.removeprefix(base).removesuffix(ending).strip("/")] = topic
        return overlays

    def _follow_viewers(self) -> None:
        """Subscribe to what somebody waits for, and leave what nobody has asked for of late."""
        now = time.monotonic()
        with self._changed:
            wanted = {
                topic
                for topic, waiting in self._waiting.items()
                if waiting or self._leases.get(topic, 0.0) > now
            }
        for topic in self._subscriptions.keys() - wanted:
            self._node.destroy_subscription(self._subscriptions.pop(topic))
            with self._changed:
                # Whoever comes later must not take it for a new one.
                self._pictures.pop(topic, None)
                self._malformed.pop(topic, None)
                if not self._waiting[topic]:
                    del self._waiting[topic]
                    self._leases.pop(topic, None)
        for topic in wanted - self._subscriptions.keys():
            compressed = topic.endswith("/compressed")
            self._subscriptions[topic] = self._node.create_subscription(
                CompressedImage if compressed else Image,
                topic,
                self._taker(topic, read_compressed_image if compressed else read_image),
                # The newest counts, and the node shall not be held up by who looks at it.
                QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT),
                # rclpy would raise, in the executor, of what is no message.
                raw=True,
            )

    def _taker(self, topic: str, read: Callable[[bytes], Any]) -> Callable[[bytes], None]:
        def take(serialized: bytes) -> None:
            try:
                message = read(serialized)
                check(message)
                data, media_type = _file_of(message)
            except ImageError as error:
                with self._changed:
                    self._malformed[topic] = str(error)
                return
            stamp = message.header.stamp
            with self._changed:
                self._number += 1
                self._malformed.pop(topic, None)
                self._pictures[topic] = Picture(
                    self._number, media_type, data, stamp.sec + 1e-9 * stamp.nanosec
                )
                self._changed.notify_all()

        return take


def _file_of(message: Any) -> tuple[bytes, str]:
    if hasattr(message, "format"):
        data = bytes(message.data)
        return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    _, encoded = cv2.imencode(".jpg", to_bgr(message))
    return encoded.tobytes(), "image/jpeg"
