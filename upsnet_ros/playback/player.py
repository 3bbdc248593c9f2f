"""Publishes the frames of a source (images, video, webcam) like a camera."""

from __future__ import annotations

import array
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.qos import QoSCompatibility, QoSProfile, QoSReliabilityPolicy, qos_check_compatible
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.bags.sources import FrameSource, SourceFrame
from upsnet_ros.errors import PlayerError, SourceError
from upsnet_ros.messages.compressed import encode_jpeg
from upsnet_ros.messages.results import compressed_topic, image_message
from upsnet_ros.node.lifecycle import SpinningNode
from upsnet_ros.node.topics import IMAGE_TYPES, stamp_ns
from upsnet_ros.playback.settings import PlayerSettings, Stamps

# Time without a change after which discovery is taken to be complete on both sides, and where
# nobody has been found.
_SETTLE_SECONDS, _LONELY_SECONDS = 0.5, 1.0

# Longest wait for peers that the ROS graph shows but that may never come: a subscription that does
# not match, or a node that gets its images through another node.
_PATIENCE_SECONDS = 10.0

# Longest wait at the end for reliable subscribers to acknowledge the last frame.
_ACK_TIMEOUT = Duration(seconds=2)


class Player(SpinningNode):
    """The node ``upsnet_play``; call `play` to publish a source.

    Args:
        settings: How to play.
        namespace: Namespace of the node.
    """

    def __init__(self, settings: PlayerSettings, *, namespace: str = "panoptic") -> None:
        super().__init__("upsnet_play", namespace=namespace)
        self._settings = settings
        # A reliable publisher matches both reliable and best-effort subscribers.
        qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
        base = self.resolve_topic_name(settings.topic)  # remap the base topic, as image_transport
        if settings.compressed:
            base = compressed_topic(base)
        kind = CompressedImage if settings.compressed else Image
        self._topic_type = IMAGE_TYPES["compressed" if settings.compressed else "raw"]
        self._publisher = self.create_publisher(kind, base, qos)
        self._result_stamp_ns: int | None = None
        self._results: Any = None
        if settings.lockstep:
            self._results = self.create_subscription(
                Image, settings.answer_topic, self._on_result, qos
            )

    @property
    def topic(self) -> str:
        """Absolute name of the published topic."""
        return str(self._publisher.topic_name)

    def play(
        self, source: FrameSource, *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[SourceFrame]:
        """Publish ``source``; yield each frame after publishing it.

        In lockstep, a frame is yielded once its result has arrived. Ends early as soon as
        ``stopped`` returns True.

        Raises:
            PlayerError: If there are no subscribers or no result within the timeout.
            SourceError: If the source cannot be read.
        """
        settings = self._settings
        self._wait_for_peers(stopped)
        start_ns = self.get_clock().now().nanoseconds
        due = time.monotonic()
        last_ns: int | None = None
        for frame in itertools.islice(self._frames(source), settings.count):
            if last_ns is not None:
                due = max(due + self._interval(frame.time_ns - last_ns), time.monotonic())
            self.spin_until(stopped, until=due)
            if stopped():
                break
            stamp_ns = (
                start_ns + frame.time_ns
                if settings.stamps is Stamps.SOURCE
                else self.get_clock().now().nanoseconds
            )
            if last_ns is None:
                # From the first stamp on: reading that frame took its time.
                due = time.monotonic()
            last_ns = frame.time_ns
            self._publisher.publish(self._message(frame.image, stamp_ns))
            if settings.lockstep:
                self._wait_for_result(frame, stamp_ns, stopped)
            yield frame
        # Keep running for the duration of the last frame and until it is acknowledged.
        due += self._interval(round(1e9 / source.rate_hz))
        self.spin_until(stopped, until=due)
        self._publisher.wait_for_all_acked(_ACK_TIMEOUT)

    def _interval(self, source_ns: int) -> float:
        """Return the seconds between two frames that are ``source_ns`` apart in the source."""
        if self._settings.rate_hz is not None:
            return 1 / self._settings.rate_hz
        return 0.0 if self._settings.lockstep else source_ns / 1e9

    def _frames(self, source: FrameSource) -> Iterator[SourceFrame]:
        """Yield the frames of the source once, or repeatedly with increasing times (``loop``).

        Raises:
            SourceError: If the source has no frame.
        """
        start_ns = last_ns = 0
        while True:
            count = 0
            for frame in source:
                last_ns = start_ns + frame.time_ns
                count += 1
                yield SourceFrame(image=frame.image, name=frame.name, time_ns=last_ns)
            if count == 0:
                raise SourceError(f"{source.name} has no frame that can be read")
            if not self._settings.loop:
                return
            # Use the mean frame interval as the duration of the last frame.
            mean_ns = (last_ns - start_ns) / (count - 1) if last_ns > start_ns else 0
            start_ns = last_ns + round(mean_ns or 1e9 / source.rate_hz)

    def _message(self, image: npt.NDArray[np.uint8], stamp_ns: int) -> Any:
        settings = self._settings
        if settings.size and image.shape[:2] != settings.size:
            image = np.asarray(
                cv2.resize(image, settings.size[::-1], interpolation=cv2.INTER_AREA), np.uint8
            )
        header = Header(stamp=Time(nanoseconds=stamp_ns).to_msg(), frame_id=settings.frame_id)
        if not settings.compressed:
            return image_message(image, "bgr8", header)
        # rclpy accepts an array.array without checking every element.
        data = array.array("B", encode_jpeg(image))
        return CompressedImage(header=header, format="bgr8; jpeg compressed bgr8", data=data)

    def _on_result(self, result: Image) -> None:
        self._result_stamp_ns = stamp_ns(result.header.stamp)

    def _wait_for_peers(self, stopped: Callable[[], bool]) -> None:
        """Wait until everyone who is to receive the first frame is subscribed.

        Raises:
            PlayerError: If there are too few subscribers or no results within the timeout.
        """
        seen: tuple[int, str, str] | None = None
        since = time.monotonic()

        def settled() -> bool:
            nonlocal seen, since
            now = time.monotonic()
            count = self._publisher.get_subscription_count()
            state = count, self._missing_peer(), self._late_peer()
            if state != seen:
                seen, since = state, now
            patience = _SETTLE_SECONDS if count else _LONELY_SECONDS
            if state[2]:
                patience = _PATIENCE_SECONDS
            return not state[1] and now - since >= patience

        self.spin_until(
            lambda: settled() or stopped(), until=time.monotonic() + self._settings.timeout
        )
        if stopped():
            return
        if missing := self._missing_peer():
            raise PlayerError(missing)
        if late := self._late_peer():
            self.get_logger().warning(f"{late}; publishing all the same")

    def _missing_peer(self) -> str:
        """Return what is missing without which playing is an error; empty if nothing is."""
        settings = self._settings
        wanted = max(settings.subscribers, 1 if settings.lockstep else 0)
        count = self._publisher.get_subscription_count()
        if count < wanted:
            return (
                f"{count} of {wanted} subscribers on {self.topic} after {settings.timeout:g} s:"
                " is the node subscribed to this topic?"
            )
        if self._results is not None and not self.count_publishers(self._results.topic_name):
            return (
                f"no publisher on {self._results.topic_name} after {settings.timeout:g} s: "
                "is the node active?"
            )
        return ""

    def _late_peer(self) -> str:
        """Return who in the ROS graph should receive images but does not yet; empty if nobody."""
        me = (self.get_namespace(), self.get_name())
        # As the graph has it: of our own profile it knows what the system made of its defaults.
        mine = [
            one.qos_profile
            for one in self.get_publishers_info_by_topic(self.topic)
            if (one.node_namespace, one.node_name) == me
        ]
        readers = [
            one
            for one in self.get_subscriptions_info_by_topic(self.topic)
            if one.topic_type == self._topic_type
            and all(
                qos_check_compatible(profile, one.qos_profile)[0] != QoSCompatibility.ERROR
                for profile in mine
            )
        ]
        if self._results is not None:
            # Another subscriber, such as a recorder, may match before the node does.
            who = self.get_publishers_info_by_topic(self._results.topic_name)
            names = {(one.node_namespace, one.node_name) for one in who}
            if names and not names & {(one.node_namespace, one.node_name) for one in readers}:
                return f"the node with {self._results.topic_name} is not subscribed to {self.topic}"
        count = self._publisher.get_subscription_count()
        if count < len(readers):
            return f"{count} of {len(readers)} subscriptions of {self.topic} are connected"
        return ""

    def _wait_for_result(
        self, frame: SourceFrame, stamp_ns: int, stopped: Callable[[], bool]
    ) -> None:
        until = time.monotonic() + self._settings.timeout
        self.spin_until(lambda: self._result_stamp_ns == stamp_ns or stopped(), until=until)
        if self._result_stamp_ns != stamp_ns and not stopped():
            late = self._late_peer()
            raise PlayerError(
                f"no result for {frame.name} on {self._results.topic_name} within "
                f"{self._settings.timeout:g} s ({self.count_publishers(self._results.topic_name)} "
                f"publishers on this topic{f'; {late}' if late else ''})"
            )
