"""The view from above: where a point appears, what hides what, and what no point can break."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from upsnet_ros.drawing.birds_eye_view import (
    BODY_AXES,
    OPTICAL_AXES,
    draw_birds_eye_view,
    reach_of,
    view_axes,
)
from upsnet_ros.errors import ImageError

RED, GREEN, YELLOW = (0, 0, 255), (0, 255, 0), (0, 215, 255)
#: At a reach of 50 m, a view of 530 pixels shows 53 m: 10 pixels a metre.
HEIGHT, SCALE, ROW, COLUMN = 530, 10, 500, 300
PAPER = 235


def draw(points: list[tuple[float, float, float]], colors: list, **options) -> npt.NDArray:
    values = {"axes": BODY_AXES, "reach": 50.0, "height": HEIGHT, **options}
    return draw_birds_eye_view(
        np.array(points, np.float32).reshape(-1, 3).T,
        np.array(colors, np.uint8).reshape(-1, 3),
        **values,
    )


def center_of(picture: npt.NDArray, color: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of a colour."""
    rows, columns = np.nonzero((picture == color).all(axis=-1))
    assert rows.size, f"{color} is not in the picture"
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize(
    ("point", "axes"),
    [((20, 5, 1), BODY_AXES), ((-5, -1, 20), OPTICAL_AXES)],
    ids=["lidar", "optical"],
)
def test_forward_is_up_and_left_is_left(point, axes) -> None:
    picture = draw([point], [RED], axes=axes)
    assert picture.shape == (HEIGHT, 2 * COLUMN, 3)
    row, column = center_of(picture, RED)
    assert abs(row - (ROW - 20 * SCALE)) <= 1
    assert abs(column - (COLUMN - 5 * SCALE)) <= 1


def test_a_transform_turns_the_axes() -> None:
    """A lidar mounted with x to the left: its axes are those of the body, turned back."""
    mounted = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    picture = draw([(5, -20, 1)], [RED], axes=BODY_AXES @ mounted)
    row, column = center_of(picture, RED)
    assert abs(row - (ROW - 20 * SCALE)) <= 1
    assert abs(column - (COLUMN - 5 * SCALE)) <= 1


def test_frames_say_which_axis_is_forward() -> None:
    assert view_axes("lidar", camera="camera") is BODY_AXES
    assert view_axes("base_link") is BODY_AXES
    assert view_axes("camera", camera="camera") is OPTICAL_AXES
    for name in ("camera_optical_frame", "left_optical"):
        assert view_axes(name, camera="other") is OPTICAL_AXES


def test_the_highest_point_is_seen_whatever_the_order() -> None:
    points, colors = [(20, 0, 0), (20, 0, 2)], [RED, GREEN]
    for order in ([0, 1], [1, 0]):
        picture = draw([points[i] for i in order], [colors[i] for i in order])
        assert (picture == GREEN).all(axis=-1).any()
        assert not (picture == RED).all(axis=-1).any()


def test_unknown_points_are_above_all_others_and_larger() -> None:
    points = [(20, 0, 0), (20, 0, 9), (30, 0, 0)]
    picture = draw(points, [YELLOW, GREEN, RED], on_top=np.array([True, False, False]))
    assert not (picture == GREEN).all(axis=-1).any()
    size = {color: int((picture == color).all(axis=-1).sum()) for color in (YELLOW, RED)}
    assert size[YELLOW] > size[RED] > 1
    row, column = (round(value) for value in center_of(picture, YELLOW))
    rim = picture[row - 3 : row + 4, column - 3 : column + 4].reshape(-1, 3)
    assert (rim == 0).all(axis=-1).sum() == 24, "it is on light paper"


def test_points_without_a_label_are_faint_and_below() -> None:
    picture = draw([(25, 7, 9), (25, 7, 0), (35, 7, 0)], [(0, 0, 0), RED, (0, 0, 0)])
    column = COLUMN - 7 * SCALE
    assert picture[ROW - 25 * SCALE, column].tolist() == list(RED)
    assert picture[ROW - 35 * SCALE, column].tolist() == [170, 170, 170]


@pytest.mark.parametrize(("reach", "spacing"), [(10.0, 2), (25.0, 5), (50.0, 10)])
def test_rings_lie_at_their_ranges(reach: float, spacing: int) -> None:
    picture = draw([], [], reach=reach)
    scale = HEIGHT / (1.06 * reach)
    # Straight ahead, in the column of the sensor.
    rows = np.flatnonzero((picture[:, COLUMN] != PAPER).any(axis=-1))
    for metres in range(spacing, int(reach), spacing):
        assert np.abs(rows - (reach - metres) * scale).min() <= 2
    assert (picture[-40:, COLUMN] == 0).all(axis=-1).any(), "no sensor"


def test_what_is_not_finite_or_out_of_the_view_is_left_out() -> None:
    empty = draw([], [])
    points = [
        (np.nan, 0, 0),
        (20, np.inf, 0),
        (20, 0, -np.inf),
        (60, 0, 0),
        (20, 40, 0),
        (-9, 0, 0),
    ]
    points += [(3e38, 3e38, 3e38), (20, 0, np.nan)]
    assert (draw(points, [RED] * len(points)) == empty).all()


def test_points_at_the_edges_stay_inside() -> None:
    edges = [(49.999, 0, 0), (-2.999, 0, 0), (20, 29.9999, 0), (20, -29.9999, 0), (20, 0, 1e6)]
    for height in (480, 481, 77):
        assert (draw(edges, [RED] * len(edges), height=height) == RED).all(axis=-1).any()


def test_points_apart_are_all_where_a_loop_puts_them() -> None:
    """Columns left of the ranges, whose labels lie above points."""
    rng = np.random.default_rng(0)
    forward, left = np.mgrid[1:49:2, 1:28:2] + rng.uniform(0.1, 0.9, (2, 24, 14))
    xyz = np.stack([forward.ravel(), left.ravel(), rng.uniform(-3, 5, forward.size)])
    colors = rng.integers(1, 140, (forward.size, 3), dtype=np.uint8)
    order = rng.permutation(forward.size)
    picture = draw_birds_eye_view(
        xyz[:, order], colors[order], axes=BODY_AXES, reach=50.0, height=HEIGHT
    )
    for (x, y, _), color in zip(xyz.T.tolist(), colors.tolist(), strict=True):
        assert picture[int(ROW - x * SCALE), int(COLUMN - y * SCALE)].tolist() == color


def test_the_reach_follows_the_points() -> None:
    near = np.array([(1.0, 0, 0)] * 99 + [(200, 0, 0)] + [(np.nan, 0, 0)] * 50).T
    assert reach_of(near, BODY_AXES) == 10
    assert reach_of(near * 20, BODY_AXES) == 25
    assert reach_of(near * 1000, BODY_AXES) == 50
    assert reach_of(near[::-1], OPTICAL_AXES) == 10
    assert reach_of(np.zeros((3, 0)), BODY_AXES) == 10


def test_shapes_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ImageError, match="shape"):
        draw([(1, 2, 3)], [RED, RED])
