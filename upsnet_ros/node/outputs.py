"""Publishes the results of one camera: its topics, and the messages on them."""

from __future__ import annotations

import array
import importlib
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.drawing.overlay import draw_overlay
from upsnet_ros.inference.frame import PanopticFrame, keep_classes
from upsnet_ros.messages import results as messages
from upsnet_ros.messages.cdr_image import write_image
from upsnet_ros.messages.compressed import encode_jpeg
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.camera_image import CameraImage
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.node.topics import QosWatch, check_override, label_info_qos, output_qos

#: Creates a message, serialised or not, from a result; None if there is nothing to publish.
Maker = Callable[["Answer"], Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A result with everything that messages are created from.

    Attributes:
        image: Image of the camera.
        whole: Its segmentation, with all classes.
        taxonomy: Classes of the frame.
        settings: Current settings of the node.
    """

    image: CameraImage
    whole: PanopticFrame
    taxonomy: Taxonomy
    settings: NodeSettings

    @cached_property
    def frame(self) -> PanopticFrame:
        """The segmentation with the published classes only; computed on first use."""
        class_ids = self.settings.class_ids(self.taxonomy)
        return self.whole if class_ids is None else keep_classes(self.whole, class_ids)

    @property
    def header(self) -> Any:
        """Header of the camera's message, which every output carries unchanged."""
        return self.image.header

    @cached_property
    def overlay(self) -> npt.NDArray[np.uint8]:
        """The image with the segments drawn on it, BGR; drawn on first use."""
        return draw_overlay(
            self.image.bgr, self.frame, self.taxonomy, alpha=self.settings.overlay_alpha
        )


def labels(encoding: str) -> Maker:
    """Return what creates `labels` in an encoding."""
    return lambda answer: write_image(
        messages.labels_pixels(answer.frame, encoding=encoding), encoding, answer.header
    )


def instances(answer: Answer) -> PanopticInstanceArray:
    """Create `instances`."""
    return messages.instances_message(
        answer.frame, answer.header, unknown_min_area=answer.settings.unknown_min_area
    )


def unknown_mask(answer: Answer) -> bytes:
    """Create `unknown_mask`."""
    return write_image(messages.unknown_mask_pixels(answer.whole), "mono8", answer.header)


def mono8(attribute: str) -> Maker:
    """Return what creates a mono8 image of the frame's attribute of that name."""

    def make(answer: Answer) -> bytes | None:
        pixels = getattr(answer.frame, attribute)
        # None if the frame was submitted before there was a subscriber.
        return None if pixels is None else write_image(pixels, "mono8", answer.header)

    return make


def color_mask(answer: Answer) -> bytes:
    """Create `color_mask`."""
    colors = np.zeros((max(answer.taxonomy.by_id) + 1, 3), np.uint8)  # of no class: black
    for class_id, info in answer.taxonomy.by_id.items():
        colors[class_id] = info.color
    return write_image(colors[answer.frame.class_ids], "rgb8", answer.header)


def overlay(answer: Answer) -> bytes:
    """Create `overlay`."""
    return write_image(cv2.cvtColor(answer.overlay, cv2.COLOR_BGR2RGB), "rgb8", answer.header)


def compressed_overlay(answer: Answer) -> CompressedImage:
    """Create `overlay/compressed`."""
    return CompressedImage(
        header=answer.header,
        format="rgb8; jpeg compressed bgr8",
        data=array.array("B", encode_jpeg(answer.overlay)),
    )


# Messages that are not yet received are lost with their publisher: wait at most so many seconds.
_FAREWELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Topic:
    name: str
    message: type
    make: Maker


class Outputs:
    """Publishes one camera's results; each message is created only while it has subscribers.

    Publishers are created and destroyed (`create`, `update`, `destroy`) in the executor's thread;
    `publish` is called in the worker's second thread.

    Args:
        node: Node that owns the (managed) publishers, which are inactive until it is active.
        camera: Name of the camera and prefix of the topics; may be empty.
        taxonomy: Classes of the frames.
        score_threshold: Default of the network's variant, used unless the settings have one.
        qos_watch: Records subscribers with incompatible QoS.
        camera_info: Creates `camera_info`; None if the camera's own topic has that name.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        camera: str,
        taxonomy: Taxonomy,
        score_threshold: float = 0.0,
        qos_watch: QosWatch,
        camera_info: Maker | None = None,
    ) -> None:
        self._node = node
        self._qos_watch = qos_watch
        self._taxonomy = taxonomy
        self._camera_info = camera_info
        self._prefix = f"{camera}/" if camera else ""
        self._lock = threading.Lock()
        self._publishers: dict[str, Any] = {}  # by topic
        self._makers: dict[str, Maker] = {}  # of topics with a message for every frame
        self._own_threshold = self._threshold = score_threshold

    def create(self, settings: NodeSettings) -> None:
        """Create the publishers of these settings; `destroy` destroys them.

        Raises:
            SettingsError: If ``labels`` cannot have the encoding in the settings.
            RuntimeError: If a qos_overrides parameter is invalid.
        """
        # First, so that subscribers of labels can receive label_info before.
        self._create("label_info", PanopticLabelInfo, label_info_qos())
        self.update(settings)

    def update(self, settings: NodeSettings) -> None:
        """Create the missing publishers of these settings, and destroy the others.

        Raises:
            As `create` does; then none was destroyed.
        """
        vision = _vision() if settings.publish_detections else None
        wanted = {topic.name: topic for topic in self._wanted(settings)}
        if vision is not None and "vision_label_info" not in self._publishers:
            # In this order, as above.
            self._create("vision_label_info", vision.LabelInfo, label_info_qos())
        for name in wanted.keys() - self._publishers.keys():
            self._create(name, wanted[name].message, output_qos())
        kept = self.topics(settings).keys()
        with self._lock:
            self._makers = {name: topic.make for name, topic in wanted.items()}
            for name in self._publishers.keys() - kept:
                publisher = self._publishers.pop(name)
                self._qos_watch.forget(publisher.topic_name)
                self._node.destroy_lifecycle_publisher(publisher)
        self._threshold = settings.score_threshold_or(self._own_threshold)
        if vision is not None:
            self._announce_vision()

    def check(self, settings: NodeSettings) -> None:
        """Check that `update` can create the missing publishers; creates none.

        Raises:
            SettingsError: A publisher cannot be created with the parameters qos_overrides.
        """
        for name in sorted(self.topics(settings).keys() - self._publishers.keys()):
            check_override(self._node, self._node.resolve_topic_name(self._prefix + name))

    def announce(self) -> None:
        """Publish label_info (latched)."""
        self._publishers["label_info"].publish(
            messages.label_info_message(self._taxonomy, self._header())
        )
        if "vision_label_info" in self._publishers:
            self._announce_vision()

    def publish(self, image: CameraImage, frame: PanopticFrame, *, settings: NodeSettings) -> None:
        """Publish the result of an image on every topic with subscribers."""
        answer = Answer(image=image, whole=frame, taxonomy=self._taxonomy, settings=settings)
        with self._lock:
            for name, make in self._makers.items():
                publisher = self._publishers[name]
                if publisher.get_subscription_count():
                    message = make(answer)
                    if message is not None:
                        publisher.publish(message)

    def subscribed(self) -> set[str]:
        """Names of the topics with subscribers; called in any thread."""
        with self._lock:
            return {
                name for name in self._makers if self._publishers[name].get_subscription_count()
            }

    def has(self, topic: str) -> bool:
        """Whether a topic exists; called in the executor's thread."""
        return topic in self._publishers

    def has_subscriber(self, topic: str) -> bool:
        """Whether a topic exists and has a subscriber; called in the executor's thread.

        Unlike `subscribed` it does not wait for `publish`.
        """
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def publish_late(self, topic: str, message: bytes) -> None:
        """Publish a serialised message after the others of its frame; in the executor's thread."""
        publisher = self._publishers.get(topic)
        if publisher is not None:
            publisher.publish(message)

    def destroy(self) -> None:
        """Destroy the publishers once their last messages are received, or after a short time."""
        end = time.monotonic() + _FAREWELL_SECONDS
        with self._lock:
            for publisher in self._publishers.values():
                left = max(0.0, end - time.monotonic())
                publisher.wait_for_all_acked(Duration(seconds=left))
                self._node.destroy_lifecycle_publisher(publisher)
            self._publishers.clear()
            self._makers.clear()

    def topics(self, settings: NodeSettings) -> dict[str, type]:
        """Return the message types of the topics of these settings, by name without the camera."""
        topics: dict[str, type] = {"label_info": PanopticLabelInfo}
        vision = _vision() if settings.publish_detections else None
        if vision is not None:
            topics["vision_label_info"] = vision.LabelInfo
        return topics | {topic.name: topic.message for topic in self._wanted(settings)}

    def _wanted(self, settings: NodeSettings) -> Iterator[_Topic]:
        if settings.publish_labels:
            encoding = settings.resolved_labels_encoding(max(self._taxonomy.by_id))
            yield _Topic("labels", Image, labels(encoding))
        if settings.publish_instances:
            yield _Topic("instances", PanopticInstanceArray, instances)
        if settings.publish_unknown_mask:
            yield _Topic("unknown_mask", Image, unknown_mask)
        if settings.publish_unknown_score:
            yield _Topic("unknown_score", Image, mono8("unknown_score"))
        if settings.publish_semantic:
            yield _Topic("semantic", Image, mono8("semantic"))
            yield _Topic("confidence", Image, mono8("confidence"))
        if settings.publish_color_mask:
            yield _Topic("color_mask", Image, color_mask)
        if settings.publish_overlay:
            yield _Topic("overlay", Image, overlay)
            yield _Topic("overlay/compressed", CompressedImage, compressed_overlay)
        if settings.publish_camera_info and self._camera_info is not None:
            yield _Topic("camera_info", CameraInfo, self._camera_info)
        vision = _vision() if settings.publish_detections else None
        if vision is not None:
            yield _Topic(
                "detections",
                vision.Detection2DArray,
                lambda answer: vision.detections_message(answer.frame, answer.header),
            )

    def _create(self, topic: str, message: type, profile: QoSProfile) -> None:
        name = self._node.resolve_topic_name(self._prefix + topic)
        publisher = self._node.create_lifecycle_publisher(
            message,
            name,
            profile,
            event_callbacks=self._qos_watch.publisher_events(name),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        first = self._publishers.get("label_info")
        if first is not None and first.is_activated:
            # The node only activates publishers that exist when it becomes active.
            publisher.on_activate(None)
        with self._lock:
            self._publishers[topic] = publisher

    def _announce_vision(self) -> None:
        self._publishers["vision_label_info"].publish(
            _vision().label_info_message(self._taxonomy, self._header(), threshold=self._threshold)
        )

    def _header(self) -> Header:
        return Header(stamp=self._node.get_clock().now().to_msg())


def _vision() -> Any:
    """Return the module that creates messages of vision_msgs; None if that is not installed."""
    spec = importlib.util.find_spec("vision_msgs")
    if spec is None or spec.origin is None:  # a folder of that name, not a package
        return None
    return importlib.import_module("upsnet_ros.messages.vision")
