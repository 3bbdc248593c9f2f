"""The frames that a benchmark shows."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes import DrivingScenes

__all__ = ["SEED", "Image", "frames"]

Image = npt.NDArray[np.uint8]

#: Of the drawn streets.
SEED = 0
# Distinct frames, taken in turn.
_FRAMES = 4


def frames(picture: str | None, *, height: int, width: int) -> list[Image]:
    """What is segmented: a picture, resized, or by default driving scenes; uint8 (H, W, 3), BGR.

    Raises:
        ValueError: The picture cannot be read.
    """
    if picture is None:
        return [scene.image for scene in DrivingScenes("test", SEED, _FRAMES, (height, width))]
    image = cv2.imread(picture, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{picture} is no image that OpenCV can read")
    return [cv2.resize(image, (width, height))]  # type: ignore[list-item]
