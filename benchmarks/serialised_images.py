"""What is saved by reading and writing images as bytes, beside rclpy's message objects.

python benchmarks/serialised_images.py --width 2048 --height 1024
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from rclpy.serialization import deserialize_message, serialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.ros.cdr_image import read_image, write_image
from upsnet_ros.ros.image_codec import to_bgr
from upsnet_ros.ros.messages import image_message


def measure(
    width: int = 2048,
    height: int = 1024,
    repeats: Annotated[int, typer.Option(help="Of each way, in turns; the median counts.")] = 50,
) -> None:
    """Time both ways in turns (processor time, for others may use the machine), of an image that comes in and of the images that go out."""
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
    table = Table(title=f"{width}x{height}, median of {repeats}, ms of processor time")
    for heading in ("what", "message objects", "bytes", "saved", "ratio"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what, both in ways.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for way, list_of in zip(both, times, strict=True):
                begun = time.thread_time()
                way()
                list_of.append(1e3 * (time.thread_time() - begun))
        by_object, by_bytes = (statistics.median(one) for one in times)
        saved, ratio = by_object - by_bytes, by_object / by_bytes
        table.add_row(what, f"{by_object:.2f}", f"{by_bytes:.3f}", f"{saved:.2f}", f"{ratio:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(measure)
