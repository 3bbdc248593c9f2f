from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.tracking.tracker import mask_ious, spread_points


def _shapes(seed: int, count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((90, 160), np.int32)
    for value in range(1, count + 1):
        y, x = rng.integers(0, 80), rng.integers(0, 150)
        labels[y : y + rng.integers(1, 50), x : x + rng.integers(1, 60)] = value * 1000
    return labels


def _table(labels: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int, int]], np.ndarray]:
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    boxes = []
    for value in ids:
        rows, columns = np.nonzero(labels == value)
        boxes.append((columns.min(), rows.min(), columns.max(), rows.max()))
    return ids.astype(np.int64), boxes, areas


def _ious(old: np.ndarray, new: np.ndarray, shifts: np.ndarray, *, limit: int) -> np.ndarray:
    ids, boxes, areas = _table(old)
    points = [
        spread_points(old, value, box, limit=limit) for value, box in zip(ids, boxes, strict=True)
    ]
    new_ids, _, sizes = _table(new)
    return mask_ious(points, areas, shifts, new, new_ids, sizes)


def _pairwise(old: np.ndarray, new: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Masks as images, each moved and compared with each."""
    height, width = old.shape
    table = []
    for value, (dx, dy) in zip(_table(old)[0], shifts, strict=True):
        rows, columns = np.nonzero(old == value)
        rows, columns = rows + dy, columns + dx
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        moved = np.zeros(old.shape, bool)
        moved[rows[inside], columns[inside]] = True
        masks = (new == other for other in _table(new)[0])
        table.append([(moved & mask).sum() / (moved | mask).sum() for mask in masks])
    return np.array(table)


@pytest.mark.parametrize("seed", range(8))
def test_all_points_give_the_exact_iou_of_moved_masks(seed: int) -> None:
    old, new = _shapes(seed), _shapes(seed + 100)
    shifts = np.random.default_rng(seed).integers(-30, 30, (len(_table(old)[0]), 2))
    found = _ious(old, new, shifts, limit=old.size)
    expected = _pairwise(old, new, shifts)
    assert (expected > 0).sum() >= 5
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_few_points_give_nearly_that() -> None:
    old, new = _shapes(3), _shapes(103)
    shifts = np.zeros((len(_table(old)[0]), 2), np.int64)
    np.testing.assert_allclose(
        _ious(old, new, shifts, limit=256), _pairwise(old, new, shifts), atol=0.1
    )


@pytest.mark.parametrize("box", [(0, 0, 159, 89), (3, 5, 3, 80), (10, 7, 150, 7), (4, 4, 4, 4)])
def test_points_are_pixels_of_the_mask_and_about_as_many_as_asked(
    box: tuple[int, int, int, int],
) -> None:
    labels = np.zeros((90, 160), np.int32)
    x1, y1, x2, y2 = box
    labels[y1 : y2 + 1, x1 : x2 + 1] = 1
    points = spread_points(labels, 1, box, limit=100)
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    assert min(area, 50) <= len(points) <= 160
    assert len(np.unique(points, axis=0)) == len(points)
    assert labels[points[:, 1], points[:, 0]].all()


def test_a_thin_mask_that_the_grid_misses_is_read_whole() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[0] = labels[:, 0] = 5
    assert len(spread_points(labels, 5, (0, 0, 399, 399), limit=100)) == 799


def test_no_masks_on_either_side() -> None:
    labels, nothing = _shapes(0), np.zeros((90, 160), np.int32)
    count = len(_table(labels)[0])
    shifts = np.zeros((count, 2), np.int64)
    assert _ious(labels, nothing, shifts, limit=9).shape == (count, 0)
    assert _ious(nothing, labels, shifts[:0], limit=9).shape == (0, count)
