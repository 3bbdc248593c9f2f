"""Publishes the frames of a source as a camera would."""

from __future__ import annotations

import array
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.ros.sources import FrameSource, SourceFrame

__all__ = ["Player", "PlayerError", "PlayerSettings", "Stamps"]

_JPEG_QUALITY = 95

# Longest wait between two looks at whether to stop.
_POLL_SECONDS = 0.1

# Longest wait at the end for reliable subscribers to take the last frame.
_FAREWELL = Duration(seconds=2)


class PlayerError(RuntimeError):
    """Nobody listens, or a frame was not answered in time; the message says which."""


class Stamps(str, Enum):
    """What a frame's stamp tells."""

    NOW = "now"  # when it was published, as a live camera's does
    SOURCE = "source"  # when it was taken: the source's own time, from the moment playing began


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerSettings:
    """How to play a source.

    Attributes:
        topic: Where to publish, relative to the node's namespace, or absolute.
        frame_id: Of every header.
        rate_hz: Frames a second; None takes the source's own. With ``lockstep`` it is an upper
            limit, by default none.
        stamps: What the headers' stamps tell.
        size: (width, height) to scale frames to; None leaves them as they are.
        compressed: Publish JPEG as CompressedImage on ``<topic>/compressed``.
        loop: Begin anew at the end.
        count: Stop after so many frames; None plays to the end.
        subscribers: Number of subscribers to wait for before the first frame.
        lockstep: Publish a frame only when the one before it was answered.
        answer_topic: An Image topic that carries the stamp of what it answers.
        timeout: Seconds to wait for subscribers, and for each answer.

    Raises:
        ValueError: For a value that cannot be meant.
    """

    topic: str = "image"
    frame_id: str = "camera"
    rate_hz: float | None = None
    stamps: Stamps = Stamps.NOW
    size: tuple[int, int] | None = None
    compressed: bool = False
    loop: bool = False
    count: int | None = None
    subscribers: int = 0
    lockstep: bool = False
    answer_topic: str = "labels"
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise ValueError(f"rate must be above 0 and at most 1000 Hz, not {self.rate_hz}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be at least 1x1, not {self.size[0]}x{self.size[1]}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")
        if self.subscribers < 0:
            raise ValueError(f"number of subscribers must not be negative, is {self.subscribers}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 s, not {self.timeout}")


