"""Boxes on the move: float64 (N, 4) of (x1, y1, x2, y2) in pixels, x2 and y2 exclusive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Of so many neighbours the median is taken.
_NEIGHBOURS = 5


def centers(boxes: FloatArray) -> FloatArray:
    """Middle of each box, float64 (N, 2) of x and y."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def widened_ious(
    first: FloatArray, second: FloatArray, *, share: float, pixels: float
) -> FloatArray:
    """IoU of each box of one list with each of another, all widened on every side.

    Small things that move farther than they are wide overlap their old place only when widened, as
    in Yang et al., "Hard to Track Objects with Irregular Motions and Similar Appearances?", WACV
    2023.

    Args:
        first: float64 (N, 4).
        second: float64 (M, 4).
        share: Widen by this share of the box's own width and height,
        pixels: and at least by so many.

    Returns:
        float64 (N, M).
    """
    first, second = (_widened(boxes, share, pixels) for boxes in (first, second))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    return shared / (_areas(first)[:, None] + _areas(second) - shared)


def motion_of_neighbours(
    places: FloatArray, known: npt.NDArray[np.int64], motions: FloatArray
) -> FloatArray:
    """How those around each place move: what a camera that turns or drives does to all of them.

    Args:
        places: float64 (N, 2): x and y.
        known: int64 (M,): numbers of the places whose motion is known.
        motions: float64 (M, 2): those motions.

    Returns:
        float64 (N, 2): median motion of the nearest known ones, never of the place itself; NaN
        where fewer than two others are known.
    """
    if len(known) < 3:
        return np.full_like(places, np.nan)
    distances = np.square(places[:, None] - places[known]).sum(axis=2)
    distances[known, np.arange(len(known))] = np.inf
    nearest = np.argsort(distances, axis=1)[:, : min(_NEIGHBOURS, len(known) - 1)]
    return np.median(motions[nearest], axis=1)


def _widened(boxes: FloatArray, share: float, pixels: float) -> FloatArray:
    by = np.maximum(share * (boxes[:, 2:] - boxes[:, :2]), pixels)
    return np.concatenate((boxes[:, :2] - by, boxes[:, 2:] + by), axis=1)


def _areas(boxes: FloatArray) -> FloatArray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
