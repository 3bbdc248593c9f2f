"""Mean IoU of classes by pixel, instances left aside, as cityscapesscripts counts it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.overlaps import Overlaps

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def class_pixels(overlaps: Overlaps, categories: Categories) -> IntArray:
    """Count the pixels of each class; pixels where the truth is void count for none.

    Returns:
        int64 (2, C): pixels that both sides give the class, and that either side does. They add
        up over frames.
    """
    size = len(categories)
    truth = categories.places(overlaps.truth.classes)
    rows = truth[overlaps.rows]
    columns = categories.places(overlaps.prediction.classes)[overlaps.columns]
    right = np.zeros(size, np.int64)
    either = np.zeros(size, np.int64)
    np.add.at(right, rows[rows == columns], overlaps.shared[rows == columns])
    np.add.at(either, truth, overlaps.truth_areas)
    np.add.at(either, columns, overlaps.shared)
    return np.stack((right, either - right))


def class_ious(pixels: npt.NDArray[np.int64] | FloatArray) -> FloatArray:
    """IoU of each class, float64 (..., C), of `class_pixels` (..., 2, C); nan without pixels."""
    right, either = pixels[..., 0, :], pixels[..., 1, :]
    return right / np.where(either > 0, either, np.nan)


def mean_iou(ious: FloatArray) -> FloatArray:
    """Mean over the classes (..., C) that occur; nan where none does."""
    known = ~np.isnan(ious)
    count = known.sum(axis=-1)
    return np.where(known, ious, 0).sum(axis=-1) / np.where(count > 0, count, np.nan)
