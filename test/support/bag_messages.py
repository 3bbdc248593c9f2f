"""Messages to put into bags."""

from __future__ import annotations

from typing import Any

import numpy as np

from upsnet_ros.bags.messages import MessageTypes

IMAGE = "sensor_msgs/msg/Image"
TYPES = MessageTypes()


def make_header(stamp_ns: int, frame_id: str = "camera") -> Any:
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = TYPES.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return TYPES.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def make_image(stamp_ns: int, size: int = 40) -> Any:
    """A gray image that is all ``stamp_ns % 251``."""
    return TYPES.make(
        IMAGE,
        header=make_header(stamp_ns),
        height=size,
        width=size,
        encoding="mono8",
        is_bigendian=0,
        step=size,
        data=np.full(size * size, stamp_ns % 251, np.uint8),
    )
