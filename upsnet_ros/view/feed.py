"""Collects diagnostics, overlays and labelled points for the web page.

The node is always subscribed to /diagnostics, and to an overlay or to points only while a browser
shows them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from upsnet_ros.errors import ImageError, PointsError
from upsnet_ros.messages.cdr_image import read_compressed_image, read_image
from upsnet_ros.messages.compressed import encode_jpeg
from upsnet_ros.messages.images import check, to_bgr
from upsnet_ros.node.topics import stamp_ns
from upsnet_ros.view.figures import Presence, Reports
from upsnet_ros.view.points import PointsView

_COMPRESSED_TYPE, _RAW_TYPE = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
_CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
_POINTS = "/points"
_TICK_SECONDS = 0.5
#: Time after the last request for an overlay until its topic is unsubscribed, seconds. A browser
#: requests the next image much sooner.
_LEASE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One overlay, or view of points from above, for a browser.

    Attributes:
        number: Sequence number; differs for each image of a topic.
        media_type: "image/jpeg" or "image/png".
        data: The encoded image.
        stamp: Header stamp, seconds.
        received: Monotonic time of arrival, seconds.
    """

    number: int
    media_type: str
    data: bytes
    stamp: float
    received: float


class Feed:
    """Overlays, labelled points and statistics of all nodes in the ROS domain.

    ROS entities are only used in the thread that spins ``node``; `picture` and `figures` may be
    called from any thread.

    Args:
        node: Node for the subscriptions; the caller spins and destroys it.
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
        self._frames: dict[str, str] = {}  # frame_id of the last overlay, by topic
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        # Not the node's clock, which stands still if simulated time is paused.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_TICK_SECONDS, self._tick, clock=clock)
        self._viewers_changed = node.create_guard_condition(self._follow_viewers)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Wake up all waiting callers; later calls neither wait nor use the node."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def figures(self, *, after: int, timeout: float) -> tuple[int, dict[str, Any]]:
        """Wait for new statistics and return them.

        Args:
            after: Version of the last statistics seen; -1 for none.
            timeout: Seconds after which the old ones are returned again.

        Returns:
            Version and JSON-ready statistics.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._version != after, timeout)
            nodes = self._reports.figures(self._presence, now=time.monotonic())
            return self._version, {
                "nodes": nodes,
                "malformed": dict(self._malformed),
                "left_out": self._reports.left_out,
            }

    def picture(self, topic: str, *, after: int, timeout: float) -> Picture | None:
        """Wait for a picture of a topic whose number differs from ``after``, and return it.

        It may be old, from the time when the topic was last viewed: see ``received``.

        Args:
            topic: Topic of an overlay or of labelled points.
            after: Number of the last image seen.
            timeout: Seconds to wait.

        Returns:
            The newest picture; None if there was none within the timeout, or after `close`.

        Raises:
            KeyError: If no node publishes an overlay or points on that topic.
        """

        def new_picture() -> Picture | None:
            picture = self._pictures.get(topic)
            return picture if picture is not None and picture.number != after else None

        with self._changed:
            if topic not in self._offered():
                raise KeyError(topic)
            if self._closed:
                return None
            self._waiting[topic] += 1
            self._viewers_changed.trigger()
            try:
                self._changed.wait_for(lambda: self._closed or new_picture() is not None, timeout)
            finally:
                self._waiting[topic] -= 1
                self._leases[topic] = time.monotonic() + _LEASE_SECONDS
            return new_picture()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._changed:
            ours = self._reports.add(message.status, now=time.monotonic())
        if ours:
            self._update_presence()

    def _tick(self) -> None:
        self._update_presence()
        self._follow_viewers()

    def _update_presence(self) -> None:
        """Look up in the ROS graph which of the nodes exist, their overlays, and their points."""
        with self._changed:
            names = self._reports.nodes
        existing = {
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in self._node.get_node_names_and_namespaces()
        }
        overlays = self._overlays()
        clouds = self._clouds()
        presence = {
            name: Presence(name in existing, overlays.get(name, {}), _points_of(name, clouds))
            for name in names
        }
        with self._changed:
            # Keep the overlay topics of a node that has gone: after a restart they are the same.
            # Between its start and the discovery of its publishers, it has none either.
            for name, found in presence.items():
                if not found.overlays and name in self._presence:
                    presence[name] = replace(found, overlays=self._presence[name].overlays)
            self._presence = presence
            offered = self._offered()
            for kept in (self._pictures, self._frames):
                for topic in kept.keys() - offered:
                    del kept[topic]
            self._version += 1
            self._changed.notify_all()

    def _offered(self) -> set[str]:
        """Return the topics of the overlays and points of all nodes."""
        return {
            topic
            for node in self._presence.values()
            for topic in (*node.overlays.values(), *node.points.values())
        }

    def _clouds(self) -> list[str]:
        """Look up in the ROS graph the topics that could be of a points node."""
        return [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if topic.endswith(_POINTS)
            and _CLOUD_TYPE in types
            and self._node.count_publishers(topic)
        ]

    def _overlays(self) -> dict[str, dict[str, str]]:
        """Look up in the ROS graph the overlay topic of each camera of each node.

        By topic: asked for the topics of a node, ROS answers for only one of several nodes of that
        name, such as an old one that is still ending and the new one.
        """
        overlays: dict[str, dict[str, str]] = {}
        topics = self._node.get_topic_names_and_types()
        # Compressed topics come second and override raw ones.
        for ending, kind in (("/overlay", _RAW_TYPE), ("/overlay/compressed", _COMPRESSED_TYPE)):
            for topic, types in topics:
                if kind not in types or not topic.endswith(ending):
                    continue
                for publisher in self._node.get_publishers_info_by_topic(topic):
                    base = f"{publisher.node_namespace.rstrip('/')}/"
                    camera = topic.removeprefix(base).removesuffix(ending[1:]).strip("/")
                    overlays.setdefault(base + publisher.node_name, {})[camera] = topic
        return overlays

    def _follow_viewers(self) -> None:
        """Subscribe to requested pictures; unsubscribe from those not requested recently."""
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
                self._malformed.pop(topic, None)
                if not self._waiting[topic]:
                    del self._waiting[topic]
                    self._leases.pop(topic, None)
        for topic in wanted - self._subscriptions.keys():
            kind, encode = self._reader_of(topic)
            self._subscriptions[topic] = self._node.create_subscription(
                kind,
                topic,
                self._receiver(topic, encode),
                # Only the newest message matters, and a viewer must not slow down the node.
                QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT),
                # Otherwise rclpy raises in the executor if a message cannot be deserialised.
                raw=True,
            )

    def _reader_of(self, topic: str) -> tuple[type, _Encode]:
        """Return the type of a topic's messages, and what makes a picture of one."""
        if topic.endswith(_POINTS):
            view = PointsView()

            def draw(serialized: bytes) -> _Encoded | None:
                drawn = view.draw(serialized, camera=self._camera_frame(topic))
                return None if drawn is None else (*drawn, "image/png")

            return PointCloud2, draw
        compressed = topic.endswith("/compressed")
        read = read_compressed_image if compressed else read_image

        def encode(serialized: bytes) -> _Encoded:
            message = read(serialized)
            check(message)
            self._frames[topic] = message.header.frame_id
            return message.header, *_file_of(message)

        return CompressedImage if compressed else Image, encode

    def _camera_frame(self, points: str) -> str | None:
        """Return the frame of the images that points have their labels from.

        Empty if there is no overlay to tell; None if its first message has not arrived yet.
        """
        for node in self._presence.values():
            for camera, topic in node.points.items():
                if topic == points and camera in node.overlays:
                    return self._frames.get(node.overlays[camera])
        return ""

    def _receiver(self, topic: str, encode: _Encode) -> Callable[[bytes], None]:
        def receive(serialized: bytes) -> None:
            try:
                encoded = encode(serialized)
            except (ImageError, PointsError) as error:
                with self._changed:
                    self._malformed[topic] = str(error)
                return
            if encoded is None:
                return
            header, data, media_type = encoded
            with self._changed:
                self._number += 1
                self._malformed.pop(topic, None)
                self._pictures[topic] = Picture(
                    self._number,
                    media_type,
                    data,
                    stamp=stamp_ns(header.stamp) / 1e9,
                    received=time.monotonic(),
                )
                self._changed.notify_all()

        return receive


#: Header, file and media type of a picture.
_Encoded = tuple[Any, bytes, str]
#: Makes a picture of a serialised message; None if there is no need of one.
_Encode = Callable[[bytes], _Encoded | None]


def _points_of(name: str, clouds: Sequence[str]) -> dict[str, str]:
    """Return those of the topics that are beside the labels of a node, by camera.

    Args:
        name: Full name of the node.
        clouds: Topics of clouds, which end in ``/points``.
    """
    base = f"{name.rpartition('/')[0]}/"
    return {
        topic.removeprefix(base).removesuffix(_POINTS[1:]).strip("/"): topic
        for topic in clouds
        if topic.startswith(base)
    }


def _file_of(message: Any) -> tuple[bytes, str]:
    """Return the encoded image of a message and its media type."""
    if hasattr(message, "format"):
        data = bytes(message.data)
        return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return encode_jpeg(to_bgr(message)), "image/jpeg"
