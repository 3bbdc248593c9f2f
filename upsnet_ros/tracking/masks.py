"""How much masks of one frame overlap those of another, from points spread over each mask.

Comparing masks pixel by pixel costs the area of every pair. Here each old mask is some hundred
points, all of which look up the new label map at once: what they meet there is the joint histogram
of old masks and new labels, at a cost that does not grow with the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: int64 (N, 2): x and y of pixels.
Points = npt.NDArray[np.int64]

#: A mask of which a coarse grid meets fewer points is read pixel by pixel.
_FEW_POINTS = 64


def spread_points(
    labels: npt.NDArray[np.int32], label: int, box: tuple[int, int, int, int], *, limit: int
) -> Points:
    """Pixels of a mask on a grid over its box, evenly spread.

    Args:
        labels: int32 (H, W).
        label: Value of the mask's pixels.
        box: Their bounds (x1, y1, x2, y2), corners inclusive.
        limit: Points of the grid, about; a box with fewer pixels is read whole.

    Returns:
        int64 (N, 2); N is 0 where the box has no such pixel.
    """
    x1, y1, x2, y2 = box
    step = math.ceil(math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1) / limit))
    points = _grid(labels, label, box, step)
    if step > 1 and len(points) < _FEW_POINTS:
        return _grid(labels, label, box, 1)
    return points


def mask_ious(
    points: Sequence[Points],
    areas: npt.NDArray[np.int64],
    shifts: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """IoU of each moved mask with each mask of a label map.

    Args:
        points: Of each of the T masks, from `spread_points`.
        areas: int64 (T,): pixels of each mask.
        shifts: int64 (T, 2): pixels in x and y by which each mask moves; it may leave the image.
        labels: int32 (H, W).
        ids: int64 (D,): values of ``labels`` that are masks, above 0, each once.
        sizes: int64 (D,): pixels of each.

    Returns:
        float64 (T, D): exact for masks of which all pixels are points, else an estimate. What has
        moved out of the image counts nowhere.
    """
    if len(points) == 0 or len(ids) == 0:
        return np.zeros((len(points), len(ids)))
    counts = np.array([len(one) for one in points])
    owner = np.repeat(np.arange(len(points)), counts)
    x, y = (np.concatenate(points) + shifts[owner]).T
    height, width = labels.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # One more column than masks, for pixels of none of them.
    columns = len(ids) + 1
    column_of = np.full(ids.max() + 2, len(ids))
    column_of[ids] = np.arange(len(ids))
    column = column_of.take(labels[y[inside], x[inside]], mode="clip")
    met = np.bincount(owner[inside] * columns + column, minlength=len(points) * columns)
    pixels = met.reshape(-1, columns) * (areas / np.maximum(counts, 1))[:, None]
    shared = np.minimum(pixels[:, :-1], sizes)
    union = pixels.sum(axis=1, keepdims=True) + sizes - shared
    return shared / np.maximum(union, 1)  # 0 where a message claims a mask without pixels


def _grid(
    labels: npt.NDArray[np.int32], label: int, box: tuple[int, int, int, int], step: int
) -> Points:
    x1, y1, x2, y2 = box
    # From the middle of the first cell on; a side shorter than a cell is met once.
    left, top = x1 + min(step - 1, x2 - x1) // 2, y1 + min(step - 1, y2 - y1) // 2
    rows, columns = np.nonzero(labels[top : y2 + 1 : step, left : x2 + 1 : step] == label)
    return np.stack((left + step * columns, top + step * rows), axis=1)
