"""The pixels of segments that lie near their outlines, for boundary PQ.

Boundary IoU (Cheng et al. 2021) compares two segments only within a distance of their own outlines,
so that large segments are judged by their edges too. Boundary PQ matches by the smaller of it and
the IoU of whole segments.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.maps import VOID, PanopticMap
from upsnet_ros.evaluation.overlaps import Overlaps

#: Width of the band, as a share of the image's diagonal.
BAND_SHARE = 0.02
#: An id that no segment has: the inside of the truth's segments, which is not void.
_INSIDE = -1


def boundary_overlaps(truth: PanopticMap, prediction: PanopticMap) -> Overlaps:
    """`Overlaps.of` the bands along the outlines, with the same tables of segments."""
    return Overlaps.of(
        PanopticMap(pixels=_band(truth.pixels, _INSIDE), segments=truth.segments),
        PanopticMap(pixels=_band(prediction.pixels, VOID), segments=prediction.segments),
    )


def band_width(height: int, width: int) -> int:
    """Pixels from the outline inwards that count for its band, at least 1."""
    return max(1, round(BAND_SHARE * math.hypot(height, width)))


def _band(pixels: npt.NDArray[np.integer[Any]], inside: int) -> npt.NDArray[np.int64]:
    """Replace the id of pixels with nothing but their own segment around them, out to the band.

    All segments at once: a pixel is inside where the smallest and the largest id of its
    neighbourhood are equal. What lies beyond the image is another segment.
    """
    # OpenCV's morphology takes floats, and these hold every id exactly.
    small = pixels.max(initial=0) < 1 << 24
    ids = pixels.astype(np.float32 if small else np.float64)
    reach = band_width(*pixels.shape)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    lowest = cv2.erode(ids, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=-1.0)
    highest = cv2.dilate(ids, kernel)
    band = pixels.astype(np.int64)
    band[(lowest == highest) & (pixels != VOID)] = inside
    return band
