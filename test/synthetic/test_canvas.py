from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.synthetic.canvas import Canvas
from upsnet_ros.synthetic.texture import Texture

SQUARE = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]])


def _changed(canvas: Canvas) -> np.ndarray:
    return canvas.color.any(axis=2)


def _outline(homography: np.ndarray) -> np.ndarray:
    seen = SQUARE @ homography.T
    return seen[:, :2] / seen[:, 2:]


@pytest.mark.parametrize("seed", range(5))
def test_colour_and_surface_are_filled_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas = Canvas(60, 80)
    triangle = rng.uniform(-20, 90, (3, 2))
    canvas.polygon(triangle, (10, 20, 30), 7)
    canvas.shape(rng.uniform(-20, 90, (6, 2)), (40, 50, 60), 7)
    canvas.line(rng.uniform(0, 60, (4, 2)), 3.0, (70, 80, 90), 7)

    assert ((canvas.surface == 7) == _changed(canvas)).all()
    assert (canvas.surface == 7).any()


@pytest.mark.parametrize("offset", [(10.0, 5.0), (-30.0, -20.0), (60.0, 40.0)])
def test_a_texture_covers_its_outline_wherever_it_lies(offset: tuple[float, float]) -> None:
    canvas, plain = Canvas(60, 80), Canvas(60, 80)
    homography = np.array([[50, 9, offset[0]], [6, 40, offset[1]], [0.2, 0.1, 1]])
    texture = Texture(np.full((64, 64, 3), 200, np.uint8))
    canvas.texture(_outline(homography), homography, texture, 3)
    plain.polygon(_outline(homography), (200, 200, 200), 3)

    assert ((canvas.surface == 3) == _changed(canvas)).all()
    assert (canvas.surface == plain.surface).all()


def test_what_a_texture_leaves_out_is_not_the_surfaces_unless_it_is_solid() -> None:
    image = np.full((32, 32, 4), 255, np.uint8)
    image[:, 16:, 3] = 0
    homography = np.array([[40.0, 0, 10], [0, 40, 10], [0, 0, 1]])
    for solid in (False, True):
        canvas = Canvas(60, 80)
        canvas.texture(_outline(homography), homography, Texture(image), 3, solid=solid)
        assert canvas.surface[30, 20] == 3
        assert (canvas.surface[30, 40] == 3) is np.bool_(solid)
        assert not canvas.color[30, 40].any()


def test_what_comes_out_of_the_distance_is_labelled_once_it_is_half_there() -> None:
    homography = np.array([[40.0, 0, 10], [0, 40, 10], [0, 0, 1]])
    texture = Texture(np.full((32, 32, 3), 200, np.uint8))
    for presence in (0.4, 0.6):
        sheet, face = Canvas(60, 80), Canvas(60, 80)
        sheet.texture(_outline(homography), homography, texture, 3, presence=presence)
        face.blend(_outline(homography), (200, 200, 200), presence, 3, presence=presence)
        for canvas in (sheet, face):
            assert (canvas.surface[30, 30] == 3) is np.bool_(presence > 0.5)
            assert canvas.color[30, 30] == pytest.approx(200 * presence, abs=1)
            assert not canvas.color[5, 5].any()
