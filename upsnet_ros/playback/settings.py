"""Settings of player, recorder and replayer; imports no ROS, so that mistakes are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upsnet_ros.errors import SettingsError


class Stamps(str, Enum):
    """Which time the header stamp of a frame holds."""

    NOW = "now"  # time of publishing, like a live camera
    SOURCE = "source"  # time within the source, added to the time at which playing started


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerSettings:
    """How to play a source.

    Attributes:
        topic: Topic to publish on, relative to the node's namespace, or absolute.
        frame_id: ``frame_id`` of every header.
        rate_hz: Frames per second; None uses the timing of the source. With ``lockstep`` this is an
            upper limit, by default none.
        stamps: Which time the header stamps hold.
        size: (height, width) to scale frames to, pixels; None keeps the size.
        compressed: Publish JPEG as CompressedImage on ``<topic>/compressed``.
        loop: Start again at the end of the source.
        count: Number of frames after which to stop; None plays to the end.
        subscribers: Number of subscribers to wait for before the first frame.
        lockstep: Publish the next frame only when the result of the previous one has arrived.
        answer_topic: Image topic with the results; their stamps are those of the input frames.
        timeout: Seconds to wait for subscribers, and for each result.

    Raises:
        SettingsError: If a value is out of range.
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
            raise SettingsError(f"rate must be above 0 and at most 1000 Hz, not {self.rate_hz}")
        if self.size is not None and min(self.size) < 1:
            raise SettingsError(f"size must be at least 1x1, not {self.size[0]}x{self.size[1]}")
        if self.count is not None and self.count < 1:
            raise SettingsError(f"count must be at least 1, not {self.count}")
        if self.subscribers < 0:
            raise SettingsError(f"subscribers must not be negative, but is {self.subscribers}")
        if not self.timeout > 0:
            raise SettingsError(f"timeout must be above 0 s, not {self.timeout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderSettings:
    """What to record and when to stop.

    Attributes:
        image_topic: Camera topic, relative to the node's namespace, or absolute; None looks up the
            topic that the node subscribes to in the ROS graph.
        compressed: Subscribe to CompressedImage on ``<image_topic>/compressed``; ignored if the
            topic is looked up.
        image_reliability: "best_effort" matches any camera, "reliable" only reliable publishers.
        count: Number of frames after which to stop; None records until stopped.
        timeout: Seconds without a complete frame after which to stop; None waits forever.
        queue: Number of incomplete frames to keep. Must exceed the number of images that the camera
            sends while the node processes one; otherwise results find their image dropped.

    Raises:
        SettingsError: If a value is out of range.
    """

    image_topic: str | None = None
    compressed: bool = False
    image_reliability: str = "best_effort"
    count: int | None = None
    timeout: float | None = None
    queue: int = 100

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise SettingsError(f"count must be at least 1, not {self.count}")
        if self.timeout is not None and not self.timeout > 0:
            raise SettingsError(f"timeout must be above 0 s, not {self.timeout}")
        if self.queue < 1:
            raise SettingsError(f"queue must be at least 1, not {self.queue}")


_DEFAULT_OUTPUTS = ("labels", "instances", "unknown_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """How to replay.

    Attributes:
        rate: Playback speed, bag seconds per second. None is lockstep: messages are published
            without delay, but each image only after the results of the previous one have arrived.
        loop: Start again at the end of the bag.
        clock_hz: Minimum rate for publishing the bag's time on /clock; None does not publish it.
        outputs: Names of the node's outputs to wait for and to record.
        timeout: Seconds to wait for the node, and for the results of each image.
        subscribers: Number of subscribers to the images to wait for before the first one.

    Raises:
        SettingsError: If a value is out of range.
    """

    rate: float | None = None
    loop: bool = False
    clock_hz: float | None = None
    outputs: tuple[str, ...] = _DEFAULT_OUTPUTS
    timeout: float = 60.0
    subscribers: int = 1

    def __post_init__(self) -> None:
        if self.subscribers < 1:
            raise SettingsError(f"subscribers must be at least 1, not {self.subscribers}")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise SettingsError(f"rate must be above 0 and at most 1000, not {self.rate}")
        if self.clock_hz is not None and not 0 < self.clock_hz <= 1000:
            raise SettingsError(f"clock must be above 0 and at most 1000 Hz, not {self.clock_hz}")
        if not self.timeout > 0:
            raise SettingsError(f"timeout must be above 0 s, not {self.timeout}")
        if not self.outputs:
            raise SettingsError("outputs must name at least one output topic")
        if set(self.outputs) <= set(_DEFAULT_OUTPUTS):
            return
        # Imported here because it imports OpenCV.
        from upsnet_ros.bags.replay_topics import OUTPUTS

        for name in self.outputs:
            if name not in OUTPUTS or name == "label_info":
                known = ", ".join(sorted(OUTPUTS.keys() - {"label_info"}))
                raise SettingsError(f"output {name!r} is none of {known}")
