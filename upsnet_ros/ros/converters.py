"""What turns an image encoding into BGR: cv_bridge where it is installed, else rosbags-image.

Both take a plain image (no row padding, 8 bits, a single plane) and give uint8 (H, W, 3) BGR.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PlainImage", "by_cv_bridge", "by_rosbags", "converter"]

BgrImage = npt.NDArray[np.uint8]


class PlainImage(NamedTuple):
    """What both libraries read of a sensor_msgs/Image; rows without padding."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: npt.NDArray[np.uint8]


def by_cv_bridge(image: PlainImage) -> BgrImage:
    """Converts by ROS 2's cv_bridge."""
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2(image, desired_encoding="bgr8")


def by_rosbags(image: PlainImage) -> BgrImage:
    """Converts by rosbags-image, which is plain Python on OpenCV."""
    from rosbags.image import image_to_cvimage

    return image_to_cvimage(image, "bgr8")


@cache
def converter() -> Callable[[PlainImage], BgrImage]:
    """The converter of this machine, chosen once.

    Raises:
        ImportError: Where neither library can be used.
    """
    if importlib.util.find_spec("cv_bridge") and _cv_bridge_works():
        return by_cv_bridge
    try:
        import rosbags.image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "no library converts image encodings: install ros-<distro>-cv-bridge or rosbags-image"
        ) from error
    return by_rosbags


def check_cv_bridge() -> None:
    """Converts one pixel, and raises an error of whatever kind where cv_bridge cannot."""
    red_rgb = PlainImage(1, 1, "rgb8", 0, 3, np.array([255, 1, 0], np.uint8))
    if by_cv_bridge(red_rgb).tolist() != [[[0, 1, 255]]]:
        raise RuntimeError("cv_bridge does not convert rgb8 to bgr8")


def _cv_bridge_works() -> bool:
    # In a process of its own, because a wrong cv_bridge is common and may take the process with it:
    # the PyPI wheel is ROS 1 code, and one compiled for numpy 1 crashes under numpy 2.
    call = f"from {__name__} import check_cv_bridge; check_cv_bridge()"
    return subprocess.run([sys.executable, "-c", call], capture_output=True).returncode == 0
