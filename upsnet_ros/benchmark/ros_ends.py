"""The two stages that ROS adds to a frame: decoding the camera message, encoding the results."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages import results as messages
from upsnet_ros.messages.cdr_image import read_image, write_image
from upsnet_ros.messages.images import to_bgr
from upsnet_ros.node.parameters import NodeSettings


class RosEnds:
    """The node's message conversions without a node: transport is not measured.

    Args:
        taxonomy: Classes of the frames.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._encoding = NodeSettings().resolved_labels_encoding(max(taxonomy.by_id))

    def camera_message(self, image: npt.NDArray[np.uint8]) -> bytes:
        """Serialise a BGR image the way most camera drivers do: rgb8, no row padding."""
        return write_image(image[:, :, ::-1], "rgb8", Header())

    def decode(self, message: bytes) -> npt.NDArray[np.uint8]:
        """Return the pixels of a serialised image message as BGR, uint8 (H, W, 3)."""
        return to_bgr(read_image(message))

    def publish(self, frame: PanopticFrame, message: bytes) -> int:
        """Serialise `labels`, `instances` and `unknown_mask`; return their total size in bytes."""
        header = read_image(message).header
        labels = messages.labels_pixels(frame, encoding=self._encoding)
        serialized = (
            write_image(labels, self._encoding, header),
            serialize_message(messages.instances_message(frame, header)),
            write_image(messages.unknown_mask_pixels(frame), "mono8", header),
        )
        return sum(map(len, serialized))