class Player(Node):
    """The node ``upsnet_play``; `play` does its work."""

    def __init__(self, settings: PlayerSettings, *, namespace: str = "panoptic") -> None:
        super().__init__("upsnet_play", namespace=namespace)
        self._settings = settings
        # Reliable offers match both kinds of subscribers; a best-effort one takes what it can.
        qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
        base = self.resolve_topic_name(settings.topic)  # remapped like image_transport's base topic
        if settings.compressed and not base.endswith("/compressed"):
            base += "/compressed"
        kind = CompressedImage if settings.compressed else Image
        self._publisher = self.create_publisher(kind, base, qos)
        self._answered: int | None = None
        self._answers: Any = None
        if settings.lockstep:
            self._answers = self.create_subscription(
                Image, settings.answer_topic, self._on_answer, qos
            )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    @property
    def topic(self) -> str:
        """The absolute name of the topic that is published."""
        return str(self._publisher.topic_name)

    def play(
        self, source: FrameSource, *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[SourceFrame]:
        """Publish ``source``, yielding each frame once it is published and, in lockstep, answered.

        Ends early as soon as ``stopped`` returns True.

        Raises:
            PlayerError: If subscribers or an answer do not come within the timeout.
            SourceError: If the source cannot be read.
        """
        settings = self._settings
        self._wait_for_peers(stopped)
        rate_hz = settings.rate_hz or (None if settings.lockstep else source.rate_hz)
        start_ns = self.get_clock().now().nanoseconds
        due = time.monotonic()
        for frame in itertools.islice(self._frames(source), settings.count):
            self._wait(lambda: False, stopped, until=due)
            if stopped():
                break
            due = max(due + (1 / rate_hz if rate_hz else 0), time.monotonic())
            stamp_ns = (
                start_ns + frame.time_ns
                if settings.stamps is Stamps.SOURCE
                else self.get_clock().now().nanoseconds
            )
            self._publisher.publish(self._message(frame.image, stamp_ns))
            if settings.lockstep:
                self._wait_for_answer(frame, stamp_ns, stopped)
            yield frame
        # Stay as long as the last frame takes, and as those who asked for every frame need.
        self._wait(lambda: False, stopped, until=due)
        self._publisher.wait_for_all_acked(_FAREWELL)

    def destroy_node(self) -> None:
        """End the node and its executor."""
        self._executor.shutdown()
        super().destroy_node()

    def _frames(self, source: FrameSource) -> Iterator[SourceFrame]:
        """The source once, or over and over with times that go on."""
        start_ns = last_ns = 0
        while True:
            for frame in source:
                last_ns = start_ns + frame.time_ns
                yield SourceFrame(image=frame.image, name=frame.name, time_ns=last_ns)
            if not self._settings.loop:
                return
            start_ns = last_ns + round(1e9 / source.rate_hz)

    def _message(self, image: npt.NDArray[np.uint8], stamp_ns: int) -> Any:
        settings = self._settings
        if settings.size and image.shape[1::-1] != settings.size:
            image = np.asarray(
                cv2.resize(image, settings.size, interpolation=cv2.INTER_AREA), np.uint8
            )
        header = Header(stamp=Time(nanoseconds=stamp_ns).to_msg(), frame_id=settings.frame_id)
        # An array of bytes is the one thing that messages take over without checking each element.
        data = array.array("B")
        if settings.compressed:
            _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            data.frombytes(encoded.data)
            return CompressedImage(header=header, format="bgr8; jpeg compressed bgr8", data=data)
        height, width = image.shape[:2]
        data.frombytes(np.ascontiguousarray(image).data.cast("B"))
        return Image(
            header=header,
            height=height,
            width=width,
            encoding="bgr8",
            is_bigendian=int(sys.byteorder == "big"),
            step=3 * width,
            data=data,
        )

    def _on_answer(self, answer: Image) -> None:
        self._answered = Time.from_msg(answer.header.stamp).nanoseconds

    def _wait_for_peers(self, stopped: Callable[[], bool]) -> None:
        settings = self._settings
        wanted = max(settings.subscribers, 1 if settings.lockstep else 0)
        until = time.monotonic() + settings.timeout

        def listening() -> bool:
            return bool(self._publisher.get_subscription_count() >= wanted)

        def answering() -> bool:
            return self._answers is None or self.count_publishers(self._answers.topic_name) > 0

        self._wait(lambda: listening() and answering(), stopped, until=until)
        if stopped():
            return
        if not listening():
            raise PlayerError(
                f"{self._publisher.get_subscription_count()} of {wanted} subscribers on "
                f"{self.topic} after {settings.timeout:g} s: is the node running on this topic?"
            )
        if not answering():
            raise PlayerError(
                f"nobody publishes answers on {self._answers.topic_name} after "
                f"{settings.timeout:g} s: is the node active?"
            )

    def _wait_for_answer(
        self, frame: SourceFrame, stamp_ns: int, stopped: Callable[[], bool]
    ) -> None:
        until = time.monotonic() + self._settings.timeout
        self._wait(lambda: self._answered == stamp_ns, stopped, until=until)
        if self._answered != stamp_ns and not stopped():
            raise PlayerError(
                f"no answer to {frame.name} on {self._answers.topic_name} within "
                f"{self._settings.timeout:g} s ({self.count_publishers(self._answers.topic_name)} "
                "publishers there)"
            )

    def _wait(
        self, arrived: Callable[[], bool], stopped: Callable[[], bool], *, until: float
    ) -> None:
        """Let messages in until ``arrived``, ``stopped``, or monotonic second ``until``."""
        while not arrived() and not stopped():
            left = until - time.monotonic()
            if left <= 0:
                return
            self._executor.spin_once(timeout_sec=min(left, _POLL_SECONDS))
