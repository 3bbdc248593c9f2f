"""A short drive in a bag: what tests of a replay play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from upsnet_ros.bags.writer import BagWriter

CAMERA = "/camera/image_raw"
INFO = "/camera/camera_info"
TRUTH = "/ground_truth/labels"
HEIGHT, WIDTH = 48, 96

#: When the bag received its first message, and by how much the camera's stamps are older.
BEGIN_NS = 1_700_000_000_000_000_000
EXPOSED_NS = 12_345_678


def stamps(count: int, *, step_ns: int = 100_000_000) -> list[int]:
    """The stamps of the drive's images, in nanoseconds."""
    return [BEGIN_NS + index * step_ns - EXPOSED_NS for index in range(count)]


def write_drive(
    path: Path,
    count: int,
    *,
    step_ns: int = 100_000_000,
    storage: str = "mcap",
    truth: bool = True,
    unknown_mask: bool = False,
) -> Path:
    """``count`` images with camera_info before and, with ``truth``, true labels behind each.

    With ``unknown_mask`` also that of the ground truth, which a node could read as a picture.
    """
    with BagWriter(path=path, storage=storage) as bag:
        make = bag.types.make
        for index, stamp_ns in enumerate(stamps(count, step_ns=step_ns)):
            time_ns = stamp_ns + EXPOSED_NS
            sec, nanosec = divmod(stamp_ns, 1_000_000_000)
            stamp = make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
            header = make("std_msgs/msg/Header", stamp=stamp, frame_id="front")
            pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            labels = np.full((HEIGHT, WIDTH), 7, np.uint16)
            labels[10:20, index : index + 20] = 26001
            bag.write(INFO, _camera_info(make, header), time_ns, "sensor_msgs/msg/CameraInfo")
            bag.write(CAMERA, _image(make, header, pixels, "bgr8"), time_ns, _IMAGE)
            if truth:
                bag.write(TRUTH, _image(make, header, labels, "16UC1"), time_ns + 1, _IMAGE)
            if unknown_mask:
                mask = _image(make, header, (labels == 7).astype(np.uint8), "mono8")
                bag.write("/ground_truth/unknown_mask", mask, time_ns + 1, _IMAGE)
    return path


_IMAGE = "sensor_msgs/msg/Image"


def _image(make: Any, header: Any, pixels: np.ndarray[Any, Any], encoding: str) -> Any:
    return make(
        _IMAGE,
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
    )


def _camera_info(make: Any, header: Any) -> Any:
    roi = make(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0,
        y_offset=0,
        height=0,
        width=0,
        do_rectify=False,
    )
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header,
        height=HEIGHT,
        width=WIDTH,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.eye(3).reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.eye(3, 4).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )
