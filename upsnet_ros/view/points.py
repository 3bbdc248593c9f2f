"""Draws labelled points from above for the web page, from the messages of a points node."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.drawing.birds_eye_view import draw_birds_eye_view, reach_of, view_axes
from upsnet_ros.errors import PointsError
from upsnet_ros.messages.cdr_image import read_cloud
from upsnet_ros.points.cloud import Cloud

#: Shortest time between two views, seconds: drawing many points takes longer than passing on an
#: encoded overlay.
_SECONDS = 0.2
#: Of more points than this, every second, third ... is drawn.
_MOST_POINTS = 500_000
# Height of the view, pixels.
_HEIGHT = 480


class PointsView:
    """The view from above of one topic of labelled points."""

    def __init__(self) -> None:
        self._due = 0.0  # monotonic seconds before which no view is drawn
        self._reach = 0.0

    def draw(self, serialized: bytes, *, camera: str | None) -> tuple[Any, bytes] | None:
        """Draw a serialised sensor_msgs/PointCloud2.

        The reach grows with the points and does not shrink, so that the view is steady.

        Args:
            serialized: The message.
            camera: Frame of the camera's images, which tells points of its depth images; None if
                it is not known yet.

        Returns:
            The header and a PNG file; None if it is too soon for another view, or ``camera`` is
            not known.

        Raises:
            ImageError: If the message is damaged.
            PointsError: If the points have no coordinates or no labels.
        """
        now = time.monotonic()
        if camera is None or now < self._due:
            return None
        self._due = now + _SECONDS
        message = read_cloud(serialized)
        cloud = Cloud.from_message(message)
        step = 1 + cloud.size // _MOST_POINTS
        xyz = cloud.xyz()[:, ::step]
        colors, unknown = _colors(cloud, step)
        axes = view_axes(message.header.frame_id, camera=camera)
        self._reach = max(self._reach, reach_of(xyz, axes))
        view = draw_birds_eye_view(
            xyz, colors, axes=axes, reach=self._reach, on_top=unknown, height=_HEIGHT
        )
        _, encoded = cv2.imencode(".png", view, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return message.header, encoded.tobytes()


def _colors(cloud: Cloud, step: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the BGR colours (N, 3) and which points are unknown (N,), of every step-th point."""
    rgb, unknown = cloud.values("rgb"), cloud.values("unknown")
    if rgb is None or rgb.dtype.itemsize != 4 or unknown is None:
        raise PointsError("the points have no labels: the fields rgb and unknown are missing")
    words = rgb[::step].view(np.uint32)
    colors = np.stack((words, words >> 8, words >> 16), axis=-1).astype(np.uint8)
    return colors, unknown[::step] != 0
