"""Bags of a node's outputs, written by the node's own code from answers of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages.results import (
    image_message,
    instances_message,
    label_info_message,
    labels_message,
    unknown_mask_message,
)

IMAGE = "sensor_msgs/msg/Image"


def write_outputs(
    path: Path,
    answers: Mapping[int, PanopticFrame],
    *,
    frame_id: str = "camera",
    space: str = "/panoptic",
    delay_ns: int = 50_000_000,
    instances: bool = True,
) -> Path:
    """``answers`` by stamp, each received ``delay_ns`` after it."""
    with BagWriter(path=path) as bag:

        def write(name: str, message: object, time_ns: int, msgtype: str) -> None:
            bag.write(f"{space}/{name}", serialize_message(message), time_ns, msgtype)

        begin = min(answers)
        info = label_info_message(CITYSCAPES, Header())
        write("label_info", info, begin, "upsnet_ros/msg/PanopticLabelInfo")
        for stamp_ns, frame in answers.items():
            sec, nanosec = divmod(stamp_ns, 10**9)
            header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)
            time_ns = stamp_ns + delay_ns
            write("labels", labels_message(frame, header, encoding="16UC1"), time_ns, IMAGE)
            write("unknown_mask", unknown_mask_message(frame, header), time_ns, IMAGE)
            if frame.unknown_score is not None:
                score = image_message(frame.unknown_score, "mono8", header)
                write("unknown_score", score, time_ns, IMAGE)
            if instances:
                table = instances_message(frame, header)
                write("instances", table, time_ns, "upsnet_ros/msg/PanopticInstanceArray")
    return path
