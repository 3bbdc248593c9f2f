from __future__ import annotations

import numpy as np

from upsnet_ros.synthetic.stage import back_to_front

NEAR_CAR, FAR_CAR = (10.0, 14.0, 1.0, 3.0), (20.0, 24.0, 1.0, 3.0)
BUS = (8.0, 20.0, 4.0, 6.5)  # beside the near car, and longer
HOUSE = (5.0, 40.0, 9.0, 19.0)
LEFT_HOUSE = (5.0, 40.0, -19.0, -9.0)


def _order(*bounds: tuple[float, float, float, float]) -> list[int]:
    return back_to_front(np.array(bounds), s=0.0, d=0.0)


def test_what_is_farther_along_the_street_comes_first() -> None:
    assert _order(NEAR_CAR, FAR_CAR) == [1, 0]


def test_what_is_farther_to_the_side_comes_first_though_its_middle_is_nearer() -> None:
    assert _order(NEAR_CAR, BUS) == [1, 0]
    assert _order(HOUSE, FAR_CAR, BUS) == [0, 1, 2]


def test_things_on_both_sides_are_all_painted_once() -> None:
    order = _order(LEFT_HOUSE, HOUSE, NEAR_CAR, FAR_CAR, BUS, NEAR_CAR)

    assert sorted(order) == list(range(6))
    assert order.index(0) < order.index(2)


def test_nothing_is_nothing() -> None:
    assert back_to_front(np.empty((0, 4)), 0.0, 0.0) == []
