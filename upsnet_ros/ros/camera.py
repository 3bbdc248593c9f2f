"""One camera of the node: its images come in, its answers go out, and both are counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros import qos
from upsnet_ros.ros.camera_image import Arrival, CameraImage, ImageKind
from upsnet_ros.ros.camera_settings import CameraSettings
from upsnet_ros.ros.cdr_image import read_compressed_image, read_image
from upsnet_ros.ros.image_codec import ImageError, check
from upsnet_ros.ros.outputs import Outputs
from upsnet_ros.ros.rate_limit import RateLimit
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.ros.stamp_watch import StampNews
from upsnet_ros.ros.statistics import CameraStatistics
from upsnet_ros.ros.transitions import first_line

if TYPE_CHECKING:
    from upsnet_ros.tracking import Tracker  # and scipy

__all__ = ["Camera"]

_LOG_SECONDS = 5.0
_LOSS_LOG_SECONDS = 60.0


class Camera:
    """One camera's subscription, outputs and statistics.

    Args:
        node: Whose topics they are.
        name: The camera's name, which its topics' names begin with; empty for a single camera.
        settings: The camera's, complete.
        offer: Takes an arrival for inference, and returns the arrival that will not be answered for
            it, if any (`FrameWorker.offer`).
        idle: Whether nothing is computed now.
        qos_watch: Told of publishers and subscribers that do not match.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        name: str,
        settings: CameraSettings,
        offer: Callable[[str, Arrival], Arrival | None],
        idle: Callable[[], bool],
        qos_watch: qos.QosWatch,
    ) -> None:
        self.name = name
        self.statistics = CameraStatistics()
        #: Of the last image that was segmented.
        self.last_kind: ImageKind | None = None
        self._node = node
        self._qos_watch = qos_watch
        self._offer = offer
        self._idle = idle
        self._limit = RateLimit(settings.max_rate)
        self._compressed = settings.image_transport == "compressed"
        self._reliability = settings.image_reliability
        self._outputs: Outputs | None = None
        self._subscription: Any = None
        self._tracker: Tracker | None = None
        # The name is remapped before the transport's part is added, as image_transport does it.
        base = node.resolve_topic_name(settings.topic)
        self.topic = node.resolve_topic_name(f"{base}/compressed") if self._compressed else base

    @property
    def listening(self) -> bool:
        """Whether images are taken."""
        return self._subscription is not None

    def set_max_rate(self, rate: float) -> None:
        """Takes so many frames a second at most; 0 for all of them."""
        self._limit.rate = rate

    def create_outputs(self, *, settings: NodeSettings, taxonomy: Taxonomy) -> None:
        """Makes the topics on which the camera is answered."""
        self._outputs = Outputs(
            node=self._node, camera=self.name, taxonomy=taxonomy, qos_watch=self._qos_watch
        )
        self._outputs.create(settings)

    def update_outputs(self, settings: NodeSettings) -> None:
        """Makes and takes back topics as the settings ask now, where there are any.

        Raises:
            ValueError: Where that cannot be; then no topic was taken back.
            RuntimeError: Likewise.
        """
        if self._outputs is not None:
            self._outputs.update(settings)

    def announce(self) -> None:
        """Says what the labels mean."""
        assert self._outputs is not None, "configure comes before activate"
        self._outputs.announce()

    def destroy_outputs(self) -> None:
        """Takes them back, where there are any."""
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def subscribe(self) -> None:
        """Begins to listen to the camera."""
        self.statistics.forget_frames()
        self._tracker = None  # things are followed anew
        profile = qos.input_qos(self._reliability)
        self._subscription = self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            self.topic,
            self._on_serialized,
            profile,
            event_callbacks=self._qos_watch.subscription_events(self.topic, profile),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # rclpy would copy the image to make a message of it, and raise in the executor, which
            # ends the node, where that cannot be done.
            raw=True,
        )

    def unsubscribe(self) -> None:
        """Stops listening, where it listens."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._qos_watch.forget(self.topic)

    def decode(self, arrival: Arrival, *, takes: Callable[[str], bool]) -> CameraImage | None:
        """Makes of a message what the network takes; called in the worker's first thread.

        Args:
            arrival: The message.
            takes: Whether an encoding need not be made BGR.

        Returns:
            The image, or None where it turned out to be malformed.
        """
        try:
            return CameraImage.read(arrival, takes=takes)
        except ImageError as error:
            self._reject(error)
            return None

    def publish(
        self, image: CameraImage, frame: PanopticFrame, *, settings: NodeSettings
    ) -> dict[str, float]:
        """Answers an image; called in the worker's second thread.

        Returns:
            Milliseconds by stage.

        Raises:
            RuntimeError: The node was stopped and did not wait for the frame.
        """
        outputs = self._outputs
        if outputs is None:
            raise RuntimeError("the node was stopped meanwhile")
        begun = time.monotonic()
        if settings.tracking:
            frame = self._track(frame, image.header.stamp)
        tracked = time.monotonic()
        outputs.publish(image, frame, settings=settings)
        published = time.monotonic()
        self.last_kind = image.kind
        self.statistics.answered(latency_ms=1e3 * (published - image.arrived))
        # What is left: the frame before it, those beside it, and from thread to thread.
        queued = 1e3 * (begun - image.decoded) - sum(frame.timings.values())
        return {
            "wait": 1e3 * (image.begun - image.arrived),
            "decode": 1e3 * (image.decoded - image.begun),
            "queue": max(0.0, queued),
            **frame.timings,
            **({"track": 1e3 * (tracked - begun)} if settings.tracking else {}),
            "publish": 1e3 * (published - tracked),
        }

    def failed(self, error: Exception) -> None:
        """Reports that a frame's inference raised; called in either of the worker's threads."""
        reason = f"{type(error).__name__}: {first_line(error)}"
        self._node.get_logger().error(
            f"{self.topic}: a frame was not segmented: {reason}",
            throttle_duration_sec=_LOG_SECONDS,
        )
        self.statistics.failed(reason)

    def _track(self, frame: PanopticFrame, stamp: Any) -> PanopticFrame:
        """The frame with track ids; called in the worker's second thread."""
        tracker = self._tracker
        if tracker is None:
            from upsnet_ros.tracking import Tracker

            tracker = self._tracker = Tracker()
        return tracker(frame, time=stamp.sec + 1e-9 * stamp.nanosec)

    def _on_serialized(self, serialized: bytes) -> None:
        now = time.monotonic()
        try:
            message = (read_compressed_image if self._compressed else read_image)(serialized)
        except ImageError as error:
            self._warn_of(error)
            self.statistics.unreadable(str(error), now=now)
            return
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        clock_ns = self._node.get_clock().now().nanoseconds
        self._tell(
            self.statistics.received(
                now=now,
                stamp_ns=stamp_ns,
                delay_ms=(clock_ns - stamp_ns) / 1e6,
                idle=self._idle(),
            )
        )
        try:
            # Here already, so that a malformed image never takes the place of a good one.
            check(message)
        except ImageError as error:
            self._reject(error)
            return
        if not self._limit.take(now):
            self.statistics.skipped()
        elif self._offer(self.name, Arrival(message, now)) is not None:
            self.statistics.dropped()

    def _tell(self, news: StampNews) -> None:
        logger = self._node.get_logger()
        if news.backwards:
            logger.info(
                f"{self.topic}: stamps went backwards, as where a bag begins anew",
                throttle_duration_sec=_LOG_SECONDS,
            )
        if news.lost and self.statistics.loses_frames:
            logger.warning(
                f"{self.topic}: by their stamps frames are missing, and this node was idle: they"
                " were lost on the way, or never sent; see config/fastdds_shm.xml",
                throttle_duration_sec=_LOSS_LOG_SECONDS,
            )

    def _reject(self, error: ImageError) -> None:
        self._warn_of(error)
        self.statistics.rejected(str(error))

    def _warn_of(self, error: ImageError) -> None:
        self._node.get_logger().warning(
            f"{self.topic}: image rejected: {error}", throttle_duration_sec=_LOG_SECONDS
        )
