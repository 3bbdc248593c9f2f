"""The two stages of a frame that ROS adds: out of a camera message, into the answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros import messages
from upsnet_ros.ros.cdr_image import read_image, write_image
from upsnet_ros.ros.image_codec import to_bgr
from upsnet_ros.ros.settings import NodeSettings


class RosEnds:
    """The node's work around the predictor, without a node: transport is not measured.

    Args:
        taxonomy: Of the frames' classes.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._encoding = NodeSettings().resolved_labels_encoding(max(taxonomy.by_id))

    def camera_message(self, image: npt.NDArray[np.uint8]) -> bytes:
        """A BGR image as most camera drivers would send it, serialised: rgb8, no row padding."""
        return write_image(image[:, :, ::-1], "rgb8", Header())

    def decode(self, message: bytes) -> npt.NDArray[np.uint8]:
        """The message's pixels, BGR."""
        return to_bgr(read_image(message))

    def publish(self, frame: PanopticFrame, message: bytes) -> int:
        """Make and serialise `labels`, `instances` and `unknown_mask`; return their bytes."""
        header = read_image(message).header
        labels = messages.labels_pixels(frame, encoding=self._encoding)
        answers = (
            write_image(labels, self._encoding, header),
            serialize_message(messages.instances_message(frame, header)),
            write_image(messages.unknown_mask_pixels(frame), "mono8", header),
        )
        return sum(len(answer) for answer in answers)
