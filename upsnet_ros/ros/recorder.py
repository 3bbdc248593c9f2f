"""Subscribes to a camera and the node's answers, and writes what belongs together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.inference.recording import Recording, RecordingSettings, check_folder
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.ros.arrival import with_arrival
from upsnet_ros.ros.from_messages import taxonomy_from_message
from upsnet_ros.ros.recording_thread import RecordingThread
from upsnet_ros.ros.stamp_join import StampJoiner

__all__ = ["Keep", "Recorder", "RecorderError", "RecorderSettings"]

#: Called with topic, serialised message, nanoseconds at which it was received, and type.
Keep = Callable[[str, bytes, int, str], None]

_IMAGE = "image"
_ANSWERS = {"labels": Image, "instances": PanopticInstanceArray, "unknown_mask": Image}
_POLL_SECONDS = 0.1


class RecorderError(RuntimeError):
    """Frames did not come as asked; the message says what was missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderSettings:
    """What to record and when to stop.

    Attributes:
        image_topic: The camera, relative to the node's namespace, or absolute.
        compressed: Read CompressedImage from ``<image_topic>/compressed``.
        image_reliability: "best_effort" joins any camera, "reliable" only reliable ones.
        count: Stop after so many frames.
        timeout: Stop after so many seconds without a complete frame; None waits for ever.
        queue: Frames of which something is missing that are kept; more than the camera sends while
            the node answers one, or the answer finds its frame gone.

    Raises:
        ValueError: For a value that cannot be meant.
    """

    image_topic: str = _IMAGE
    compressed: bool = False
    image_reliability: str = "best_effort"
    count: int | None = None
    timeout: float | None = None
    queue: int = 100

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 s, not {self.timeout}")
        if self.queue < 1:
            raise ValueError(f"queue must be at least 1, not {self.queue}")


