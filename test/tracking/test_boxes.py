from __future__ import annotations

import numpy as np

from upsnet_ros.tracking.tracker import motion_of_neighbours, widened_ious


def test_boxes_are_widened_by_their_share_and_by_pixels_at_least() -> None:
    small, large = [[10.0, 10, 12, 12]], [[0.0, 0, 100, 50]]
    # 2x2 widened by 3 px is 8x8; moved by 4 px, half of it is shared.
    moved = [[14.0, 10, 16, 12]]
    assert widened_ious(*map(np.array, (small, moved)), share=0.5, pixels=3) == 1 / 3
    # 100x50 widened by its half is 200x100.
    beside = [[100.0, 0, 200, 50]]
    assert widened_ious(*map(np.array, (large, beside)), share=0.5, pixels=3) == 1 / 3
    assert widened_ious(*map(np.array, (large, beside)), share=0, pixels=0) == 0


def test_neighbours_outvote_one_that_moves_otherwise_and_the_place_itself() -> None:
    places = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [100, 0]])
    motions = np.array([[5.0, 1], [5, 1], [5, 1], [-90, 0], [5, 1]])
    around = motion_of_neighbours(places, np.arange(5), motions)
    assert (around == [5, 1]).all()


def test_too_few_neighbours_tell_nothing() -> None:
    places = np.zeros((4, 2))
    assert np.isnan(motion_of_neighbours(places, np.arange(2), np.ones((2, 2)))).all()
