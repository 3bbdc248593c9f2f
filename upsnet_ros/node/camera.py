"""One camera of the node: receives images, publishes results and counts both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import ImageError, first_line, printable
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages.cdr_image import read_compressed_image, read_image
from upsnet_ros.messages.images import check
from upsnet_ros.messages.results import compressed_topic
from upsnet_ros.node.camera_image import Arrival, CameraImage, ImageKind
from upsnet_ros.node.camera_info import CameraInfoRelay, camera_info_topic
from upsnet_ros.node.outputs import Outputs
from upsnet_ros.node.parameters import CameraSettings, NodeSettings, prefix
from upsnet_ros.node.statistics import CameraState, CameraStatistics, RateLimit, StampNews
from upsnet_ros.node.topics import QosWatch, input_qos, why_no_image

if TYPE_CHECKING:
    from upsnet_ros.tracking.tracker import Tracker  # and scipy

_LOG_SECONDS = 5.0
_LOSS_LOG_SECONDS = 60.0
_STALE_LOG_SECONDS = 60.0
#: Seconds after activation in which subscribers of an output may not be known yet.
_DISCOVERY_SECONDS = 2.0
#: Seconds without a first image after which the log says why, as far as the ROS graph tells.
QUIET_SECONDS = 5.0


class Camera:
    """One camera's subscription, outputs and statistics.

    Args:
        node: The node that owns the topics.
        name: Name of the camera and prefix of its topics; empty for a single camera.
        settings: Settings of the camera, with the node's values filled in.
        offer: Queues an arrival for inference, and returns the arrival that is dropped for it, if
            any (`FrameWorker.offer`).
        idle: Returns whether nothing is being computed.
        qos_watch: Records publishers and subscribers with incompatible QoS.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        name: str,
        settings: CameraSettings,
        offer: Callable[[str, Arrival], Arrival | None],
        idle: Callable[[], bool],
        qos_watch: QosWatch,
    ) -> None:
        self.name = name
        self.statistics = CameraStatistics()
        #: Kind of the last image that was segmented.
        self.last_kind: ImageKind | None = None
        self._node = node
        self._qos_watch = qos_watch
        self._offer = offer
        self._idle = idle
        self._limit = RateLimit(settings.max_rate)
        self._transport = settings.image_transport
        self._compressed = settings.image_transport == "compressed"
        self._reliability = settings.image_reliability
        self._outputs: Outputs | None = None
        self._camera_info: CameraInfoRelay | None = None
        self._subscription: Any = None
        self._tracker: Tracker | None = None
        self._told: set[str] = set()  # messages logged once per subscription
        self._subscribed_at = 0.0
        self._stale_told_at = -_STALE_LOG_SECONDS
        # The name is remapped before the transport's suffix is added, as in image_transport.
        base = node.resolve_topic_name(settings.topic)
        self.topic = node.resolve_topic_name(compressed_topic(base)) if self._compressed else base

    @property
    def listening(self) -> bool:
        """Whether the camera is subscribed to."""
        return self._subscription is not None

    @property
    def _named_by(self) -> str:
        """What to set to read another topic, for log messages."""
        if self.name:
            return f"{prefix(self.name)}topic"
        return "image_topic:= (launch), --image-topic (upsnet node) or -r image:=TOPIC"

    def set_max_rate(self, rate: float) -> None:
        """Limit the number of frames per second; 0 for no limit."""
        self._limit.rate = rate

    def create_outputs(
        self, *, settings: NodeSettings, taxonomy: Taxonomy, score_threshold: float
    ) -> None:
        """Create the publishers of the results; the threshold is the variant's default."""
        info = self._camera_info = self._relay_camera_info()
        self._outputs = Outputs(
            node=self._node,
            camera=self.name,
            taxonomy=taxonomy,
            score_threshold=score_threshold,
            qos_watch=self._qos_watch,
            camera_info=None if info is None else lambda answer: info.take(answer.header.stamp),
        )
        self._outputs.create(settings)

    def _relay_camera_info(self) -> CameraInfoRelay | None:
        """Return the relay for the camera's calibration; None if it would publish to its own topic.

        A camera on panoptic/image has it on panoptic/camera_info, which is the output's name too.
        """
        topic = self._node.resolve_topic_name(camera_info_topic(self.topic))
        prefix = f"{self.name}/" if self.name else ""
        if topic == self._node.resolve_topic_name(f"{prefix}camera_info"):
            return None
        return CameraInfoRelay(
            node=self._node, topic=topic, publish=self._publish_late, qos_watch=self._qos_watch
        )

    def _publish_late(self, message: bytes) -> None:
        if self._outputs is not None:
            self._outputs.publish_late("camera_info", message)

    def look_at_camera_info(self, *, now: float) -> None:
        """Log once why no camera_info is published although there are subscribers.

        Args:
            now: Monotonic seconds.
        """
        if self.listening:
            self._listen_to_camera_info(now=now)
        problem = "" if self._camera_info is None else self._camera_info.problem(now=now)
        if problem:
            self._tell_once("camera_info", f"{self.topic}: {problem}", warning=True)

    def check_outputs(self, settings: NodeSettings) -> None:
        """Check that the topics of these settings can be created; creates none.

        Raises:
            SettingsError: If one of them cannot be created.
        """
        if self._outputs is not None:
            self._outputs.check(settings)

    def update_outputs(self, settings: NodeSettings) -> None:
        """Create and destroy publishers according to the settings, if there are outputs.

        Raises:
            ValueError, RuntimeError: If one cannot be created; then none was destroyed.
        """
        if self._outputs is not None:
            self._outputs.update(settings)

    def subscribed(self) -> set[str]:
        """Names of the outputs with subscribers; called in any thread."""
        outputs = self._outputs
        return set() if outputs is None else outputs.subscribed()

    def announce(self) -> None:
        """Publish label_info."""
        assert self._outputs is not None, "configure comes before activate"
        self._outputs.announce()

    def destroy_outputs(self) -> None:
        """Destroy the publishers, if there are any."""
        if self._camera_info is not None:
            self._camera_info.listen(False)
            self._camera_info = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def subscribe(self) -> None:
        """Subscribe to the camera."""
        self.statistics.forget_frames()
        self._tracker = None  # reset the tracks
        self._told.clear()
        self._subscribed_at = time.monotonic()
        # Before the images, so that the first result has its calibration.
        self._listen_to_camera_info(now=self._subscribed_at)
        profile = input_qos(self._reliability)
        self._subscription = self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            self.topic,
            self._on_serialized,
            profile,
            event_callbacks=self._qos_watch.subscription_events(self.topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # rclpy would copy the image into a message, and for a malformed one raise in the
            # executor, which ends the node.
            raw=True,
        )

    def _listen_to_camera_info(self, *, now: float) -> None:
        """Subscribe to the camera's calibration while somebody subscribes to the output, or may.

        Discovery takes a moment, in which the first images and their calibration may come.

        Args:
            now: Monotonic seconds.
        """
        info, outputs = self._camera_info, self._outputs
        if info is not None and outputs is not None:
            early = now - self._subscribed_at < _DISCOVERY_SECONDS and outputs.has("camera_info")
            info.listen(early or outputs.has_subscriber("camera_info"))

    def unsubscribe(self) -> None:
        """Unsubscribe, if subscribed."""
        if self._camera_info is not None:
            self._camera_info.listen(False)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._qos_watch.forget(self.topic)

    def why_silent(self, *, now: float, stale_after: float) -> str:
        """Return why no image arrives, as far as the ROS graph tells; logs it too.

        Args:
            now: Monotonic seconds.
            stale_after: Seconds without an image after which a camera is stale.

        Returns:
            One line; empty if images arrive, or may still arrive.
        """
        state = self.statistics.report(now=now, stale_after=stale_after).state
        first = state is CameraState.WAITING
        waits = first and now - self._subscribed_at > QUIET_SECONDS
        if not self.listening or not (waits or state is CameraState.STALE):
            return ""
        why = why_no_image(
            self._node, self.topic, transport=self._transport, parameter=self._named_by
        )
        if first:
            self._tell_once(why, f"no image yet: {why}", warning=True)
        elif now - self._stale_told_at > _STALE_LOG_SECONDS:
            self._stale_told_at = now
            self._node.get_logger().warning(f"images stopped: {why}")
        return why

    def decode(self, arrival: Arrival, *, takes: Callable[[str], bool]) -> CameraImage | None:
        """Decode a message for the network; called in the worker's first thread.

        Args:
            arrival: The message.
            takes: Returns whether the network accepts an encoding without conversion to BGR.

        Returns:
            The image, or None if it is malformed.
        """
        try:
            image = CameraImage.read(arrival, takes=takes)
        except ImageError as error:
            self._reject(error)
            return None
        height, width = image.pixels.shape[:2]
        what = image.message.format if self._compressed else image.message.encoding
        self._tell_once("image", f"{self.topic}: first image: {width}x{height}, {printable(what)}")
        return image

    def publish(
        self, image: CameraImage, frame: PanopticFrame, *, settings: NodeSettings
    ) -> dict[str, float]:
        """Publish the result of an image; called in the worker's second thread.

        Returns:
            Milliseconds by stage.

        Raises:
            RuntimeError: The node was stopped and did not wait for the frame.
        """
        outputs = self._outputs
        if outputs is None:
            raise RuntimeError("the node was stopped during inference")
        started = time.monotonic()
        if settings.tracking:
            frame = self._track(frame, image.header.stamp)
        tracked = time.monotonic()
        outputs.publish(image, frame, settings=settings)
        published = time.monotonic()
        self.last_kind = image.kind
        latency_ms = 1e3 * (published - image.arrived)
        self.statistics.answered(latency_ms=latency_ms)
        self._tell_once("result", f"{self.topic}: first result after {latency_ms:.0f} ms")
        # The rest: waiting for other frames, and passing between threads.
        queued = 1e3 * (started - image.decoded) - sum(frame.timings.values())
        return {
            "wait": 1e3 * (image.started - image.arrived),
            "decode": 1e3 * (image.decoded - image.started),
            "queue": max(0.0, queued),
            **frame.timings,
            **({"track": 1e3 * (tracked - started)} if settings.tracking else {}),
            "publish": 1e3 * (published - tracked),
        }

    def failed(self, error: Exception) -> None:
        """Log and count a frame whose inference raised; called in either thread of the worker."""
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
            from upsnet_ros.tracking.tracker import Tracker

            tracker = self._tracker = Tracker()
        return tracker(frame, time=stamp.sec + 1e-9 * stamp.nanosec)

    def _on_serialized(self, serialized: bytes) -> None:
        now = time.monotonic()
        self._listen_to_camera_info(now=now)
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
                f"{self.topic}: stamps went backwards, as if a bag had been restarted",
                throttle_duration_sec=_LOG_SECONDS,
            )
        if news.lost and self.statistics.loses_frames:
            logger.warning(
                f"{self.topic}: by their stamps frames are missing, and this node was idle: they"
                " were lost on the way, or never sent; see config/fastdds_shm.xml",
                throttle_duration_sec=_LOSS_LOG_SECONDS,
            )

    def _tell_once(self, what: str, text: str, *, warning: bool = False) -> None:
        """Logs something of a subscription once; called in any thread."""
        if what not in self._told:
            self._told.add(what)
            logger = self._node.get_logger()
            # Not by one call: rclpy wants one severity a line of code.
            if warning:
                logger.warning(text)
            else:
                logger.info(text)

    def _reject(self, error: ImageError) -> None:
        self._warn_of(error)
        self.statistics.rejected(str(error))

    def _warn_of(self, error: ImageError) -> None:
        self._node.get_logger().warning(
            f"{self.topic}: image rejected: {error}", throttle_duration_sec=_LOG_SECONDS
        )
