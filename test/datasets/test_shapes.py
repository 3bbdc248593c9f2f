from __future__ import annotations

import numpy as np
import pytest
from things import thing_of_mask

from upsnet_ros.datasets.base import Bitmask, Polygons, Shape, things_of_map

ROWS, COLUMNS = np.arange(40), np.arange(50)


def disc(radius: int = 9) -> np.ndarray:
    y, x = np.mgrid[:40, :50]
    return (y - 18) ** 2 + (x - 30) ** 2 <= radius**2


def test_a_bitmask_is_its_pixels() -> None:
    shape = Bitmask.of(disc())
    assert shape.bounds == (21.0, 9.0, 39.0, 27.0)
    np.testing.assert_array_equal(shape.paint(ROWS, COLUMNS), disc())
    np.testing.assert_array_equal(shape.paint(ROWS[::3], COLUMNS[5::2]), disc()[::3, 5::2])
    np.testing.assert_array_equal(shape.flipped(50).paint(ROWS, COLUMNS), disc()[:, ::-1])
    with pytest.raises(ValueError, match="without pixels"):
        Bitmask.of(np.zeros((3, 3), bool))


def test_outline_holds_the_same_pixels() -> None:
    two = disc(5)
    two[30:34, 3:6] = True
    two[36, 10] = True  # a point is a polygon too
    outline = Bitmask.of(two).outline()
    assert len(outline.parts) == 3
    np.testing.assert_array_equal(outline.paint(ROWS, COLUMNS), two)
    assert outline.bounds == Bitmask.of(two).bounds
    np.testing.assert_array_equal(outline.flipped(50).paint(ROWS, COLUMNS), two[:, ::-1])


@pytest.mark.parametrize(
    ("shape", "wrong"),
    # An outline runs through the centres of border pixels and loses half of each: see `Quirks`.
    [(Bitmask.of(disc()), 0.06), (Bitmask.of(disc()).outline(), 0.12)],
)
def test_bins_follow_the_box(shape: Shape, wrong: float) -> None:
    boxes = np.array([[21, 9, 39, 27], [30, 18, 48, 36], [0, 0, 10, 5]], np.float32)
    whole, quarter, outside = shape.rasterise(boxes, 28).astype(float)
    y, x = (np.mgrid[:28, :28] + 0.5) / 28
    want = (y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25
    assert (whole != want).mean() < wrong
    assert (quarter != (y**2 + x**2 <= 0.25)).mean() < wrong
    assert outside.max() == 0


def test_bitmask_bins_are_those_of_the_network() -> None:
    """A box of whole pixels, resolved at its own size, gives the pixels back."""
    shape = Bitmask.of(disc())
    box = np.array([[18, 5, 45, 32]], np.float32)
    np.testing.assert_array_equal(shape.rasterise(box, 28)[0], disc()[5:33, 18:46])


def test_polygons_need_points() -> None:
    with pytest.raises(ValueError, match="at least three points"):
        Polygons.of([[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="at least three points"):
        Polygons.of([])


def test_a_map_of_ids_is_cut_into_things() -> None:
    ids = np.zeros((40, 50), np.int32)
    ids[disc()] = 24001
    ids[2:5, 3:9] = 26
    ids[30:, :5] = 99  # no thing
    first, second = things_of_map(ids, {24001: 11, 26: 13, 27: 14}, crowds=frozenset({26}))
    assert (first.semantic_id, first.crowd, first.box) == (13, True, (3.0, 2.0, 8.0, 4.0))
    assert (second.semantic_id, second.crowd) == (11, False)
    np.testing.assert_array_equal(second.shape.paint(ROWS, COLUMNS), disc())
    assert second.box == thing_of_mask(disc(), 11).box
    assert things_of_map(ids, {}) == ()
