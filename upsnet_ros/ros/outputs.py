"""The topics on which one camera is answered."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.ros import answer as answers
from upsnet_ros.ros import messages, qos
from upsnet_ros.ros.answer import Answer
from upsnet_ros.ros.camera_image import CameraImage
from upsnet_ros.ros.settings import NodeSettings

__all__ = ["Outputs"]


@dataclass(frozen=True, slots=True)
class _Topic:
    name: str
    message: type
    make: answers.Maker


class Outputs:
    """Publishes one camera's answers; each message is made only while somebody subscribes to it.

    Topics come and go (`create`, `update`, `destroy`) in the executor's thread; `publish` is called
    in the worker's second.

    Args:
        node: The publishers are managed ones of this node, silent until it is active.
        camera: The camera's name, which the topics' names begin with; may be empty.
        taxonomy: Of the frames' classes.
        qos_watch: Told of subscribers that do not match.
    """

    def __init__(
        self,
        *,
        node: LifecycleNode,
        camera: str,
        taxonomy: Taxonomy,
        qos_watch: qos.QosWatch,
    ) -> None:
        self._node = node
        self._qos_watch = qos_watch
        self._taxonomy = taxonomy
        self._prefix = f"{camera}/" if camera else ""
        self._lock = threading.Lock()
        self._publishers: dict[str, Any] = {}  # by topic
        self._makers: dict[str, answers.Maker] = {}  # of those that say something of every frame
        self._threshold = 0.0

    def create(self, settings: NodeSettings) -> None:
        """Makes the topics that the settings ask for; `destroy` takes back what was made of them.

        Raises:
            SettingsError: Where ``labels`` cannot have the encoding that was asked for.
            RuntimeError: Where a qos_overrides parameter makes no sense.
        """
        # First, so that whoever hears labels can have heard what they mean.
        self._create("label_info", PanopticLabelInfo, qos.label_info_qos())
        self.update(settings)

    def update(self, settings: NodeSettings) -> None:
        """Makes the topics that the settings ask for now, and takes back those they do not.

        Raises:
            As `create` does; then no topic was taken back.
        """
        vision = _vision() if settings.publish_detections else None
        wanted = {topic.name: topic for topic in self._wanted(settings)}
        if vision is not None:
            # In this order, as above.
            if "vision_label_info" not in self._publishers:
                self._create("vision_label_info", vision.LabelInfo, qos.label_info_qos())
            wanted["detections"] = _Topic(
                "detections",
                vision.Detection2DArray,
                lambda answer: vision.detections_message(answer.frame, answer.header),
            )
        for name in wanted.keys() - self._publishers.keys():
            self._create(name, wanted[name].message, qos.output_qos())
        kept = {"label_info", *wanted, *(["vision_label_info"] if vision else [])}
        with self._lock:
            self._makers = {name: topic.make for name, topic in wanted.items()}
            for name in self._publishers.keys() - kept:
                publisher = self._publishers.pop(name)
                self._qos_watch.forget(publisher.topic_name)
                self._node.destroy_lifecycle_publisher(publisher)
        self._threshold = settings.score_threshold
        if vision is not None:
            self._announce_vision()

    def announce(self) -> None:
        """Publishes label_info, for now and for whoever comes later."""
        self._publishers["label_info"].publish(
            messages.label_info_message(self._taxonomy, self._header())
        )
        if "vision_label_info" in self._publishers:
            self._announce_vision()

    def publish(self, image: CameraImage, frame: PanopticFrame, *, settings: NodeSettings) -> None:
        """Publishes an image's segmentation on every topic that somebody subscribes to."""
        answer = Answer(image=image, frame=frame, taxonomy=self._taxonomy, settings=settings)
        with self._lock:
            for name, make in self._makers.items():
                publisher = self._publishers[name]
                if publisher.get_subscription_count():
                    message = make(answer)
                    if message is not None:
                        publisher.publish(message)

    def destroy(self) -> None:
        """Takes the topics back."""
        with self._lock:
            for publisher in self._publishers.values():
                self._node.destroy_lifecycle_publisher(publisher)
            self._publishers.clear()
            self._makers.clear()

    def _wanted(self, settings: NodeSettings) -> Iterator[_Topic]:
        if settings.publish_labels:
            encoding = settings.resolved_labels_encoding(max(self._taxonomy.by_id))
            yield _Topic("labels", Image, answers.labels(encoding))
        if settings.publish_instances:
            yield _Topic("instances", PanopticInstanceArray, answers.instances)
        if settings.publish_unknown_mask:
            yield _Topic("unknown_mask", Image, answers.unknown_mask)
        if settings.publish_unknown_score:
            yield _Topic("unknown_score", Image, answers.mono8("unknown_score"))
        if settings.publish_semantic:
            yield _Topic("semantic", Image, answers.mono8("semantic"))
            yield _Topic("confidence", Image, answers.mono8("confidence"))
        if settings.publish_overlay:
            yield _Topic("overlay", Image, answers.overlay)
            yield _Topic("overlay/compressed", CompressedImage, answers.compressed_overlay)

    def _create(self, topic: str, message: type, profile: QoSProfile) -> None:
        name = self._node.resolve_topic_name(self._prefix + topic)
        publisher = self._node.create_lifecycle_publisher(
            message,
            name,
            profile,
            event_callbacks=self._qos_watch.publisher_events(name, profile),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        first = self._publishers.get("label_info")
        if first is not None and first.is_activated:
            # The node activates those that are there as it becomes active itself.
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
    """What makes messages of vision_msgs, where that is installed; else None."""
    spec = importlib.util.find_spec("vision_msgs")
    if spec is None or spec.origin is None:  # a folder of that name that is no package
        return None
    return importlib.import_module("upsnet_ros.ros.vision")
