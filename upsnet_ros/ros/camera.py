"""One camera of the node: its images come in, its answers go out, and both are counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.ros import qos
from upsnet_ros.ros.image_codec import ImageError, check, to_bgr
from upsnet_ros.ros.outputs import Answer, Outputs
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.ros.statistics import CameraStatistics
from upsnet_ros.ros.transitions import first_line

if TYPE_CHECKING:
    from upsnet_ros.inference.predictor import Predictor  # and torch

__all__ = ["Arrival", "Camera"]

_LOG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image message, and the monotonic second at which it came."""

    message: Any
    at: float


class Camera:
    """One camera's subscription, outputs and statistics.

    Args:
        node: Whose topics they are.
        name: The camera's name, which its topics' names begin with; empty for a single camera.
        settings: Of the node; those that stay fixed are kept.
        offer: Takes an arrival for inference, and returns the arrival that will not be answered for
            it, if any (`FrameWorker.offer`).
        qos_watch: Told of publishers and subscribers that do not match.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        name: str,
        settings: NodeSettings,
        offer: Callable[[str, Arrival], Arrival | None],
        qos_watch: qos.QosWatch,
    ) -> None:
        self.name = name
        self.statistics = CameraStatistics()
        self._node = node
        self._qos_watch = qos_watch
        self._offer = offer
        self._compressed = settings.image_transport == "compressed"
        self._reliability = settings.image_reliability
        self._outputs: Outputs | None = None
        self._subscription: Any = None
        # The name is remapped before the transport's part is added, as image_transport does it.
        base = node.resolve_topic_name(f"{name}/image" if name else "image")
        self.topic = node.resolve_topic_name(f"{base}/compressed") if self._compressed else base

    def create_outputs(self, *, settings: NodeSettings, taxonomy: Taxonomy) -> None:
        """Makes the topics on which the camera is answered."""
        self._outputs = Outputs(
            node=self._node, camera=self.name, taxonomy=taxonomy, qos_watch=self._qos_watch
        )
        self._outputs.create(settings)

    def destroy_outputs(self) -> None:
        """Takes them back, where there are any."""
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def subscribe(self) -> None:
        """Says what the labels mean, then begins to listen to the camera."""
        assert self._outputs is not None, "configure comes before activate"
        self._outputs.announce()
        self.statistics.forget_frames()
        profile = qos.input_qos(self._reliability)
        self._subscription = self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            self.topic,
            self._on_image,
            profile,
            event_callbacks=self._qos_watch.subscription_events(self.topic, profile),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def unsubscribe(self) -> None:
        """Stops listening, where it listens."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def answer(
        self, arrival: Arrival, *, predictor: Predictor, settings: NodeSettings
    ) -> dict[str, float]:
        """Segments an image and publishes the outputs; called in the worker's thread.

        Returns:
            Milliseconds by stage; empty where the image turned out to be malformed.
        """
        assert self._outputs is not None, "the worker runs between activate and deactivate only"
        begun = time.monotonic()
        try:
            image = to_bgr(arrival.message)
        except ImageError as error:
            self._reject(error)
            return {}
        decoded = time.monotonic()
        frame = predictor(image)
        predicted = time.monotonic()
        self._outputs.publish(
            Answer(
                image=image,
                frame=frame,
                header=arrival.message.header,
                taxonomy=predictor.taxonomy,
                settings=settings,
            )
        )
        published = time.monotonic()
        self.statistics.answered(latency_ms=1e3 * (published - arrival.at))
        return {
            "wait": 1e3 * (begun - arrival.at),
            "decode": 1e3 * (decoded - begun),
            **frame.timings,
            "publish": 1e3 * (published - predicted),
        }

    def failed(self, error: Exception) -> None:
        """Reports that a frame's inference raised; called in the worker's thread."""
        reason = f"{type(error).__name__}: {first_line(error)}"
        self._node.get_logger().error(
            f"{self.topic}: a frame was not segmented: {reason}",
            throttle_duration_sec=_LOG_SECONDS,
        )
        self.statistics.failed(reason)

    def _on_image(self, message: Any) -> None:
        now = time.monotonic()
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        clock_ns = self._node.get_clock().now().nanoseconds
        self.statistics.received(now=now, stamp_ns=stamp_ns, delay_ms=(clock_ns - stamp_ns) / 1e6)
        try:
            # Here already, so that a malformed image never takes the place of a good one.
            check(message)
        except ImageError as error:
            self._reject(error)
            return
        if self._offer(self.name, Arrival(message, now)) is not None:
            self.statistics.dropped()

    def _reject(self, error: ImageError) -> None:
        self._node.get_logger().warning(
            f"{self.topic}: image rejected: {error}", throttle_duration_sec=_LOG_SECONDS
        )
        self.statistics.rejected(str(error))
