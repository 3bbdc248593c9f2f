"""The topics on which one camera is answered."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.overlay import draw_overlay
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.ros import messages, qos
from upsnet_ros.ros.settings import NodeSettings

__all__ = ["Answer", "Outputs"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All that outputs are made of.

    Attributes:
        image: uint8 (H, W, 3), BGR: the camera's image.
        frame: Its segmentation.
        header: The camera's, which every output carries unchanged.
        taxonomy: Of the frame's classes.
        settings: The node's, of this moment.
    """

    image: npt.NDArray[np.uint8]
    frame: PanopticFrame
    header: Header
    taxonomy: Taxonomy
    settings: NodeSettings

    @cached_property
    def overlay(self) -> npt.NDArray[np.uint8]:
        """The image with the segments drawn on it, BGR; drawn when first asked for."""
        return draw_overlay(
            self.image, self.frame, self.taxonomy, alpha=self.settings.overlay_alpha
        )


class Outputs:
    """Publishes one camera's answers; each message is made only while somebody subscribes to it.

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
        self._publishers: list[Any] = []
        self._makers: list[tuple[Any, Callable[[Answer], Any]]] = []

    def create(self, settings: NodeSettings) -> None:
        """Makes the topics that the settings ask for; `destroy` takes back what was made of them.

        Raises:
            SettingsError: Where ``labels`` cannot have the encoding that was asked for.
            RuntimeError: Where a qos_overrides parameter makes no sense.
        """
        encoding = settings.resolved_labels_encoding(max(self._taxonomy.by_id))
        # First, so that whoever hears labels can have heard what they mean.
        self._label_info = self._create(PanopticLabelInfo, "label_info", qos.label_info_qos())
        if settings.publish_labels:
            self._add(
                Image,
                "labels",
                lambda answer: messages.labels_message(
                    answer.frame, answer.header, encoding=encoding
                ),
            )
        if settings.publish_instances:
            self._add(PanopticInstanceArray, "instances", _instances)
        if settings.publish_unknown_mask:
            self._add(Image, "unknown_mask", _unknown_mask)
        if settings.publish_unknown_score:
            self._add(Image, "unknown_score", _mono8("unknown_score"))
        if settings.publish_semantic:
            self._add(Image, "semantic", _mono8("semantic"))
            self._add(Image, "confidence", _mono8("confidence"))
        if settings.publish_overlay:
            self._add(Image, "overlay", _overlay)
            self._add(CompressedImage, "overlay/compressed", _compressed_overlay)

    def announce(self) -> None:
        """Publishes label_info, for now and for whoever comes later."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._label_info.publish(messages.label_info_message(self._taxonomy, header))

    def publish(self, answer: Answer) -> None:
        """Publishes a frame on every topic that somebody subscribes to."""
        for publisher, make in self._makers:
            if publisher.get_subscription_count():
                publisher.publish(make(answer))

    def destroy(self) -> None:
        """Takes the topics back."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        self._makers.clear()

    def _add(self, message: type, topic: str, make: Callable[[Answer], Any]) -> None:
        self._makers.append((self._create(message, topic, qos.output_qos()), make))

    def _create(self, message: type, topic: str, profile: QoSProfile) -> Any:
        name = self._node.resolve_topic_name(self._prefix + topic)
        publisher = self._node.create_lifecycle_publisher(
            message,
            name,
            profile,
            event_callbacks=self._qos_watch.publisher_events(name, profile),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._publishers.append(publisher)
        return publisher


def _instances(answer: Answer) -> PanopticInstanceArray:
    return messages.instances_message(
        answer.frame, answer.header, unknown_min_area=answer.settings.unknown_min_area
    )


def _unknown_mask(answer: Answer) -> Image:
    return messages.unknown_mask_message(answer.frame, answer.header)


def _mono8(attribute: str) -> Callable[[Answer], Image]:
    return lambda answer: messages.image_message(
        getattr(answer.frame, attribute), "mono8", answer.header
    )


def _overlay(answer: Answer) -> Image:
    picture = cv2.cvtColor(answer.overlay, cv2.COLOR_BGR2RGB)
    return messages.image_message(picture, "rgb8", answer.header)


def _compressed_overlay(answer: Answer) -> CompressedImage:
    _, encoded = cv2.imencode(".jpg", answer.overlay)
    return CompressedImage(
        header=answer.header,
        format="rgb8; jpeg compressed bgr8",
        data=array.array("B", encoded.tobytes()),
    )
