"""The two stages of a frame that ROS adds: out of a camera message, into the answers."""

from __future__ import annotations

import array

import numpy as np
import numpy.typing as npt
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros import messages
from upsnet_ros.ros.image_codec import to_bgr
from upsnet_ros.ros.settings import NodeSettings


class RosEnds:
    """The node's work around the predictor, without a node: transport is not measured.

    Args:
        taxonomy: Of the frames' classes.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._encoding = NodeSettings().resolved_labels_encoding(max(taxonomy.by_id))

    def camera_message(self, image: npt.NDArray[np.uint8]) -> Image:
        """A BGR image as most camera drivers would send it: rgb8, rows without padding."""
        height, width = image.shape[:2]
        data = array.array("B", np.ascontiguousarray(image[:, :, ::-1]).tobytes())
        return Image(height=height, width=width, encoding="rgb8", step=3 * width, data=data)

    def decode(self, message: Image) -> npt.NDArray[np.uint8]:
        """The message's pixels, BGR."""
        return to_bgr(message)

    def publish(self, frame: PanopticFrame, message: Image) -> int:
        """Make and serialise `labels`, `instances` and `unknown_mask`; return their bytes."""
        header = message.header
        answers = (
            messages.labels_message(frame, header, encoding=self._encoding),
            messages.instances_message(frame, header),
            messages.unknown_mask_message(frame, header),
        )
        return sum(len(serialize_message(answer)) for answer in answers)
