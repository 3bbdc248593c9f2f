"""The messages of a drive: images, camera_info, labels and what they mean."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.message_types import MessageTypes
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import LABEL_DIVISOR

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED",
    "HEADER",
    "IMAGE",
    "INSTANCES",
    "LABEL_INFO",
    "TRUTH",
    "Messages",
    "label_encoding",
    "stamp_of",
]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
HEADER = "std_msgs/msg/Header"
INSTANCES = "upsnet_ros/msg/PanopticInstanceArray"
LABEL_INFO = "upsnet_ros/msg/PanopticLabelInfo"

#: Above the topics of the truth.
TRUTH = "/ground_truth"

_SECOND = 1_000_000_000
_DTYPES = {"bgr8": np.uint8, "mono8": np.uint8, "16UC1": np.uint16, "32SC1": np.int32}


def stamp_of(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * _SECOND + header.stamp.nanosec


def label_encoding(taxonomy: Taxonomy) -> str:
    """16UC1, or 32SC1 where the ids of a taxonomy need it."""
    largest = int(taxonomy.public_ids.max()) * LABEL_DIVISOR + LABEL_DIVISOR - 1
    return "16UC1" if largest <= np.iinfo(np.uint16).max else "32SC1"


class Messages:
    """Makes messages of one camera.

    Args:
        types: What makes them.
        frame_id: The camera's, in every header.
    """

    def __init__(self, types: MessageTypes, frame_id: str) -> None:
        self._make = types.make
        self._frame_id = frame_id

    def header(self, stamp_ns: int, frame_id: str | None = None) -> Any:
        """A std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, _SECOND)
        stamp = self._make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self._make(
            HEADER, stamp=stamp, frame_id=self._frame_id if frame_id is None else frame_id
        )

    def image(self, pixels: npt.NDArray[Any], encoding: str, stamp_ns: int) -> Any:
        """A sensor_msgs/Image of an array (H, W) or (H, W, 3), cast to the encoding's type."""
        values = np.ascontiguousarray(pixels, _DTYPES[encoding])
        return self._make(
            IMAGE,
            header=self.header(stamp_ns),
            height=values.shape[0],
            width=values.shape[1],
            encoding=encoding,
            is_bigendian=int(sys.byteorder == "big"),
            step=values.strides[0],
            data=values.reshape(-1).view(np.uint8),
        )

    def jpeg(self, pixels: npt.NDArray[np.uint8], quality: int, stamp_ns: int) -> Any:
        """A sensor_msgs/CompressedImage of BGR pixels, as image_transport's publisher makes it.

        Raises:
            BagError: The image cannot be encoded.
        """
        done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise BagError(f"an image of {pixels.shape} cannot be encoded as JPEG")
        return self._make(
            COMPRESSED,
            header=self.header(stamp_ns),
            format="bgr8; jpeg compressed bgr8",
            data=data.reshape(-1),
        )

    def camera_info(self, size: tuple[int, int], focal: float, stamp_ns: int) -> Any:
        """A sensor_msgs/CameraInfo of a pinhole camera without distortion.

        Args:
            size: Height and width of its images.
            focal: Focal length in pixels.
            stamp_ns: Of the image that it belongs to.
        """
        height, width = size
        x, y = (width - 1) / 2, (height - 1) / 2
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self._make(
            CAMERA_INFO,
            header=self.header(stamp_ns),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array([focal, 0, x, 0, focal, y, 0, 0, 1], np.float64),
            r=np.eye(3).reshape(-1),
            p=np.array([focal, 0, x, 0, 0, focal, y, 0, 0, 0, 1, 0], np.float64),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def label_info(self, taxonomy: Taxonomy, stamp_ns: int) -> Any:
        """The upsnet_ros/PanopticLabelInfo of a taxonomy, as the node publishes it."""
        classes = [
            self._make(
                "upsnet_ros/msg/PanopticClass",
                id=info.id,
                name=info.name,
                is_thing=info.is_thing,
                color=np.array(info.color, np.uint8),
            )
            for info in taxonomy.classes
        ]
        return self._make(
            LABEL_INFO,
            header=self.header(stamp_ns),
            dataset=taxonomy.name,
            label_divisor=LABEL_DIVISOR,
            classes=classes,
        )
