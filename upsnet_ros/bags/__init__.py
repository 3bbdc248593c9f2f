"""Bags (rosbag2: MCAP or SQLite) read and written without ROS.

Example::

    with open_bag("drive", topics=["/camera/image_raw"]) as bag:
        for record in bag:
            print(record.topic, record.time_ns, record.message.header.stamp)

    with BagWriter(path="out") as out:
        out.write("/camera/image_raw", message, time_ns, "sensor_msgs/msg/Image")
"""

from __future__ import annotations

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.bags.reader import Bag, Record, TopicInfo, open_bag
from upsnet_ros.bags.storage import Limits
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.errors import BagError

__all__ = [
    "Bag",
    "BagError",
    "BagWriter",
    "Limits",
    "MessageTypes",
    "Record",
    "TopicInfo",
    "open_bag",
]
