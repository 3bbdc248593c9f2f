"""What is saved by reading and writing images as bytes, beside rclpy's message objects.

python benchmarks/serialised_images.py --width 2048 --height 1024
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import rclpy
import typer
from rclpy.serialization import deserialize_message, serialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.messages.cdr_image import read_image, write_image
from upsnet_ros.messages.images import to_bgr
from upsnet_ros.messages.results import image_message
from upsnet_ros.node.topics import input_qos, output_qos
from upsnet_ros.processes.transport import private_environment, use_shared_memory_profile


def measure(
    width: int = 2048,
    height: int = 1024,
    repeats: Annotated[int, typer.Option(help="Of each way, in turns; the median counts.")] = 50,
) -> None:
    """Time both ways in turns, of images that come in, that go out, and that do both over DDS.

    Processor time of all threads, for others may use the machine.
    """
    header = Header(frame_id="camera")
    random = np.random.default_rng(0)
    bgr = random.integers(0, 256, (height, width, 3), np.uint8)
    labels = random.integers(0, 34_000, (height, width), np.uint16)
    incoming = serialize_message(image_message(bgr, "rgb8", header)).replace(b"rgb8", b"bgr8", 1)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "camera image, to BGR pixels": (
            lambda: to_bgr(deserialize_message(incoming, Image)),
            lambda: to_bgr(read_image(incoming)),
        ),
        "overlay, rgb8": (
            lambda: serialize_message(image_message(bgr, "rgb8", header)),
            lambda: write_image(bgr, "rgb8", header),
        ),
        "labels, 16UC1": (
            lambda: serialize_message(image_message(labels, "16UC1", header)),
            lambda: write_image(labels, "16UC1", header),
        ),
    }
    ends = _Ends()
    way_there = "from a camera to BGR pixels, over DDS"
    message = image_message(bgr, "rgb8", header)
    message.encoding = "bgr8"
    ways[way_there] = (
        lambda: to_bgr(ends.carry(message, raw=False)),
        lambda: to_bgr(read_image(ends.carry(incoming, raw=True))),
    )
    table = Table(title=f"{width}x{height}, median of {repeats}, ms of processor time")
    for heading in ("what", "message objects", "bytes", "saved", "ratio"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what, both in ways.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for way, list_of in zip(both, times, strict=True):
                started = time.process_time()
                way()
                list_of.append(1e3 * (time.process_time() - started))
        by_object, by_bytes = (statistics.median(one) for one in times)
        saved, ratio = by_object - by_bytes, by_object / by_bytes
        table.add_row(what, f"{by_object:.2f}", f"{by_bytes:.3f}", f"{saved:.2f}", f"{ratio:.1f}")
    Console().print(table)
    ends.close()


class _Ends:
    """A publisher and two subscribers, one of messages and one of bytes, on topics of their own."""

    def __init__(self) -> None:
        os.environ.update(private_environment())
        use_shared_memory_profile()
        rclpy.init()
        self._node = rclpy.create_node("serialised_images")
        self._came: list[Any] = []
        self._publishers = {}
        for raw in (False, True):
            topic = "bytes" if raw else "messages"
            self._publishers[raw] = self._node.create_publisher(Image, topic, output_qos())
            self._node.create_subscription(
                Image, topic, self._came.append, input_qos("reliable"), raw=raw
            )
        while not all(one.get_subscription_count() for one in self._publishers.values()):
            time.sleep(0.01)

    def carry(self, message: Image | bytes, *, raw: bool) -> Any:
        """Publishes it, and returns what the subscriber gets."""
        self._publishers[raw].publish(message)
        while not self._came:
            rclpy.spin_once(self._node)
        return self._came.pop()

    def close(self) -> None:
        self._node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    typer.run(measure)