class Recorder(Node):
    """The node ``upsnet_record``; `record` does its work.

    Args:
        folder: Where to write.
        settings: What to record.
        recording: How to write it.
        namespace: That of the node whose answers are recorded.
        keep: Takes every message that comes, for a bag.

    Raises:
        RecordingError: If the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: RecorderSettings,
        recording: RecordingSettings,
        namespace: str = "panoptic",
        keep: Keep | None = None,
    ) -> None:
        check_folder(folder, recording)
        super().__init__("upsnet_record", namespace=namespace)
        self._folder, self._settings, self._recording_settings = folder, settings, recording
        self._keep = keep
        self._label_info: PanopticLabelInfo | None = None
        self._joiner = StampJoiner([_IMAGE, *_ANSWERS], limit=settings.queue)
        self._accepted = self._overrun = self._images = 0
        self._writer = RecordingThread(
            image=_IMAGE, answers=("labels", "instances", "unknown_mask")
        )
        latched = QoSProfile(
            depth=1,
            reliability=QoSReliabilityPolicy.RELIABLE,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
        )
        self.create_subscription(PanopticLabelInfo, "label_info", self._on_label_info, latched)
        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
        self._answers = {
            name: self.create_subscription(
                kind, name, self._collector(name, self.resolve_topic_name(name)), qos
            )
            for name, kind in _ANSWERS.items()
        }
        self._camera: Any = None
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def record(self, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Record, yielding the number of frames written so far, several times a second.

        Ends after the count that was asked for, or as soon as ``stopped`` returns True. Frames
        that arrived before that are written in any case; `summary` then tells the whole story.

        Raises:
            RecorderError: If the timeout passes before the count is reached, or without a frame.
            RecordingError: If a file cannot be written.
            VideoError: Likewise, the video.
        """
        settings = self._settings
        progress_at, accepted = time.monotonic(), 0
        try:
            while not stopped() and self._accepted != settings.count:
                self._executor.spin_once(timeout_sec=_POLL_SECONDS)
                self._begin_when_ready()
                self._writer.raise_failure()
                if self._accepted > accepted:
                    progress_at, accepted = time.monotonic(), self._accepted
                elif settings.timeout and time.monotonic() - progress_at > settings.timeout:
                    if not accepted or settings.count:
                        raise RecorderError(self._complaint(settings.timeout))
                    break
                yield self._writer.written
        finally:
            self._joiner.finish()
            self._writer.finish(self.summary)
        yield self._writer.written

    def summary(self) -> dict[str, Any]:
        """What was recorded and what was not, as it stands now; JSON-ready."""
        latencies = self._writer.latencies_ms
        p50, p99 = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
        return {
            "frames": self._writer.written,
            "incomplete": self._joiner.given_up,
            "missing": dict(self._joiner.missing),
            "malformed": self._writer.malformed,
            "last_malformed": self._writer.last_malformed,
            "overrun": self._overrun,
            "latency_ms": {"p50": p50, "p99": p99},
        }

    def destroy_node(self) -> None:
        """End the node and its executor."""
        self._executor.shutdown()
        super().destroy_node()

    def _on_label_info(self, label_info: PanopticLabelInfo) -> None:
        if self._label_info is None:
            self._label_info = label_info
            self._keep_message(self.resolve_topic_name("label_info"), label_info, time.time_ns())

    def _silent(self) -> list[str]:
        """The answers that nobody publishes."""
        topics = [subscription.topic_name for subscription in self._answers.values()]
        return [topic for topic in topics if not self.count_publishers(topic)]

    def _begin_when_ready(self) -> None:
        """Listen to the camera once the answers can come: nothing could be joined before."""
        if self._camera is not None or self._label_info is None or self._silent():
            return
        self._writer.start(
            Recording(
                self._folder,
                taxonomy=taxonomy_from_message(self._label_info),
                settings=self._recording_settings,
            )
        )
        base = self.resolve_topic_name(self._settings.image_topic)
        if self._settings.compressed and not base.endswith("/compressed"):
            base += "/compressed"
        self._camera = self.create_subscription(
            CompressedImage if self._settings.compressed else Image,
            base,
            self._collector(_IMAGE, base),
            QoSProfile(
                depth=10,
                reliability=QoSReliabilityPolicy[self._settings.image_reliability.upper()],
            ),
        )

    def _keep_message(self, name: str, message: Any, received_ns: int) -> None:
        if self._keep is not None:
            kind = type(message)
            msgtype = f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
            self._keep(name, serialize_message(message), received_ns, msgtype)

    def _collector(self, topic: str, name: str) -> Callable[..., None]:
        def collect(message: Any, received_ns: int) -> None:
            self._keep_message(name, message, received_ns)
            self._images += topic == _IMAGE
            stamp_ns = Time.from_msg(message.header.stamp).nanoseconds
            joined = self._joiner.add(topic, stamp_ns, message, received=received_ns / 1e9)
            if joined is None or self._accepted == self._settings.count:
                return
            if self._writer.offer(joined):
                self._accepted += 1
            else:
                self._overrun += 1

        return with_arrival(collect)

    def _complaint(self, timeout: float) -> str:
        """Why no frame came, in the order in which things have to come."""
        told = f"no complete frame for {timeout:g} s"
        if self._settings.count and self._accepted:
            told += f", {self._accepted} of {self._settings.count} recorded"
        if silent := self._silent():
            return f"{told}: nobody publishes {', '.join(silent)}: is the node active?"
        if self._camera is None:
            return f"{told}: no label_info came"
        if not self._images:
            publishers = self.count_publishers(self._camera.topic_name)
            return f"{told}: no image on {self._camera.topic_name} ({publishers} publishers)"
        self._joiner.finish()
        lacking = ", ".join(f"{topic} ({count}x)" for topic, count in self._joiner.missing.items())
        return f"{told}: {self._images} images came, but missing were: {lacking or 'new images'}"
