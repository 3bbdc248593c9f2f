#!/usr/bin/env python3
"""Reads panoptic labels as a perception stack would, and says what lies ahead.

For every frame: how much of the image's lower half is road, the things in order of distance (what
touches the ground lower in the image is nearer), and the unknown regions that stand on the lower
half, where an unknown object may block the way.

    python panoptic_listener.py                                       # node in /panoptic
    python panoptic_listener.py --ros-args -r __ns:=/panoptic/front   # camera "front" of several

Labels and instances of one frame carry the camera's own header, so they are joined by exactly equal
stamps. (On a ROS machine message_filters.TimeSynchronizer does the same.)
"""

from __future__ import annotations

import sys
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from upsnet_ros.msg import PanopticInstance, PanopticInstanceArray, PanopticLabelInfo

MAX_WAITING = 10  # frames of which one half has come


class PanopticListener(Node):
    """Joins labels with instances, and logs a line for each frame."""

    def __init__(self) -> None:
        super().__init__("panoptic_listener", namespace="panoptic")
        self._road_ids: list[int] | None = None
        self._waiting: OrderedDict[tuple[int, int], dict[str, object]] = OrderedDict()
        # label_info is sent once and kept for those who come later; only a subscription that is
        # transient local too gets it.
        latched = QoSProfile(
            depth=1,
            reliability=QoSReliabilityPolicy.RELIABLE,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
        )
        self.create_subscription(PanopticLabelInfo, "label_info", self.on_label_info, latched)
        self.create_subscription(Image, "labels", lambda m: self.on_half("labels", m), 10)
        self.create_subscription(
            PanopticInstanceArray, "instances", lambda m: self.on_half("instances", m), 10
        )

    def on_label_info(self, info: PanopticLabelInfo) -> None:
        """Learn which label values are road: ids differ from dataset to dataset."""
        self._road_ids = [one.id for one in info.classes if one.name == "road"]
        self.get_logger().info(f"labels are of {info.dataset}, where road is {self._road_ids}")

    def on_half(self, topic: str, message: Image | PanopticInstanceArray) -> None:
        """Keep a message until the other one of the same stamp is there."""
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        halves = self._waiting.setdefault(stamp, {})
        halves[topic] = message
        if len(halves) == 2:
            del self._waiting[stamp]
            self.on_frame(halves["labels"], halves["instances"])
        elif len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)  # its other half was lost on the way

    def on_frame(self, labels: Image, instances: PanopticInstanceArray) -> None:
        """Say what lies ahead."""
        if self._road_ids is None:
            return  # label_info is on its way: it was sent before the first labels
        values = pixels(labels)
        lower_half = values[labels.height // 2 :]
        road = np.isin(lower_half, self._road_ids).mean()

        things = sorted(instances.instances, key=lowest_row, reverse=True)
        nearest = ", ".join(f"{one.class_name} {one.id} ({one.score:.2f})" for one in things[:3])

        blocking = [
            region
            for region in instances.unknown_regions
            if region.roi.y_offset + region.roi.height > labels.height // 2
        ]
        area = sum(region.area for region in blocking)
        stamp = labels.header.stamp
        self.get_logger().info(
            f"{stamp.sec}.{stamp.nanosec:09d} {labels.header.frame_id}: "
            f"road {road:.0%} of the lower half; "
            f"{len(things)} things, nearest first: {nearest or 'none'}; "
            f"{len(blocking)} unknown regions ahead, {area} px"
        )


def pixels(labels: Image) -> npt.NDArray[np.integer]:
    """The label of each pixel, (height, width), without a copy of the message's data."""
    dtype = np.dtype({"16UC1": "u2", "32SC1": "i4"}[labels.encoding])
    dtype = dtype.newbyteorder(">" if labels.is_bigendian else "<")
    # Rows may be padded: go by step.
    return np.ndarray(
        (labels.height, labels.width), dtype, labels.data, strides=(labels.step, dtype.itemsize)
    )


def lowest_row(thing: PanopticInstance) -> int:
    """Where a thing meets the ground."""
    return thing.roi.y_offset + thing.roi.height - 1


def main() -> int:
    """Run until Ctrl-C."""
    rclpy.init(args=sys.argv)
    node = PanopticListener()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
